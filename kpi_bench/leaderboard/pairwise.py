"""All pairs of a table tested at once.

``evaluators.comparison`` tests one pair. A board of S rows has S(S-1)/2 pairs over the same queries, and both statistics are
functions of sums over queries, so one matrix of random swaps serves every pair: sums of all rows under a swap come from one GEMM
``[permutations, n] x [n, S * m]``, and a pair's statistic from two of its columns. Pairs then share their random
numbers; each p-value is valid by itself, and Holm's correction holds under any dependence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from kpi_bench.evaluators._confusion import f1_from_counts, one_hot
from kpi_bench.evaluators._resampling import over_seeds
from kpi_bench.evaluators.comparison import holm, paired_permutation_test, permutation_test_macro_f1
from kpi_bench.leaderboard.queries import QueryScores, classes_of

Floats = NDArray[np.float64]

ALPHA = 0.05
"""Rows whose Holm-adjusted p-value is not below this share a rank."""
PERMUTATIONS = (2_000, 20_000)
"""Fewest and most permutations of a table. Between them 100 a pair: Holm multiplies the smallest p by the number of pairs."""
_BLOCK_CELLS = 4_000_000


@dataclass(frozen=True)
class PairTest:
    """Two rows of a task: p-value of the paired permutation test, and after Holm over all pairs of the task's table."""

    a: str
    b: str
    p_value: float
    p_adjusted: float


@dataclass(frozen=True)
class TaskTests:
    """Every pair of a task's table. ``n_permutations`` is 0 and ``pairs`` empty when there is nothing to test."""

    test: str
    n_queries: int
    n_permutations: int
    pairs: tuple[PairTest, ...]

    @property
    def separated(self) -> frozenset[frozenset[str]]:
        """Pairs of rows that the test tells apart."""
        return frozenset(frozenset((pair.a, pair.b)) for pair in self.pairs if pair.p_adjusted < ALPHA)

    @property
    def resolves(self) -> bool:
        """Whether the permutations are enough for a single pair to come out as separated after Holm."""
        return not self.pairs or len(self.pairs) / (self.n_permutations + 1) < ALPHA


def paired_tests(read: Mapping[str, QueryScores], *, seed: int = 0) -> TaskTests:
    """Test all pairs of rows that were scored on the same queries.

    Exact enumeration replaces sampling for a pair that differs in so few queries that all swaps can be tried.
    """
    names = sorted(read)
    pairs = list(combinations(range(len(names)), 2))
    if not pairs:
        return TaskTests("none", 0, 0, ())
    first = read[names[0]]
    n_permutations = min(max(PERMUTATIONS[0], 100 * len(pairs)), PERMUTATIONS[1])
    if first.scores is not None:
        test = "paired permutation of per-query scores"
        p_values = _mean_p_values([_scores(read[name]) for name in names], pairs, n_permutations, seed)
    else:
        test = "paired permutation of macro-F1"
        p_values = _macro_f1_p_values([read[name] for name in names], pairs, n_permutations, seed)
    tests = tuple(
        PairTest(names[i], names[j], p, adjusted)
        for (i, j), p, adjusted in zip(pairs, p_values, holm(p_values), strict=True)
    )
    return TaskTests(test, len(first.queries), n_permutations, tests)


def _scores(read: QueryScores) -> Floats:
    assert read.scores is not None
    return over_seeds(read.scores, "per-query scores")


def _mean_p_values(
    rows: list[Floats], pairs: list[tuple[int, int]], n_permutations: int, seed: int
) -> list[float]:
    scores = np.stack(rows, axis=1)
    moving = scores[(scores != scores[:, :1]).any(axis=1)]
    left, right = np.array(pairs).T
    totals = moving.sum(axis=0)
    observed = np.abs(totals[left] - totals[right])
    # Sums are float32: their rounding is bounded by a share of the sum of magnitudes. Counting a near tie as extreme
    # makes p larger, never smaller.
    size = np.abs(moving).sum(axis=0)
    least = observed - 1e-6 * (size[left] + size[right])

    def extreme(sums: Floats) -> NDArray[np.int64]:
        # Swapping the queries of w moves the difference from T to T - 2 w.d.
        after = totals - 2.0 * sums
        return np.asarray((np.abs(after[:, left] - after[:, right]) >= least).sum(axis=0))

    counts = _count(moving, extreme, len(pairs), n_permutations, seed)

    def exact(i: int, j: int) -> float:
        return paired_permutation_test(
            rows[i], rows[j], n_permutations=n_permutations, n_resamples=1, seed=seed
        ).p_value

    few = [int(np.count_nonzero(moving[:, i] != moving[:, j])) for i, j in pairs]
    return _p_values(counts, few, pairs, exact, n_permutations)


