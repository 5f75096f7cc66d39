"""Random answers: what an evaluator must score as chance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from baselines.common.top_k import rank_by_scores, row_blocks
from baselines.reference._floor import Floor
from kpi_bench import (
    ClassificationTask,
    Context,
    LinkPredictionQueries,
    LinkPredictionTask,
    Predictions,
    Queries,
    RecommendationQueries,
    Task,
)


class Random(Floor):
    """A hash of (seed, query, answer) is the score: the same for a query however queries are ordered or split."""

    def adapt(self, task: Task, ctx: Context) -> None:
        """Nothing to learn."""

    def predict(self, task: Task, queries: Queries, ctx: Context) -> Predictions:
        if isinstance(queries, RecommendationQueries):
            return rank_by_scores(queries, lambda users: _scores(users, len(queries.tie_order), ctx.seed))
        if isinstance(queries, LinkPredictionQueries):
            return _blocks(queries, self.expect(task, LinkPredictionTask), ctx.seed)
        return _scores(queries.examples, self.expect(task, ClassificationTask).n_classes, ctx.seed)


def _blocks(
    queries: LinkPredictionQueries, task: LinkPredictionTask, seed: int
) -> Iterator[NDArray[np.float32]]:
    ids = (queries.entities * task.n_relations + queries.relations) * 2 + queries.directions
    for rows in row_blocks(len(ids), task.n_entities):
        yield _scores(ids[rows], task.n_entities, seed)


def _scores(rows: NDArray[np.int64], n_columns: int, seed: int) -> NDArray[np.float32]:
    """Hashes in [0, 1), float32 ``[len(rows), n_columns]``."""
    row_keys = _mix(
        (rows & 0xFFFFFFFF).astype(np.uint32) ^ _mix(np.array([seed & 0xFFFFFFFF], dtype=np.uint32))
    )
    column_keys = _mix(np.arange(n_columns, dtype=np.uint32) + np.uint32(0x9E3779B9))
    # 24 bits fill a float32's mantissa: more would be rounded into ties or up to 1.
    return (_mix(row_keys[:, None] ^ column_keys) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def _mix(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A bijective mix of 32 bits (multiply and xor-shift rounds)."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x
