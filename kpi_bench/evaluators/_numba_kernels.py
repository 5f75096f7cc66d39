"""Compiled block kernels: one pass over each score row while it is still in cache.

Imported only when numba is installed; the same functions without a compiler are in ``_array_kernels``.
Each kernel reads a C-contiguous float32 block, global int64 CSR arrays and ``first``, the CSR row of the block's first
row, writes into global outputs and returns how many scores are NaN or infinite. Integer accumulators of 32 bits let
LLVM turn the loops into vector compares without ``fastmath``, which would be free to drop the NaN check.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

LARGEST = np.float32(np.finfo(np.float32).max)
LOW_BITS = np.int64(0xFFFFFFFF)
CHUNK = 64
SAMPLE = 1024


@njit(nogil=True, cache=True)
def _count_bad(row: NDArray[np.float32]) -> int:
    """Number of NaN and infinite values of a row."""
    bad = np.int32(0)
    for j in range(len(row)):
        bad += np.int32(not (abs(row[j]) <= LARGEST))
    return int(bad)


@njit(nogil=True, cache=True)
def count_block(
    scores: NDArray[np.float32],
    first: int,
    positives_ptr: NDArray[np.int64],
    positives: NDArray[np.int64],
    filters_ptr: NDArray[np.int64],
    filters: NDArray[np.int64],
    greater: NDArray[np.int64],
    equal: NDArray[np.int64],
) -> int:
    """For each positive: the other, unfiltered columns scored above it and the same as it."""
    bad = 0
    for b in range(len(scores)):
        row = scores[b]
        bad += _count_bad(row)
        for p in range(positives_ptr[first + b], positives_ptr[first + b + 1]):
            target = positives[p]
            score = row[target]
            above, least = np.int32(0), np.int32(0)
            for j in range(len(row)):
                above += np.int32(row[j] > score)
                least += np.int32(row[j] >= score)
            same = least - above - 1
            for f in range(filters_ptr[first + b], filters_ptr[first + b + 1]):
                column = filters[f]
                above -= np.int32(row[column] > score)
                same -= np.int32(row[column] == score and column != target)
            greater[p] = above
            equal[p] = same
    return bad


@njit(nogil=True, cache=True)
def rank_block(
    scores: NDArray[np.float32],
    first: int,
    positives_ptr: NDArray[np.int64],
    positives: NDArray[np.int64],
    masks_ptr: NDArray[np.int64],
    masks: NDArray[np.int64],
    ranks: NDArray[np.int64],
) -> int:
    """For each positive: its rank from 1 among unmasked columns, the lower column first among equal scores."""
    bad = 0
    for b in range(len(scores)):
        row = scores[b]
        bad += _count_bad(row)
        for p in range(positives_ptr[first + b], positives_ptr[first + b + 1]):
            target = positives[p]
            score = row[target]
            before, after = row[:target], row[target + 1 :]  # loops from 0 become vector code, others do not
            above = np.int32(0)
            for j in range(len(before)):
                above += np.int32(before[j] >= score)
            for j in range(len(after)):
                above += np.int32(after[j] > score)
            for m in range(masks_ptr[first + b], masks_ptr[first + b + 1]):
                column = masks[m]
                above -= np.int32(row[column] > score or (row[column] == score and column < target))
            ranks[p] = above + 1
    return bad


@njit(nogil=True, cache=True)
def _keep_largest(keys: NDArray[Any], n: int, k: int) -> None:
    """Move the ``k`` largest of the first ``n`` keys to the front (quickselect with the middle as pivot)."""
    low, high = 0, n - 1
    while low < high:
        pivot = keys[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while keys[i] > pivot:
                i += 1
            while keys[j] < pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            return


@njit(nogil=True, cache=True)
def _key(bits: int, column: int) -> Any:
    """Key of a score's bit pattern and a column, see ``_keys``."""
    pattern = np.int64(0) if bits == np.iinfo(np.int32).min else np.int64(bits)
    if pattern < 0:
        pattern ^= np.int64(0x7FFFFFFF)
    return (pattern << 32) | (LOW_BITS - column)


@njit(nogil=True, cache=True)
def _first_floor(row: NDArray[np.float32], k: int, sample: NDArray[np.float32]) -> Any:
    """A score that probably more than ``k``, but few, of the row's columns exceed; -inf if the row is short."""
    size = len(sample)
    place = size * k * 3 // (2 * len(row)) + 8
    if 2 * size > len(row) or 2 * place > size:
        return np.float32(-np.inf)
    sample[:] = row[:size]
    _keep_largest(sample, size, place)
    return sample[:place].min()


@njit(nogil=True, cache=True)
def _collect(
    row: NDArray[np.float32], bits: NDArray[np.int32], k: int, floor: Any, best: NDArray[np.int64]
) -> int:
    """Put the keys of the ``k`` best of the columns scored above ``floor`` in front of ``best``; return how many."""
    room = len(best) - CHUNK
    n = 0
    for start in range(0, len(row), CHUNK):
        stop = min(start + CHUNK, len(row))
        hits = np.int32(0)
        for j in range(start, stop):
            hits += np.int32(row[j] > floor)
        if hits == 0:
            continue
        fresh = n
        for j in range(start, stop):  # without a branch, which would be mispredicted at each hit
            best[n] = j
            n += row[j] > floor
        for i in range(fresh, n):
            best[i] = _key(bits[best[i]], best[i])
        if n >= room:
            _keep_largest(best, n, k)
            n = k
            floor = row[LOW_BITS - (best[:k].min() & LOW_BITS)]
    if n > k:
        _keep_largest(best, n, k)
        n = k
    return n


@njit(nogil=True, cache=True)
def select_block(
    scores: NDArray[np.float32],
    first: int,
    masks_ptr: NDArray[np.int64],
    masks: NDArray[np.int64],
    keys: NDArray[np.int64],
) -> int:
    """Fill ``keys`` ``[B, k]`` with each row's best unmasked columns in any order; masked scores are overwritten.

    A key orders like (score, lower column first), see ``_keys``; unused slots are left as given. A sample of the row
    gives a first floor, so that one pass keeps a few hundred columns; where that keeps too few, a second pass has none.
    """
    bad = 0
    bits = scores.view(np.int32)
    k = keys.shape[1]
    best = np.empty(4 * k + 2 * CHUNK, np.int64)
    sample = np.empty(SAMPLE, np.float32)
    for b in range(len(scores)):
        row = scores[b]
        wrong = _count_bad(row)
        bad += wrong
        if wrong > 0:
            continue
        for m in range(masks_ptr[first + b], masks_ptr[first + b + 1]):
            row[masks[m]] = -np.inf
        floor = _first_floor(row, k, sample)
        n = _collect(row, bits[b], k, floor, best)
        if n < k and floor > -np.inf:
            n = _collect(row, bits[b], k, np.float32(-np.inf), best)
        keys[b, :n] = best[:n]
        for m in range(masks_ptr[first + b], masks_ptr[first + b + 1]):
            row[masks[m]] = 0  # whoever looks for the bad score of a later row must not find these
    return bad
