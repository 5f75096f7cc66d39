"""The tests of a whole table agree with the tests of one pair."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from kpi_bench.evaluators.comparison import holm, paired_permutation_test, permutation_test_macro_f1
from kpi_bench.leaderboard.pairwise import paired_tests
from kpi_bench.leaderboard.queries import QueryScores


def _means(rows: int, n: int, *, step: float, rng: np.random.Generator) -> dict[str, QueryScores]:
    base = rng.random(n)
    scores = [base + step * i + 0.3 * rng.standard_normal((2, n)) for i in range(rows)]
    return {f"row{i}": QueryScores(np.arange(n), s, None, None) for i, s in enumerate(scores)}


def _classes(rows: int, n: int, n_classes: int, rng: np.random.Generator) -> dict[str, QueryScores]:
    labels = rng.integers(0, n_classes, n)
    return {
        f"row{i}": QueryScores(
            np.arange(n),
            None,
            labels,
            np.where(rng.random((1 + i % 2, n)) < 0.5 + 0.03 * i, labels, rng.integers(-1, n_classes, n)),
            n_classes,
        )
        for i in range(rows)
    }


def test_means_agree_with_the_single_test() -> None:
    read = _means(5, 400, step=0.02, rng=np.random.default_rng(0))
    tests = paired_tests(read)
    assert len(tests.pairs) == 10
    for pair in tests.pairs:
        single = paired_permutation_test(read[pair.a].scores, read[pair.b].scores, n_resamples=1)
        assert pair.p_value == pytest.approx(single.p_value, abs=0.04)
    assert [pair.p_adjusted for pair in tests.pairs] == holm([pair.p_value for pair in tests.pairs])


def test_macro_f1_agrees_with_the_single_test() -> None:
    read = _classes(4, 300, 3, np.random.default_rng(1))
    tests = paired_tests(read)
    assert "macro-F1" in tests.test
    for pair in tests.pairs:
        a, b = read[pair.a], read[pair.b]
        single = permutation_test_macro_f1(a.labels, a.predicted, b.predicted, 3, n_resamples=1)
        assert pair.p_value == pytest.approx(single.p_value, abs=0.04)


def test_false_separation_is_rare_when_nothing_differs() -> None:
    rng = np.random.default_rng(2)
    separated = [bool(paired_tests(_means(4, 80, step=0.0, rng=rng)).separated) for _ in range(60)]
    assert np.mean(separated) <= 0.15


def test_few_moving_queries_are_enumerated() -> None:
    base = np.random.default_rng(3).random(5000)
    changed = base.copy()
    changed[:3] += 1e-3
    read = {
        name: QueryScores(np.arange(5000), scores[None], None, None)
        for name, scores in (("a", base), ("b", changed), ("c", base + 0.5))
    }
    p = {frozenset((pair.a, pair.b)): pair.p_value for pair in paired_tests(read).pairs}
    assert p[frozenset("ab")] == 2 / 2**3
    assert p[frozenset("ac")] == 1 / 2001


def test_identical_rows_have_p_one() -> None:
    scores = np.random.default_rng(4).random((1, 50))
    read = {name: QueryScores(np.arange(50), scores, None, None) for name in "abc"}
    assert {pair.p_value for pair in paired_tests(read).pairs} == {1.0}


def test_blocks_do_not_change_the_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    read = _means(3, 150, step=0.02, rng=np.random.default_rng(5))
    whole = paired_tests(read)
    monkeypatch.setattr("kpi_bench.leaderboard.pairwise._BLOCK_CELLS", 150 * 7)
    assert paired_tests(read) == whole


def test_permutations_grow_with_the_pairs() -> None:
    rng = np.random.default_rng(6)
    for rows in (2, 9):
        tests = paired_tests(_means(rows, 30, step=0.0, rng=rng))
        assert len(tests.pairs) == len(list(combinations(range(rows), 2)))
        assert tests.resolves
    assert tests.n_permutations == 100 * 36


def test_a_single_row_needs_no_test() -> None:
    assert paired_tests(_means(1, 10, step=0.0, rng=np.random.default_rng(7))).pairs == ()