def _macro_f1_p_values(
    rows: list[QueryScores], pairs: list[tuple[int, int]], n_permutations: int, seed: int
) -> list[float]:
    labels = rows[0].labels
    guesses = [row.predicted for row in rows if row.predicted is not None]
    assert labels is not None
    assert len(guesses) == len(rows)
    n_classes = classes_of(rows)
    actual = one_hot(labels, n_classes)
    guessed = [one_hot(guess, n_classes).mean(axis=0) for guess in guesses]
    # A row's contributions: true positives and predictions by class, as in permutation_test_macro_f1.
    contributions = np.concatenate([np.concatenate([g * actual, g], axis=1) for g in guessed], axis=1)
    shape = (len(rows), 2, n_classes)
    totals, sizes = contributions.sum(axis=0).reshape(shape), actual.sum(axis=0)

    def macro_f1(counts: Floats) -> Floats:
        hits, calls = counts[..., 0, :], counts[..., 1, :]
        return np.asarray(f1_from_counts(hits, np.broadcast_to(sizes, hits.shape), calls).mean(axis=-1))

    own = macro_f1(totals)

    def extreme(sums: Floats) -> NDArray[np.int64]:
        moved = sums.reshape(-1, *shape)
        counts = np.empty(len(pairs), dtype=np.int64)
        for index, (i, j) in enumerate(pairs):
            change = moved[:, j] - moved[:, i]
            after = macro_f1(totals[i] + change) - macro_f1(totals[j] - change)
            counts[index] = np.count_nonzero(np.abs(after) >= abs(own[i] - own[j]) - 1e-6)
        return counts

    counts = _count(contributions, extreme, len(pairs), n_permutations, seed)

    def exact(i: int, j: int) -> float:
        return permutation_test_macro_f1(
            labels, guesses[i], guesses[j], n_classes, n_permutations=n_permutations, n_resamples=1, seed=seed
        ).p_value

    few = [int((guessed[i] != guessed[j]).any(axis=1).sum()) for i, j in pairs]
    return _p_values(counts, few, pairs, exact, n_permutations)


def _count(
    contributions: Floats,
    extreme: Callable[[Floats], NDArray[np.int64]],
    n_pairs: int,
    n_permutations: int,
    seed: int,
) -> NDArray[np.int64]:
    """How many random swaps are extreme, by pair. ``extreme`` gets swapped sums float64 ``[b, m]`` of a block."""
    n = len(contributions)
    counts = np.zeros(n_pairs, dtype=np.int64)
    if n == 0:
        return counts + n_permutations
    rng = np.random.default_rng(seed)
    narrow = contributions.astype(np.float32)
    width = 8 * -(-n // 64)
    block = max(1, _BLOCK_CELLS // n)
    for start in range(0, n_permutations, block):
        size = min(block, n_permutations - start)
        octets = np.frombuffer(rng.bytes(size * width), dtype=np.uint8).reshape(size, width)
        swaps = np.unpackbits(octets, axis=1, count=n).astype(np.float32)
        counts += extreme((swaps @ narrow).astype(np.float64))
    return counts


def _p_values(
    counts: NDArray[np.int64],
    moving: list[int],
    pairs: list[tuple[int, int]],
    exact: Callable[[int, int], float],
    n_permutations: int,
) -> list[float]:
    return [
        exact(*pair) if 2**m <= n_permutations else (int(count) + 1) / (n_permutations + 1)
        for pair, count, m in zip(pairs, counts, moving, strict=True)
    ]
