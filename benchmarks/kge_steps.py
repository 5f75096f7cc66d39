"""Training steps of whole methods: RotH with own negatives, MetaSD's and MulDE's updates, on the facts of :mod:`benchmarks.kge_contenders`.

A contender starts from fresh tables, trains some batches and returns the mean of their losses, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor

from baselines.common.distill.teachers import freeze
from baselines.common.kge.facts import batches
from baselines.common.kge.models import KgeModel
from baselines.common.kge.train import KgeConfig, optimizer_of
from baselines.common.training import gradient_step
from baselines.metasd.config import MetasdConfig
from baselines.metasd.quiz import split_quiz
from baselines.metasd.step import MetasdStep
from baselines.mulde.asking import ask
from baselines.mulde.config import MuldeConfig
from baselines.mulde.senior import Senior
from baselines.mulde.train import Distillation
from benchmarks.kge_contenders import (
    COMPLEX,
    Training,
    facts,
    fresh,
    own,
    own_loss,
    some_batches,
    train_batches,
)
from benchmarks.workloads import training_workload

ROTH = KgeConfig(
    model="roth", dim=32, batch_size=500, loss="binary", negatives=50, optimizer="adam", lr=5e-4, reg=0.0, bias=True, init_std=1e-3
)  # fmt: skip
METASD_KGE = replace(COMPLEX, reg=0.05, regularizer="dura", relation_weight=4.0)
METASD = MetasdConfig()
MULDE = MuldeConfig(top_k=100)
TEACHER_DIM = 64
ROTH_GROUP, METASD_GROUP, MULDE_GROUP = (f"{name} epoch" for name in ("RotH", "MetaSD", "MulDE"))

# --- RotH, own negatives of each query ----------------------------------------------------------------------------------------------


def roth(n: int) -> float:
    """RotH with 32 coordinates, 50 negatives a query, yes-or-no loss, Adam."""
    return own(ROTH, n)


def lookup_floor(n: int) -> float:
    """What no model of this size escapes: its rows looked up, one inner product a candidate, their gradient, Adam over the tables."""
    model = fresh(ROTH)
    generator = torch.Generator().manual_seed(1)

    def loss(batch: Tensor) -> Tensor:
        drawn = torch.randint(model.n_entities, (len(batch), ROTH.negatives), generator=generator)
        candidates = model.entities[torch.cat([batch[:, 2:], drawn], dim=1)]
        queries = model.entities[batch[:, 0]] + model.relations[batch[:, 1], : model.dim]
        return torch.bmm(candidates, queries[:, :, None]).mean()

    optimizer = optimizer_of([model.entities, model.relations], ROTH)
    return train_batches(gradient_step(loss, optimizer), some_batches(ROTH), n)


# --- MetaSD: source step, virtual student with one quiz batch, mutual step ----------------------------------------------------------


@cache
def _quiz() -> tuple[Tensor, Tensor]:
    w = training_workload()
    return split_quiz(w.triples, w.n_relations, METASD.quiz, METASD.quiz_share, 2)


def metasd_step(n: int) -> float:
    """All updates of a batch; the mask is drawn once, as it is in an epoch."""
    model, (train, quiz) = fresh(METASD_KGE), _quiz()
    sampler = torch.Generator().manual_seed(1)
    step = MetasdStep(model, METASD, METASD_KGE, sampler, quiz=quiz)
    step.renew_mask()
    return train_batches(step, batches(train, METASD_KGE.batch_size, sampler), n)


# --- MulDE: a 32-d Junior asks four 64-d teachers about the 100 entities it scores highest ------------------------------------------


@cache
def mulde_teachers() -> tuple[KgeModel, ...]:
    """Teachers of the right sizes; that they know nothing costs the same."""
    return tuple(freeze(fresh(replace(ROTH, model=name, dim=TEACHER_DIM))) for name in MULDE.teacher_models)


def mulde_step(n: int) -> float:
    """Hard loss, asking, answers, Senior, soft loss, one Adam for Junior and Senior."""
    junior, senior = fresh(ROTH), Senior(training_workload().n_relations, MULDE)
    hard = own_loss(ROTH, junior)
    distillation = Distillation(junior, senior, list(mulde_teachers()), MULDE, 2)
    distillation.epoch = 0

    def loss(batch: Tensor) -> Tensor:
        return MULDE.hard_weight * hard(batch) + distillation.loss(batch)

    optimizer = optimizer_of([*junior.parameters(), *senior.parameters()], ROTH)
    return train_batches(gradient_step(loss, optimizer), some_batches(ROTH), n)


def mulde_asking(n: int) -> float:
    """Of a step only the top-K over all entities."""
    junior, generator = fresh(ROTH), torch.Generator().manual_seed(2)

    def step(batch: Tensor) -> Tensor:
        return ask(junior, *batch.unbind(1), MULDE, generator).float().mean()

    return train_batches(step, some_batches(ROTH), n)


def check_asking() -> None:
    """What the Junior asks about are the candidates that it scores highest."""
    junior, generator = fresh(ROTH), torch.Generator().manual_seed(2)
    heads, relations, tails = facts()[:16].unbind(1)
    with torch.no_grad():
        scores = junior(heads, relations)
        asked = ask(junior, heads, relations, tails, MULDE, generator)
        found = scores.gather(1, asked).sort(dim=1, descending=True).values
        torch.testing.assert_close(found, scores.topk(MULDE.top_k, dim=1).values, rtol=1e-4, atol=1e-6)


# --- All of them --------------------------------------------------------------------------------------------------------------------

TRAININGS: dict[str, Training] = {
    "lookup-floor": Training(lookup_floor, ROTH_GROUP, 50, 500),
    "own-roth": Training(partial(own, ROTH), ROTH_GROUP, 50, 500),
    "metasd-source-alone": Training(partial(own, METASD_KGE), METASD_GROUP, 4, 1000),
    "metasd-step": Training(metasd_step, METASD_GROUP, 4, 1000),
    "mulde-junior-alone": Training(partial(own, ROTH), MULDE_GROUP, 20, 500),
    "mulde-asking": Training(mulde_asking, MULDE_GROUP, 20, 500),
    "mulde-step": Training(mulde_step, MULDE_GROUP, 20, 500),
}
CONTENDERS: dict[str, Callable[[], float]] = {name: training.run for name, training in TRAININGS.items()}
