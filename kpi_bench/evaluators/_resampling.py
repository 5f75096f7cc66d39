"""Random weights and swaps in blocks, so that a resampling costs one GEMM per block and bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kpi_bench.errors import EvaluationError

Floats = NDArray[np.float64]

BLOCK_CELLS = 2_000_000
"""Cells of one block of weights: 16 MB of float64. It never changes a result, only memory."""


def over_seeds(per_query: ArrayLike, name: str) -> Floats:
    """Per-query scores float64 ``[n]``, averaged over seeds when they come as ``[S, n]``.

    Raises EvaluationError for another shape, for no query, and for NaN or infinity.
    """
    array = np.asarray(per_query, dtype=np.float64)
    if array.ndim not in (1, 2) or array.size == 0:
        raise EvaluationError(
            f"{name}: per-query scores must be [n] or [seeds, n] and not empty, not {array.shape}"
        )
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise EvaluationError(
            f"{name}: {len(bad)} score(s) are NaN or infinite, the first at {bad[0].tolist()}"
        )
    return array if array.ndim == 1 else np.asarray(array.mean(axis=0))


def canonical_order(contributions: Floats) -> Floats:
    """Rows float64 ``[n, m]`` sorted by content, so that the order of queries cannot change a seeded resampling."""
    return np.asarray(contributions[np.lexsort(contributions.T)])


def bootstrap_weights(n: int, n_resamples: int, seed: int) -> Iterator[Floats]:
    """Blocks float64 ``[b, n]`` of multinomial weights: how often each of n queries is drawn; rows sum to n."""
    rng = np.random.default_rng(seed)
    for size in _block_sizes(n, n_resamples):
        drawn = rng.integers(0, n, size=(size, n))
        drawn += np.arange(size)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def random_swaps(n: int, n_permutations: int, seed: int) -> Iterator[Floats]:
    """Blocks float64 ``[b, n]`` of independent fair 0/1 swaps."""
    rng = np.random.default_rng(seed)
    # Whole words a row: the generator draws words, and the block size must not change what a row gets.
    width = 8 * -(-n // 64)
    for size in _block_sizes(n, n_permutations):
        octets = np.frombuffer(rng.bytes(size * width), dtype=np.uint8).reshape(size, width)
        yield np.unpackbits(octets, axis=1, count=n).astype(np.float64)


def all_swaps(n: int) -> Iterator[Floats]:
    """Blocks float64 ``[b, n]`` of all 2^n swaps, each once, the empty swap first."""
    start = 0
    for size in _block_sizes(n, 2**n):
        codes = np.arange(start, start + size, dtype=np.int64)
        yield (codes[:, None] >> np.arange(n) & 1).astype(np.float64)
        start += size


def _block_sizes(n: int, rows: int) -> Iterator[int]:
    block = max(1, BLOCK_CELLS // max(n, 1))
    for start in range(0, rows, block):
        yield min(block, rows - start)
