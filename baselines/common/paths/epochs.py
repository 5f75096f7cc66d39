"""Epochs of sampled paths: drawn piece by piece, streamed to a file, read back in shuffled batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.common.device import ahead, sent
from baselines.common.parallel import Ranks
from baselines.common.paths.corpus import read_paths, write_paths
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


class Corpus:
    """The paths of a stage of training. They lie in one file that is written anew for each epoch (``resample``) or once; ``dropped`` walks
    of the last writing found no path. Of several processes rank 0 writes, and all read.

    Raises:
        SubmissionError: no path was found.
    """

    def __init__(
        self,
        sample: Sample,
        ctx: Context,
        *,
        batch_size: int,
        resample: bool,
        description: str,
        advice: str = "the graph has no edge that a path could take",
    ) -> None:
        self._sample = sample
        self._file = ctx.scratch / "paths.arrow"
        self._batch_size, self._resample = batch_size, resample
        self._rng = np.random.default_rng(ctx.seed)
        self._device = torch.device(ctx.device)
        self._ranks = Ranks.of(ctx)
        self._epoch, self.dropped = 0, 0
        self._draw()
        if len(self.paths) == 0:
            raise SubmissionError(f"{description}: no path was found; {advice}")

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.paths) // self._batch_size)

    def epoch(self) -> Iterator[Tensor]:
        """Batches of paths, int64 ``[b, 2 * hops + 1]`` on the device."""
        return ahead(self._batches(), self._device)

    def _batches(self) -> Iterator[Tensor]:
        if self._epoch and self._resample:
            self._draw()
        self._epoch += 1
        order = self._rng.permutation(len(self.paths))
        for start in range(0, len(order), self._batch_size):
            rows = self.paths[np.sort(order[start : start + self._batch_size])]
            yield sent(rows.astype(np.int64), self._device)

    def _draw(self) -> None:
        self.paths = np.empty((0, 1), dtype=np.int32)  # lets go of the file before it is written again
        with self._ranks.first() as writes:
            if writes:
                self.dropped = write_paths(self._file, self._sample(self._epoch)).dropped
        self.paths = read_paths(self._file)
