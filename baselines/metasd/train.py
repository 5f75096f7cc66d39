"""MetaSD from triples to a pruned model, and its ablations through the same code."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.common.kge.bilinear import Bilinear
from baselines.common.kge.facts import batches, with_reciprocals
from baselines.common.kge.knowledge import Knowledge
from baselines.common.kge.models import KgeModel
from baselines.common.kge.scoring import LinkValidation
from baselines.common.kge.train import KgeConfig, create
from baselines.common.training import Fit, Schedule, train
from baselines.metasd.config import MetasdConfig, check_kge
from baselines.metasd.quiz import split_quiz
from baselines.metasd.step import MetasdStep
from kpi_bench import Context


@dataclass(frozen=True)
class Trained:
    """The dense source, and the student: the same model with exact zeros, which is served."""

    source: KgeModel
    student: KgeModel


def train_metasd(
    kg: Knowledge, config: MetasdConfig, kge: KgeConfig, ctx: Context, *, description: str
) -> Trained:
    """Train on ``kg``; the state with the student's best filtered MRR on its valid triples stays, or without them the last one.

    Raises:
        SubmissionError: no triples, settings that MetaSD cannot use, or the loss is NaN or infinite.
    """
    kg.require_triples(description)
    check_kge(kge)
    device = torch.device(ctx.device)
    model = create(kge, kg.n_entities, kg.n_relations, ctx.seed).to(device)
    assert isinstance(model, Bilinear)
    sampler = torch.Generator(device=device).manual_seed(ctx.seed + 1)
    facts, quiz = with_reciprocals(kg.triples, kg.n_relations), None
    if config.uses_quiz:
        facts, quiz = split_quiz(kg.triples, kg.n_relations, config.quiz, config.quiz_share, ctx.seed + 2)
        ctx.note("quiz_facts", len(quiz))
    step = MetasdStep(
        model,
        config,
        kge,
        sampler,
        quiz=None if quiz is None else quiz.to(device),
        class_weights=class_weights(kg.triples, kg.n_entities).to(device)
        if config.weighted_classes
        else None,
    )
    if step.sampled:
        ctx.note("sampled_candidates", step.sampled)
    student: KgeModel | None = None

    def refresh() -> KgeModel:
        """The student of the present weights; a static mask is not drawn again."""
        nonlocal student
        if student is None:
            student = copy.deepcopy(model)
        kept = step.kept if config.mask == "static" else None
        kept = step.magnitudes_kept() if kept is None else kept
        write_student(model, student, kept, half=config.half)
        return student

    validation = kg.validation(kge.valid_triples)
    fit = _run(
        step,
        facts.to(device),
        kge,
        sampler,
        ctx,
        description,
        None if validation is None else lambda: validation.score(refresh()),
    )
    served = refresh()
    ctx.note("kept_weights", kept_weights(served))
    if validation is not None:
        ctx.note("valid_mrr_student", fit.best_score)
        _report(model, served, validation, ctx)
    return Trained(model.eval(), served.eval())


def write_student(source: KgeModel, student: KgeModel, kept: Sequence[Tensor], *, half: bool) -> None:
    """The source's kept weights and exact zeros into ``student``; ``half`` rounds them to what float16 can hold."""
    with torch.no_grad():
        pairs = ((source.entities, student.entities), (source.relations, student.relations))
        for (weights, target), keep in zip(pairs, kept, strict=True):
            values = weights.half().to(weights.dtype) if half else weights
            target.copy_(torch.where(keep, values, torch.zeros_like(values)))


def kept_weights(model: KgeModel) -> int:
    """Weights that are not zero."""
    return sum(int(torch.count_nonzero(p)) for p in model.parameters())


def class_weights(triples: NDArray[np.int64], n_entities: int) -> Tensor:
    """.1 + .9 degree / largest degree of each entity, float32 ``[n_entities]``; the degree counts heads and tails in train."""
    degree = np.bincount(triples[:, [0, 2]].reshape(-1), minlength=n_entities)
    return torch.from_numpy((0.1 + 0.9 * degree / degree.max()).astype(np.float32))


def _run(
    step: MetasdStep,
    facts: Tensor,
    kge: KgeConfig,
    sampler: torch.Generator,
    ctx: Context,
    description: str,
    evaluate: Callable[[], float] | None,
) -> Fit:
    config = step.config
    renew = config.mask == "dynamic" and not config.one_shot

    def epoch() -> Iterable[Tensor]:
        if renew:
            step.renew_mask()
        return batches(facts, kge.batch_size, sampler)

    def run(first: int, last: int, evaluate: Callable[[], float] | None, name: str) -> Fit:
        return train(
            step.model,
            epoch=epoch,
            step=step,
            evaluate=evaluate,
            schedule=Schedule(last, kge.eval_every, kge.patience, first),
            ctx=ctx,
            metric="valid_mrr",
            description=name,
        )

    warm_up = 0
    if config.mask == "static" and not config.one_shot:
        warm_up = min(config.static_after, kge.epochs - 1)
        if warm_up:
            # Not scored: the best state must be one that the mask to come was used with.
            run(1, warm_up, None, f"{description}, before pruning")
        step.renew_mask()
    return run(warm_up + 1, kge.epochs, evaluate, description)


def _report(source: KgeModel, student: KgeModel, validation: LinkValidation, ctx: Context) -> None:
    models = {"source": source, "unpruned_candidates": over_dense(student, source)}
    for name, model in models.items():
        score = validation.score(model)
        if math.isfinite(score):
            ctx.note(f"valid_mrr_{name}", score)


def over_dense(student: KgeModel, source: KgeModel) -> KgeModel:
    """The student's queries over the source's unpruned candidates: what the authors' code evaluates by default. Needs all weights, so
    it is reported and never served."""

    mixed = copy.copy(student)
    mixed.candidates = source.candidates  # type: ignore[method-assign]
    return mixed
