"""Classification: one scorer for every split, from class scores and true labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from kpi_bench._sorted import distinct
from kpi_bench.errors import EvaluationError
from kpi_bench.evaluators._confusion import f1_from_counts, one_hot
from kpi_bench.evaluators._hash import STEP, mix64
from kpi_bench.evaluators.evaluation import Evaluation

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def predicted_labels(scores: ArrayLike, examples: ArrayLike, labels: Sequence[int] | None = None) -> Ints:
    """The label with the highest score of each example, int64 ``[n]``.

    ``scores`` is float ``[n, C]``, ``examples`` int64 ``[n]``; ``labels`` names the columns (default ``0..C-1``).
    Ties go to a pseudo-random class that depends on the example's id alone: a constant scorer is then right
    one time in C, not as often as class 0 occurs, and the order of rows is without effect.
    Raises EvaluationError for NaN, infinity or a wrong shape.
    """
    ids = _vector(examples, "examples")
    columns = _winners(_finite_scores(scores, len(ids), np.zeros(len(ids), dtype=np.bool_)), ids)
    return columns if labels is None else np.asarray(labels, dtype=np.int64)[columns]


def score_classification(
    y_true: ArrayLike,
    scores: ArrayLike,
    *,
    labels: Sequence[int],
    ordinal: bool,
    positive: int | None,
    examples: ArrayLike,
    subsets: Mapping[str, ArrayLike] | None = None,
    missing: ArrayLike | None = None,
) -> Evaluation:
    """Score class scores against true labels (evaluation rules, section 4).

    ``y_true`` and ``examples`` are int64 ``[n]``, ``scores`` float ``[n, C]`` with one column for each of ``labels``.
    Always accuracy and macro-F1 over the fixed ``labels``; with ``positive`` (two classes only) precision, recall, F1
    and AUROC of that label; with ``ordinal`` MAE and quadratic kappa, by the distance of label values.
    AUROC and kappa need two true classes and are left out where there is one.

    ``missing`` (bool ``[n]``) marks examples without a prediction, whose scores are not read: their class is wrong and no class
    is predicted, their rating is off by as much as ``labels`` allow, and they lose every AUROC pair.
    ``subsets`` (name -> bool ``[n]``) become slices, computed by the same rules.

    Raises EvaluationError for NaN or infinite scores, wrong shapes, repeated examples, labels outside of the list and an empty input.
    """
    ids = _vector(examples, "examples")
    n = len(ids)
    names = _label_values(labels)
    absent = np.zeros(n, dtype=np.bool_) if missing is None else _mask(missing, n, "missing")
    truth = _columns(_vector(y_true, "y_true"), names)
    if len(truth) != n:
        raise EvaluationError(f"{len(truth)} true labels but {n} examples")
    if n == 0:
        raise EvaluationError("there are no examples to score")
    if (n_repeated := n - len(distinct(ids))) > 0:
        raise EvaluationError(f"{n_repeated} example id(s) are repeated: each counts once")
    if positive is not None and (len(names) != 2 or positive not in labels):
        raise EvaluationError(
            f"positive={positive} needs two labels and to be one of them, not {list(labels)}"
        )

    matrix = _finite_scores(scores, n, absent)
    if matrix.shape[1] != len(names):
        raise EvaluationError(f"scores have {matrix.shape[1]} columns but there are {len(names)} labels")
    column = None if positive is None else int(np.flatnonzero(names == positive)[0])
    predicted = np.where(absent, -1, _winners(matrix, ids))
    margin = np.zeros(n) if column is None else _margin(matrix, truth, absent, column)
    error = _rating_errors(names, truth, predicted)

    def values_of(rows: Bools) -> dict[str, float]:
        values = _class_values(truth[rows], predicted[rows], len(names), column)
        if column is not None:
            values |= _auroc(truth[rows] == column, margin[rows])
        if ordinal:
            values |= _ordinal_values(names, truth[rows], error[rows])
        return values

    slices: dict[str, dict[str, float]] = {}
    for name, subset in (subsets or {}).items():
        rows = _mask(subset, n, f"subset {name}")
        slices[name] = {"n_queries": float(rows.sum())} | (values_of(rows) if rows.any() else {})
    per_query = {"accuracy": (truth == predicted).astype(np.float64)}
    if ordinal:
        per_query["mae"] = np.abs(error)
    return Evaluation(
        values=values_of(np.ones(n, dtype=np.bool_)),
        per_query=per_query,
        queries=ids,
        counts={"n_queries": n, "n_excluded": 0, "n_missing": int(absent.sum())},
        slices=slices,
        chance=_chance(names, truth, ordinal, column),
    )


def _class_values(truth: Ints, predicted: Ints, n_classes: int, positive: int | None) -> dict[str, float]:
    """Accuracy, macro-F1 and, for a positive column, precision, recall and F1."""
    actual, guessed = one_hot(truth, n_classes), one_hot(predicted, n_classes)
    hits, sizes, calls = (actual * guessed).sum(axis=0), actual.sum(axis=0), guessed.sum(axis=0)
    f1 = f1_from_counts(hits, sizes, calls)
    values = {"accuracy": float(hits.sum() / len(truth)), "macro_f1": float(f1.mean())}
    if positive is not None:
        values["precision"] = float(hits[positive] / max(calls[positive], 1.0))
        values["recall"] = float(hits[positive] / max(sizes[positive], 1.0))
        values["f1"] = float(f1[positive])
    return values


def _margin(scores: Floats, truth: Ints, absent: Bools, positive: int) -> Floats:
    """Positive minus negative score, which orders logits as well as probabilities; missing examples lose every pair."""
    # Halved first: the difference of two huge scores must not overflow to infinity.
    margin = scores[:, positive] / 2.0 - scores[:, 1 - positive] / 2.0
    return np.where(absent, np.where(truth == positive, -np.inf, np.inf), margin)


def _auroc(is_positive: Bools, margin: Floats) -> dict[str, float]:
    """Area under the ROC curve by rank sums, ties half; empty with one class."""
    n_positive = int(is_positive.sum())
    n_negative = len(is_positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        return {}
    _, group, size = np.unique(margin, return_inverse=True, return_counts=True)
    rank = (np.cumsum(size) - (size - 1) / 2.0)[group]
    wins = rank[is_positive].sum() - n_positive * (n_positive + 1) / 2.0
    return {"auroc": float(wins / (n_positive * n_negative))}


def _rating_errors(names: Ints, truth: Ints, predicted: Ints) -> Floats:
    """Predicted minus true rating; without a prediction, the label farthest from the truth (of two, the first listed)."""
    value = names.astype(np.float64)
    farthest = np.abs(value[:, None] - value[None, :]).argmax(axis=1)
    return np.asarray(value[np.where(predicted < 0, farthest[truth], predicted)] - value[truth])


def _ordinal_values(names: Ints, truth: Ints, error: Floats) -> dict[str, float]:
    """MAE and, with two or more true classes, quadratic kappa: 1 - mean squared error / that of independent draws."""
    values = {"mae": float(np.abs(error).mean())}
    rating = names[truth].astype(np.float64)
    if rating.min() < rating.max():
        guess = rating + error
        # E (a - b)^2 for a, b drawn independently from the two margins.
        expected = rating.var() + guess.var() + (rating.mean() - guess.mean()) ** 2
        values["quadratic_kappa"] = max(-1.0, float(1.0 - (error**2).mean() / expected))
    return values


def _chance(names: Ints, truth: Ints, ordinal: bool, positive: int | None) -> dict[str, float]:
    """Expected values when each example gets a uniformly random label: what a constant scorer gets."""
    n, n_classes = len(truth), len(names)
    # Given k predictions of a class of m members, k * m / n of them are right; k is binomial.
    k = np.arange(n + 1, dtype=np.float64)
    share = 1.0 / n_classes
    log_choose = gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)
    weight = np.exp(log_choose + k * np.log(share) + (n - k) * np.log1p(-share))
    sizes = np.bincount(truth, minlength=n_classes).astype(np.float64)
    f1 = [float(weight @ f1_from_counts(k * size / n, np.full_like(k, size), k)) for size in sizes]
    values = {"accuracy": share, "macro_f1": float(np.mean(f1))}
    if positive is not None:
        size = sizes[positive]
        values["precision"] = float(size / n * (1.0 - weight[0]))
        values["recall"] = share if size else 0.0
        values["f1"] = f1[positive]
        if 0 < size < n:
            values["auroc"] = 0.5
    if ordinal:
        distance = np.abs(names[truth].astype(np.float64)[:, None] - names[None, :])
        values["mae"] = float(distance.mean())
        if np.count_nonzero(sizes) > 1:
            values["quadratic_kappa"] = 0.0
    return values


def _winners(scores: Floats, examples: Ints) -> Ints:
    """Column of the highest score, ties by the example's pseudo-random class order."""
    best = scores == scores.max(axis=1, keepdims=True)
    winners = best.argmax(axis=1)
    tied = np.flatnonzero(best.sum(axis=1) > 1)
    if len(tied):
        columns = np.arange(1, scores.shape[1] + 1, dtype=np.uint64)
        seeds = mix64(examples[tied].view(np.uint64) + STEP)
        order = mix64(np.add.outer(seeds, columns * STEP) + STEP) | np.uint64(1)
        winners[tied] = np.where(best[tied], order, np.uint64(0)).argmax(axis=1)
    return np.asarray(winners, dtype=np.int64)


