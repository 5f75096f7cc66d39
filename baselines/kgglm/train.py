"""Training a language model on paths: epochs of sampled paths, streamed to a file and read back in shuffled batches."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.common.paths.corpus import read_paths, write_paths
from baselines.common.paths.graph import PathGraph
from baselines.common.paths.walks import Walker
from baselines.common.training import Fit, Schedule, gradient_step, train
from baselines.kgglm.config import KgglmConfig
from baselines.kgglm.model import PathLM
from kpi_bench import Context
from kpi_bench.errors import SubmissionError

Sample = Callable[[int], Iterable[NDArray[np.int32]]]
"""The paths of an epoch (from 0) in blocks ``[n, 2 * hops + 1]``."""

BLOCK = 1 << 16
"""Paths sampled at a time."""


def pieces(numbers: NDArray[np.int64], repeats: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """``numbers``, ``repeats`` times over, in blocks with the place where each block begins."""
    total = len(numbers) * repeats
    for first in range(0, total, BLOCK):
        yield first, numbers[np.arange(first, min(first + BLOCK, total)) % len(numbers)]


def stream(name: str, seed: int) -> int:
    """A seed for one of several independent uses of a run's seed."""
    return zlib.crc32(f"{name} {seed}".encode())


class Corpus:
    """The paths of a stage of training. They lie in one file that is written anew for each epoch (``resample``) or once; ``dropped`` walks
    of the last writing found no path.

    Raises:
        SubmissionError: no path was found.
    """

    def __init__(self, sample: Sample, ctx: Context, config: KgglmConfig, *, description: str) -> None:
        self._sample = sample
        self._file = ctx.scratch / "paths.arrow"
        self._batch_size, self._resample = config.batch_size, config.resample
        self._rng = np.random.default_rng(ctx.seed)
        self._device = torch.device(ctx.device)
        self._epoch = 0
        self._draw()
        if len(self.paths) == 0:
            raise SubmissionError(
                f"{description}: no path was found. Items that the KG does not join are joined by their users only: kgglm_collaborative = true"
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.paths) // self._batch_size)

    def epoch(self) -> Iterator[Tensor]:
        """Batches of paths, int64 ``[b, 2 * hops + 1]`` on the device."""
        if self._epoch and self._resample:
            self._draw()
        self._epoch += 1
        order = self._rng.permutation(len(self.paths))
        for start in range(0, len(order), self._batch_size):
            rows = self.paths[np.sort(order[start : start + self._batch_size])]
            yield torch.from_numpy(rows.astype(np.int64)).to(self._device)

    def _draw(self) -> None:
        self.paths = np.empty((0, 1), dtype=np.int32)  # lets go of the file before it is written again
        self.dropped = write_paths(self._file, self._sample(self._epoch)).dropped
        self.paths = read_paths(self._file)


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
    corpus = Corpus(sample, ctx, config, description=description)
    ctx.note(f"{description}: paths an epoch", len(corpus.paths))
    ctx.note(f"{description}: walks without a path", corpus.dropped)
    steps = len(corpus) * epochs
    rising = max(1, int(config.warmup * steps))

    def rate(step: int) -> float:
        return min((step + 1) / rising, max(steps - step, 1) / max(steps - rising, 1))

    # At most a tenth a step: in a stage of a few steps the whole of it would turn weights around.
    weight_decay = min(config.decay / sum(map(rate, range(steps))), 0.1) / config.lr
    optimizer = torch.optim.AdamW(decayed(model, weight_decay), lr=config.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    update = gradient_step(model.loss, optimizer, clip=model.parameters(), clip_norm=1.0)

    def step(batch: Tensor) -> Tensor:
        loss = update(batch)
        schedule.step()
        return loss

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


def decayed(model: PathLM, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of an optimizer: tables and matrices are decayed, biases and norms are not."""
    wide = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    flat = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": wide, "weight_decay": weight_decay}, {"params": flat, "weight_decay": 0.0}]
