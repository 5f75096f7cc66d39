"""Timed rounds, from results to the board's columns."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from result_factory import SUITE, TASKS, Maker, with_timing

from kpi_bench.evaluators.aggregation import SharedRank
from kpi_bench.harness.results import (
    Rounds,
    RoundTiming,
    read_result,
    result_path,
)
from kpi_bench.leaderboard import board, compare, load_results, render, show
from kpi_bench.leaderboard._check_file import Rules, check_file
from kpi_bench.leaderboard.costs import (
    BY_ROUNDS,
    COLUMNS,
    HARDWARE_FREE,
    HIGHER_IS_BETTER,
    Costs,
    cost_ranks,
    costs_of,
    rounds_of,
)
from kpi_bench.leaderboard.render_compare import render_comparison
from kpi_bench.leaderboard.site.charts import NOT_COMPARED
from kpi_bench.leaderboard.site.data import board_payload, submission_payload
from kpi_bench.leaderboard.site.pictures import pareto_points
from kpi_bench.leaderboard.site.task_facts import task_facts

MUSIC, BOOK, QA, REVIEW = TASKS
SPEEDS = {"matmul_gflops": 100.0}


def _rounds(adapt: Sequence[float], predict: Sequence[float], queries: int = 600) -> Rounds:
    def timing(wall: Sequence[float], median: float, iqr: float) -> RoundTiming:
        return RoundTiming(tuple(wall), tuple(2 * s for s in wall), None, median, iqr, 50.0, 60.0)

    # Three values each, given in order: the quartiles are halfway between neighbours.
    phases = {
        name: timing(wall, wall[1], (wall[2] - wall[0]) / 2)
        for name, wall in (("adapt", adapt), ("predict", predict))
    }
    return Rounds(0, phases, queries, (SPEEDS, SPEEDS))


def _time(maker: Maker, name: str, tasks: Sequence[str] = TASKS) -> None:
    """Add rounds to a row's results: 3 s of adapt, .2 s of predict."""
    for task in tasks:
        maker.change(name, task, with_timing(rounds=_rounds((1.0, 3.0, 9.0), (0.1, 0.2, 0.5))))


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "results", n_queries=120)


def test_costs_take_adapt_and_predict_from_the_medians_of_rounds(maker: Maker) -> None:
    maker.submission("plain", 0.6)
    maker.submission("timed", 0.6)
    _time(maker, "timed")
    rows = {row.name: row for row in board(load_results(maker.root), SUITE).rows}
    plain, timed = rows["plain"].costs, rows["timed"].costs
    assert (rows["plain"].n_rounds, rows["timed"].n_rounds) == ((0, 0), (3, 3))
    assert plain.adapt_predict_s == pytest.approx(4 * 11.0)
    assert timed.adapt_predict_s == pytest.approx(4 * 3.2)
    assert timed.cpu_s == pytest.approx(120.0 + 4 * 6.4)
    assert timed.pretrain_s == plain.pretrain_s == 60.0
    assert timed.amortised_s == pytest.approx(60.0 / 4 + 3.0)
    assert timed.queries_per_s == pytest.approx(600 / 0.2)
    results = [read_result(result_path(maker.root, SUITE, task, "timed")) for task in TASKS]
    assert costs_of(results, by_rounds=False) == plain


def test_warm_and_cold_seconds_are_not_added_up(maker: Maker) -> None:
    maker.submission("partly", 0.6)
    _time(maker, "partly", TASKS[:3])
    (row,) = board(load_results(maker.root), SUITE).rows
    assert row.n_rounds == (0, 3)
    assert not row.timed
    assert row.costs.adapt_predict_s == pytest.approx(4 * 11.0)
    assert row.costs.queries_per_s == pytest.approx(1000.0)


@pytest.fixture
def warm_and_cold(maker: Maker) -> Maker:
    """Two rows by runs, one with rounds on all tasks, one with rounds on most, and one with rounds on another machine."""
    for name, adapt_s in (("slow", 20.0), ("fast", 2.0), ("timed", 90.0), ("partly", 10.0)):
        maker.submission(name, 0.6, adapt_s=adapt_s)
    maker.submission("away", 0.6, hw_id="hw-two")
    _time(maker, "timed")
    _time(maker, "away")
    _time(maker, "partly", TASKS[1:])
    return maker


def test_rows_by_rounds_and_by_runs_are_ranked_apart(warm_and_cold: Maker) -> None:
    table = board(load_results(warm_and_cold.root), SUITE)

    def ranks(column: str) -> dict[str, int]:
        return {row.name: row.cost_ranks[column].rank for row in table.rows}

    for column in ("adapt_predict_s", "amortised_s", "cpu_s"):
        assert ranks(column) == {"fast": 1, "partly": 2, "slow": 3, "timed": 1, "away": 1}, column
    for column in ("pretrain_s", "peak_rss", "parameters"):
        assert set(ranks(column).values()) == {1}, "measured in the runs of all"
    assert table.timed == {"hw-one": False, "hw-two": True}
    compared = {
        column: {row.name for row in table.rows if table.compares(row, column)}
        for column in ("adapt_predict_s", "peak_rss", "parameters")
    }
    assert compared == {
        "adapt_predict_s": {"fast", "slow", "partly"},
        "peak_rss": {"fast", "slow", "partly", "timed"},
        "parameters": {"fast", "slow", "partly", "timed", "away"},
    }


