"""Compiled walks: 64 at a time take each step together, so that their cache misses overlap.

Imported only when numba is installed; the same functions without a compiler are in ``_walk_torch``, and the two agree bit for bit.
Streams are uint64 ``[n]``; ``paths`` int32 ``[n, w]`` come filled with -1 but for the first column, the start nodes. ``cumulative``
int64 ``[n_edges + 1]`` holds the sums of the edges' weights before each edge; empty means that all weigh 1.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from baselines.common.paths import random_numbers

LANES = 64
ATTEMPTS = 4
COUNTERS = 8
GOLDEN = np.uint64(random_numbers.GOLDEN)
FIRST = np.uint64(random_numbers.FIRST)
SECOND = np.uint64(random_numbers.SECOND)


@njit(nogil=True, cache=True)
def below(key: Any, counter: int, limit: Any) -> Any:
    """As ``random_numbers.below`` for one stream."""
    z = key + np.uint64(counter + 1) * GOLDEN
    z = (z ^ (z >> np.uint64(30))) * FIRST
    z = (z ^ (z >> np.uint64(27))) * SECOND
    z = (z ^ (z >> np.uint64(31))) >> np.uint64(32)
    return np.int64((z * np.uint64(limit)) >> np.uint64(32))


@njit(nogil=True, cache=True)
def _upper(values: NDArray[Any], low: Any, high: Any, wanted: Any) -> Any:
    """The first place in ``low..high`` whose value exceeds ``wanted``, in ascending values; without a branch to mispredict."""
    size = high - low
    while size > 0:
        half = size >> 1
        below_it = np.int64(values[low + half] <= wanted)
        low += below_it * (half + 1)
        size = half - below_it * (1 - (size & 1))
    return low


@njit(nogil=True, cache=True)
def _seen(row: NDArray[np.int32], steps: int, node: Any) -> bool:
    """Whether a node is among the first ``steps + 1`` of a row of nodes."""
    seen = False
    for j in range(steps + 1):
        seen |= row[j] == node
    return seen


@njit(nogil=True, cache=True)
def _unvisited(
    low: int,
    high: int,
    neighbours: NDArray[np.int32],
    cumulative: NDArray[np.int64],
    key: Any,
    step: int,
    row: NDArray[np.int32],
) -> Any:
    """One of the edges ``low..high`` that lead off the walk, by weight; -1 where there is none."""
    weighted = len(cumulative) > 0
    total = np.int64(0)
    for e in range(low, high):
        if not _seen(row, step, neighbours[e]):
            total += cumulative[e + 1] - cumulative[e] if weighted else 1
    if total == 0:
        return np.int64(-1)
    left = below(key, COUNTERS * step + ATTEMPTS, total)
    for e in range(low, high):
        if not _seen(row, step, neighbours[e]):
            left -= cumulative[e + 1] - cumulative[e] if weighted else 1
            if left < 0:
                return np.int64(e)
    return np.int64(-1)


@njit(nogil=True, cache=True)
def _draw(low: int, high: int, cumulative: NDArray[np.int64], key: Any, counter: int) -> Any:
    """One of the edges ``low..high`` by weight, whatever it leads to; ``high`` where all weigh nothing."""
    if len(cumulative) == 0:
        return low + below(key, counter, high - low)
    base = cumulative[low]
    return _upper(cumulative, low + 1, high + 1, base + below(key, counter, cumulative[high] - base)) - 1


@njit(nogil=True, cache=True)
def walk(
    indptr: NDArray[np.int64],
    neighbours: NDArray[np.int32],
    relations: NDArray[np.int32],
    cumulative: NDArray[np.int64],
    keys: NDArray[np.uint64],
    paths: NDArray[np.int32],
    hops: int,
) -> None:
    """Take the first ``hops`` steps of each path; a walk that cannot go on leaves -1 behind."""
    n = len(keys)
    at = np.empty(LANES, np.int64)
    low, high, place = np.empty(LANES, np.int64), np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    node, relation = np.empty(LANES, np.int32), np.empty(LANES, np.int32)
    hit = np.empty(LANES, np.int32)
    seen, taken = np.empty((hops + 1, LANES), np.int32), np.empty((hops, LANES), np.int32)
    row = np.empty(hops + 1, np.int32)
    for start in range(0, n, LANES):
        lanes = min(LANES, n - start)
        key = keys[start : start + lanes]
        for w in range(lanes):
            at[w] = paths[start + w, 0]
            seen[0, w] = paths[start + w, 0]
        for s in range(hops):
            for w in range(lanes):
                low[w], high[w] = 0, 0
                if at[w] >= 0:
                    low[w], high[w] = indptr[at[w]], indptr[at[w] + 1]
            if len(cumulative) == 0:
                for w in range(lanes):
                    place[w] = low[w] + below(key[w], COUNTERS * s, high[w] - low[w])
            else:
                for w in range(lanes):
                    place[w] = _draw(low[w], high[w], cumulative, key[w], COUNTERS * s)
            for w in range(lanes):
                node[w], relation[w] = -1, -1
                if place[w] < high[w]:
                    node[w], relation[w] = neighbours[place[w]], relations[place[w]]
            hit[:lanes] = 0
            for j in range(s + 1):
                for w in range(lanes):
                    hit[w] |= np.int32(seen[j, w] == node[w])
            for w in range(lanes):
                if hit[w] != 0 and node[w] >= 0:
                    for j in range(s + 1):
                        row[j] = seen[j, w]
                    edge = high[w]
                    for attempt in range(1, ATTEMPTS):
                        edge = _draw(low[w], high[w], cumulative, key[w], COUNTERS * s + attempt)
                        if not _seen(row, s, neighbours[edge]):
                            break
                        edge = high[w]
                    if edge == high[w]:
                        edge = _unvisited(low[w], high[w], neighbours, cumulative, key[w], s, row)
                    node[w], relation[w] = -1, -1
                    if edge >= 0:
                        node[w], relation[w] = neighbours[edge], relations[edge]
            for w in range(lanes):
                at[w] = node[w]
                seen[s + 1, w] = node[w]
                taken[s, w] = relation[w]
        for w in range(lanes):
            for s in range(hops):
                paths[start + w, 2 * s + 1] = taken[s, w]
                paths[start + w, 2 * s + 2] = seen[s + 1, w]


@njit(nogil=True, cache=True)
def _common(
    ends: NDArray[np.int32],
    low: Any,
    high: Any,
    wanted: NDArray[np.int32],
    first: Any,
    last: Any,
    found: NDArray[np.int64],
) -> int:
    """Places of ``ends[low:high]`` (ascending, may repeat) whose value is in ``wanted[first:last]`` (ascending); return how many."""
    n, i, j = 0, low, first
    if low == high or first == last:
        return n
    m, k = high - low, last - first
    if m * np.log2(k + 1) < m + k:
        for i in range(low, high):
            j = _upper(wanted, first, last, ends[i] - 1)
            if j < last and wanted[j] == ends[i]:
                found[n] = i
                n += 1
    elif k * np.log2(m + 1) < m + k:
        for j in range(first, last):
            i = _upper(ends, i, high, wanted[j] - 1)
            while i < high and ends[i] == wanted[j]:
                found[n] = i
                n += 1
                i += 1
    else:
        while i < high and j < last:  # without branches: which list moves on is not predictable
            end, want = ends[i], wanted[j]
            found[n] = i
            n += end == want
            i += end <= want
            j += end > want
    return n


@njit(nogil=True, cache=True)
def finish(
    indptr: NDArray[np.int64],
    ends: NDArray[np.int32],
    relations: NDArray[np.int32],
    wanted_ptr: NDArray[np.int64],
    wanted: NDArray[np.int32],
    users: NDArray[np.int64],
    keys: NDArray[np.uint64],
    paths: NDArray[np.int32],
    hops: int,
) -> None:
    """Take step ``hops`` of each path over one of the edges that lead to a node its user wants and off the path, if there is one."""
    longest = np.int64(0)
    for p in range(len(keys)):
        at = paths[p, 2 * hops - 2]
        if at >= 0:
            longest = max(longest, indptr[at + 1] - indptr[at])
    found = np.empty(longest + 1, np.int64)
    for p in range(len(keys)):
        at = paths[p, 2 * hops - 2]
        if at < 0:
            continue
        n = _common(
            ends, indptr[at], indptr[at + 1], wanted, wanted_ptr[users[p]], wanted_ptr[users[p] + 1], found
        )
        kept = 0
        for i in range(n):
            found[kept] = found[i]
            kept += not _seen(paths[p, 0 : 2 * hops : 2], hops - 1, ends[found[i]])
        if kept > 0:
            place = found[below(keys[p], COUNTERS * (hops - 1), kept)]
            paths[p, 2 * hops - 1] = relations[place]
            paths[p, 2 * hops] = ends[place]
