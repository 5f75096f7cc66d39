"""Two rows of sums give what the scores themselves would: by the page's formulas, against direct swaps and draws."""

from __future__ import annotations

import base64
import json
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from kpi_bench.evaluators._resampling import bootstrap_weights, random_swaps
from kpi_bench.leaderboard import resamples
from kpi_bench.leaderboard.pairwise import paired_tests
from kpi_bench.leaderboard.queries import QueryScores
from kpi_bench.leaderboard.resamples import N_RESAMPLES, N_SWAPS, resample_rows

Floats = NDArray[np.float64]


def _means(n: int = 200) -> dict[str, QueryScores]:
    rng = np.random.default_rng(0)
    base = rng.random(n) ** 3
    return {
        f"row{i}": QueryScores(
            np.arange(n), base + 0.05 * i * rng.random(n) + 0.2 * rng.random((1 + i % 3, n)), None, None
        )
        for i in range(5)
    }


def _hits(n: int = 200) -> dict[str, QueryScores]:
    rng = np.random.default_rng(1)
    return {
        f"row{i}": QueryScores(np.arange(n), (rng.random((1, n)) < 0.3 + 0.05 * i).astype(float), None, None)
        for i in range(5)
    }


def _classes(n: int = 200, seeds: int = 3) -> dict[str, QueryScores]:
    """Class 3 has no example; -1 is a prediction that is missing."""
    rng = np.random.default_rng(2)
    labels = rng.choice(3, n, p=[0.6, 0.3, 0.1])
    return {
        f"row{i}": QueryScores(
            np.arange(n),
            None,
            labels,
            np.where(rng.random((seeds, n)) < 0.4 + 0.08 * i, labels, rng.integers(-1, 4, (seeds, n))),
            4,
        )
        for i in range(4)
    }


_TABLES = {"mean": _means(), "hits": _hits(), "macro_f1": _classes()}


def _floats(text: str) -> Floats:
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(float)


def _page(a: dict[str, Any], b: dict[str, Any], n: int) -> tuple[float, float, Floats]:
    """Difference, p and interval as the page computes them."""
    u_a, u_b = _floats(a["swaps"]), _floats(b["swaps"])
    if a["kind"] == "mean":
        total = a["totals"] - b["totals"]
        difference, slack = total / n, 1e-6 * (abs(a["totals"]) + abs(b["totals"]))
        count = np.count_nonzero(np.abs(total - 2 * (u_a - u_b)) >= abs(total) - slack)
    else:
        sizes = np.array(a["sizes"])

        def macro_f1(counts: Floats) -> Floats:
            hits, calls = counts[..., : len(sizes)], counts[..., len(sizes) :]
            whole = sizes + calls
            return (2 * hits / np.where(whole > 0, whole, 1.0)).mean(axis=-1)

        totals_a, totals_b = np.array(a["totals"]), np.array(b["totals"])
        change = (u_b - u_a).reshape(-1, len(totals_a))
        difference = float(macro_f1(totals_a) - macro_f1(totals_b))
        after = macro_f1(totals_a + change) - macro_f1(totals_b - change)
        count = np.count_nonzero(np.abs(after) >= abs(difference) - 1e-6)
    interval = np.quantile(_floats(a["bootstrap"]) - _floats(b["bootstrap"]), [0.025, 0.975])
    return difference, (count + 1) / (N_SWAPS + 1), interval


@pytest.mark.parametrize("kind", _TABLES)
def test_the_page_gives_the_p_values_of_the_board(kind: str) -> None:
    read = _TABLES[kind]
    tests, made = paired_tests(read), resample_rows(read)
    sent = {name: json.loads(json.dumps(row.payload())) for name, row in made.items()}
    for (i, a), (j, b) in combinations(enumerate(tests.names), 2):
        assert _page(sent[a], sent[b], 200)[1] == tests.p_values[i, j]
        assert _page(sent[b], sent[a], 200)[1] == tests.p_values[i, j]


