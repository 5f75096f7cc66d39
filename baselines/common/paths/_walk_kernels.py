"""Compiled walks: 128 at a time take each step together, so that their cache misses overlap.

Imported only when numba is installed; the same functions without a compiler are in ``_walk_torch``, and the two agree bit for bit.
Streams are uint64 ``[n]``; ``paths`` int32 ``[n, w]`` come filled with -1 but for the first column, the start nodes. ``edges`` int32
holds what is known of an edge side by side, so that one cache miss brings it all: NODE and RELATION, and where edges have weights UPTO,
the sum of the node's weights up to and with this edge, and GUIDE. Random bits whose place among n edges of equal weight is i have
their place by weight at GUIDE of edge i or a little behind it: a table of n entries in place of a binary search.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from baselines.common.paths import random_numbers

LANES = 128
NODE, RELATION, UPTO, GUIDE = range(4)
SEARCH = 64
"""Times as many edges as wanted nodes from which on it is faster to search them than to go through them."""
ATTEMPTS = 4
COUNTERS = 8
GOLDEN = np.uint64(random_numbers.GOLDEN)
FIRST = np.uint64(random_numbers.FIRST)
SECOND = np.uint64(random_numbers.SECOND)


@njit(nogil=True, cache=True)
def random_bits(key: Any, counter: int) -> Any:
    """32 random bits of a stream, as uint64."""
    z = key + np.uint64(counter + 1) * GOLDEN
    z = (z ^ (z >> np.uint64(30))) * FIRST
    z = (z ^ (z >> np.uint64(27))) * SECOND
    return (z ^ (z >> np.uint64(31))) >> np.uint64(32)


@njit(nogil=True, cache=True)
def _scaled(bits: Any, limit: Any) -> Any:
    """A whole number in 0..limit - 1 that rises with the bits, int64."""
    return np.int64((bits * np.uint64(limit)) >> np.uint64(32))


@njit(nogil=True, cache=True)
def below(key: Any, counter: int, limit: Any) -> Any:
    """As ``random_numbers.below`` for one stream."""
    return _scaled(random_bits(key, counter), limit)


@njit(nogil=True, cache=True)
def packed(
    indptr: NDArray[np.int64],
    neighbours: NDArray[np.int32],
    relations: NDArray[np.int32],
    cumulative: NDArray[np.int64],
) -> Any:
    """``edges`` of a graph, int32 ``[n_edges, 2]``, or ``[n_edges, 4]`` with the sums of the weights before each edge, int64 ``[n_edges + 1]``."""
    weighted = len(cumulative) > 0
    edges = np.empty((len(neighbours), 4 if weighted else 2), np.int32)
    edges[:, NODE] = neighbours
    edges[:, RELATION] = relations
    if weighted:
        for v in range(len(indptr) - 1):
            low, high = indptr[v], indptr[v + 1]
            for e in range(low, high):
                edges[e, UPTO] = cumulative[e + 1] - cumulative[low]
            n, place = np.uint64(high - low), low
            for i in range(high - low):
                least = (
                    (np.uint64(i) << np.uint64(32)) + n - np.uint64(1)
                ) // n  # of the bits whose place is i
                goal = _scaled(least, cumulative[high] - cumulative[low])
                while place < high and edges[place, UPTO] <= goal:
                    place += 1
                edges[low + i, GUIDE] = place - low  # behind the last edge where all weigh nothing
    return edges


@njit(nogil=True, cache=True)
def upper(values: NDArray[Any], low: Any, high: Any, wanted: Any) -> Any:
    """The first place in ``low..high`` whose value exceeds ``wanted``, in ascending values; without a branch to mispredict."""
    size = high - low
    while size > 0:
        half = size >> 1
        below_it = np.int64(values[low + half] <= wanted)
        low += below_it * (half + 1)
        size = half - below_it * (1 - (size & 1))
    return low


@njit(nogil=True, cache=True)
def on_walk(row: NDArray[np.int32], steps: int, node: Any) -> bool:
    """Whether a node is among the first ``steps + 1`` of a row of nodes."""
    seen = False
    for j in range(steps + 1):
        seen |= row[j] == node
    return seen


@njit(nogil=True, cache=True)
def _unvisited(
    low: int, high: int, edges: NDArray[np.int32], key: Any, step: int, row: NDArray[np.int32]
) -> Any:
    """One of the edges ``low..high`` that lead off the walk, by weight; -1 where there is none."""
    weighted = edges.shape[1] > GUIDE
    total, before = np.int64(0), np.int64(0)
    for e in range(low, high):
        weight = edges[e, UPTO] - before if weighted else 1
        before += weight
        if not on_walk(row, step, edges[e, NODE]):
            total += weight
    if total == 0:
        return np.int64(-1)
    left, before = below(key, COUNTERS * step + ATTEMPTS, total), np.int64(0)
    for e in range(low, high):
        weight = edges[e, UPTO] - before if weighted else 1
        before += weight
        if not on_walk(row, step, edges[e, NODE]):
            left -= weight
            if left < 0:
                return np.int64(e)
    return np.int64(-1)


@njit(nogil=True, cache=True)
def _draw(low: int, high: int, edges: NDArray[np.int32], key: Any, counter: int) -> Any:
    """One of the edges ``low..high`` by weight, whatever it leads to; they must weigh something."""
    bits = random_bits(key, counter)
    place = low + _scaled(bits, high - low)
    if edges.shape[1] > GUIDE:
        place = low + edges[place, GUIDE]
        goal = _scaled(bits, edges[high - 1, UPTO])
        while edges[place, UPTO] <= goal:
            place += 1
    return place


@njit(nogil=True, cache=True)
def walk(
    indptr: NDArray[np.int64],
    edges: NDArray[np.int32],
    keys: NDArray[np.uint64],
    paths: NDArray[np.int32],
    hops: int,
) -> None:
    """Take the first ``hops`` steps of each path; a walk that cannot go on leaves -1 behind."""
    n = len(keys)
    at, again = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    low, high, place = np.empty(LANES, np.int64), np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    bits, goal = np.empty(LANES, np.uint64), np.empty(LANES, np.int64)
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
            for w in range(lanes):
                bits[w] = random_bits(key[w], COUNTERS * s)
                place[w] = low[w] + _scaled(bits[w], high[w] - low[w])
            if edges.shape[1] > GUIDE:  # as _draw, but in two rounds, each with one miss
                for w in range(lanes):
                    if place[w] < high[w]:
                        goal[w] = _scaled(bits[w], edges[high[w] - 1, UPTO])
                        place[w] = low[w] + edges[place[w], GUIDE]
                for w in range(lanes):
                    while place[w] < high[w] and edges[place[w], UPTO] <= goal[w]:
                        place[w] += 1
            for w in range(lanes):
                node[w], relation[w] = -1, -1
                if place[w] < high[w]:
                    edge = np.uint64(place[w])  # an unsigned index saves a tenth of a step
                    node[w], relation[w] = edges[edge, NODE], edges[edge, RELATION]
            hit[:lanes] = 0
            for j in range(s + 1):
                for w in range(lanes):
                    hit[w] |= np.int32(seen[j, w] == node[w])
            hits = 0
            for w in range(lanes):  # without a branch: which walks hit is not predictable
                again[hits] = w
                hits += (hit[w] != 0) & (node[w] >= 0)
            for w in again[:hits]:
                for j in range(s + 1):
                    row[j] = seen[j, w]
                found = high[w]
                for attempt in range(1, ATTEMPTS):
                    found = _draw(low[w], high[w], edges, key[w], COUNTERS * s + attempt)
                    if not on_walk(row, s, edges[found, NODE]):
                        break
                    found = high[w]
                if found == high[w]:
                    found = _unvisited(low[w], high[w], edges, key[w], s, row)
                node[w], relation[w] = -1, -1
                if found >= 0:
                    node[w], relation[w] = edges[found, NODE], edges[found, RELATION]
            for w in range(lanes):
                at[w] = node[w]
                seen[s + 1, w] = node[w]
                taken[s, w] = relation[w]
        for w in range(lanes):
            for s in range(hops):
                paths[start + w, 2 * s + 1] = taken[s, w]
                paths[start + w, 2 * s + 2] = seen[s + 1, w]


@njit(nogil=True, cache=True)
def finish(
    indptr: NDArray[np.int64],
    ends: NDArray[np.uint32],
    relations: NDArray[np.int32],
    wanted_ptr: NDArray[np.int64],
    wanted: NDArray[np.uint32],
    users: NDArray[np.int64],
    keys: NDArray[np.uint64],
    paths: NDArray[np.int32],
    hops: int,
) -> None:
    """Take step ``hops`` of each path over one of the edges that lead to a node its user wants and off the path, if there is one.

    ``ends`` ascend for each node, and may repeat; ``wanted`` ascend for each user. They are unsigned, as an index that cannot be
    negative takes half the time.
    """
    longest = np.int64(0)
    for p in range(len(keys)):
        at = paths[p, 2 * hops - 2]
        if at >= 0:
            longest = max(longest, indptr[at + 1] - indptr[at])
    found = np.empty(longest + 1, np.int64)
    marked = np.zeros(len(indptr) - 1, np.bool_)
    for p in range(len(keys)):
        at = paths[p, 2 * hops - 2]
        if at < 0:
            continue
        low, high = indptr[at], indptr[at + 1]
        own = wanted[wanted_ptr[users[p]] : wanted_ptr[users[p] + 1]]
        for node in own:
            marked[node] = True
        for node in paths[p, 0 : 2 * hops : 2]:
            marked[node] = False
        n = 0
        if high - low > SEARCH * len(own):
            for node in own:
                low = upper(ends, low, high, np.int64(node) - 1)
                while low < high and ends[low] == node:
                    found[n] = low
                    n += marked[node]
                    low += 1
        else:
            for e in range(low, high):
                found[n] = e
                n += marked[ends[e]]
        for node in own:
            marked[node] = False
        if n > 0:
            place = found[below(keys[p], COUNTERS * (hops - 1), n)]
            paths[p, 2 * hops - 1] = relations[place]
            paths[p, 2 * hops] = ends[place]
