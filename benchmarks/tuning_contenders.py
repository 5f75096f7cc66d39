"""LightGCN trained with and without MuDoK's prompts on the same interactions: 40,000 users, 20,000 items, 24 steps an epoch.

``no-prompts`` is the backbone alone. ``prompts-refresh-N`` (``prompts-128-``: of width 128) passes gradients through the encoder and computes the items' vectors anew
every N steps; N = 1 is our code at the pace of the published one, which passes through the encoder in every step. Each contender goes
on with a training whose vectors are there and leaves them there, so that each of its refreshes is in its time; it returns the mean loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import count

import numpy as np
import torch
from torch import Tensor

from baselines.common.allocator import keep_freed_memory
from baselines.common.plugs import groups_with_plug
from baselines.common.recommenders.base import RecommenderConfig
from baselines.common.recommenders.lightgcn import LightGCN
from baselines.common.sampling import PairBatch, PairSampler
from baselines.common.training import gradient_step
from baselines.mudok.config import MudokConfig
from baselines.mudok.prompt import PromptPlug
from benchmarks.mudok_contenders import PAPER, model, sequences
from benchmarks.workloads import interaction_workload

CPU = torch.device("cpu")
SMALL = replace(PAPER, hidden=128, ffn=256)
"""The width of submissions/mudok's ``small`` settings."""
LIGHTGCN = RecommenderConfig(dim=64, layers=2, steps_per_epoch=24)


@dataclass(frozen=True, eq=False)
class Tuning:
    """A training that goes on from call to call."""

    plug: PromptPlug | None
    batches: Iterator[PairBatch]
    step: Callable[[PairBatch], Tensor]

    def run(self, n: int) -> float:
        """Mean loss of ``n`` steps; vectors that the last one has made old are computed again."""
        losses = [self.step(next(self.batches)) for _ in range(n)]
        if self.plug is not None:
            self.plug()
        return float(torch.stack(losses).mean())


def prompts(config: MudokConfig) -> PromptPlug:
    """The plug of a random encoder, a code for each item. What an encoder has learned does not change what it costs."""
    n_items = interaction_workload().n_columns
    return PromptPlug(
        model(config).requires_grad_(False),
        sequences(),
        np.arange(n_items),
        np.ones(n_items, dtype=bool),
        config,
        generator=torch.Generator().manual_seed(0),
        device=CPU,
    )


@cache
def tuning(config: MudokConfig | None) -> Tuning:
    """LightGCN with prompts, or without (None); all that training needs is made, and the first vectors are computed."""
    keep_freed_memory()
    train, plug = interaction_workload(), None if config is None else prompts(config)
    recommender = LightGCN(
        train, LIGHTGCN, plug=plug, generator=torch.Generator().manual_seed(0), device=CPU
    ).train()
    sampler = PairSampler(
        train,
        batch_size=LIGHTGCN.resolved_batch_size(train.nnz),
        negatives=LIGHTGCN.negatives,
        generator=torch.Generator().manual_seed(1),
        device=CPU,
    )
    step = gradient_step(
        recommender.loss,
        torch.optim.Adam(groups_with_plug(recommender, plug), lr=LIGHTGCN.lr, fused=True),
        before_update=plug.before_update if plug else lambda: None,
    )
    if plug is not None:
        plug()
    return Tuning(plug, (batch for _ in count() for batch in sampler.epoch()), step)


@cache
def refreshing() -> Callable[[], float]:
    """Only what a refresh adds to a step: gradients of codes and projection, their update, new vectors."""
    keep_freed_memory()
    plug = prompts(replace(PAPER, refresh=1)).train()
    optimizer = torch.optim.Adam(plug.parameter_groups(), fused=True)
    plug()

    def refresh() -> float:
        optimizer.zero_grad(set_to_none=True)
        plug().mean().backward()
        plug.before_update()
        optimizer.step()
        return float(plug().detach().square().mean())

    return refresh


STEPS = {
    "no-prompts": 24,
    "prompts-refresh-24": 24,
    "prompts-refresh-120": 120,
    "prompts-128-refresh-120": 120,
    "prompts-refresh-1": 2,
}
"""Steps of a call; 24 are an epoch."""
_CONFIGS = {
    "no-prompts": None,
    "prompts-refresh-24": replace(PAPER, refresh=24),
    "prompts-refresh-120": replace(PAPER, refresh=120),
    "prompts-128-refresh-120": replace(SMALL, refresh=120),
    "prompts-refresh-1": replace(PAPER, refresh=1),
}


def prepare(name: str) -> None:
    """Make what a contender starts from, which is not to be timed."""
    refreshing() if name == "refresh" else tuning(_CONFIGS[name])


def _run(name: str) -> float:
    return tuning(_CONFIGS[name]).run(STEPS[name])


CONTENDERS: dict[str, Callable[[], float]] = {
    **{name: partial(_run, name) for name in STEPS},
    "refresh": lambda: refreshing()(),
}
