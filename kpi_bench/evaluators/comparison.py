"""Do two rows differ? Paired tests on the same queries, and the correction for asking often."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr

from kpi_bench.errors import EvaluationError
from kpi_bench.evaluators._confusion import f1_from_counts, one_hot
from kpi_bench.evaluators._resampling import all_swaps, canonical_order, over_seeds, random_swaps
from kpi_bench.evaluators.intervals import (
    Interval,
    bootstrap_interval,
    bootstrap_of_sums,
    checked_predictions,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PairedTest:
    """A paired comparison: ``difference`` is a minus b, ``interval`` its bootstrap interval (None with one query)."""

    difference: float
    p_value: float
    n: int
    interval: Interval | None


def paired_permutation_test(
    a: ArrayLike, b: ArrayLike, *, n_permutations: int = 10_000, n_resamples: int = 2000, seed: int = 0
) -> PairedTest:
    """Two-sided sign-flip test of the mean difference of per-query scores, float ``[n]`` or ``[S, n]`` (averaged over seeds).

    Under the null a query's two scores may be swapped. p = (count + 1) / (permutations + 1), or the exact share of all
    2^m swaps when these are no more than ``n_permutations``, m being the number of queries that differ: never 0.
    """
    difference = _difference(a, b)
    moving = canonical_order(difference[difference != 0.0, None])[:, 0]
    total = float(moving.sum())
    # A GEMM adds in another order than sum(): without slack, equal statistics would be counted as smaller.
    least = abs(total) - 1e-10 * float(np.abs(moving).sum())

    def extreme(swaps: Floats) -> int:
        return int(np.count_nonzero(np.abs(total - 2.0 * (swaps @ moving)) >= least))

    return PairedTest(
        difference=float(difference.mean()),
        p_value=_p_value(extreme, len(moving), n_permutations, seed),
        n=len(difference),
        interval=bootstrap_interval(difference, n_resamples=n_resamples, seed=seed),
    )


def permutation_test_macro_f1(
    y_true: ArrayLike,
    predicted_a: ArrayLike,
    predicted_b: ArrayLike,
    n_classes: int,
    *,
    n_permutations: int = 10_000,
    n_resamples: int = 2000,
    seed: int = 0,
) -> PairedTest:
    """Two-sided approximate randomisation of macro-F1: an example's predictions by a and by b are swapped, all seeds together.

    ``y_true`` is int ``[n]`` of class numbers, ``predicted_*`` int ``[n]`` or ``[S, n]``, -1 where nothing was predicted; the two may
    have different numbers of seeds. The statistic is the macro-F1 of class counts averaged over seeds, a's minus b's:
    counts are additive over examples, so a swap is defined for any numbers of seeds. With one seed
    each it is plain macro-F1; with more it differs slightly from the mean of the seeds' macro-F1.
    """
    truth, guesses_a = checked_predictions(y_true, predicted_a, n_classes)
    _, guesses_b = checked_predictions(y_true, predicted_b, n_classes)
    actual = one_hot(truth, n_classes)
    a, b = _mean_counts(actual, guesses_a, n_classes), _mean_counts(actual, guesses_b, n_classes)
    sizes = actual.sum(axis=0)
    change = b - a
    moving = canonical_order(change[change.any(axis=1)])

    def macro_f1(counts: Floats, class_sizes: Floats) -> Floats:
        hits, calls = counts[:, :n_classes], counts[:, n_classes:]
        return np.asarray(f1_from_counts(hits, np.broadcast_to(class_sizes, hits.shape), calls).mean(axis=1))

    def swapped(swaps: Floats) -> Floats:
        moved = swaps @ moving
        return macro_f1(a.sum(axis=0) + moved, sizes) - macro_f1(b.sum(axis=0) - moved, sizes)

    difference = float(swapped(np.zeros((1, len(moving))))[0])

    def extreme(swaps: Floats) -> int:
        return int(np.count_nonzero(np.abs(swapped(swaps)) >= abs(difference) - 1e-12))

    def resampled(sums: Floats) -> Floats:
        drawn_a, drawn_b, drawn_sizes = np.split(sums, [2 * n_classes, 4 * n_classes], axis=1)
        return macro_f1(drawn_a, drawn_sizes) - macro_f1(drawn_b, drawn_sizes)

    return PairedTest(
        difference=difference,
        p_value=_p_value(extreme, len(moving), n_permutations, seed),
        n=len(truth),
        interval=bootstrap_of_sums(
            np.concatenate([a, b, actual], axis=1), resampled, n_resamples=n_resamples, seed=seed
        ),
    )


def mcnemar(
    correct_a: ArrayLike, correct_b: ArrayLike, *, n_resamples: int = 2000, seed: int = 0
) -> PairedTest:
    """Exact two-sided McNemar test of accuracies: is a right where b is wrong as often as the reverse? bool ``[n]`` each."""
    right_a, right_b = np.asarray(correct_a), np.asarray(correct_b)
    if right_a.dtype != np.bool_ or right_b.dtype != np.bool_:
        raise EvaluationError(f"McNemar's test needs booleans, not {right_a.dtype} and {right_b.dtype}")
    difference = _difference(right_a, right_b)
    only_a, only_b = int((difference > 0).sum()), int((difference < 0).sum())
    p_value = 2.0 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5))
    return PairedTest(
        difference=float(difference.mean()),
        p_value=min(1.0, p_value),
        n=len(difference),
        interval=bootstrap_interval(difference, n_resamples=n_resamples, seed=seed),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given: family-wise error over all of them.

    Raises EvaluationError for a value outside of [0, 1] or NaN.
    """
    p = np.asarray(p_values, dtype=np.float64)
    bad = np.flatnonzero(~((p >= 0.0) & (p <= 1.0)))
    if len(bad):
        raise EvaluationError(f"{len(bad)} p-value(s) outside of [0, 1], the first {p[bad[0]]} at {bad[0]}")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def _difference(a: ArrayLike, b: ArrayLike) -> Floats:
    first, second = over_seeds(a, "a"), over_seeds(b, "b")
    if first.shape != second.shape:
        raise EvaluationError(f"a paired test needs the same queries: {len(first)} and {len(second)} scores")
    return first - second


def _mean_counts(actual: Floats, guesses: NDArray[np.int64], n_classes: int) -> Floats:
    """Each example's true positives and predictions by class, averaged over seeds: float64 ``[n, 2C]``."""
    guessed = one_hot(guesses, n_classes).mean(axis=0)
    return np.concatenate([guessed * actual, guessed], axis=1)


def _p_value(extreme: Callable[[Floats], int], n: int, n_permutations: int, seed: int) -> float:
    """Share of swaps of n queries that are as extreme as what was observed; ``extreme`` counts them in a block."""
    if n_permutations < 1:
        raise EvaluationError(f"n_permutations must be positive, not {n_permutations}")

    def count(blocks: Iterable[Floats]) -> int:
        return sum(extreme(block) for block in blocks)

    if 2**n <= n_permutations:
        return float(count(all_swaps(n)) / 2**n)
    return (count(random_swaps(n, n_permutations, seed)) + 1) / (n_permutations + 1)
