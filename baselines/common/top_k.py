"""Exact top-k lists with numpy alone, for baselines that must not pay for importing torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from kpi_bench import Csr, RecommendationQueries, TopK

BLOCK_ENTRIES = 1 << 23
"""Scores held at a time (32 MB of float32, and twice that for their sort keys)."""


def row_blocks(n_rows: int, n_columns: int, entries: int = BLOCK_ENTRIES) -> Iterator[slice]:
    """Row ranges whose dense block holds at most ``entries`` values (one row at least)."""
    rows = max(1, entries // max(n_columns, 1))
    for start in range(0, n_rows, rows):
        yield slice(start, min(start + rows, n_rows))


def rank_by_scores(
    queries: RecommendationQueries, score: Callable[[NDArray[np.int64]], NDArray[np.float32]]
) -> TopK:
    """Top-k lists of all queried users; ``score(users)`` gives float32 ``[len(users), n_items]``, asked for block by block."""
    n, n_items = len(queries), len(queries.tie_order)
    items = np.full((n, queries.k), -1, dtype=np.int64)
    scores = np.full((n, queries.k), -np.inf, dtype=np.float32)
    for rows in row_blocks(n, n_items):
        block = score(queries.users[rows])
        excluded = queries.exclude.select(np.arange(rows.start, rows.stop))
        items[rows], scores[rows] = _top_k(block, excluded, queries.k, queries.tie_order)
    return TopK(items, scores)


def rank_by_one_score(queries: RecommendationQueries, score: NDArray[np.float32]) -> TopK:
    """Top-k lists when all users share one float32 ``[n_items]`` score: the common ranking less each user's excluded items."""
    n_items, k = len(queries.tie_order), queries.k
    ranking = np.lexsort((queries.tie_order, -score))
    position = np.empty(n_items, dtype=np.int64)
    position[ranking] = np.arange(n_items)
    items = np.full((len(queries), k), -1, dtype=np.int64)
    longest = int(queries.exclude.lengths().max(initial=0))
    # A user's list ends within the first k + (number of excluded items) places of the common ranking.
    head = min(n_items, k + longest)
    for rows in row_blocks(len(queries), head):
        excluded = queries.exclude.select(np.arange(rows.start, rows.stop))
        kept = np.ones((rows.stop - rows.start, head), dtype=np.bool_)
        places = position[excluded.indices]
        inside = places < head
        kept[excluded.row_ids()[inside], places[inside]] = False
        slot = np.cumsum(kept, axis=1) - 1
        row, place = np.nonzero(kept & (slot < k))
        items[rows.start + row, slot[row, place]] = ranking[place]
    return TopK(items, np.where(items >= 0, score[items], -np.inf).astype(np.float32))


def _top_k(
    scores: NDArray[np.float32], exclude: Csr, k: int, tie_order: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Best ``k`` columns of each row by (score falling, ``tie_order`` rising), -1 and -inf behind the last allowed one."""
    n_rows, n_items = scores.shape
    # One integer orders by both criteria: the score's bits, made monotone, above the reversed tie rank.
    bits = np.ascontiguousarray(scores, dtype=np.float32).view(np.int32)
    keys = (bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))).astype(np.int64)
    keys <<= 32
    keys += n_items - 1 - tie_order
    keys[exclude.row_ids(), exclude.indices] = np.iinfo(np.int64).min
    width = min(k, n_items)
    best = np.argpartition(keys, n_items - width, axis=1)[:, n_items - width :]
    best = np.take_along_axis(
        best, np.argsort(np.take_along_axis(keys, best, axis=1), axis=1)[:, ::-1], axis=1
    )
    allowed = np.take_along_axis(keys, best, axis=1) != np.iinfo(np.int64).min
    items = np.full((n_rows, k), -1, dtype=np.int64)
    values = np.full((n_rows, k), -np.inf, dtype=np.float32)
    items[:, :width] = np.where(allowed, best, -1)
    values[:, :width] = np.where(allowed, np.take_along_axis(scores, best, axis=1), -np.inf)
    return items, values
