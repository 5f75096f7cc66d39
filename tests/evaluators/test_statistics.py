"""Intervals, paired tests, corrections and ranks: against scipy, plain-Python twins and their promised error rates."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats as judge
from sklearn.metrics import f1_score

from kpi_bench.errors import EvaluationError
from kpi_bench.evaluators import _resampling
from kpi_bench.evaluators.aggregation import Aggregate, SharedRank, borda, mean_rank, shared_ranks
from kpi_bench.evaluators.comparison import holm, mcnemar, paired_permutation_test, permutation_test_macro_f1
from kpi_bench.evaluators.intervals import (
    bootstrap_interval,
    bootstrap_macro_f1,
    bootstrap_of_sums,
    t_interval,
)

NAN, INF = math.nan, math.inf


# --- intervals ---


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_t_interval_agrees_with_scipy(confidence: float) -> None:
    values = np.random.default_rng(0).normal(0.3, 0.1, 5)
    expected = judge.t.interval(confidence, 4, loc=values.mean(), scale=judge.sem(values))
    assert t_interval(values, confidence) == pytest.approx(expected, rel=1e-10)


def test_one_seed_or_one_query_has_no_interval() -> None:
    assert t_interval([0.3]) is None
    assert bootstrap_interval([0.3]) is None
    assert bootstrap_interval([[0.3], [0.4]]) is None
    assert bootstrap_macro_f1([1], [1], 2) is None


def test_t_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(2000):
        low, high = t_interval(rng.normal(2.0, 1.0, 5)) or (NAN, NAN)
        covered += low <= 2.0 <= high
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)


def test_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for trial in range(600):
        low, high = bootstrap_interval(rng.exponential(1.0, 150), n_resamples=400, seed=trial) or (NAN, NAN)
        covered += low <= 1.0 <= high
    assert covered / 600 == pytest.approx(0.94, abs=0.03)


def test_bootstrap_of_a_mean_agrees_with_the_normal_theory() -> None:
    values = np.random.default_rng(3).normal(size=2000)
    low, high = bootstrap_interval(values, n_resamples=4000) or (NAN, NAN)
    half = 1.96 * judge.sem(values)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert bootstrap_interval([values - 1.0, values + 1.0], n_resamples=4000) == pytest.approx((low, high))


def test_bootstrap_of_macro_f1_agrees_with_scikit_learn_on_drawn_rows() -> None:
    rng = np.random.default_rng(4)
    y_true = rng.integers(0, 3, 80)
    predicted = np.where(rng.random(80) < 0.6, y_true, rng.integers(0, 3, 80))
    drawn = []
    for _ in range(1000):
        rows = rng.integers(0, 80, 80)
        drawn.append(
            f1_score(y_true[rows], predicted[rows], labels=[0, 1, 2], average="macro", zero_division=0)
        )
    expected = np.quantile(drawn, [0.025, 0.975])
    assert bootstrap_macro_f1(y_true, predicted, 3, n_resamples=4000) == pytest.approx(expected, abs=0.02)
    # The statistic is the mean over seeds: two equal seeds are one seed.
    assert bootstrap_macro_f1(y_true, [predicted, predicted], 3) == bootstrap_macro_f1(y_true, predicted, 3)


def test_bootstrap_of_macro_f1_averages_seeds_not_their_counts() -> None:
    # The examples are alike, so each resample is the sample: seeds at 1/2 and 0, where their mean counts give 1/3.
    y_true, predicted = [0, 0, 0], [[0, 0, 0], [1, 1, 1]]
    assert bootstrap_macro_f1(y_true, predicted, 2) == pytest.approx((0.25, 0.25))


def test_bootstrap_of_any_function_of_sums() -> None:
    sums = np.stack([np.arange(1.0, 9.0), np.ones(8)], axis=1)
    interval = bootstrap_of_sums(sums, lambda s: s[:, 0] / s[:, 1], n_resamples=500, seed=3)
    assert interval == pytest.approx(bootstrap_interval(np.arange(1.0, 9.0), n_resamples=500, seed=3))


@pytest.mark.parametrize("cells", [1, 7, 100, 10**6])
def test_block_size_and_row_order_change_nothing(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    a, b = rng.random(21), rng.random(21)
    y_true, guess_a, guess_b = rng.integers(0, 3, (3, 21))
    order = rng.permutation(21)

    def everything(rows: NDArray[np.int64]) -> list[float]:
        tests = [
            paired_permutation_test(a[rows], b[rows], n_permutations=60, n_resamples=30, seed=1),
            permutation_test_macro_f1(
                y_true[rows], guess_a[rows], guess_b[rows], 3, n_permutations=60, n_resamples=30
            ),
        ]
        intervals = [
            bootstrap_interval(a[rows], n_resamples=50, seed=1),
            bootstrap_macro_f1(y_true[rows], guess_a[rows], 3, n_resamples=50, seed=1),
            *(test.interval for test in tests),
        ]
        return [*(test.p_value for test in tests), *(bound for pair in intervals for bound in pair or ())]

    base = everything(np.arange(21))
    monkeypatch.setattr(_resampling, "BLOCK_CELLS", cells)
    assert everything(order) == pytest.approx(base, abs=1e-12)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_statistics_refuse_scores_that_are_not_finite(bad: float) -> None:
    for call in (
        lambda: t_interval([0.1, bad]),
        lambda: bootstrap_interval([0.1, bad]),
        lambda: paired_permutation_test([0.1, bad], [0.1, 0.2]),
        lambda: shared_ranks({"a": bad}, lambda a, b: True),
        lambda: mean_rank({"t": {"a": bad}}, {"t": True}),
    ):
        with pytest.raises(EvaluationError, match="NaN or infinite, the first"):
            call()


def test_statistics_refuse_what_cannot_be_meant() -> None:
    with pytest.raises(EvaluationError, match="not empty"):
        bootstrap_interval([])
    with pytest.raises(EvaluationError, match=r"\[seeds\]"):
        t_interval([[0.1, 0.2]])
    with pytest.raises(EvaluationError, match="confidence"):
        t_interval([0.1, 0.2], 95)
    with pytest.raises(EvaluationError, match="n_resamples"):
        bootstrap_interval([0.1, 0.2], n_resamples=0)
    with pytest.raises(EvaluationError, match="n_permutations"):
        paired_permutation_test([0.1], [0.2], n_permutations=0)
    with pytest.raises(EvaluationError, match="same queries: 2 and 1"):
        paired_permutation_test([0.1, 0.2], [0.2])
    with pytest.raises(EvaluationError, match=r"1 value\(s\) outside of 0..1, the first 2 at \[1\]"):
        bootstrap_macro_f1([0, 2], [0, 1], 2)
    with pytest.raises(EvaluationError, match="do not go with"):
        permutation_test_macro_f1([0, 1], [0, 1], [0, 1, 1], 2)
    with pytest.raises(EvaluationError, match="must be integers"):
        bootstrap_macro_f1([0.0, 1.0], [0, 1], 2)
    with pytest.raises(EvaluationError, match="booleans"):
        mcnemar([1, 0], [True, False])


# --- paired tests ---

few_scores = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8)


@settings(max_examples=80, deadline=None)
@given(few_scores)
def test_sign_flip_test_is_exact_for_few_queries(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs).T / 10
    d = [x - y for x, y in pairs]
    count = sum(
        abs(sum(s * v for s, v in zip(signs, d, strict=True))) >= abs(sum(d))
        for signs in itertools.product([1, -1], repeat=len(d))
    )
    got = paired_permutation_test(a, b, n_resamples=10)
    assert got.p_value == pytest.approx(count / 2 ** len(d))
    assert got.difference == pytest.approx(sum(d) / len(d) / 10)
    assert got.n == len(pairs)
    swapped = paired_permutation_test(b, a, n_resamples=10)
    assert (swapped.p_value, swapped.difference) == pytest.approx((got.p_value, -got.difference))


def test_sign_flip_test_agrees_with_scipy() -> None:
    rng = np.random.default_rng(16)
    a = rng.normal(0.0, 1.0, 60)
    b = a - rng.normal(0.3, 1.0, 60)
    expected = judge.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    got = paired_permutation_test(a, b, n_permutations=20_000)
    assert 0.005 < got.p_value < 0.5
    assert got.p_value == pytest.approx(expected.pvalue, abs=0.015)
    low, high = got.interval or (NAN, NAN)
    assert low < got.difference < high


def macro_f1_of_counts(y_true: list[int], seeds: list[list[int]], n_classes: int) -> float:
    """Macro-F1 of counts averaged over seeds, in plain Python."""
    total = 0.0
    for c in range(n_classes):
        hits = sum(t == p == c for seed in seeds for t, p in zip(y_true, seed, strict=True)) / len(seeds)
        calls = sum(p == c for seed in seeds for p in seed) / len(seeds)
        size = y_true.count(c)
        total += 2 * hits / (size + calls) if size + calls else 0.0
    return total / n_classes


classes = st.integers(0, 2)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 6), st.integers(1, 3))
def test_macro_f1_randomisation_is_exact_for_few_examples(data: st.DataObject, n: int, seeds: int) -> None:
    y_true = data.draw(st.lists(classes, min_size=n, max_size=n))
    rows = st.lists(st.integers(-1, 2), min_size=n, max_size=n)
    a = data.draw(st.lists(rows, min_size=seeds, max_size=seeds))
    b = data.draw(st.lists(rows, min_size=seeds, max_size=seeds))

    def difference(swaps: tuple[int, ...]) -> float:
        first, second = [], []
        for seed_a, seed_b in zip(a, b, strict=True):
            mixed = zip(seed_a, seed_b, swaps, strict=True)
            pairs = [(y, x) if swap else (x, y) for x, y, swap in mixed]
            first.append([x for x, _ in pairs])
            second.append([y for _, y in pairs])
        return macro_f1_of_counts(y_true, first, 3) - macro_f1_of_counts(y_true, second, 3)

    observed = difference((0,) * n)
    count = sum(abs(difference(s)) >= abs(observed) - 1e-9 for s in itertools.product([0, 1], repeat=n))
    got = permutation_test_macro_f1(y_true, a, b, 3, n_resamples=10)
    assert got.difference == pytest.approx(observed, abs=1e-12)
    assert got.p_value == pytest.approx(count / 2**n)


def test_macro_f1_randomisation_with_unequal_numbers_of_seeds() -> None:
    rng = np.random.default_rng(7)
    y_true = rng.integers(0, 3, 40)
    a, b = rng.integers(0, 3, (3, 40)), rng.integers(0, 3, (2, 40))
    got = permutation_test_macro_f1(y_true, a, b, 3, n_permutations=500)
    expected = macro_f1_of_counts(y_true.tolist(), a.tolist(), 3) - macro_f1_of_counts(
        y_true.tolist(), b.tolist(), 3
    )
    assert got.difference == pytest.approx(expected)
    # Repeating every seed repeats the counts' mean.
    again = permutation_test_macro_f1(y_true, np.tile(a, (2, 1)), np.tile(b, (3, 1)), 3, n_permutations=500)
    assert again.p_value == got.p_value


def test_macro_f1_difference_with_one_seed_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(8)
    y_true, a, b = rng.integers(0, 4, (3, 50))
    options = {"labels": [0, 1, 2, 3], "average": "macro", "zero_division": 0}
    expected = f1_score(y_true, a, **options) - f1_score(y_true, b, **options)
    assert permutation_test_macro_f1(y_true, a, b, 4, n_permutations=10).difference == pytest.approx(expected)


def test_p_is_never_zero_and_one_without_a_difference() -> None:
    n = 300
    zeros, ones = np.zeros(n), np.ones(n)
    y_true = np.arange(n) % 2
    for test in (
        paired_permutation_test(ones, zeros, n_permutations=99, n_resamples=10),
        permutation_test_macro_f1(y_true, y_true, 1 - y_true, 2, n_permutations=99, n_resamples=10),
    ):
        assert test.p_value == pytest.approx(1 / 100)
        assert test.difference == pytest.approx(1.0)
    assert mcnemar(ones > 0, zeros > 0, n_resamples=10).p_value > 0.0
    assert paired_permutation_test(ones, ones).p_value == 1.0
    assert permutation_test_macro_f1(y_true, y_true, y_true, 2).p_value == 1.0
    assert mcnemar(ones > 0, ones > 0).p_value == 1.0
    assert paired_permutation_test([0.3], [0.1]).p_value == 1.0
    assert paired_permutation_test([0.3], [0.1]).interval is None


def test_paired_tests_reject_a_true_null_one_time_in_twenty() -> None:
    rng = np.random.default_rng(9)
    trials = 800
    rejected = np.zeros(3)
    for trial in range(trials):
        a, b = rng.exponential(1.0, (2, 40))
        y_true = rng.integers(0, 3, 60)
        guess_a, guess_b = np.where(rng.random((2, 60)) < 0.6, y_true, rng.integers(0, 3, (2, 60)))
        options = {"n_resamples": 1, "seed": trial}
        p_values = [
            paired_permutation_test(a, b, n_permutations=199, **options).p_value,
            permutation_test_macro_f1(y_true, guess_a, guess_b, 3, n_permutations=199, **options).p_value,
            mcnemar(guess_a == y_true, guess_b == y_true, **options).p_value,
        ]
        rejected += np.array(p_values) <= 0.05
    rates = rejected / trials
    assert rates[:2] == pytest.approx([0.05, 0.05], abs=0.025)
    # Exact and discrete: conservative.
    assert rates[2] <= 0.06


def test_paired_tests_find_a_real_difference() -> None:
    rng = np.random.default_rng(10)
    y_true = rng.integers(0, 3, 400)
    good, poor = (np.where(rng.random(400) < p, y_true, rng.integers(0, 3, 400)) for p in (0.7, 0.4))
    tests = [
        paired_permutation_test(good == y_true, poor == y_true, n_permutations=999),
        permutation_test_macro_f1(y_true, good, poor, 3, n_permutations=999),
        mcnemar(good == y_true, poor == y_true),
    ]
    for test in tests:
        low, _ = test.interval or (NAN, NAN)
        assert test.p_value < 0.01
        assert test.difference > low > 0.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_mcnemar_agrees_with_the_binomial_test(pairs: list[tuple[bool, bool]]) -> None:
    a, b = np.array(pairs).T
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    got = mcnemar(a, b, n_resamples=10)
    expected = judge.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert got.p_value == pytest.approx(expected)
    assert got.difference == pytest.approx((only_a - only_b) / len(pairs))


# --- Holm ---


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04; the last is raised to 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_raw_and_bonferroni_and_keeps_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for (p, q), (r, s) in itertools.combinations(zip(p_values, adjusted, strict=True), 2):
        assert p <= q <= min(1.0, p * len(p_values))
        assert (q <= s) if p <= r else (s <= q)


@pytest.mark.parametrize("bad", [NAN, -0.1, 1.1])
def test_holm_refuses_what_is_no_p_value(bad: float) -> None:
    with pytest.raises(EvaluationError, match="outside of"):
        holm([0.5, bad])


# --- ranks ---


def test_shared_ranks_start_anew_at_the_first_row_separated_from_the_leader() -> None:
    scores = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6, "e": 0.1}
    close = {("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")}
    ranks = shared_ranks(scores, lambda leader, row: (leader, row) not in close)
    # b ~ c does not matter: a leads {a, b}; c is separated from a and leads {c, d}, although a ~ d.
    assert ranks == {
        "a": SharedRank(1, True),
        "b": SharedRank(1, True),
        "c": SharedRank(3, True),
        "d": SharedRank(3, True),
        "e": SharedRank(5, False),
    }


def test_shared_ranks_extremes_and_direction() -> None:
    scores = {"a": 1.0, "b": 2.0, "c": 3.0}
    assert shared_ranks(scores, lambda a, b: True) == {"c": (1, False), "b": (2, False), "a": (3, False)}
    assert shared_ranks(scores, lambda a, b: True, higher_is_better=False)["a"] == (1, False)
    assert set(shared_ranks(scores, lambda a, b: False).values()) == {(1, True)}
    assert shared_ranks({}, lambda a, b: True) == {}


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3), min_size=1), st.data())
def test_shared_ranks_do_not_depend_on_names_or_order(scores: dict[str, int], data: st.DataObject) -> None:
    pairs = itertools.combinations(sorted(scores), 2)
    apart = {frozenset(pair) for pair in pairs if data.draw(st.booleans())}
    base = shared_ranks(scores, lambda x, y: frozenset((x, y)) in apart)
    renamed = dict(zip(scores, data.draw(st.permutations(list(scores))), strict=True))
    back = {new: old for old, new in renamed.items()}
    again = shared_ranks(
        {renamed[name]: scores[name] for name in reversed(scores)},
        lambda x, y: frozenset((back[x], back[y])) in apart,
    )
    assert {name: again[renamed[name]] for name in scores} == base
    for name, (rank, tied) in base.items():
        mates = [other for other in base if base[other].rank == rank]
        assert tied == (len(mates) > 1)
        assert rank == 1 + sum(base[other].rank < rank for other in base)
        assert all(scores[other] >= scores[name] for other in base if base[other].rank < rank)


TASKS = {
    "qa": {"a": 0.9, "b": 0.8, "c": 0.8},
    "mae": {"a": 0.5, "b": 0.4, "c": 0.6, "half": 0.1},
}
UP = {"qa": True, "mae": False}


def test_aggregates_are_null_when_a_task_is_missing() -> None:
    for aggregate in (mean_rank(TASKS, UP), borda(TASKS, UP)):
        assert aggregate["half"] == Aggregate(None, 1, 2)
        assert all(aggregate[name].covered == aggregate[name].total == 2 for name in "abc")


def test_mean_rank_ignores_rows_with_gaps_and_borda_counts_them() -> None:
    assert {name: a.value for name, a in mean_rank(TASKS, UP).items()} == {
        "a": 1.5,
        "b": (2.5 + 1) / 2,
        "c": (2.5 + 3) / 2,
        "half": None,
    }
    assert {name: a.value for name, a in borda(TASKS, UP).items() if a.value is not None} == pytest.approx(
        {"a": (1 + 1 / 3) / 2, "b": (0.25 + 2 / 3) / 2, "c": (0.25 + 0) / 2}
    )


def test_borda_is_null_without_an_opponent() -> None:
    assert borda({"t": {"a": 0.5}}, {"t": True}) == {"a": Aggregate(None, 1, 1)}
    assert mean_rank({"t": {"a": 0.5}}, {"t": True}) == {"a": Aggregate(1.0, 1, 1)}
    assert mean_rank({}, {}) == {}
