"""Two submissions side by side: direction, p-values, gaps and cost ratios."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from result_factory import SUITE, TASKS, Maker

from kpi_bench.errors import ResultError
from kpi_bench.evaluators.comparison import holm, mcnemar, paired_permutation_test
from kpi_bench.harness.results import queries_path, result_path
from kpi_bench.leaderboard.compare import compare
from kpi_bench.leaderboard.load import load_results
from kpi_bench.leaderboard.render_compare import render_comparison


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "results")


def test_direction_and_winner(maker: Maker) -> None:
    maker.submission("good", 0.8)
    maker.submission("bad", 0.3)
    results = load_results(maker.root)
    forward = compare(results, "good", "bad", SUITE)
    backward = compare(results, "bad", "good", SUITE)
    assert [task.task for task in forward.tasks] == sorted(TASKS)
    for ahead, behind in zip(forward.tasks, backward.tasks, strict=True):
        assert ahead.difference > 0 > behind.difference
        assert ahead.difference == pytest.approx(-behind.difference)
        assert ahead.interval is not None
        assert ahead.interval[0] <= ahead.difference <= ahead.interval[1]
        assert ahead.winner == behind.winner == "good"


def test_winner_where_lower_is_better(maker: Maker) -> None:
    maker.result("good", "fb15k", 0.8)
    maker.result("bad", "fb15k", 0.3)
    (task,) = compare(load_results(maker.root), "good", "bad", SUITE).tasks
    assert task.difference < 0
    assert task.winner == "good"


def test_p_values_are_those_of_the_evaluators(maker: Maker) -> None:
    maker.submission("one", 0.50, seeds=(0,), noise=1)
    maker.submission("two", 0.53, seeds=(0,), noise=2)
    comparison = compare(load_results(maker.root), "one", "two", SUITE)
    by_task = {task.task: task for task in comparison.tasks}

    def frame(task: str, name: str) -> pd.DataFrame:
        return pd.read_parquet(queries_path(result_path(maker.root, SUITE, task, name)))

    book_one, book_two = (frame("douban_book", name)["main_seed0"] for name in ("one", "two"))
    assert by_task["douban_book"].p_value == paired_permutation_test(book_one, book_two).p_value
    right = [
        (table["label"] == table["predicted_seed0"]).to_numpy()
        for table in (frame("amazon_games_qa", name) for name in ("one", "two"))
    ]
    assert by_task["amazon_games_qa"].mcnemar_p == mcnemar(*right).p_value
    assert by_task["douban_book"].mcnemar_p is None
    assert by_task["douban_music_review"].test == "paired permutation of macro-F1"
    raw = [task.p_value for task in comparison.tasks if task.p_value is not None]
    assert [task.p_adjusted for task in comparison.tasks] == holm(raw)


def test_equal_submissions_have_no_winner(maker: Maker) -> None:
    maker.submission("one", 0.5)
    maker.submission("twin", 0.5)
    for task in compare(load_results(maker.root), "one", "twin", SUITE).tasks:
        assert (task.difference, task.p_value, task.winner) == (0.0, 1.0, None)


def test_no_mcnemar_over_several_seeds(maker: Maker) -> None:
    maker.submission("one", 0.5, seeds=(0,))
    maker.submission("two", 0.6, seeds=(0, 1))
    comparison = compare(load_results(maker.root), "one", "two", SUITE)
    assert all(task.mcnemar_p is None for task in comparison.tasks)
    assert {(task.seeds_a, task.seeds_b) for task in comparison.tasks} == {(1, 2)}


def test_tasks_of_one_side_are_listed(maker: Maker) -> None:
    maker.submission("one", 0.5, tasks=TASKS[:3])
    maker.submission("two", 0.5, tasks=TASKS[1:])
    comparison = compare(load_results(maker.root), "one", "two", SUITE)
    assert (comparison.only_a, comparison.only_b) == (TASKS[:1], TASKS[3:])
    assert {task.task for task in comparison.tasks} == set(TASKS[1:3])
    assert f"Only one has: {TASKS[0]}." in render_comparison(comparison, "table")


def test_no_shared_task(maker: Maker) -> None:
    maker.submission("one", 0.5, tasks=TASKS[:1])
    maker.submission("two", 0.5, tasks=TASKS[1:])
    comparison = compare(load_results(maker.root), "one", "two", SUITE)
    assert comparison.tasks == ()
    assert comparison.cost is None
    for fmt in ("table", "markdown", "csv", "latex", "json"):
        render_comparison(comparison, fmt)


def test_untested_without_queries(maker: Maker) -> None:
    maker.result("one", TASKS[0], 0.2)
    maker.result("two", TASKS[0], 0.9, with_queries=False)
    comparison = compare(load_results(maker.root), "one", "two", SUITE)
    (task,) = comparison.tasks
    assert (task.p_value, task.interval, task.winner) == (None, None, None)
    assert task.difference == task.mean_a - task.mean_b
    assert "not tested" in render_comparison(comparison, "table")
    assert any("no per-query scores" in note for note in comparison.notes)


def test_cost_ratios_need_equal_hardware(maker: Maker) -> None:
    maker.submission("slow", 0.5, adapt_s=21.0)
    maker.submission("fast", 0.5, adapt_s=10.0)
    maker.submission("away", 0.5, hw_id="hw-two")
    results = load_results(maker.root)
    same = compare(results, "slow", "fast", SUITE).cost
    other = compare(results, "slow", "away", SUITE).cost
    assert same is not None
    assert other is not None
    assert same.ratios["adapt_predict_s"] == pytest.approx(2.0)
    assert set(other.ratios) == {"parameters", "kept", "serving_bytes"}


def test_errors(maker: Maker) -> None:
    maker.submission("one", 0.5)
    results = load_results(maker.root)
    with pytest.raises(ResultError, match="submission 'none'; it has: one"):
        compare(results, "one", "none", SUITE)
    with pytest.raises(ResultError, match="two submissions"):
        compare(results, "one", "one", SUITE)


def test_formats_keep_every_digit_where_machines_read(maker: Maker, tmp_path: Path) -> None:
    maker.submission("one", 0.5, noise=1)
    maker.submission("two", 0.6, noise=2)
    comparison = compare(load_results(maker.root), "one", "two", SUITE)
    parsed = json.loads(render_comparison(comparison, "json"))
    assert [task["difference"] for task in parsed["tasks"]] == [t.difference for t in comparison.tasks]
    path = tmp_path / "comparison.csv"
    path.write_text(render_comparison(comparison, "csv"), encoding="utf-8")
    assert pd.read_csv(path, dtype=str)["difference"].map(float).tolist() == [
        task.difference for task in comparison.tasks
    ]
