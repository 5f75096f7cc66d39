"""The tests of a whole table: against single tests, a textbook step-down, the compiled kernels and their promised error rate."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kpi_bench.evaluators.comparison import holm, paired_permutation_test, permutation_test_macro_f1
from kpi_bench.leaderboard import pairwise
from kpi_bench.leaderboard.pairwise import ALPHA, TaskTests, paired_tests
from kpi_bench.leaderboard.queries import QueryScores
from kpi_bench.leaderboard.resamples import N_SWAPS, SLACK, swapped_sums

Floats = NDArray[np.float64]


def _rows(scores: Floats) -> dict[str, QueryScores]:
    """Rows ``row00``, ... of scores ``[S, n]``."""
    return {
        f"row{i:02d}": QueryScores(np.arange(scores.shape[1]), row[None], None, None)
        for i, row in enumerate(scores)
    }


def _means(rows: int, n: int, *, step: float, rng: np.random.Generator) -> dict[str, QueryScores]:
    base = rng.random(n)
    scores = [base + step * i + 0.3 * rng.standard_normal((2, n)) for i in range(rows)]
    return {f"row{i:02d}": QueryScores(np.arange(n), s, None, None) for i, s in enumerate(scores)}


def _classes(rows: int, n: int, n_classes: int, rng: np.random.Generator) -> dict[str, QueryScores]:
    """Rows of one and two seeds; the last class but one has no example, the last is not predicted either."""
    labels = rng.integers(0, n_classes - 1, n)
    return {
        f"row{i:02d}": QueryScores(
            np.arange(n),
            None,
            labels,
            np.where(rng.random((1 + i % 2, n)) < 0.5 + 0.03 * i, labels, rng.integers(-1, n_classes, n)),
            n_classes + 1,
        )
        for i in range(rows)
    }


def _upper(matrix: Floats) -> Floats:
    return matrix[np.triu_indices(len(matrix), 1)]


def _same(one: TaskTests, other: TaskTests) -> bool:
    return bool((one.p_values == other.p_values).all() and (one.p_adjusted == other.p_adjusted).all()) and (
        one.names,
        one.test,
        one.n_permutations,
    ) == (other.names, other.test, other.n_permutations)


def test_means_agree_with_the_single_test() -> None:
    read = _means(5, 400, step=0.02, rng=np.random.default_rng(0))
    tests = paired_tests(read)
    assert tests.names == tuple(read)
    assert tests.n_queries == 400
    for (i, a), (j, b) in combinations(enumerate(tests.names), 2):
        single = paired_permutation_test(read[a].scores, read[b].scores, n_resamples=1)
        assert tests.p_values[i, j] == pytest.approx(single.p_value, abs=0.04)


def test_macro_f1_agrees_with_the_single_test() -> None:
    read = _classes(4, 300, 4, np.random.default_rng(1))
    tests = paired_tests(read)
    assert "macro-F1" in tests.test
    for (i, a), (j, b) in combinations(enumerate(tests.names), 2):
        single = permutation_test_macro_f1(
            read[a].labels, read[a].predicted, read[b].predicted, 5, n_resamples=1
        )
        assert tests.p_values[i, j] == pytest.approx(single.p_value, abs=0.04)


def _macro_f1(counts: Floats, sizes: Floats) -> float:
    c = len(sizes)
    parts = [
        2 * counts[k] / (sizes[k] + counts[c + k]) if sizes[k] + counts[c + k] > 0 else 0.0 for k in range(c)
    ]
    return sum(parts) / c


def _textbook(read: dict[str, QueryScores]) -> tuple[dict[tuple[int, int], int], dict[tuple[int, int], int]]:
    """Counts by pair, raw and step-down, one pair and one swap at a time: at each step the maximum over what is left is taken anew."""
    sums = swapped_sums([read[name] for name in sorted(read)])
    statistics: dict[tuple[int, int], list[float]] = {}
    for a, b in combinations(range(len(read)), 2):
        moved = (sums.swaps[b].astype(float) - sums.swaps[a].astype(float)).T
        if sums.kind == "mean":
            difference = sums.totals[a, 0] - sums.totals[b, 0]
            values = [difference, *(difference + 2 * moved[:, 0])]
        else:
            values = [
                _macro_f1(sums.totals[a] + change, sums.sizes)
                - _macro_f1(sums.totals[b] - change, sums.sizes)
                for change in [0 * moved[0], *moved]
            ]
        statistics[a, b] = [abs(float(value)) for value in values]
    slack = {
        (a, b): SLACK * (1.0 if sums.kind == "macro_f1" else abs(sums.totals[a, 0]) + abs(sums.totals[b, 0]))
        for a, b in statistics
    }
    scale = {
        pair: (np.mean(np.square(values)) + slack[pair] ** 2) ** 0.5 for pair, values in statistics.items()
    }
    raw = {
        pair: sum(value >= values[0] - slack[pair] for value in values[1:])
        for pair, values in statistics.items()
    }
    bar = {pair: (values[0] - slack[pair]) / scale[pair] for pair, values in statistics.items()}
    studentised = {pair: np.array(values[1:]) / scale[pair] for pair, values in statistics.items()}
    adjusted: dict[tuple[int, int], int] = {}
    left, before = sorted(bar, key=lambda pair: -bar[pair]), 0
    while left:
        largest = np.max([studentised[pair] for pair in left], axis=0)
        before = max(before, int((largest >= bar[left[0]] - 1e-12).sum()))
        adjusted[left.pop(0)] = before
    return raw, adjusted


@pytest.mark.parametrize("kind", ["mean", "ties", "macro_f1"])
def test_a_textbook_step_down_gives_the_same_counts(kind: str) -> None:
    rng = np.random.default_rng(8)
    read = {
        "mean": _means(6, 90, step=0.03, rng=rng),
        "ties": _rows((rng.random((6, 60)) < np.linspace(0.2, 0.5, 6)[:, None]).astype(float)),
        "macro_f1": _classes(4, 80, 4, rng),
    }[kind]
    tests = paired_tests(read)
    raw, adjusted = _textbook(read)
    for (i, j), count in raw.items():
        assert tests.p_values[i, j] == (count + 1) / (N_SWAPS + 1)
        assert tests.p_adjusted[i, j] == (adjusted[i, j] + 1) / (N_SWAPS + 1)
    assert len(set(_upper(tests.p_adjusted))) > 3


@settings(max_examples=40, deadline=None)
@given(
    n_rows=st.integers(2, 6),
    n=st.integers(1, 20),
    levels=st.integers(1, 4),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_any_table(n_rows: int, n: int, levels: int, seed: int, data: st.DataObject) -> None:
    scores = np.random.default_rng(seed).integers(0, levels, (n_rows, n)) / levels
    tests = paired_tests(_rows(scores))
    for matrix in (tests.p_values, tests.p_adjusted):
        assert (matrix == matrix.T).all()
        assert (np.diag(matrix) == 1.0).all()
        assert ((matrix >= 1 / (N_SWAPS + 1)) & (matrix <= 1.0)).all()
    assert (tests.p_adjusted >= tests.p_values).all()
    for i, j in combinations(range(n_rows), 2):
        if (scores[i] == scores[j]).all():
            assert tests.p_values[i, j] == 1.0
            assert (tests.p_adjusted[i] == tests.p_adjusted[j])[
                [k for k in range(n_rows) if k not in (i, j)]
            ].all()
    order = data.draw(st.permutations(range(n_rows)))
    shuffled = paired_tests(_rows(scores[order]))
    assert (shuffled.p_values == tests.p_values[np.ix_(order, order)]).all()
    assert (shuffled.p_adjusted == tests.p_adjusted[np.ix_(order, order)]).all()


@pytest.mark.parametrize("kind", ["mean", "macro_f1"])
def test_compiled_kernels_and_blocks_give_the_same_numbers(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    read = _means(9, 150, step=0.01, rng=rng) if kind == "mean" else _classes(9, 150, 4, rng)
    plain = paired_tests(read)
    with monkeypatch.context() as changed:
        changed.setattr(pairwise, "_BLOCK_CELLS", 5 * 1999)
        changed.setattr(pairwise, "_PART_CELLS", 9 * 10 * 300)
        changed.setattr("kpi_bench.evaluators._resampling.BLOCK_CELLS", 150 * 7)
        assert _same(paired_tests(read), plain)
    pytest.importorskip("numba")
    monkeypatch.setattr(pairwise, "_COMPILE_FROM", 0)
    assert _same(paired_tests(read), plain)


def test_few_moving_queries_have_a_large_p() -> None:
    base = np.random.default_rng(3).random(5000)
    changed = base.copy()
    changed[:3] += 0.1
    tests = paired_tests(_rows(np.stack([base, changed, base + 0.5])))
    assert tests.p_values[0, 1] == pytest.approx(2 / 2**3, abs=0.03)
    assert tests.p_values[0, 2] == 1 / (N_SWAPS + 1)


def test_identical_rows_have_p_one() -> None:
    scores = np.random.default_rng(4).random(50)
    tests = paired_tests(_rows(np.stack([scores, scores, np.zeros(50), np.zeros(50), scores])))
    assert tests.p_values[0, 1] == tests.p_adjusted[0, 1] == 1.0
    assert tests.p_values[2, 3] == tests.p_adjusted[2, 3] == 1.0
    assert tests.separated("row00", "row02")
    assert not tests.separated("row00", "row04")


def test_near_duplicates_do_not_hide_what_differs() -> None:
    """Rounding of float32 sums must not become a statistic: 20 rows that were run again differ from themselves by 1e-8 a query."""
    rng = np.random.default_rng(9)
    rows = rng.random((20, 4000))
    again = rows + 1e-8 * rng.standard_normal(rows.shape)
    better = rng.random((1, 4000)) + 0.06
    tests = paired_tests(_rows(np.concatenate([rows, again, better])))
    assert all(tests.separated(name, "row40") for name in tests.names[:40])
    assert not any(tests.separated(tests.names[i], tests.names[20 + i]) for i in range(20))


def test_the_smallest_p_does_not_grow_with_the_pairs() -> None:
    """With 1,770 pairs Holm times 1 / 2001 is .88: it could never separate anything."""
    rng = np.random.default_rng(6)
    scores = rng.standard_normal((60, 400))
    scores[7] += 1.0
    tests = paired_tests(_rows(scores))
    assert min(holm(list(_upper(tests.p_values)))) > 0.8
    assert all(tests.separated("row07", name) for name in tests.names if name != "row07")


@pytest.mark.parametrize("n_rows", [0, 1])
def test_less_than_two_rows_need_no_test(n_rows: int) -> None:
    tests = paired_tests(_rows(np.ones((n_rows, 10))))
    assert (tests.test, tests.n_permutations) == ("none", 0)
    assert tests.p_values.shape == tests.p_adjusted.shape == (n_rows, n_rows)


# --- error rates ---

_Draw = Callable[[np.random.Generator, int], Floats]
_LEVELS = np.array([0, 0, 0, 0, 0, 1, 1, 2])
"""In mixed scenarios 11 of the 28 pairs are equal."""
_SPREAD = np.linspace(0.2, 2.0, 8)[:, None]


def _unequal(rng: np.random.Generator, n: int) -> Floats:
    return rng.standard_normal(n) + _SPREAD * rng.standard_normal((8, n))


def _rare_hits(rng: np.random.Generator, n: int) -> Floats:
    return (rng.random((8, n)) < 0.05).astype(float)


def _hard_and_easy(rng: np.random.Generator, n: int) -> Floats:
    return (rng.random((8, n)) < rng.random(n) ** 3).astype(float)


def _reciprocal_ranks(rng: np.random.Generator, n: int) -> Floats:
    ranks = np.exp(np.maximum(6 * rng.random(n) + 0.7 * rng.standard_normal((8, n)), 0.0))
    return 1.0 / np.ceil(ranks)


def _one_hit_a_query(rng: np.random.Generator, n: int) -> Floats:
    """Differences of several pairs are not symmetric together, only pair by pair."""
    scores = np.zeros((8, n))
    scores[rng.integers(0, 8, n), np.arange(n)] = 1.0
    return scores


def _few_differ(rng: np.random.Generator, n: int) -> Floats:
    scores = np.tile(rng.random(n), (8, 1))
    scores[:, :12] += 0.3 * rng.standard_normal((8, 12))
    return scores


def _unequal_mixed(rng: np.random.Generator, n: int) -> Floats:
    return _unequal(rng, n) + 0.6 * _LEVELS[:, None]


def _hits_mixed(rng: np.random.Generator, n: int) -> Floats:
    chance = 0.5 * rng.random(n) ** 2 * (1.0 - 0.35 * _LEVELS[:, None])
    return (rng.random((8, n)) < chance).astype(float)


def _rates(draw: _Draw, trials: int, levels: NDArray[np.int64]) -> tuple[float, float, float]:
    """Share of tables with a false separation; shares of true differences found, by the step-down and by Holm."""
    rng = np.random.default_rng(1)
    left, right = np.triu_indices(8, 1)
    equal = levels[left] == levels[right]
    false, found, found_by_holm = [], [], []
    for trial in range(trials):
        tests = paired_tests(_rows(draw(rng, 100)), seed=trial)
        separated = _upper(tests.p_adjusted) < ALPHA
        by_holm = np.array(holm(list(_upper(tests.p_values)))) < ALPHA
        false.append(separated[equal].any())
        found.append(separated[~equal].sum())
        found_by_holm.append(by_holm[~equal].sum())
    return tuple(float(np.mean(part)) for part in (false, found, found_by_holm))  # type: ignore[return-value]


_NULL = (_unequal, _rare_hits, _hard_and_easy, _reciprocal_ranks, _one_hit_a_query, _few_differ)


def test_false_separation_is_rare_when_nothing_differs() -> None:
    assert _rates(_unequal, 250, 0 * _LEVELS)[0] <= 0.09
    assert _rates(_rare_hits, 250, 0 * _LEVELS)[0] <= 0.09


def test_finds_more_than_holm() -> None:
    false, found, found_by_holm = _rates(_unequal_mixed, 150, _LEVELS)
    assert false <= 0.1
    assert found > found_by_holm > 0


@pytest.mark.slow
@pytest.mark.parametrize("draw", _NULL)
def test_family_wise_error(draw: _Draw) -> None:
    assert _rates(draw, 2000, 0 * _LEVELS)[0] <= 0.065


@pytest.mark.slow
@pytest.mark.parametrize("draw", [_unequal_mixed, _hits_mixed])
def test_family_wise_error_and_power_where_some_differ(draw: _Draw) -> None:
    false, found, found_by_holm = _rates(draw, 2000, _LEVELS)
    assert false <= 0.065
    assert found > 1.05 * found_by_holm


@pytest.mark.slow
def test_family_wise_error_of_macro_f1() -> None:
    rng = np.random.default_rng(2)
    false = []
    for trial in range(600):
        labels = rng.choice(4, 150, p=[0.6, 0.25, 0.1, 0.05])
        guesses = np.where(rng.random((6, 150)) < 0.4, labels, rng.choice(4, (6, 150)))
        read = {
            f"row{i}": QueryScores(np.arange(150), None, labels, guess[None], 4)
            for i, guess in enumerate(guesses)
        }
        false.append((_upper(paired_tests(read, seed=trial).p_adjusted) < ALPHA).any())
    assert np.mean(false) <= 0.08
