"""Time to target: from learning curves to the board's column."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from result_factory import SUITE, TASKS, Maker, with_timing

from kpi_bench.errors import ResultError
from kpi_bench.harness.results import CurvePoint, read_result, result_path
from kpi_bench.leaderboard import board, compare, load_results, render, show
from kpi_bench.leaderboard.costs import costs_of
from kpi_bench.leaderboard.site.data import board_payload
from kpi_bench.leaderboard.targets import Target, seconds_to, target_of

MUSIC, BOOK, QA, REVIEW = TASKS


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "results", n_queries=120)


def _curve(
    *points: tuple[float, float], metric: str = "valid_ndcg@20", phase: str = "adapt"
) -> tuple[CurvePoint, ...]:
    return tuple(CurvePoint(seconds, n, value, metric, phase) for n, (seconds, value) in enumerate(points))


def test_the_target_is_the_median_over_seeds_of_the_references_best(maker: Maker) -> None:
    maker.submission("lightgcn", 0.6, tasks=(MUSIC,))
    curves = (
        _curve((1.0, 0.1), (2.0, 0.5), (3.0, 0.4)),
        _curve((1.0, 0.2), (4.0, 0.3)),
        _curve((2.0, 0.4), (5.0, 0.6), (6.0, 0.9)),
    )
    row = maker.change("lightgcn", MUSIC, with_timing(curves=curves))
    target = target_of([row])
    assert target == Target("lightgcn", 0.5, True)
    # 2 s, never, 5 s.
    assert seconds_to(target, row) == 5.0
    assert target_of([row], "another") is None


@pytest.mark.parametrize("seeds", [1, 2, 3, 4, 5])
def test_the_reference_reaches_its_own_target(maker: Maker, seeds: int) -> None:
    maker.submission("lightgcn", 0.6, tasks=(MUSIC,), seeds=range(seeds))
    curves = tuple(_curve((1.0, 0.0), (2.0 + seed, 0.1 * (1 + seed % 3))) for seed in range(seeds))
    row = maker.change("lightgcn", MUSIC, with_timing(curves=curves))
    target = target_of([row])
    assert target is not None
    assert seconds_to(target, row) is not None


def test_a_score_that_must_fall_is_reached_from_above(maker: Maker) -> None:
    maker.submission("kg-embedding", 0.6, tasks=("fb15k",))
    falling = _curve((1.0, 90.0), (2.0, 40.0), (3.0, 50.0), metric="valid_mr")
    row = maker.change("kg-embedding", "fb15k", with_timing(curves=(falling,) * 3))
    target = target_of([row])
    assert target == Target("kg-embedding", 40.0, False)
    slower = with_timing(curves=(_curve((9.0, 39.0), metric="student: valid_mr"),) * 3)(row)
    assert seconds_to(target, slower) == 9.0


@pytest.mark.parametrize(
    "curve",
    [
        (),
        _curve((1.0, 0.9), metric="valid"),
        _curve((1.0, 0.9), metric="teacher_valid_ndcg@20"),
        _curve((1.0, 0.9), metric="valid_recall@20"),
        _curve((1.0, 0.9), phase="pretrain"),
        _curve((1.0, 0.4)),
    ],
)
def test_what_is_no_score_of_the_main_metric_on_valid_reaches_nothing(
    maker: Maker, curve: tuple[CurvePoint, ...]
) -> None:
    maker.submission("row", 0.6, tasks=(MUSIC,))
    row = maker.change("row", MUSIC, with_timing(curves=(curve,) * 3))
    assert seconds_to(Target("lightgcn", 0.5, True), row) is None


def test_most_seeds_must_reach_the_target(maker: Maker) -> None:
    maker.submission("row", 0.6, tasks=(MUSIC,))
    target = Target("lightgcn", 0.5, True)
    there, never = _curve((3.0, 0.5)), _curve((3.0, 0.49))
    of = {n: with_timing(curves=(there,) * n + (never,) * (3 - n)) for n in range(4)}
    row = read_result(result_path(maker.root, SUITE, MUSIC, "row"))
    assert [seconds_to(target, of[n](row)) for n in range(4)] == [None, None, 3.0, 3.0]


@pytest.fixture
def raced(maker: Maker) -> Maker:
    """Two tasks with a target; ``fast`` reaches both, ``half`` one, ``away`` both on another machine."""
    for name in ("lightgcn", "text-classifier", "fast", "half", "away"):
        maker.submission(name, 0.6, seeds=(0,), hw_id="hw-two" if name == "away" else "hw-one")
    names = {MUSIC: "valid_ndcg@20", BOOK: "ndcg@20", QA: "valid_accuracy"}
    for task, metric in names.items():
        for name, seconds, best in (
            ("lightgcn", 8.0, 0.5), ("text-classifier", 6.0, 0.4), ("fast", 2.0, 0.5), ("half", 1.0, 0.5 if task == MUSIC else 0.3), ("away", 0.5, 0.7),
        ):  # fmt: skip
            maker.change(name, task, with_timing(curves=(_curve((seconds, best), metric=metric),)))
    return maker


def test_time_to_target_adds_up_over_the_tasks_that_have_one(raced: Maker) -> None:
    table = board(load_results(raced.root), SUITE)
    targets = {task.name: task.target and (task.target.reference, task.target.value) for task in table.tasks}
    assert targets == {
        MUSIC: ("lightgcn", 0.5),
        BOOK: ("lightgcn", 0.5),
        QA: ("text-classifier", 0.4),
        REVIEW: None,
    }
    seconds = {row.name: row.costs.to_target_s for row in table.rows}
    assert seconds == {"lightgcn": 24.0, "text-classifier": None, "fast": 6.0, "half": None, "away": 1.5}
    ranks = {
        row.name: row.cost_ranks["to_target_s"].rank for row in table.rows if "to_target_s" in row.cost_ranks
    }
    assert ranks == {"lightgcn": 2, "fast": 1, "away": 1}, "within one hw_id"
    cells = {task: cell.to_target_s for task, cell in table.row("half").cells.items()}
    assert cells == {MUSIC: 1.0, BOOK: None, QA: None, REVIEW: None}


def test_time_to_target_flows_to_every_format(raced: Maker) -> None:
    table = board(load_results(raced.root), SUITE)
    text = render([table], "table", sort="to_target_s")
    assert "median best of lightgcn, text-classifier" in text
    frame = pd.read_csv(io.StringIO(render([table], "csv"))).set_index("submission")
    assert frame.loc["fast", "cost.to_target_s"] == 6.0
    assert frame.loc["half", f"{MUSIC}.to_target_s"] == 1.0
    assert pd.isna(frame.loc["half", "cost.to_target_s"])
    (parsed,) = json.loads(render([table], "json"))["boards"]
    assert parsed["tasks"][0]["target"] == {"reference": parsed["tasks"][0]["target"]["reference"], "value": table.tasks[0].target.value, "higher_is_better": True}  # type: ignore[union-attr]  # fmt: skip
    payload = board_payload(table)
    place = [cost["key"] for cost in payload["costs"]].index("to_target_s")
    assert payload["costs"][place] == {
        "key": "to_target_s",
        "label": "s to target",
        "unit": "s",
        "hardware_free": False,
        "by_rounds": False,
        "higher": False,
    }
    assert {row["name"]: row["costs"][place] for row in payload["rows"]}["fast"] == 6.0
    pair = compare(load_results(raced.root), "fast", "lightgcn", SUITE)
    assert pair.cost is not None
    assert pair.cost.ratios["to_target_s"] == 0.25


def test_another_row_may_set_the_targets(raced: Maker) -> None:
    table = board(load_results(raced.root), SUITE, reference="away")
    assert {task.target.reference for task in table.tasks if task.target} == {"away"}
    assert {row.name for row in table.rows if row.costs.to_target_s is not None} == {"away"}
    with pytest.raises(ResultError, match="no row 'nobody' to set targets; it has: away, fast"):
        show(raced.root, reference="nobody")


def test_costs_without_targets_have_no_time_to_target(raced: Maker) -> None:
    results = [read_result(result_path(raced.root, SUITE, task, "fast")) for task in TASKS]
    assert costs_of(results).to_target_s is None