def test_what_is_not_compared_is_shown_so(warm_and_cold: Maker) -> None:
    table = board(load_results(warm_and_cold.root), SUITE)
    lines = {
        line.split("|")[1].strip(): line
        for line in render([table], "markdown").splitlines()[12:]
        if "|" in line
    }
    assert "| (12.8) " in lines["timed"]
    assert "| 12.0*" in lines["fast"]
    legend = render([table], "table")
    assert (
        "adapt+predict s, s a task, CPU s, queries/s: or a row with timed rounds, as most have none" in legend
    )
    points = {point["name"]: point["state"] for point in pareto_points(table, "adapt_predict_s")}
    assert {name for name, state in points.items() if state == NOT_COMPARED} == {"timed", "away"}
    payload = board_payload(table)
    assert payload["timed"] == {"hw-one": False, "hw-two": True}
    assert {cost["key"] for cost in payload["costs"] if cost["by_rounds"]} == set(BY_ROUNDS)
    for row in table.rows:
        sent = submission_payload(table, row, {})
        assert (sent["of_runs"] is not None) == (row.name in ("timed", "away"))
    place = COLUMNS.index("adapt_predict_s")
    timed = submission_payload(table, table.row("timed"), {})
    assert timed["costs"][place] == pytest.approx(4 * 3.2)
    assert timed["of_runs"][place] == pytest.approx(4 * 91.0)
    assert timed["of_runs"][COLUMNS.index("parameters")] == timed["costs"][COLUMNS.index("parameters")]


def test_most_rows_decide_what_the_others_are_compared_with(warm_and_cold: Maker) -> None:
    _time(warm_and_cold, "slow")
    _time(warm_and_cold, "partly")
    table = board(load_results(warm_and_cold.root), SUITE)
    assert table.timed["hw-one"]
    assert {row.name for row in table.rows if not table.compares(row, "cpu_s")} == {"fast", "away"}
    assert "or a row without timed rounds, as most have" in render([table], "table")


@pytest.mark.parametrize(
    ("a", "b", "by_rounds", "ratio"),
    [
        ("slow", "timed", False, 21 / 91),
        ("timed", "slow", False, 91 / 21),
        ("partly", "timed", False, 11 / 91),
        ("slow", "fast", False, 7.0),
        ("timed", "away", True, None),
    ],
)
def test_a_comparison_takes_rounds_of_both_or_of_none(
    warm_and_cold: Maker, a: str, b: str, by_rounds: bool, ratio: float | None
) -> None:
    comparison = compare(load_results(warm_and_cold.root), a, b, SUITE)
    assert comparison.cost is not None
    assert comparison.cost.by_rounds == by_rounds
    assert comparison.cost.ratios.get("adapt_predict_s") == (None if ratio is None else pytest.approx(ratio))
    text = render_comparison(comparison, "table")
    assert ("medians of timed rounds" in text, "means over the runs" in text) == (by_rounds, not by_rounds)


def test_a_comparison_looks_at_the_tasks_that_both_have(warm_and_cold: Maker) -> None:
    warm_and_cold.submission("few", 0.6, tasks=TASKS[1:])
    _time(warm_and_cold, "few", TASKS[1:])
    cost = compare(load_results(warm_and_cold.root), "partly", "few", SUITE).cost
    assert cost is not None
    assert cost.by_rounds, "the task without rounds is not among them"
    assert cost.ratios["adapt_predict_s"] == pytest.approx(1.0)


def test_rounds_are_marked_in_every_format(maker: Maker) -> None:
    maker.submission("plain", 0.6)
    before = show(maker.root)
    assert "rounds" not in before
    maker.submission("timed", 0.6)
    _time(maker, "timed")
    table = board(load_results(maker.root), SUITE)
    text = render([table], "table")
    assert "medians over so many timed rounds" in text
    grid = [[cell.strip() for cell in line.split("|")] for line in render([table], "markdown").splitlines()]
    header = next(number for number, cells in enumerate(grid) if "rounds" in cells)
    column = grid[header].index("rounds")
    assert {cells[1]: cells[column] for cells in grid[header + 2 : header + 4]} == {
        "plain": "-",
        "timed": "3",
    }
    frame = pd.read_csv(io.StringIO(render([table], "csv"))).set_index("submission")
    assert frame["rounds_min"].to_dict() == frame["rounds_max"].to_dict() == {"plain": 0, "timed": 3}
    (parsed,) = json.loads(render([table], "json"))["boards"]
    assert {row["name"]: row["n_rounds"] for row in parsed["rows"]} == {"plain": [0, 0], "timed": [3, 3]}
    payload = board_payload(table)
    assert {row["name"]: row["rounds"] for row in payload["rows"]} == {"plain": [0, 0], "timed": [3, 3]}
    phases = {phase.name: phase for phase in task_facts(table.row("timed").cells[TASKS[-1]]).phases}
    assert phases["adapt in rounds"].wall == "3.00"
    assert phases["adapt in rounds"].wall_by_seed == ("1.00", "3.00", "9.00")


