"""Training a language model on paths: epochs of sampled paths, streamed to a file and read back in shuffled batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from baselines.common.parallel import Ranks
from baselines.common.paths.epochs import Corpus, Sample, pieces
from baselines.common.paths.graph import PathGraph
from baselines.common.paths.random_numbers import stream
from baselines.common.paths.walks import Walker
from baselines.common.training import Fit, Schedule, annealed_step, train
from baselines.kgglm.config import KgglmConfig
from baselines.kgglm.model import PathLM
from kpi_bench import Context


def fit_paths(
    model: PathLM,
    sample: Sample,
    epochs: int,
    config: KgglmConfig,
    ctx: Context,
    *,
    description: str,
    evaluate: Callable[[], float] | None = None,
    metric: str = "loss",
) -> Fit:
    """Train ``model`` in place; with ``evaluate`` (on valid, higher is better) it is left in its best state. Without epochs it stays as it is.

    Raises:
        SubmissionError: no path was found, or training diverged.
    """
    if epochs == 0:
        model.eval()
        return Fit(0, evaluate() if evaluate else math.nan, 0)
    corpus = Corpus(
        sample,
        ctx,
        batch_size=config.batch_size,
        resample=config.resample,
        description=description,
        advice="items that the KG does not join are joined by their users only: kgglm_collaborative = true",
    )
    ctx.note(f"{description}: paths an epoch", len(corpus.paths))
    ctx.note(f"{description}: walks without a path", corpus.dropped)
    ranks = Ranks.of(ctx)

    def loss(paths: Tensor) -> Tensor:
        part = ranks.part(len(paths))
        own = paths[part.rows]
        return part.weigh(model.loss(own), _tokens(own), _tokens(paths))

    step = annealed_step(
        model,
        loss,
        steps=len(corpus) * epochs,
        lr=config.lr,
        decay=config.decay,
        warmup=config.warmup,
        ranks=ranks,
    )
    return train(
        model,
        epoch=corpus.epoch,
        step=step,
        evaluate=evaluate,
        schedule=Schedule(epochs, config.eval_every, config.patience),
        ctx=ctx,
        metric=metric,
        description=description,
    )


def _tokens(paths: Tensor) -> Tensor:
    """How many tokens the loss of paths is a mean over."""
    return (paths[:, 1:] >= 0).sum()


def fit_walks(
    model: PathLM, graph: PathGraph, epochs: int, config: KgglmConfig, ctx: Context, *, description: str
) -> None:
    """Stage 1: train ``model`` in place on ``pretrain_walks`` walks from every node of the graph it was built for, an epoch.

    Raises:
        SubmissionError: as :func:`fit_paths`.
    """
    walker = Walker(graph, weighting=config.weighting, device=ctx.device)
    nodes = np.flatnonzero(graph.degrees())

    def sample(epoch: int) -> Iterator[NDArray[np.int32]]:
        start = epoch * config.pretrain_walks * len(nodes)
        for first, block in pieces(nodes, config.pretrain_walks):
            yield walker.walk(
                block, config.pretrain_hops, seed=stream("walks", ctx.seed), first=start + first
            )

    fit_paths(model, sample, epochs, config, ctx, description=description)
