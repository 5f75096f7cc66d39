"""The score that selects every recommender: against the evaluator, with train masked and valid asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from baselines.common.plugs import FrozenVectors, Projection
from baselines.common.scorers import FactorScorer
from baselines.common.validation import RankingValidation
from kpi_bench import Interactions, RecommendationTask, TaskKind, TaskSpec
from kpi_bench.evaluators.ranking import rank_positives_from_factors, tie_order
from kpi_bench.evaluators.recommendation import score_ranks

N_USERS, N_ITEMS = 30, 50


def task(seed: int = 0) -> RecommendationTask:
    rng = np.random.default_rng(seed)
    cells = rng.permutation(N_USERS * N_ITEMS)[:400]
    users, items = np.divmod(cells, N_ITEMS)
    spec = TaskSpec("t", TaskKind.RECOMMENDATION, "kg", "d", "", "", "ndcg@20", ks=(5, 20), n_users=N_USERS)
    parts = [Interactions(users[part], items[part]) for part in (slice(0, 300), slice(300, 400))]
    return RecommendationTask(spec, N_USERS, np.arange(N_ITEMS), parts[0], parts[1])


def factors(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N_USERS, 8, generator=generator), torch.randn(N_ITEMS, 8, generator=generator)


@pytest.mark.parametrize("metric", ["ndcg@20", "recall@5"])
def test_it_is_the_evaluators_score_of_valid_with_train_masked(metric: str) -> None:
    data, (users, items) = task(), factors(1)
    valid, train = data.matrix("valid"), data.train_matrix
    order = tie_order(N_ITEMS, "t")
    asked = np.flatnonzero(valid.lengths())
    ranks = rank_positives_from_factors(
        users.numpy()[asked], items.numpy(), valid.select(asked), train.select(asked), order
    )
    expected = score_ranks(ranks, positives=valid, query_users=asked, train=train, ks=(5, 20), exclude=train)
    score = RankingValidation(data, metric).score(FactorScorer(users, items))
    assert score == pytest.approx(expected.values[metric], rel=1e-6)


def test_a_subset_of_users_is_the_same_every_time() -> None:
    data, tables = task(), factors(2)
    few = [RankingValidation(data, "ndcg@20", max_users=7).score(FactorScorer(*tables)) for _ in range(2)]
    assert few[0] == few[1] != RankingValidation(data, "ndcg@20").score(FactorScorer(*tables))


def test_nan_factors_give_nan() -> None:
    users, items = factors(3)
    assert np.isnan(RankingValidation(task(), "ndcg@20").score(FactorScorer(users * float("nan"), items)))


def test_a_plug_leaves_unknown_rows_alone() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    known = np.array([True, False, True, True, False])
    projection = Projection(FrozenVectors(vectors, known), 4, 0.5, torch.Generator().manual_seed(0))
    with torch.no_grad():
        projection.bias.fill_(1.0)
    out = projection().detach()
    assert torch.equal(out[~torch.from_numpy(known)], torch.zeros(2, 4))
    assert bool((out[torch.from_numpy(known)] != 0).all())
    assert torch.equal(projection(torch.tensor([1, 3])).detach(), out[[1, 3]])
