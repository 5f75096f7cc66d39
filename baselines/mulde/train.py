"""Training of MulDE: the teachers one after another, then Junior and Senior together (arXiv 2010.07152)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor, nn

from baselines.common.distill.teachers import fingerprint, freeze
from baselines.common.kge.facts import with_reciprocals
from baselines.common.kge.knowledge import Knowledge
from baselines.common.kge.models import KgeModel
from baselines.common.kge.tables import CandidateTable
from baselines.common.kge.train import KgeConfig, create, epochs_of, loss_of, optimizer_of, train_kge
from baselines.common.parallel import ALONE, Ranks
from baselines.common.training import Schedule, gradient_step, one_thread, prefixed, train
from baselines.mulde.asking import ask
from baselines.mulde.config import MuldeConfig
from baselines.mulde.senior import Senior
from kpi_bench import Context

SEED_STEP = 1_000_003
"""Between the seeds of the models of a run: seeds 0, 1, 2 of different runs share no teacher."""

ONE_THREAD_BELOW = 1 << 22
"""Scores in a step's questions below which its operations are too small to share between threads."""


def train_mulde(
    kg: Knowledge,
    junior_config: KgeConfig,
    teacher_config: KgeConfig,
    config: MuldeConfig,
    ctx: Context,
    *,
    description: str,
) -> KgeModel:
    """The trained Junior. Without ``config.distil`` it learns from the hard loss alone, in the same loop with the same batches.

    On a CPU a small KG is trained on one thread, and the note ``torch_threads`` says so: its operations take microseconds, and with
    more threads the time of a run would be that of waking them.

    Raises:
        SubmissionError: no triples, or a loss that is NaN or infinite.
    """
    kg.require_triples(description)
    device = torch.device(ctx.device)
    small = device.type == "cpu" and junior_config.batch_size * kg.n_entities < ONE_THREAD_BELOW
    if small:
        ctx.note("torch_threads", 1)
    with one_thread(device) if small else nullcontext():
        teachers = train_teachers(kg, teacher_config, config, ctx, description) if config.distil else []
        junior = first_junior(kg, junior_config, config, ctx, description)
        marks = [fingerprint(teacher) for teacher in teachers]
        train_junior(kg, junior, teachers, junior_config, config, ctx, description=description)
    ctx.note("junior_parameters", _size(junior))
    if teachers:
        ctx.note("teacher_parameters", sum(map(_size, teachers)))
        ctx.note("teacher_fingerprints", " ".join(marks))
        ctx.note("teachers_unchanged", marks == [fingerprint(teacher) for teacher in teachers])
    return junior.eval()


def train_teachers(
    kg: Knowledge, teacher_config: KgeConfig, config: MuldeConfig, ctx: Context, description: str
) -> list[KgeModel]:
    """Each teacher by the hard loss alone, then frozen; one is trained at a time, so that only one has optimizer state."""
    teachers = []
    for number, name in enumerate(config.teacher_models, 1):
        teacher = train_kge(
            kg,
            replace(teacher_config, model=name),
            prefixed(ctx, f"teacher_{number}_{name}_"),
            description=f"{description}, teacher {number} ({name})",
            seed=ctx.seed + SEED_STEP * number,
        )
        teachers.append(freeze(teacher))
    return teachers


def first_junior(
    kg: Knowledge, junior_config: KgeConfig, config: MuldeConfig, ctx: Context, description: str
) -> KgeModel:
    """A fresh Junior, or with ``warm_start`` one that was trained alone."""
    if not (config.warm_start and config.distil):
        return create(junior_config, kg.n_entities, kg.n_relations, ctx.seed).to(torch.device(ctx.device))
    return train_kge(
        kg, junior_config, prefixed(ctx, "warm_start_"), description=f"{description}, warm start"
    )


def train_junior(
    kg: Knowledge,
    junior: KgeModel,
    teachers: list[KgeModel],
    junior_config: KgeConfig,
    config: MuldeConfig,
    ctx: Context,
    *,
    description: str,
) -> Senior | None:
    """Train the Junior in place, with a Senior over ``teachers`` if there are any; both are left in their best state on valid."""
    device = torch.device(ctx.device)
    sampler = torch.Generator(device=device).manual_seed(ctx.seed + 1)
    ranks = Ranks.of(ctx)
    hard = loss_of(junior, junior_config, sampler, ranks)
    models = nn.ModuleList([junior])
    senior = None
    if teachers:
        senior = Senior(kg.n_relations, config).to(device)
        models.append(senior)
        distillation = Distillation(junior, senior, teachers, config, ctx.seed + 2, ranks)
    epochs = epochs_of(with_reciprocals(kg.triples, kg.n_relations).to(device), junior_config, sampler)

    def epoch() -> Iterable[Tensor]:
        if senior is not None:
            distillation.epoch += 1
        return epochs()

    def loss(facts: Tensor) -> Tensor:
        value = config.hard_weight * hard(facts)
        return value if senior is None else value + distillation.loss(facts)

    parameters = chain.from_iterable(model.parameters() for model in models)
    validation = kg.validation(junior_config.valid_triples)
    fit = train(
        models,
        epoch=epoch,
        step=gradient_step(loss, optimizer_of(parameters, junior_config), ranks=ranks),
        evaluate=None if validation is None else lambda: validation.score(junior),
        schedule=Schedule(junior_config.epochs, junior_config.eval_every, junior_config.patience),
        ctx=ctx,
        metric="valid_mrr",
        description=description,
    )
    if validation is not None:
        ctx.note("valid_mrr", fit.best_score)
    return senior


class Distillation:
    """The part of the loss that teachers have a say in: the Junior asks, they answer, the Senior combines.

    Has its own random numbers, so that a Junior trained alone sees the same batches and negatives. ``epoch`` counts from 0 and is
    advanced before an epoch.
    """

    def __init__(
        self,
        junior: KgeModel,
        senior: Senior,
        teachers: list[KgeModel],
        config: MuldeConfig,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self.junior, self.senior, self.teachers, self.config = junior, senior, teachers, config
        self.ranks = ranks
        self.tables = [CandidateTable(teacher) for teacher in teachers]
        self.generator = torch.Generator(device=junior.entities.device).manual_seed(seed)
        self.epoch = -1

    def loss(self, facts: Tensor) -> Tensor:
        """L_senior + gamma L_soft of a batch of facts int64 ``[b, 3]``; of several ranks, this one's summand."""
        part = self.ranks.part(len(facts))
        heads, relations, tails = facts.unbind(1)
        asked = ask(self.junior, heads, relations, tails, self.config, self.generator, part.rows)
        heads, relations, tails = (ids[part.rows] for ids in (heads, relations, tails))
        answers = self.answers(heads, relations, asked)
        own = self.junior(heads, relations, asked)
        answer = self.senior(relations, own, answers, self.epoch)
        labels = (asked == tails[:, None]).to(own.dtype)
        soft = self.senior.soft_loss(answer, own)
        return part.weigh(self.senior.hard_loss(answer, labels) + self.config.gamma * soft)

    @torch.no_grad()
    def answers(self, heads: Tensor, relations: Tensor, asked: Tensor) -> Tensor:
        """The teachers' scores of the entities ``asked`` int64 ``[b, k]``: ``[b, n, k]``, biases included and each on its own scale."""
        found = [
            table.at(teacher.query(heads, relations), asked)
            for teacher, table in zip(self.teachers, self.tables, strict=True)
        ]
        return torch.stack(found, dim=1)


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
