"""Compiled biased walks: 128 at a time take each step together, as in ``_walk_kernels``.

Imported only when numba is installed; the same function without a compiler is in ``_biased_torch``, and the two agree bit for bit.
``codes`` int64 ``[n_edges]`` holds relation * 2**32 + neighbour of each edge: ascending for each node, as the edges are. ``marks`` uint64
``[2**k]`` has two bits of a word set for each edge, by the hash of its head and code: nearly all edges that a node lacks miss there, at the cost of
one look in place of a search.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from baselines.common.paths import _biased_torch
from baselines.common.paths._biased_torch import ATTEMPTS, COUNTERS, SCALE
from baselines.common.paths._walk_kernels import FIRST, GOLDEN, LANES, SECOND, below, on_walk, upper

NODE = 0xFFFFFFFF
_share: Any = njit(nogil=True, cache=True)(_biased_torch.share)


def coded(relations: NDArray[np.int32], neighbours: NDArray[np.int32]) -> NDArray[np.int64]:
    """``codes`` of a graph's edges."""
    return (relations.astype(np.int64) << 32) | neighbours


@njit(nogil=True, cache=True)
def _mark(marks: NDArray[np.uint64], head: Any, code: Any) -> Any:
    """The word of an edge's bits, and the bits."""
    z = (np.uint64(code) + np.uint64(head) * FIRST) * GOLDEN
    z = (z ^ (z >> np.uint64(32))) * SECOND
    one = np.uint64(1)
    return (z >> np.uint64(32)) & np.uint64(len(marks) - 1), (one << (z >> np.uint64(58))) | (
        one << (z & np.uint64(63))
    )


@njit(nogil=True, cache=True)
def marked(indptr: NDArray[np.int64], codes: NDArray[np.int64]) -> Any:
    """``marks`` of a graph, of 16 bits an edge at least."""
    words = 1
    while 4 * words < len(codes):
        words *= 2
    marks = np.zeros(words, np.uint64)
    for v in range(len(indptr) - 1):
        for e in range(indptr[v], indptr[v + 1]):
            word, bits = _mark(marks, v, codes[e])
            marks[word] |= bits
    return marks


@njit(nogil=True, cache=True)
def is_edge(
    indptr: NDArray[np.int64], codes: NDArray[np.int64], marks: NDArray[np.uint64], head: Any, code: Any
) -> bool:
    """Whether an edge (of relation and neighbour ``code``) is one of a node's."""
    word, bits = _mark(marks, head, code)
    if marks[word] & bits != bits:
        return False
    high = indptr[head + 1]
    e = upper(codes, indptr[head], high, code - 1)
    return bool(e < high and codes[e] == code)


@njit(nogil=True, cache=True)
def _choose(
    indptr: NDArray[np.int64],
    codes: NDArray[np.int64],
    marks: NDArray[np.uint64],
    bridges: NDArray[np.bool_],
    weights: NDArray[np.int64],
    key: Any,
    row: NDArray[np.int32],
    step: int,
) -> Any:
    """One of the edges that lead off the walk, whose nodes are the first ``step + 1`` of ``row``, by weight; -1 where there is none."""
    low, high = indptr[row[step]], indptr[row[step] + 1]
    total = np.int64(0)
    for e in range(low, high):
        node = codes[e] & NODE
        if not on_walk(row, step, node):
            near = is_edge(indptr, codes, marks, row[0], codes[e])
            total += weights[np.int64(near), np.int64(bridges[node])]
    if total > 0:
        left = _share(below(key, COUNTERS * step + 2 * ATTEMPTS, 1 << 30), total)
        for e in range(low, high):
            node = codes[e] & NODE
            if not on_walk(row, step, node):
                near = is_edge(indptr, codes, marks, row[0], codes[e])
                left -= weights[np.int64(near), np.int64(bridges[node])]
                if left < 0:
                    return np.int64(e)
    return np.int64(-1)


@njit(nogil=True, cache=True)
def extend(
    indptr: NDArray[np.int64],
    codes: NDArray[np.int64],
    marks: NDArray[np.uint64],
    bridges: NDArray[np.bool_],
    weights: NDArray[np.int64],
    keys: NDArray[np.uint64],
    paths: NDArray[np.int32],
    hops: int,
) -> None:
    """Take steps 2 to ``hops`` of paths int32 ``[n, w]`` that hold their first hop and -1; a walk that cannot go on leaves -1 behind.

    ``weights`` int64 ``[2, 2]`` are those of edges that the first node lacks or has (row), to nodes that are no bridge or one (column).
    """
    sure = np.minimum(weights[0], weights[1])
    some = np.maximum(weights[0], weights[1])
    pending, code = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    low, high = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    row = np.empty(hops + 1, np.int32)
    for start in range(0, len(keys), LANES):
        lanes = min(LANES, len(keys) - start)
        key, path = keys[start : start + lanes], paths[start : start + lanes]
        for s in range(1, hops):
            n = 0
            for w in range(lanes):
                low[w], high[w] = 0, 0
                if path[w, 2 * s] >= 0:
                    low[w], high[w] = indptr[path[w, 2 * s]], indptr[path[w, 2 * s] + 1]
                pending[n] = w
                n += low[w] < high[w]
            for attempt in range(ATTEMPTS):
                counter = COUNTERS * s + 2 * attempt
                for w in pending[:n]:
                    code[w] = codes[np.uint64(low[w] + below(key[w], counter, high[w] - low[w]))]
                left = 0
                for i in range(n):
                    w = pending[i]
                    node = code[w] & NODE
                    seen = False
                    for j in range(s + 1):
                        seen |= path[w, 2 * j] == node
                    level, bridge = below(key[w], counter + 1, SCALE), np.int64(bridges[node])
                    near = False
                    if (level >= sure[bridge]) & (level < some[bridge]):
                        near = is_edge(indptr, codes, marks, path[w, 0], code[w])
                    taken = (not seen) & (level < weights[np.int64(near), bridge])
                    path[w, 2 * s + 1], path[w, 2 * s + 2] = code[w] >> 32, node  # overwritten if not taken
                    pending[left] = w
                    left += not taken
                n = left
            for w in pending[:n]:
                for j in range(s + 1):
                    row[j] = path[w, 2 * j]
                e = _choose(indptr, codes, marks, bridges, weights, key[w], row, s)
                path[w, 2 * s + 1], path[w, 2 * s + 2] = -1, -1
                if e >= 0:
                    path[w, 2 * s + 1], path[w, 2 * s + 2] = codes[e] >> 32, codes[e] & NODE
