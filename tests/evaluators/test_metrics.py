"""The registry of metrics: lookup, ranges, and that nothing is emitted without a declaration."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from kpi_bench._csr import Csr
from kpi_bench.errors import EvaluationError
from kpi_bench.evaluators.classification import score_classification
from kpi_bench.evaluators.evaluation import Evaluation
from kpi_bench.evaluators.link_prediction import LinkPredictionIndex, rank_scores, score_link_prediction
from kpi_bench.evaluators.metrics import metric, metric_templates
from kpi_bench.evaluators.recommendation import Protocol, score_recommendation
from kpi_bench.suites.task import TaskKind


@pytest.mark.parametrize(
    ("name", "higher", "low", "high", "kind"),
    [
        ("ndcg@20", True, 0, 1, TaskKind.RECOMMENDATION),
        ("gini@10", False, 0, 1, TaskKind.RECOMMENDATION),
        ("mrr@5", True, 0, 1, TaskKind.RECOMMENDATION),
        ("novelty@20", True, 0, inf, TaskKind.RECOMMENDATION),
        ("path_validity", True, 0, 1, TaskKind.RECOMMENDATION),
        ("explained@20", True, 0, 1, TaskKind.RECOMMENDATION),
        ("path_types@20", True, 0, inf, TaskKind.RECOMMENDATION),
        ("macro_f1", True, 0, 1, TaskKind.CLASSIFICATION),
        ("mae", False, 0, inf, TaskKind.CLASSIFICATION),
        ("quadratic_kappa", True, -1, 1, TaskKind.CLASSIFICATION),
        ("mrr", True, 0, 1, TaskKind.LINK_PREDICTION),
        ("head/mr", False, 1, inf, TaskKind.LINK_PREDICTION),
        ("tail/macro_amri_pessimistic", True, -1, 1, TaskKind.LINK_PREDICTION),
        ("macro_hits@10", True, 0, 1, TaskKind.LINK_PREDICTION),
        ("hits@3_optimistic", True, 0, 1, TaskKind.LINK_PREDICTION),
    ],
)
def test_declarations(name: str, higher: bool, low: float, high: float, kind: TaskKind) -> None:
    found = metric(name)
    assert (found.name, found.higher_is_better, found.minimum, found.maximum) == (name, higher, low, high)
    assert found.kinds == (kind,)


def test_mrr_sum_is_bounded_by_the_harmonic_number() -> None:
    assert metric("mrr_sum@1").maximum == 1.0
    assert metric("mrr_sum@4").maximum == pytest.approx(1 + 1 / 2 + 1 / 3 + 1 / 4)


def test_descriptions_name_the_cutoff() -> None:
    assert "top 20" in metric("recall@20").description
    assert "than 10" in metric("tail/hits@10").description


@pytest.mark.parametrize("kind", list(TaskKind))
def test_every_template_is_a_metric(kind: TaskKind) -> None:
    templates = metric_templates(kind)
    assert len(set(templates)) == len(templates) > 0
    for template in templates:
        found = metric(template.replace("@k", "@7"))
        assert kind in found.kinds
        assert found.minimum < found.maximum
        assert found.description


@pytest.mark.parametrize(
    "name",
    [
        "",
        "ndcg",
        "ndcg@k",
        "ndcg@0",
        "ndcg@05",
        "ndcg@-1",
        "ndcg@2.5",
        "ndcg@20x",
        "ndcg@5@5",
        "NDCG@20",
        " mrr",
        "accuracy@5",
        "head/accuracy",
        "head/tail/mrr",
        "both/mrr",
        "mrr@5_optimistic",
        "mrr_sum@5_optimistic",
        "macro_",
        "mrr_worst",
        "hits",
    ],
)
def test_unknown_names_are_refused_with_what_is_allowed(name: str) -> None:
    with pytest.raises(EvaluationError, match=r"must be one of .*ndcg@k.*quadratic_kappa.*amri"):
        metric(name)


def assert_declared(evaluation: Evaluation, kind: TaskKind) -> None:
    """Every name is declared for the kind of task, and every value lies in the declared range."""
    slices = [{**values} for values in evaluation.slices.values()]
    for values in slices:
        del values["n_queries"]
    for values in (evaluation.values, evaluation.chance, *slices):
        for name, value in values.items():
            found = metric(name)
            assert kind in found.kinds
            assert found.minimum - 1e-12 <= value <= found.maximum + 1e-12, name
    for name in evaluation.per_query:
        assert kind in metric(name).kinds
    assert evaluation.values
    assert set(evaluation.chance) <= set(evaluation.values)


@pytest.mark.parametrize("n_classes", [2, 5])
def test_classification_emits_declared_metrics_only(n_classes: int) -> None:
    rng = np.random.default_rng(0)
    evaluation = score_classification(
        rng.integers(0, n_classes, 30),
        rng.random((30, n_classes)),
        labels=range(n_classes),
        ordinal=True,
        positive=1 if n_classes == 2 else None,
        examples=np.arange(30),
        subsets={"cold": np.arange(30) < 10},
    )
    assert_declared(evaluation, TaskKind.CLASSIFICATION)


@pytest.mark.parametrize("protocol", ["full", "mudok"])
def test_recommendation_emits_declared_metrics_only(protocol: Protocol) -> None:
    rng = np.random.default_rng(1)
    n_users, n_items = 6, 40
    users = np.repeat(np.arange(n_users), 20)
    evaluation = score_recommendation(
        users,
        np.concatenate([rng.permutation(n_items)[:20] for _ in range(n_users)]),
        np.tile(np.arange(1, 21), n_users),
        np.tile(np.linspace(1.0, 0.0, 20), n_users),
        positives=Csr.from_pairs(np.arange(18) % n_users, rng.integers(0, n_items, 18), (n_users, n_items)),
        query_users=np.arange(n_users),
        train=Csr.from_pairs([0, 1, 1], [0, 1, 2], (n_users, n_items)),
        n_items=n_items,
        tie_order=rng.permutation(n_items),
        ks=(1, 5, 20),
        protocol=protocol,
    )
    assert_declared(evaluation, TaskKind.RECOMMENDATION)


def test_link_prediction_emits_declared_metrics_only() -> None:
    rng = np.random.default_rng(2)
    n_entities, n_relations = 12, 3
    triples = np.unique(
        np.stack([rng.integers(0, top, 60) for top in (n_entities, n_relations, n_entities)], axis=1), axis=0
    )
    train, valid, test = np.split(rng.permutation(triples), [20, 30])
    index = LinkPredictionIndex.build(train, valid, test, n_entities, n_relations)
    # Few distinct scores, so that the tie policies differ.
    scores = rng.integers(0, 3, (index.n_queries, n_entities)).astype(np.float32)
    evaluation = score_link_prediction(rank_scores(index, [scores], backend="torch"), index)
    assert_declared(evaluation, TaskKind.LINK_PREDICTION)