@given(st.data())
def test_ranks_of_costs_are_those_of_pairwise_comparison(data: st.DataObject) -> None:
    names = [f"row{i}" for i in range(data.draw(st.integers(0, 8)))]
    number = st.none() | st.sampled_from([0.0, 1.0, 2.5])
    costs = {name: Costs(*(data.draw(number) for _ in COLUMNS)) for name in names}  # type: ignore[arg-type]
    groups = {name: data.draw(st.sampled_from(["a", "b", None])) for name in names}
    timed = {name for name in names if data.draw(st.booleans())}
    ranks = cost_ranks(costs, groups, timed)
    for column, name in itertools.product(COLUMNS, names):
        value = getattr(costs[name], column)
        if value is None or groups[name] is None:
            assert column not in ranks[name]
            continue
        peers = [
            getattr(costs[other], column)
            for other in names
            if groups[other] is not None
            and (
                column in HARDWARE_FREE
                or (
                    groups[other] == groups[name]
                    and (column not in BY_ROUNDS or (other in timed) == (name in timed))
                )
            )
        ]
        known = [peer for peer in peers if peer is not None]
        better = sum(peer > value if column in HIGHER_IS_BETTER else peer < value for peer in known)
        assert ranks[name][column] == SharedRank(1 + better, known.count(value) > 1)


@pytest.mark.parametrize("flag", ["unsteady", "inexact_rounds"])
def test_flags_of_rounds_go_with_rounds(maker: Maker, flag: str) -> None:
    path = maker.result("row", MUSIC, 0.6, flags=("single_seed", flag))
    rules = Rules({f"{SUITE}@1.0": "a" * 64}, False, pd.Timestamp("2026-11-01", tz="UTC").to_pydatetime())
    _, findings = check_file(path, rules)
    errors = [finding.message for finding in findings if finding.severity == "error"]
    assert errors == [f"{flag} does not go with a result without timing rounds"]


def test_results_from_before_rounds_load(maker: Maker) -> None:
    path = maker.result("older", MUSIC, 0.6)
    raw = json.loads(path.read_text())
    del raw["timing"]["rounds"]
    path.write_text(json.dumps(raw))
    assert rounds_of([read_result(path)]) == (0, 0)


_Change = Callable[[Rounds], Rounds]


def _phase(**fields: Any) -> _Change:
    return lambda rounds: dataclasses.replace(
        rounds, phases={**rounds.phases, "adapt": dataclasses.replace(rounds.phases["adapt"], **fields)}
    )


@pytest.mark.parametrize(
    ("change", "flags", "field"),
    [
        (lambda rounds: rounds, (), None),
        (lambda rounds: dataclasses.replace(rounds, calibration=(SPEEDS, {"matmul_gflops": 70.0})), ("unsteady",), None),
        (lambda rounds: dataclasses.replace(rounds, calibration=(SPEEDS, {"matmul_gflops": 70.0})), (), "flags"),
        (lambda rounds: rounds, ("unsteady",), "flags"),
        (lambda rounds: dataclasses.replace(rounds, calibration=(SPEEDS, {})), (), "timing.rounds.calibration"),
        (lambda rounds: dataclasses.replace(rounds, seed=5), (), "timing.rounds.seed"),
        (lambda rounds: dataclasses.replace(rounds, phases={}), (), "timing.rounds.phases"),
        (_phase(median_wall_s=2.9), (), "timing.rounds.phases.adapt.median_wall_s"),
        (_phase(iqr_wall_s=0.0), (), "timing.rounds.phases.adapt.iqr_wall_s"),
        (_phase(cpu_s=(1.0,)), (), "timing.rounds.phases"),
        (_phase(warm_up_wall_s=-1.0), (), "timing.rounds.phases.adapt"),
    ],
)  # fmt: skip
def test_a_contribution_states_of_its_rounds_what_they_say(
    maker: Maker, change: _Change, flags: tuple[str, ...], field: str | None
) -> None:
    path = maker.result("row", MUSIC, 0.6, flags=("single_seed", *flags))
    maker.change("row", MUSIC, with_timing(rounds=change(_rounds((1.0, 3.0, 9.0), (0.1, 0.2, 0.5)))))
    rules = Rules({f"{SUITE}@1.0": "a" * 64}, False, pd.Timestamp("2026-11-01", tz="UTC").to_pydatetime())
    _, findings = check_file(path, rules)
    errors = [finding.field for finding in findings if finding.severity == "error"]
    assert errors == ([] if field is None else [field])
