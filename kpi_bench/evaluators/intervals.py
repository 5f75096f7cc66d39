"""Confidence intervals, by source of variance: seeds (t) and queries (bootstrap)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from kpi_bench.errors import EvaluationError
from kpi_bench.evaluators._confusion import class_numbers, f1_from_counts, one_hot
from kpi_bench.evaluators._resampling import bootstrap_weights, canonical_order, over_seeds

Floats = NDArray[np.float64]
Interval = tuple[float, float]
"""Lower and upper bound."""


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Interval | None:
    """Student's t interval of the mean over seeds, ``values`` float ``[S]``; None with one seed, which has no spread."""
    seeds = over_seeds(values, "seeds")
    if np.ndim(values) != 1:
        raise EvaluationError(f"seed values must be [seeds], not {np.shape(values)}")
    tail = _tail(confidence)
    n = len(seeds)
    if n < 2:
        return None
    half = float(stdtrit(n - 1, 1.0 - tail)) * float(seeds.std(ddof=1)) / n**0.5
    mean = float(seeds.mean())
    return mean - half, mean + half


def bootstrap_interval(
    per_query: ArrayLike, *, n_resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval | None:
    """Percentile bootstrap over queries of a mean of per-query scores, float ``[n]`` or ``[S, n]`` (averaged over seeds).

    None with one query, which has no spread.
    """
    scores = over_seeds(per_query, "bootstrap")
    n = len(scores)

    def mean(sums: Floats) -> Floats:
        return sums[:, 0] / n

    return bootstrap_of_sums(scores[:, None], mean, n_resamples=n_resamples, confidence=confidence, seed=seed)


def bootstrap_means(
    per_query: ArrayLike, *, n_resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> list[Interval | None]:
    """Percentile bootstrap over queries of several means at once, float ``[n, m]``: one interval a column, same resamples for all."""
    scores = np.asarray(per_query, dtype=np.float64)
    tail = _tail(confidence)
    n, columns = scores.shape
    if n < 2:
        return [None] * columns
    rows = canonical_order(scores)
    means = np.concatenate([weights @ rows for weights in bootstrap_weights(n, n_resamples, seed)]) / n
    low, high = np.quantile(means, [tail, 1.0 - tail], axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def bootstrap_macro_f1(
    y_true: ArrayLike,
    predicted: ArrayLike,
    n_classes: int,
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Percentile bootstrap over examples of macro-F1, averaged over seeds as the board shows it.

    ``y_true`` is int ``[n]`` of class numbers, ``predicted`` int ``[n]`` or ``[S, n]``, -1 where nothing was predicted.
    """
    truth, guesses = checked_predictions(y_true, predicted, n_classes)
    actual, guessed = one_hot(truth, n_classes), one_hot(guesses, n_classes)
    # Columns: class sizes, then each seed's prediction counts, then each seed's true positives.
    parts = [actual, *guessed, *(guessed * actual)]

    def mean_macro_f1(sums: Floats) -> Floats:
        blocks = sums.reshape(len(sums), 1 + 2 * len(guesses), n_classes)
        sizes, calls, hits = blocks[:, :1], blocks[:, 1 : 1 + len(guesses)], blocks[:, 1 + len(guesses) :]
        return np.asarray(f1_from_counts(hits, sizes, calls).mean(axis=(1, 2)))

    return bootstrap_of_sums(
        np.concatenate(parts, axis=1),
        mean_macro_f1,
        n_resamples=n_resamples,
        confidence=confidence,
        seed=seed,
    )


def bootstrap_of_sums(
    contributions: Floats,
    statistic: Callable[[Floats], Floats],
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Percentile bootstrap over queries of any function of sums over queries.

    ``contributions`` is float64 ``[n, m]``: what a query adds to each of m sums. ``statistic`` maps resampled sums ``[b, m]`` to
    values ``[b]``. Memory is bounded by a block of weights. None with one query.
    """
    tail = _tail(confidence)
    n = len(contributions)
    if n_resamples < 1:
        raise EvaluationError(f"n_resamples must be positive, not {n_resamples}")
    if n < 2:
        return None
    rows = canonical_order(contributions)
    values = np.concatenate(
        [statistic(weights @ rows) for weights in bootstrap_weights(n, n_resamples, seed)]
    )
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def checked_predictions(
    y_true: ArrayLike, predicted: ArrayLike, n_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """True classes int64 ``[n]`` and predicted ones int64 ``[S, n]``, checked; a single seed may come as ``[n]``."""
    truth = class_numbers(np.asarray(y_true), n_classes, name="y_true", lowest=0)
    guesses = np.atleast_2d(class_numbers(np.asarray(predicted), n_classes, name="predicted", lowest=-1))
    if truth.ndim != 1 or guesses.ndim != 2 or guesses.shape[1] != len(truth) or guesses.size == 0:
        raise EvaluationError(
            f"{truth.shape} true classes do not go with {guesses.shape} predictions [seeds, n]"
        )
    return truth, guesses


def _tail(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise EvaluationError(f"confidence must lie between 0 and 1, not {confidence}")
    return (1.0 - confidence) / 2.0