@pytest.mark.parametrize("kind", ["mean", "hits"])
def test_a_mean_against_direct_swaps_and_draws(kind: str) -> None:
    read = _TABLES[kind]
    made = {name: row.payload() for name, row in resample_rows(read, seed=3).items()}
    swaps = np.concatenate(list(random_swaps(200, N_SWAPS, 3)))
    draws = np.concatenate(list(bootstrap_weights(200, N_RESAMPLES, 3)))
    for a, b in combinations(read, 2):
        d = read[a].scores.mean(axis=0) - read[b].scores.mean(axis=0)
        flipped = np.where(swaps == 1.0, -d, d).sum(axis=1)
        p = (1 + np.count_nonzero(np.abs(flipped) >= abs(d.sum()) - 1e-9)) / (N_SWAPS + 1)
        difference, p_page, interval = _page(made[a], made[b], 200)
        assert difference == pytest.approx(d.mean(), abs=1e-12)
        assert p_page == p
        assert interval == pytest.approx(np.quantile(draws @ d / 200, [0.025, 0.975]), abs=1e-6)


def test_macro_f1_against_swapped_predictions_and_drawn_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed: then the statistic is plain macro-F1, as scikit-learn has it, of predictions that are really exchanged."""
    monkeypatch.setattr(resamples, "N_SWAPS", 80)
    monkeypatch.setattr(resamples, "N_RESAMPLES", 40)
    read = _classes(60, seeds=1)
    made = {name: row.payload() for name, row in resample_rows(read).items()}
    labels = read["row0"].labels

    def judge(predicted: NDArray[np.int64], weights: Floats | None = None) -> float:
        return float(
            f1_score(
                labels, predicted, labels=range(4), average="macro", zero_division=0.0, sample_weight=weights
            )
        )

    swaps = np.concatenate(list(random_swaps(60, 80, 0))).astype(bool)
    draws = np.concatenate(list(bootstrap_weights(60, 40, 0)))
    a, b = read["row0"].predicted[0], read["row3"].predicted[0]
    observed = judge(a) - judge(b)
    count = sum(
        abs(judge(np.where(w, b, a)) - judge(np.where(w, a, b))) >= abs(observed) - 1e-9 for w in swaps
    )
    difference, p, interval = _page(made["row0"], made["row3"], 60)
    assert difference == pytest.approx(observed, abs=1e-12)
    assert round(p * (N_SWAPS + 1)) == count + 1
    drawn = [judge(a, w) - judge(b, w) for w in draws]
    assert interval == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=1e-6)


@pytest.mark.parametrize("kind", _TABLES)
def test_a_row_does_not_depend_on_the_others(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = _TABLES[kind]
    together = resample_rows(read)
    alone = resample_rows({"row2": read["row2"]})["row2"]
    monkeypatch.setattr(resamples, "_GROUP_CELLS", 1)
    apart = resample_rows(read)["row2"]
    for other in (alone, apart):
        assert other.queries == together["row2"].queries
        assert (other.totals == together["row2"].totals).all()
        for name in ("swaps", "bootstrap"):
            np.testing.assert_allclose(getattr(other, name), getattr(together["row2"], name), rtol=2e-7)


def test_the_key_follows_queries_and_for_macro_f1_labels() -> None:
    scores = np.ones((1, 3))

    def key(queries: list[int], labels: list[int] | None = None) -> str:
        ids = np.array(queries)
        row = (
            QueryScores(ids, scores, None, None)
            if labels is None
            else QueryScores(ids, None, np.array(labels), np.array([[0, 1, 1]]), 2)
        )
        return resample_rows({"row": row})["row"].queries

    keys = [key([0, 1, 2]), key([0, 1, 3]), key([0, 1, 2], [0, 1, 1]), key([0, 1, 2], [0, 1, 0])]
    assert len(set(keys)) == 4
    assert all(len(text) == 16 for text in keys)


def test_what_is_sent() -> None:
    mean = resample_rows(_means())["row1"].payload()
    assert _floats(mean["swaps"]).shape == (N_SWAPS,)
    assert _floats(mean["bootstrap"]).shape == (N_RESAMPLES,)
    assert mean["sizes"] is None
    assert len(mean["swaps"]) + len(mean["bootstrap"]) == 16_004
    f1 = resample_rows(_classes())["row1"].payload()
    assert _floats(f1["swaps"]).shape == (N_SWAPS * 2 * 4,)
    assert len(f1["totals"]) == 8
    assert sum(f1["sizes"]) == 200
    assert f1["sizes"][3] == 0


def test_one_query_has_no_interval_and_no_row_is_no_row() -> None:
    row = resample_rows({"a": QueryScores(np.array([7]), np.array([[0.5]]), None, None)})["a"]
    assert row.bootstrap.size == 0
    assert set(row.swaps.ravel()) == {0.0, 0.5}
    assert resample_rows({}) == {}
