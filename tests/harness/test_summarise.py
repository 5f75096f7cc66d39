"""Runs into summaries: means, intervals, flags and costs by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from kpi_bench.evaluators.evaluation import Evaluation
from kpi_bench.harness.assemble import common_site, run_flags
from kpi_bench.harness.clock import Lap
from kpi_bench.harness.records import RunKey, RunRecord, RunSite
from kpi_bench.harness.results import CurvePoint
from kpi_bench.harness.scoring import RunScores
from kpi_bench.harness.summarise import (
    mean_slices,
    mean_values,
    query_scores,
    summarise_memory,
    summarise_metrics,
    summarise_notes,
    summarise_timing,
)


def evaluation(scores: list[float], **values: float) -> Evaluation:
    per_query = np.array(scores)
    return Evaluation(
        {"ndcg@20": float(per_query.mean()), **values},
        {"ndcg@20": per_query},
        np.arange(len(scores)),
        {"n_queries": len(scores), "n_excluded": 2},
        {"cold": {"ndcg@20": scores[0]}},
        {},
    )


def record(
    seed: int,
    laps: Mapping[str, Lap],
    *,
    session: str = "s",
    notes: Mapping[str, Any] | None = None,
    rss: int = 100,
    device: str = "cpu",
    peak_device: int | None = None,
    reused: bool = False,
    curve: tuple[CurvePoint, ...] = (),
    hw_id: str = "h",
) -> RunRecord:
    key = RunKey("mine", "a", {}, "b", "task", seed, device)
    site = RunSite({"cpu": "x", "hw_id": hw_id}, {}, None)
    return RunRecord(key, session, site, laps, curve, notes or {}, None, rss, peak_device, 10.0, None, reused)


def laps(scale: float) -> dict[str, Lap]:
    return {
        "load": Lap("load", 1.0 * scale, 0.5 * scale),
        "adapt": Lap("adapt", 4.0 * scale, 3.0 * scale),
        "predict": Lap("predict", 2.0 * scale, 2.0 * scale, queries=100),
    }


def test_mean_and_t_interval_over_seeds() -> None:
    runs = [evaluation([0.1, 0.3]), evaluation([0.2, 0.4]), evaluation([0.6, 0.8])]
    summary = summarise_metrics(runs)["ndcg@20"]
    means = [0.2, 0.3, 0.7]
    assert summary.per_seed == pytest.approx(means)
    assert summary.mean == pytest.approx(0.4)
    # Student's t with 2 degrees of freedom: 4.30265.
    deviation = math.sqrt(sum((m - 0.4) ** 2 for m in means) / 2)
    half = 4.30265273 * deviation / math.sqrt(3)
    assert summary.ci95_seeds == pytest.approx((0.4 - half, 0.4 + half))
    assert (summary.n_queries, summary.n_excluded, summary.higher_is_better) == (2, 2, True)


def test_one_seed_has_no_interval_over_seeds_but_one_over_queries() -> None:
    scores = np.random.default_rng(0).random(200).tolist()
    summary = summarise_metrics([evaluation(scores)])["ndcg@20"]
    assert summary.ci95_seeds is None
    assert summary.ci95_queries is not None
    low, high = summary.ci95_queries
    half = 1.96 * np.std(scores) / math.sqrt(200)
    assert low == pytest.approx(summary.mean - half, abs=half / 4)
    assert high == pytest.approx(summary.mean + half, abs=half / 4)


def test_a_metric_that_one_seed_lacks_is_left_out() -> None:
    assert set(summarise_metrics([evaluation([0.1], mrr=0.5), evaluation([0.1])])) == {"ndcg@20"}
    assert mean_values([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": 2.0}


def test_slices_are_means_over_seeds() -> None:
    assert mean_slices([evaluation([0.2, 0.0]), evaluation([0.4, 0.0])]) == {
        "cold": {"ndcg@20": pytest.approx(0.3)}
    }


def test_macro_f1_has_its_own_bootstrap() -> None:
    truth = np.tile([0, 1], 50)
    guess = np.where(np.arange(100) < 80, truth, 1 - truth)
    scored = Evaluation(
        {"macro_f1": 0.8},
        {"accuracy": (truth == guess).astype(float)},
        np.arange(100),
        {"n_queries": 100},
        {},
        {},
    )
    summary = summarise_metrics([scored], [RunScores(scored, {}, truth, guess)], 2)["macro_f1"]
    assert summary.ci95_queries is not None
    low, high = summary.ci95_queries
    assert 0.65 < low < 0.8 < high < 0.92
    assert summarise_metrics([scored])["macro_f1"].ci95_queries is None


def test_per_query_scores_by_seed() -> None:
    runs = [RunScores(evaluation([0.1, 0.3]), {}), RunScores(evaluation([0.2, 0.4]), {})]
    frame = query_scores("ndcg@20", (3, 5), runs)
    assert frame is not None
    assert frame.columns.tolist() == ["query", "main_seed3", "main_seed5"]
    assert frame["main_seed5"].tolist() == pytest.approx([0.2, 0.4])
    assert query_scores("mrr", (3, 5), runs) is None


def test_labels_and_predictions_by_seed() -> None:
    scored = evaluation([1.0, 0.0])
    runs = [RunScores(scored, {}, np.array([1, 0]), np.array([1, -1]))]
    frame = query_scores("macro_f1", (0,), runs)
    assert frame is not None
    assert frame.to_dict("list") == {"query": [0, 1], "label": [1, 0], "predicted_seed0": [1, -1]}


def test_phases_rates_and_time_outside_of_phases() -> None:
    runs = [record(0, laps(1.0)), record(1, laps(0.5))]
    timing = summarise_timing(runs, [], [Lap("score", 0.1, 0.2), Lap("score", 0.3, 0.4)])
    assert list(timing.phases) == ["load", "adapt", "predict", "score"]
    assert timing.phases["adapt"].wall_s == (4.0, 2.0)
    assert timing.phases["adapt"].cpu_s == (3.0, 1.5)
    assert timing.phases["adapt"].gpu_s is None
    assert timing.phases["score"].wall_s == (0.1, 0.3)
    assert timing.phases["score"].cpu_s == (0.2, 0.4)
    assert timing.queries_per_s == (50.0, 100.0)
    assert timing.harness_s == (3.0, 6.5)


def test_pretraining_adds_its_phase_curve_and_memory() -> None:
    def point(phase: str) -> CurvePoint:
        return CurvePoint(1.0, 1, 0.5, "valid", phase)

    before = [record(0, {"pretrain": Lap("pretrain", 9.0, 8.0)}, rss=500, curve=(point("pretrain"),))]
    runs = [record(0, laps(1.0), rss=100, curve=(point("adapt"),))]
    timing = summarise_timing(runs, before, [Lap("score", 0.1, 0.1)])
    assert timing.phases["pretrain"].wall_s == (9.0,)
    assert [p.phase for p in timing.curves[0]] == ["pretrain", "adapt"]
    assert summarise_memory(runs, before).peak_rss == (500,)


def test_gpu_seconds_and_memory_on_a_gpu() -> None:
    runs = [record(0, laps(1.0), device="cuda:0", peak_device=7)]
    assert summarise_timing(runs, [], [Lap("score", 0.1, 0.1)]).phases["adapt"].gpu_s == (4.0,)
    assert summarise_memory(runs, []).peak_device == (7,)


def test_notes_by_key_with_gaps() -> None:
    runs = [record(0, laps(1), notes={"epoch": 3}), record(1, laps(1), notes={"epoch": 4, "encoder": "x"})]
    assert summarise_notes(runs) == {"encoder": (None, "x"), "epoch": (3, 4)}


@pytest.mark.parametrize(
    ("sessions", "pretraining", "reused", "flags"),
    [
        (("a", "a"), (), False, ()),
        (("a", "b"), (), False, ("resumed",)),
        (("b", "b"), ("a",), False, ("resumed",)),
        (("b", "b"), ("a",), True, ("reused_pretrained",)),
        (("b", "c"), ("a",), True, ("resumed", "reused_pretrained")),
    ],
)
def test_flags(
    sessions: tuple[str, ...], pretraining: tuple[str, ...], reused: bool, flags: tuple[str, ...]
) -> None:
    runs = [record(i, laps(1), session=session) for i, session in enumerate(sessions)]
    before = [record(0, {}, session=session, reused=reused) for session in pretraining]
    assert run_flags(runs, before) == flags


def test_runs_of_two_machines_have_no_common_hardware() -> None:
    assert common_site([record(0, {}), record(1, {})]).hardware["hw_id"] == "h"
    assert common_site([record(0, {}), record(1, {}, hw_id="other")]).hardware["hw_id"] is None
