"""Block kernels in numpy alone, for a CPU without numba; the contract is that of ``_numba_kernels``.

A Python loop over rows beats one whole-block comparison: numpy compares and counts a row inside the L1 cache, whereas
summing a boolean block is not vectorised and costs several times the GEMM that made the scores.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kpi_bench.evaluators import _keys

Ints = NDArray[np.int64]

_AT_ONCE = 16
"""Positives compared with a row in one call: enough to hide the call, few enough for the L2 cache."""


def _count_bad(scores: NDArray[np.float32]) -> int:
    """Number of NaN and infinite values; a row sum is finite only if (but not always if) each value is."""
    with np.errstate(over="ignore", invalid="ignore"):
        sums = scores @ np.ones(scores.shape[1], np.float32)
    suspects = np.flatnonzero(~np.isfinite(sums))
    return int(np.count_nonzero(~np.isfinite(scores[suspects])))


def count_block(
    scores: NDArray[np.float32],
    first: int,
    positives_ptr: Ints,
    positives: Ints,
    filters_ptr: Ints,
    filters: Ints,
    greater: Ints,
    equal: Ints,
) -> int:
    """For each positive: the other, unfiltered columns scored above it and the same as it."""
    targets, wanted, above, same = _counted(scores, first, positives_ptr, positives)
    rows, known, owner = known_pairs(len(scores), first, positives_ptr, filters_ptr, filters)
    others, mine, n = scores[rows, known], wanted[owner], len(targets)
    alike = (others == mine) & (known != targets[owner])
    start = int(positives_ptr[first])
    greater[start : start + n] = above - np.bincount(owner[others > mine], minlength=n)
    equal[start : start + n] = same - 1 - np.bincount(owner[alike], minlength=n)
    return _count_bad(scores)


def rank_block(
    scores: NDArray[np.float32],
    first: int,
    positives_ptr: Ints,
    positives: Ints,
    masks_ptr: Ints,
    masks: Ints,
    ranks: Ints,
) -> int:
    """For each positive: its rank from 1 among unmasked columns, the lower column first among equal scores.

    Masked scores are overwritten; a positive is never masked.
    """
    bad = _count_bad(scores)
    if bad:
        return bad
    _mask(scores, first, masks_ptr, masks)
    targets, wanted, above, same = _counted(scores, first, positives_ptr, positives)
    lines = np.repeat(np.arange(len(scores)), np.diff(positives_ptr[first : first + len(scores) + 1]))
    for tied in np.flatnonzero(same > 1):
        above[tied] += np.count_nonzero(scores[lines[tied], : targets[tied]] == wanted[tied])
    start = int(positives_ptr[first])
    ranks[start : start + len(targets)] = 1 + above
    return 0


def select_block(
    scores: NDArray[np.float32], first: int, masks_ptr: Ints, masks: Ints, keys: NDArray[np.int64]
) -> int:
    """Fill ``keys`` ``[B, k]`` with each row's best unmasked columns in any order; masked scores are overwritten."""
    bad = _count_bad(scores)
    if bad:
        return bad
    n_columns = scores.shape[1]
    k = min(keys.shape[1], n_columns)
    _mask(scores, first, masks_ptr, masks)
    floors = np.partition(scores, n_columns - k, axis=1)[:, n_columns - k]
    for b, (row, floor) in enumerate(zip(scores, floors, strict=True)):
        columns = np.flatnonzero(row >= floor)
        if len(columns) > k:  # equal scores at the end of the list: the lowest columns of them stay
            level = row[columns] == floor
            columns = np.concatenate([columns[~level], columns[level]])[:k]
        columns = columns[row[columns] > -np.inf]
        keys[b, : len(columns)] = _keys.encode(row[columns], columns)
    return 0


def _mask(scores: NDArray[np.float32], first: int, masks_ptr: Ints, masks: Ints) -> None:
    """Set masked scores to -inf."""
    bounds = masks_ptr[first : first + len(scores) + 1]
    rows = np.repeat(np.arange(len(scores)), np.diff(bounds))
    scores[rows, masks[bounds[0] : bounds[-1]]] = -np.inf


def known_pairs(
    n_rows: int, first: int, positives_ptr: Ints, known_ptr: Ints, known: Ints
) -> tuple[Ints, Ints, Ints]:
    """Every (positive, known column of its row) pair of a block: row in the block, column, index of the positive."""
    positive_counts = np.diff(positives_ptr[first : first + n_rows + 1])
    starts, known_counts = known_ptr[first : first + n_rows], np.diff(known_ptr[first : first + n_rows + 1])
    rows = np.repeat(np.arange(n_rows), positive_counts)
    counts = known_counts[rows]
    owner = np.repeat(np.arange(len(rows)), counts)
    places = np.arange(len(owner)) + np.repeat(starts[rows] - np.cumsum(counts) + counts, counts)
    return rows[owner], known[places], owner


def _counted(
    scores: NDArray[np.float32], first: int, ptr: Ints, positives: Ints
) -> tuple[Ints, NDArray[np.float32], Ints, Ints]:
    """Of each positive of the block: column, score, scores in its row above it, and equal to it (itself included)."""
    bounds = ptr[first : first + len(scores) + 1]
    targets = positives[bounds[0] : bounds[-1]]
    wanted = scores[np.repeat(np.arange(len(scores)), np.diff(bounds)), targets]
    above, same = np.empty(len(targets), np.int64), np.ones(len(targets), np.int64)
    # one buffer for all comparisons: a new array of this size would come from the system, page by page, each time
    compared = np.empty((_AT_ONCE, scores.shape[1]), dtype=bool)
    places = (bounds - bounds[0]).tolist()
    for row, low, high in zip(scores, places, places[1:], strict=False):
        for start in range(low, high, _AT_ONCE):
            part = slice(start, min(start + _AT_ONCE, high))
            lines = np.greater(row, wanted[part, None], out=compared[: part.stop - start])
            above[part] = [np.count_nonzero(line) for line in lines]
            np.equal(row, wanted[part, None], out=lines)
            lines[np.arange(len(lines)), targets[part]] = False
            if lines.any():  # rare, and cheaper to find out than to count each line
                same[part] += [np.count_nonzero(line) for line in lines]
    return targets, wanted, above, same
