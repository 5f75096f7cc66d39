"""Item-based collaborative filtering (Deshpande and Karypis, 2004): cosine similarity, the nearest neighbours of each item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from baselines.common.config import config_keys, read_config
from baselines.common.top_k import popularity, rank_by_scores, row_blocks, serve_new_users
from baselines.reference._floor import Floor
from kpi_bench import Context, Predictions, Queries, RecommendationQueries, RecommendationTask, Task


@dataclass(frozen=True)
class ItemKnnConfig:
    """``neighbours`` kept an item; ``shrink`` is added to the cosine's denominator and damps chance overlaps."""

    neighbours: int = 200
    shrink: float = 10.0


class ItemKNN(Floor):
    """A user's score of an item is the sum of its similarities to the user's train items.

    Users without train items get the most popular ones. Dense blocks of 32 MB at most exist at a time.
    """

    keys = frozenset(config_keys(ItemKnnConfig, ""))

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__(params)
        self._config = read_config(ItemKnnConfig, self.params, "")

    def adapt(self, task: Task, ctx: Context) -> None:
        train = self.expect(task, RecommendationTask).train_matrix
        self._users = sp.csr_array(
            (np.ones(train.nnz, dtype=np.float32), train.indices, train.indptr),
            shape=(train.n_rows, train.n_columns),
        )
        self._similarity = nearest_neighbours(self._users, self._config)
        self.state = {
            "popularity": popularity(train),
            "user_indptr": train.indptr,
            "user_items": train.indices,
            "indptr": self._similarity.indptr,
            "neighbours": self._similarity.indices,
            "similarity": self._similarity.data,
        }

    def predict(self, task: Task, queries: Queries, ctx: Context) -> Predictions:
        asked = self.expect(queries, RecommendationQueries)
        ranked = rank_by_scores(asked, lambda users: (self._users[users] @ self._similarity).toarray())
        return serve_new_users(ranked, asked, np.diff(self._users.indptr), self.state["popularity"])


def nearest_neighbours(users: sp.csr_array, config: ItemKnnConfig) -> sp.csr_array:
    """Item-item cosine similarities, float32 ``[I, I]`` with at most ``neighbours`` entries a row, from a users x items matrix."""
    items = users.T.tocsr()
    n = items.shape[0]
    norms = np.sqrt(np.asarray(items.sum(axis=1))).astype(np.float32)
    rows_of: list[NDArray[np.int64]] = []
    columns: list[NDArray[np.int64]] = []
    values: list[NDArray[np.float32]] = []
    keep = min(config.neighbours, n)
    for rows in row_blocks(n, n):
        block = (items[rows] @ users).toarray()
        block /= norms[rows, None] * norms + np.float32(config.shrink) + np.float32(1e-12)
        block[np.arange(len(block)), np.arange(rows.start, rows.stop)] = 0
        best = np.argpartition(block, n - keep, axis=1)[:, n - keep :]
        similarity = np.take_along_axis(block, best, axis=1)
        row, slot = np.nonzero(similarity)
        rows_of.append(row + rows.start)
        columns.append(best[row, slot])
        values.append(similarity[row, slot])
    coordinates = (np.concatenate(rows_of), np.concatenate(columns))
    # Transposed: a user's row times this sums over the neighbours that each candidate item chose.
    return sp.csr_array((np.concatenate(values), coordinates[::-1]), shape=(n, n))
