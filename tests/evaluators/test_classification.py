"""Classification scores against pure-Python twins, scikit-learn and closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as judge

from kpi_bench.errors import EvaluationError
from kpi_bench.evaluators.classification import predicted_labels, score_classification
from kpi_bench.evaluators.evaluation import Evaluation
from kpi_bench.evaluators.metrics import metric


def score(y_true: Any, scores: Any, labels: list[int], **options: Any) -> Evaluation:
    """The scorer with its usual defaults: examples numbered by row, ordinal, positive = last of two labels."""
    settings = {
        "ordinal": True,
        "positive": labels[-1] if len(labels) == 2 else None,
        "examples": np.arange(len(y_true)),
    }
    return score_classification(np.asarray(y_true), np.asarray(scores), labels=labels, **(settings | options))


def scores_for(predicted: list[int], labels: list[int]) -> NDArray[np.float64]:
    """Class scores whose only maximum is the given prediction."""
    return (np.asarray(predicted)[:, None] == np.asarray(labels)).astype(np.float64)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[int], list[int], NDArray[np.float64], list[bool]]:
    """Labels, true labels, scores with many ties, missing marks."""
    labels = draw(st.lists(st.integers(-3, 6), min_size=2, max_size=5, unique=True))
    n = draw(st.integers(1, 25))
    y_true = draw(st.lists(st.sampled_from(labels), min_size=n, max_size=n))
    cells = n * len(labels)
    flat = draw(
        st.lists(st.sampled_from([-1e300, -1.0, 0.0, 0.25, 0.5, 1e300]), min_size=cells, max_size=cells)
    )
    missing = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    return labels, y_true, np.array(flat).reshape(n, len(labels)), missing


def twin(
    labels: list[int], y_true: list[int], predicted: list[int | None], margins: list[float]
) -> dict[str, float]:
    """Section 4 of the rules in plain Python; ``None`` is a missing prediction."""
    n = len(y_true)
    f1s = {}
    for label in labels:
        hits = sum(t == label and p == label for t, p in zip(y_true, predicted, strict=True))
        size, calls = y_true.count(label), predicted.count(label)
        f1s[label] = 2 * hits / (size + calls) if size + calls else 0.0
    values = {
        "accuracy": sum(t == p for t, p in zip(y_true, predicted, strict=True)) / n,
        "macro_f1": sum(f1s.values()) / len(labels),
    }
    guesses = []
    for t, p in zip(y_true, predicted, strict=True):
        worst = max(abs(other - t) for other in labels)
        guesses.append(next(other for other in labels if abs(other - t) == worst) if p is None else p)
    values["mae"] = sum(abs(t - g) for t, g in zip(y_true, guesses, strict=True)) / n
    if len(set(y_true)) > 1:
        observed = sum((t - g) ** 2 for t, g in zip(y_true, guesses, strict=True)) / n
        expected = sum((t - g) ** 2 for t in y_true for g in guesses) / n**2
        values["quadratic_kappa"] = 1 - observed / expected
    if len(labels) == 2:
        positive = labels[-1]
        hits = sum(t == p == positive for t, p in zip(y_true, predicted, strict=True))
        size, calls = y_true.count(positive), predicted.count(positive)
        values["precision"] = hits / calls if calls else 0.0
        values["recall"] = hits / size if size else 0.0
        values["f1"] = f1s[positive]
        wins: list[float] = []
        for i in range(n):
            for j in range(n):
                if y_true[i] == positive and y_true[j] != positive:
                    if predicted[i] is None or predicted[j] is None:
                        wins.append(0.0)
                    else:
                        wins.append((margins[i] > margins[j]) + 0.5 * (margins[i] == margins[j]))
        if wins:
            values["auroc"] = sum(wins) / len(wins)
    return values


@settings(max_examples=150, deadline=None)
@given(problems())
def test_equals_the_brute_force_twin(
    problem: tuple[list[int], list[int], NDArray[np.float64], list[bool]],
) -> None:
    labels, y_true, scores, missing = problem
    chosen = predicted_labels(scores, np.arange(len(y_true)), labels)
    assert all(scores[i, labels.index(c)] == scores[i].max() for i, c in enumerate(chosen))
    predicted = [None if gone else int(c) for c, gone in zip(chosen, missing, strict=True)]
    margins = [float(row[-1] / 2 - row[0] / 2) for row in scores]
    poisoned = np.where(np.array(missing)[:, None], np.nan, scores)
    got = score(y_true, poisoned, labels, missing=np.array(missing))
    assert got.values == pytest.approx(twin(labels, y_true, predicted, margins), abs=1e-12)
    assert got.counts == {"n_queries": len(y_true), "n_excluded": 0, "n_missing": sum(missing)}
    assert got.per_query["accuracy"].mean() == pytest.approx(got.values["accuracy"])
    assert got.per_query["mae"].mean() == pytest.approx(got.values["mae"])
    for values in (got.values, got.chance):
        for name, value in values.items():
            assert metric(name).minimum <= value <= metric(name).maximum


@pytest.mark.parametrize("labels", [[0, 1], [1, 2, 3, 4, 5]])
def test_agrees_with_scikit_learn(labels: list[int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        n = int(rng.integers(20, 60))
        y_true = rng.choice(labels, n)
        y_true[:2] = labels[0], labels[-1]
        scores = rng.normal(size=(n, len(labels))).round(1)
        scores += rng.random(scores.shape) * 1e-3 if len(labels) > 2 else 0.0
        got = score(y_true, scores, labels).values
        predicted = predicted_labels(scores, np.arange(n), labels)
        expected = {
            "accuracy": judge.accuracy_score(y_true, predicted),
            "macro_f1": judge.f1_score(y_true, predicted, labels=labels, average="macro", zero_division=0),
            "mae": judge.mean_absolute_error(y_true, predicted),
            "quadratic_kappa": judge.cohen_kappa_score(y_true, predicted, labels=labels, weights="quadratic"),
        }
        if len(labels) == 2:
            expected |= {
                "precision": judge.precision_score(y_true, predicted, zero_division=0),
                "recall": judge.recall_score(y_true, predicted, zero_division=0),
                "f1": judge.f1_score(y_true, predicted, zero_division=0),
                "auroc": judge.roc_auc_score(y_true, scores[:, 1] / 2 - scores[:, 0] / 2),
            }
        assert got == pytest.approx(expected, abs=1e-12)


def test_best_and_worst_case() -> None:
    best = score([0, 1, 1, 0], scores_for([0, 1, 1, 0], [0, 1]), [0, 1]).values
    assert best == dict.fromkeys(
        ["accuracy", "macro_f1", "precision", "recall", "f1", "auroc", "quadratic_kappa"], 1.0
    ) | {"mae": 0.0}
    worst = score([0, 1, 1, 0], scores_for([1, 0, 0, 1], [0, 1]), [0, 1]).values
    assert worst == dict.fromkeys(["accuracy", "macro_f1", "precision", "recall", "f1", "auroc"], 0.0) | {
        "mae": 1.0,
        "quadratic_kappa": -1.0,
    }


def test_mending_one_prediction_never_hurts_accuracy_f1_or_mae() -> None:
    rng = np.random.default_rng(1)
    y_true, predicted = rng.integers(0, 3, 30), rng.integers(0, 3, 30)
    before = score(y_true, scores_for(predicted.tolist(), [0, 1, 2]), [0, 1, 2]).values
    for row in np.flatnonzero(y_true != predicted):
        predicted[row] = y_true[row]
        after = score(y_true, scores_for(predicted.tolist(), [0, 1, 2]), [0, 1, 2]).values
        assert after["accuracy"] > before["accuracy"]
        assert after["macro_f1"] > before["macro_f1"]
        assert after["mae"] < before["mae"]
        before = after


@pytest.mark.parametrize("labels", [[0, 1], [1, 2, 3, 4, 5]])
def test_constant_scorer_is_at_chance_even_when_classes_are_skewed(labels: list[int]) -> None:
    rng = np.random.default_rng(2)
    n = 100_000
    skew = np.array([0.9] + [0.1 / (len(labels) - 1)] * (len(labels) - 1))
    got = score(rng.choice(labels, n, p=skew), np.full((n, len(labels)), 0.5), labels)
    assert set(got.chance) == set(got.values)
    assert got.values == pytest.approx(got.chance, abs=0.012)


@pytest.mark.parametrize("y_true", [[0, 0, 0, 0, 1, 2, 0], [1, 0, 1, 1, 0], [1, 1, 1]])
def test_closed_form_of_chance_is_the_monte_carlo_mean(y_true: list[int]) -> None:
    rng = np.random.default_rng(3)
    labels = [0, 1] if max(y_true) == 1 else [0, 1, 2]
    draws = 6000
    sums: dict[str, float] = {}
    for _ in range(draws):
        # Fresh example ids are a fresh draw of the tie-breaking order.
        got = score(
            y_true,
            np.zeros((len(y_true), len(labels))),
            labels,
            examples=rng.choice(10**9, len(y_true), replace=False),
        )
        for name, value in got.values.items():
            sums[name] = sums.get(name, 0.0) + value
    assert {name: total / draws for name, total in sums.items()} == pytest.approx(got.chance, abs=0.025)


def test_ties_depend_on_the_example_only() -> None:
    examples = np.array([5, -7, 2**62, 0, 12, 99])
    scores = np.zeros((6, 4))
    base = predicted_labels(scores, examples)
    assert len(set(base.tolist())) > 1
    for order in ([5, 4, 3, 2, 1, 0], [2, 0, 5, 1, 3, 4]):
        assert predicted_labels(scores, examples[order]).tolist() == base[order].tolist()
    assert predicted_labels(scores[:1], examples[:1]).tolist() == base[:1].tolist()
    assert predicted_labels(scores, examples, [1, 2, 3, 4]).tolist() == (base + 1).tolist()
    # The published order of ties: a change here changes published scores.
    assert predicted_labels(np.zeros((12, 5)), np.arange(12)).tolist() == [3, 0, 3, 3, 3, 4, 2, 0, 3, 4, 2, 2]


def test_order_of_rows_is_without_effect() -> None:
    rng = np.random.default_rng(4)
    y_true, scores, examples = (
        rng.integers(0, 2, 50),
        rng.integers(0, 3, (50, 2)).astype(float),
        rng.permutation(50),
    )
    subset = rng.random(50) < 0.4
    base = score(y_true, scores, [0, 1], examples=examples, subsets={"cold": subset})
    p = rng.permutation(50)
    moved = score(y_true[p], scores[p], [0, 1], examples=examples[p], subsets={"cold": subset[p]})
    assert moved.values == pytest.approx(base.values, abs=1e-12)
    assert moved.slices["cold"] == pytest.approx(base.slices["cold"], abs=1e-12)
    assert moved.per_query["accuracy"].tolist() == base.per_query["accuracy"][p].tolist()


def test_subsets_are_scored_as_if_alone() -> None:
    rng = np.random.default_rng(5)
    y_true, scores = rng.integers(0, 2, 40), rng.normal(size=(40, 2))
    keep = rng.random(40) < 0.5
    got = score(y_true, scores, [0, 1], subsets={"dedup": keep, "cold": np.zeros(40, dtype=bool)})
    alone = score(y_true[keep], scores[keep], [0, 1], examples=np.flatnonzero(keep))
    assert got.slices["dedup"] == {"n_queries": keep.sum()} | alone.values
    assert got.slices["cold"] == {"n_queries": 0.0}


def test_one_class_and_one_example() -> None:
    one_class = score([1, 1, 1], scores_for([1, 1, 0], [0, 1]), [0, 1])
    assert "auroc" not in one_class.values | one_class.chance
    assert "quadratic_kappa" not in one_class.values | one_class.chance
    assert one_class.values["recall"] == pytest.approx(2 / 3)
    # A class that is neither present nor predicted counts as 0 in the mean over the fixed list.
    assert score([1], scores_for([1], [0, 1, 2]), [0, 1, 2]).values["macro_f1"] == pytest.approx(1 / 3)
    assert score([2], scores_for([1], [1, 2]), [1, 2]).values["accuracy"] == 0.0


def test_auroc_of_logits_uses_both_columns_and_does_not_overflow() -> None:
    logits = np.array([[5.0, 6.0], [9.0, 8.0], [1.0, 3.0]])
    assert score([1, 0, 1], logits, [0, 1]).values["auroc"] == 1.0
    huge = np.array([[-1.7e308, 1.7e308], [1.0, 1.7e308], [0.0, 0.0]])
    assert score([1, 0, 0], huge, [0, 1]).values["auroc"] == 1.0


def test_missing_examples_count_as_wrong() -> None:
    missing = np.array([False, True, True, False])
    scores = np.array([[1.0, 0.0], [np.nan, np.nan], [np.inf, 0.0], [0.0, 1.0]])
    got = score([0, 0, 1, 1], scores, [0, 1], missing=missing)
    assert got.values["accuracy"] == 0.5
    assert got.values["precision"] == 1.0
    assert got.values["recall"] == 0.5
    assert got.values["auroc"] == 0.25
    assert got.values["mae"] == 0.5
    assert got.per_query["accuracy"].tolist() == [1.0, 0.0, 0.0, 1.0]
    assert got.counts["n_missing"] == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_refuses_scores_that_are_not_finite(bad: float) -> None:
    scores = np.zeros((3, 2), dtype=np.float32)
    scores[1, 1] = scores[2, 0] = bad
    with pytest.raises(EvaluationError, match=r"2 score\(s\) are NaN or infinite, the first at .* \[1, 1\]"):
        score([0, 1, 1], scores, [0, 1])
    with pytest.raises(EvaluationError, match="NaN or infinite"):
        predicted_labels(scores, np.arange(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.zeros((3, 3))}, "3 columns but there are 2 labels"),
        ({"scores": np.zeros((2, 2))}, r"\[3 examples, classes\]"),
        ({"scores": np.zeros(3)}, "shape"),
        ({"scores": np.array([["a", "b"]] * 3)}, "must be numbers"),
        ({"y_true": [0, 1, 7]}, r"1 true label\(s\) outside of \[0, 1\], the first 7 at row 2"),
        ({"y_true": [0, 1]}, "2 true labels but 3 examples"),
        ({"y_true": [0.0, 1.0, 1.0]}, "must be integers"),
        ({"examples": [4, 5, 4]}, "repeated"),
        ({"labels": [0, 0]}, "distinct"),
        ({"labels": [0]}, "two or more"),
        ({"positive": 3}, "positive=3"),
        ({"missing": np.zeros(2, dtype=bool)}, "missing must be booleans"),
        ({"subsets": {"cold": np.array([0, 1, 2])}}, "subset cold must be booleans"),
    ],
)
def test_refuses_what_has_no_honest_score(change: dict[str, Any], message: str) -> None:
    given = {
        "y_true": [0, 1, 1],
        "scores": np.zeros((3, 2)),
        "labels": [0, 1],
        "examples": [7, 8, 9],
    } | change
    with pytest.raises(EvaluationError, match=message):
        score(given.pop("y_true"), given.pop("scores"), **given)


def test_refuses_an_empty_test_set() -> None:
    with pytest.raises(EvaluationError, match="no examples"):
        score(np.zeros(0, dtype=np.int64), np.zeros((0, 2)), [0, 1])
