"""Top-k lists from score blocks or from one score an item; without importing torch, which floors never need."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from kpi_bench import Csr, RecommendationQueries, TopK, top_k_from_scores

BLOCK_ENTRIES = 1 << 23
"""Scores held at a time (32 MB of float32)."""


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
        best = top_k_from_scores(block, excluded, queries.k, queries.tie_order)
        items[rows], scores[rows] = best.items, best.scores
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


def popularity(train: Csr) -> NDArray[np.float32]:
    """Train users of each item, float32 ``[n_items]``."""
    return np.bincount(train.indices, minlength=train.n_columns).astype(np.float32)


def serve_new_users(
    ranked: TopK, queries: RecommendationQueries, train_items: NDArray[np.int64], popular: NDArray[np.float32]
) -> TopK:
    """``ranked``, where users without a train item (``train_items`` int64 ``[n_users]`` counts them) get the most popular items."""
    new = np.flatnonzero(train_items[queries.users] == 0)
    if len(new):
        part = RecommendationQueries(
            queries.users[new], queries.exclude.select(new), queries.k, queries.tie_order
        )
        best = rank_by_one_score(part, popular)
        ranked.items[new], ranked.scores[new] = best.items, best.scores
    return ranked