def _label_values(labels: Sequence[int]) -> Ints:
    names = np.asarray(labels)
    if (
        names.ndim != 1
        or names.dtype.kind not in "iu"
        or len(names) < 2
        or len(np.unique(names)) != len(names)
    ):
        raise EvaluationError(f"labels must be two or more distinct integers, not {list(labels)}")
    return names.astype(np.int64)


def _columns(y_true: Ints, names: Ints) -> Ints:
    """Position of each true label in the label list."""
    order = np.argsort(names)
    column = order[np.searchsorted(names, y_true, sorter=order).clip(max=len(names) - 1)]
    bad = np.flatnonzero(names[column] != y_true)
    if len(bad):
        raise EvaluationError(
            f"{len(bad)} true label(s) outside of {names.tolist()}, the first {y_true[bad[0]]} at row {bad[0]}"
        )
    return np.asarray(column, dtype=np.int64)


def _finite_scores(scores: ArrayLike, n: int, absent: Bools) -> Floats:
    """Scores as float64 ``[n, C]``; rows marked absent are zeroed, every other number must be finite."""
    matrix = np.asarray(scores)
    if matrix.ndim != 2 or len(matrix) != n or matrix.shape[1] < 1 or matrix.dtype.kind not in "fiu":
        raise EvaluationError(
            f"scores must be numbers [{n} examples, classes], not {matrix.dtype} of shape {matrix.shape}"
        )
    matrix = np.where(absent[:, None], 0.0, matrix.astype(np.float64))
    bad = np.argwhere(~np.isfinite(matrix))
    if len(bad):
        raise EvaluationError(
            f"{len(bad)} score(s) are NaN or infinite, the first at (row, class) {bad[0].tolist()}"
        )
    return matrix


def _vector(values: ArrayLike, name: str) -> Ints:
    array = np.asarray(values)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise EvaluationError(f"{name} must be integers [n], not {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


def _mask(values: ArrayLike, n: int, name: str) -> Bools:
    array = np.asarray(values)
    if array.shape != (n,) or array.dtype != np.bool_:
        raise EvaluationError(f"{name} must be booleans [{n}], not {array.dtype} of shape {array.shape}")
    return array
