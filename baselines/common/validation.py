"""Valid scores of a recommender during training: exact full ranking of (a fixed subset of) users."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from baselines.common.scorers import Scorer, is_finite
from kpi_bench import Csr, RecommendationTask
from kpi_bench.errors import SubmissionError
from kpi_bench.evaluators.ranking import tie_order
from kpi_bench.evaluators.recommendation import metrics_from_ranks

METRICS = ("ndcg", "recall", "mrr", "hit", "precision")


class RankingValidation:
    """``metric`` (``ndcg@20``, ``recall@5``, ...) over users with valid items; train items are no candidates.

    More than ``max_users`` users (0: no limit) are thinned out evenly: the same subset in every run and for every method.
    """

    def __init__(self, task: RecommendationTask, metric: str, *, max_users: int = 0) -> None:
        self._metric, self._k = metric, _cutoff(metric)
        train, valid = task.train_matrix, task.matrix("valid")
        # A pair in both splits could never be ranked: train items are masked.
        fresh = ~np.isin(_keys(valid), _keys(train))
        valid = Csr.from_pairs(valid.row_ids()[fresh], valid.indices[fresh], (valid.n_rows, valid.n_columns))
        users = np.flatnonzero(valid.lengths())
        if len(users) == 0:
            raise SubmissionError(
                f"task {task.spec.name}: no user has a valid item, so nothing can be selected on valid"
            )
        if 0 < max_users < len(users):
            users = users[np.linspace(0, len(users) - 1, max_users).astype(np.int64)]
        self._users = users
        self._exclude = train.select(users)
        self._positives = valid.select(users)
        self._order = tie_order(task.n_items, task.spec.name)

    def score(self, scorer: Scorer) -> float:
        """The metric's mean over users; NaN for a scorer with a number that is NaN or infinite."""
        if not is_finite(scorer):
            return float("nan")
        ranks = scorer.ranks(self._users, self._positives, self._exclude, self._order)
        scores = metrics_from_ranks(ranks, self._positives.lengths(), [self._k])
        return float(scores[self._metric].mean())


def _cutoff(metric: str) -> int:
    name, _, k = metric.partition("@")
    if name not in METRICS or not k.isdigit() or int(k) < 1:
        raise SubmissionError(
            f"valid metric {metric!r} must be one of {', '.join(METRICS)} with a cutoff, such as ndcg@20"
        )
    return int(k)


def _keys(matrix: Csr) -> NDArray[np.int64]:
    keys: NDArray[np.int64] = matrix.row_ids() * matrix.n_columns + matrix.indices
    return keys
