"""Results folders: strict reading that one bad file does not stop, and no mixing of suite digests."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from result_factory import SUITE, TASKS, Maker

from kpi_bench._io import sha256_file
from kpi_bench.errors import ResultError
from kpi_bench.harness.results import queries_path
from kpi_bench.leaderboard.load import load_results, select_suite
from kpi_bench.leaderboard.queries import read_queries
from kpi_bench.leaderboard.tables import board


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "results", n_queries=60)


def test_reads_every_result_with_its_queries(maker: Maker) -> None:
    maker.submission("one", 0.5)
    results = load_results(maker.root)
    assert results.problems == ()
    assert results.suites == (SUITE,)
    assert [entry.result.task.name for entry in results.stored] == sorted(TASKS)
    assert all(entry.queries is not None for entry in results.stored)


def test_bad_files_are_reported_and_hide_nothing(maker: Maker) -> None:
    maker.submission("good", 0.5)
    folder = maker.root / SUITE / "douban_book"
    (folder / "broken.json").write_text("{", encoding="utf-8")
    raw = json.loads((folder / "good.json").read_text(encoding="utf-8"))
    (folder / "unknown_key.json").write_text(json.dumps(raw | {"bonus": 1}), encoding="utf-8")
    (folder / "other_name.json").write_text(json.dumps(raw), encoding="utf-8")
    (maker.root / "stray.json").write_text("{}", encoding="utf-8")
    results = load_results(maker.root)
    assert len(results.stored) == len(TASKS)
    assert len(results.problems) == 4
    for name, reason in (
        ("broken.json", "JSON"),
        ("unknown_key.json", "bonus"),
        ("other_name.json", "good.json"),
        ("stray.json", "misplaced"),
    ):
        assert any(name in problem and reason in problem for problem in results.problems), name
    assert set(results.problems) <= set(board(results, SUITE).notes)


@pytest.mark.parametrize("change", ["altered", "removed"])
def test_queries_must_have_the_stated_hash(maker: Maker, change: str) -> None:
    path = maker.result("tampered", TASKS[0], 0.5)
    maker.result("honest", TASKS[0], 0.6)
    queries = queries_path(path)
    if change == "removed":
        queries.unlink()
    else:
        pd.read_parquet(queries).assign(main_seed0=1.0).to_parquet(queries)
    results = load_results(maker.root)
    assert [entry.result.submission.name for entry in results.stored] == ["honest"]
    assert "sha256" in results.problems[0] or "missing" in results.problems[0]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("main_seed0", 0.9, "the result states"),
        ("main_seed0", float("nan"), "null"),
        ("main_seed0", float("inf"), "infinite"),
        ("query", 3, "repeated"),
        ("main_seed0", None, "missing column"),
    ],
)
def test_queries_that_do_not_support_the_result_are_left_out(
    maker: Maker, column: str, value: float | None, message: str
) -> None:
    path = maker.result("odd", TASKS[0], 0.5)
    maker.result("fine", TASKS[0], 0.6)
    frame = pd.read_parquet(queries_path(path))
    frame = frame.drop(columns=column) if value is None else frame.assign(**{column: value})
    frame.to_parquet(queries_path(path))
    _rehash(path)
    results = load_results(maker.root)
    assert len(results.stored) == 2
    table = board(results, SUITE)
    assert [row.name for row in table.rows] == ["fine"]
    assert any(message in note and "odd" in note for note in table.notes)


def test_macro_f1_counts_a_class_that_is_in_no_row(maker: Maker) -> None:
    path = maker.result("five", "douban_music_review", 0.5)
    frame = pd.read_parquet(queries_path(path)).assign(label=0, predicted_seed0=0)
    frame.to_parquet(queries_path(path))
    raw = json.loads(path.read_text(encoding="utf-8"))
    # One of five classes is seen and always right: macro-F1 is a fifth.
    raw["metrics"]["macro_f1"] |= {"mean": 0.2, "per_seed": [0.2]}
    path.write_text(json.dumps(raw), encoding="utf-8")
    _rehash(path)
    read = read_queries(load_results(maker.root).stored[0])
    assert read is not None
    assert read.n_classes == 5


def test_the_mean_must_be_that_of_the_seeds(maker: Maker) -> None:
    path = maker.result("boasting", TASKS[0], 0.5)
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["metrics"]["ndcg@20"]["mean"] += 0.1
    path.write_text(json.dumps(raw), encoding="utf-8")
    assert "not that of its seeds" in load_results(maker.root).problems[0]


def test_most_common_digest_is_shown_and_the_rest_reported(maker: Maker) -> None:
    maker.submission("first", 0.4)
    maker.submission("second", 0.5)
    maker.submission("later", 0.6, digest="b" * 64, created="2026-06-01T00:00:00+00:00")
    chosen = select_suite(load_results(maker.root), SUITE)
    assert chosen.submissions == ("first", "second")
    assert len(chosen.left_out) == len(TASKS)
    assert all("later" in line and "b" * 12 in line for line in chosen.left_out)


def test_newest_digest_wins_among_equals(maker: Maker) -> None:
    maker.submission("old", 0.4)
    maker.submission("new", 0.6, digest="b" * 64, created="2026-06-01T00:00:00+00:00")
    assert select_suite(load_results(maker.root), SUITE).submissions == ("new",)


def test_errors_list_what_exists(maker: Maker, tmp_path: Path) -> None:
    maker.submission("one", 0.5)
    with pytest.raises(ResultError, match=f"has no result of suite 'other'; it has: {SUITE}"):
        select_suite(load_results(maker.root), "other")
    with pytest.raises(ResultError, match="no results folder"):
        load_results(tmp_path / "nowhere")


def _rehash(path: Path) -> None:
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["queries_sha256"] = sha256_file(queries_path(path))
    path.write_text(json.dumps(raw), encoding="utf-8")
