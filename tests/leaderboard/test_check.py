"""The check of contributed results: what is sound passes, and each fault is found and named."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from result_factory import DIGEST, SUITE, Maker

from kpi_bench._io import sha256_file, write_json, write_parquet
from kpi_bench.cli import main
from kpi_bench.errors import ResultError
from kpi_bench.evaluators.intervals import t_interval
from kpi_bench.harness.results import queries_path
from kpi_bench.leaderboard import check_markdown, check_results, render_check
from kpi_bench.leaderboard.check import Check
from kpi_bench.leaderboard.compare import compare
from kpi_bench.leaderboard.load import load_results
from kpi_bench.leaderboard.tables import board

PUBLISHED = Path(__file__).resolve().parents[2] / "leaderboard" / "results"
NOW = datetime(2026, 11, 1, tzinfo=UTC)
TASK = "amazon_music"
JSON = dict[str, Any]


def sound(root: Path, name: str, quality: float, task: str = TASK, **changes: Any) -> Path:
    """A result that nothing is wrong with."""
    path = Maker(root).result(name, task, quality, seeds=(0, 1, 2), **changes)
    raw = json.loads(path.read_text())
    tables = [raw["metrics"], *(variant["metrics"] for variant in raw["variants"].values())]
    for summary in (summary for table in tables for summary in table.values()):
        summary["ci95_seeds"] = t_interval(summary["per_seed"])
    hashes = {f"seed{seed}.parquet": f"{name}{task}{seed}".encode().hex() for seed in (0, 1, 2)}
    raw["predictions"]["sha256"] = hashes
    write_json(path, raw)
    return path


@pytest.fixture
def current(tmp_path: Path) -> Path:
    """A board of three rows, one of them a floor."""
    root = tmp_path / "board"
    for name, quality, tags in (("good", 0.6, ()), ("middle", 0.5, ()), ("low", 0.3, ("floor",))):
        sound(root, name, quality, tags=tags, noise=len(name))
    return root


def check(paths: Path | list[Path], current: Path, **options: Any) -> Check:
    given = paths if isinstance(paths, list) else [paths]
    return check_results(given, current, digests={f"{SUITE}@1.0": DIGEST}, now=NOW, **options)


def found(checked: Check, severity: str = "error") -> list[tuple[str, str]]:
    return [(f.field, f.message) for f in checked.findings if f.severity == severity]


def test_a_sound_result_passes(current: Path, tmp_path: Path) -> None:
    path = sound(tmp_path / "new", "mine", 0.55, noise=9)
    checked = check(tmp_path / "new", current)
    assert checked.findings == ()
    assert (checked.new, checked.n_unchanged) == ((path,), 0)
    (standing,) = checked.standings
    assert (standing.place, standing.n_rows, standing.chance) == (2, 4, 0.01)
    assert standing.best is not None
    assert standing.floor is not None
    assert (standing.best.name, standing.floor.name) == ("good", "low")


def test_the_standing_is_that_of_the_board_after_the_merge(current: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    for name, quality in (("mine", 0.59), ("worse", 0.31)):
        sound(new, name, quality, noise=11 + len(name))
    checked = check(new, current)
    merged = tmp_path / "merged"
    shutil.copytree(current, merged)
    shutil.copytree(new, merged, dirs_exist_ok=True)
    results = load_results(merged)
    table = board(results, SUITE)
    for standing in checked.standings:
        name = standing.entry.result.submission.name
        assert standing.rank == table.row(name).cells[TASK].rank
        by_score = sorted(table.rows, key=lambda row: -row.cells[TASK].main.mean)
        assert standing.place == 1 + [row.name for row in by_score].index(name)
        for rival in (standing.best, standing.floor):
            assert rival is not None
            (pair,) = compare(results, name, rival.name, SUITE).tasks
            assert (rival.difference, rival.interval, rival.p_value) == (
                pair.difference,
                pair.interval,
                pair.p_value,
            )


def test_what_the_board_has_is_not_looked_at(current: Path) -> None:
    checked = check(current, current)
    assert (checked.new, checked.n_unchanged, checked.findings) == ((), 3, ())


def test_of_a_whole_repository_only_the_new_is_checked(current: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(current, whole)
    path = sound(whole, "mine", 0.55, noise=9)
    checked = check(whole, current)
    assert (checked.new, checked.n_unchanged, checked.findings) == ((path,), 3, ())
    queries_path(whole / SUITE / TASK / "good.json").unlink()
    assert [field for field, _ in found(check(whole, current))] == ["queries_sha256"]


def put(*keys: str | int, value: Any) -> Callable[[JSON], None]:
    def change(raw: JSON) -> None:
        inner: Any = raw
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return change


M = ("metrics", "ndcg@20")
FAULTS: dict[str, tuple[Callable[[JSON], None], str, str]] = {
    "unknown key": (put("bonus", value=1), "schema", "unknown key"),
    "place": (put("submission", "name", value="other"), "schema", "belongs at"),
    "seeds": (put("seeds", value=[0, 0, 1]), "schema", "each once"),
    "negative seed": (put("seeds", value=[0, 1, -2]), "seeds", "negative"),
    "suite": (put("suite", "version", value="2.0"), "suite", "no official suite"),
    "digest": (put("suite", "sha256", value="b" * 64), "suite.sha256", "official suite"),
    "revision": (put("suite", "revision", value="main"), "suite.revision", "commit"),
    "kind": (put("task", "kind", value="guessing"), "task.kind", "none of"),
    "bound": (put(*M, "per_seed", value=[1.5, 0.5, 0.5]), "metrics.ndcg@20", "outside 0..1"),
    "endless": (put("floors", "mrr_sum@999999999", value=0.1), "floors.mrr_sum@999999999", "registered"),
    "huge": (put("metrics", "mr", value=None), "schema", "expected an object"),
    "metric": (put("floors", "luck@20", value=0.1), "floors.luck@20", "registered"),
    "foreign metric": (put("floors", "accuracy", value=0.1), "floors.accuracy", "recommendation task"),
    "slice": (put("slices", "cold", "ndcg@20", value=-0.1), "slices.cold.ndcg@20", "outside"),
    "mean": (put(*M, "mean", value=0.41), "metrics.ndcg@20.mean", "mean of its seeds"),
    "queries interval": (put(*M, "ci95_queries", value=[0.1, 0.2]), "metrics.ndcg@20.ci95_queries", "contain"),
    "turned interval": (put(*M, "ci95_queries", value=[0.9, 0.1]), "metrics.ndcg@20.ci95_queries", "contain"),
    "seeds interval": (put(*M, "ci95_seeds", value=[0.0, 1.0]), "metrics.ndcg@20.ci95_seeds", "t interval"),
    "no interval": (put(*M, "ci95_seeds", value=None), "metrics.ndcg@20.ci95_seeds", "is null"),
    "direction": (put(*M, "higher_is_better", value=False), "metrics.ndcg@20.higher_is_better", "True"),
    "no queries": (put(*M, "n_queries", value=0), "metrics.ndcg@20", "0 queries"),
    "counts": (put("counts", "n_queries", value=-1), "counts.n_queries", "no count"),
    "praise": (put("flags", value=["verified"]), "flags", "kpi-bench verify --write"),
    "flag": (put("flags", value=["best"]), "flags", "wanted are flags"),
    "single seed": (put("flags", value=["single_seed"]), "flags", "3 seed"),
    "future": (put("created", value="2027-01-01T00:00:00+00:00"), "created", "future"),
    "no zone": (put("created", value="2026-01-01T00:00:00"), "created", "zone"),
    "no time": (put("created", value="yesterday"), "created", "ISO"),
    "config": (put("submission", "config", value="small"), "submission.name", "NAME@small"),
    "time": (put("timing", "phases", "adapt", "wall_s", value=[-1.0, 1.0, 1.0]), "timing.phases.adapt", "outside"),
    "endless time": (put("timing", "phases", "adapt", "wall_s", value=[1e308] * 3), "timing.phases.adapt", "outside"),
    "memory": (put("memory", "peak_rss", value=[-5, 1, 1]), "memory.peak_rss", "outside"),
    "hash": (put("queries_sha256", value="0" * 64), "queries_sha256", "sha256 is"),
    "path": (put("notes", value={"model": ["/data/models/x.bin"] * 3}), "notes.model[0]", "absolute path"),
    "home": (put("submission", "params", "file", value="/home/me/f"), "submission.params.file", "absolute path"),
    "token": (put("environment", "tok", value="hf_" + "aB3" * 12), "environment.tok", "token"),
    "address": (put("submission", "description", value="by jane.doe@example.org"), "submission.description", "e-mail"),
    "protocol": (put("protocol", "mask", value=["train"]), "protocol", "board's rows"),
    "n_tasks": (put("task", "n_tasks", value=1), "task", "board's rows"),
    "chance": (put("floors", "ndcg@20", value=0.02), "floors", "board's rows"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_an_error(current: Path, tmp_path: Path, fault: str) -> None:
    change, field, message = FAULTS[fault]
    path = sound(tmp_path / "new", "mine", 0.55, noise=9)
    raw = json.loads(path.read_text())
    change(raw)
    write_json(path, raw)
    checked = check(tmp_path / "new", current)
    assert any(f == field and message in m for f, m in found(checked)), found(checked)
    # A row with errors is not put beside others, and the error is in both texts.
    assert checked.standings == ()
    assert f"error: {path}: {field}" in render_check(checked)
    assert "cannot be merged" in check_markdown(checked)


def test_a_secret_is_not_repeated(current: Path, tmp_path: Path) -> None:
    token = "hf_" + "aB3" * 12
    path = sound(tmp_path / "new", "mine", 0.55)
    raw = json.loads(path.read_text())
    raw["seeds"], raw["notes"] = token, {"why": [token]}
    write_json(path, raw)
    checked = check(tmp_path / "new", current)
    assert [field for field, _ in found(checked)] == ["seeds", "notes.why[0]", "schema"]
    assert token not in render_check(checked) + check_markdown(checked)


@pytest.mark.parametrize(
    "text",
    ["{", "[" * 100_000, "3", '{"seeds": [1], "seeds": [2]}', '{"schema_version": 1, "mean": NaN}', "\udcff"],
)
def test_files_that_are_no_results(current: Path, tmp_path: Path, text: str) -> None:
    path = sound(tmp_path / "new", "mine", 0.55)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert [field for field, _ in found(check(tmp_path / "new", current))] == ["schema"]


def test_a_link_is_no_file(current: Path, tmp_path: Path) -> None:
    path = sound(tmp_path / "new", "good", 0.55)
    path.unlink()
    path.symlink_to(current / SUITE / TASK / "good.json")
    assert ("file", "no plain file of at most 16777216 bytes") in found(check(tmp_path / "new", current))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_file_breaks_the_check(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("any")
    board_root = root / "board"
    sound(board_root, "good", 0.6)
    path = sound(root / "new", "mine", 0.55)
    raw = json.loads(path.read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        inner: Any = raw
        while True:
            keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(inner[key], dict | list) and data.draw(st.integers(0, 9)):
                inner = inner[key]
                continue
            odd = [
                None,
                True,
                -1,
                0,
                10**400,
                1e308,
                "",
                "a|b`c\n",
                [],
                {},
                [[]],
                {"x": 1},
                "../..",
                "\x1b[2J",
            ]
            inner[key] = copy.deepcopy(data.draw(st.sampled_from(odd)))
            break
    path.write_text(json.dumps(raw))
    checked = check(root / "new", board_root)
    text, comment = render_check(checked), check_markdown(checked)
    assert "\x1b" not in text + comment
    assert len(checked.standings) == int(not checked.count("error"))


def test_praise_from_a_maintainer(current: Path, tmp_path: Path) -> None:
    path = sound(tmp_path / "new", "mine", 0.55, flags=("verified",))
    assert [field for field, _ in found(check(path, current))] == ["flags"]
    assert found(check(path, current, may_verify=True)) == []


def test_too_good_too_bad_and_floors(current: Path, tmp_path: Path) -> None:
    sound(tmp_path / "a", "best", 0.95)
    (warning,) = found(check(tmp_path / "a", current), "warning")
    assert warning[0] == "ndcg@20"
    assert "more than 1.25 times as good as the best row so far, good with" in warning[1]
    sound(tmp_path / "b", "bad", 0.1)
    (warning,) = found(check(tmp_path / "b", current), "warning")
    assert "is below the floor(s) low (" in warning[1]
    sound(tmp_path / "c", "random", 0.1, tags=("floor",))
    checked = check(tmp_path / "c", current)
    assert found(checked, "warning") == []
    assert "as a floor, not as a method" in found(checked, "note")[0][1]


def test_lower_is_better(tmp_path: Path) -> None:
    def mr(root: Path, name: str, quality: float, **changes: Any) -> Path:
        path = sound(root, name, quality, "fb15k", **changes)
        raw = json.loads(path.read_text())
        raw["floors"], raw["slices"] = {"mr": 90.0}, {}
        write_json(path, raw)
        return path

    for name, quality, tags in (("good", 0.6, ()), ("low", 0.4, ("floor",))):
        mr(tmp_path / "board", name, quality, tags=tags)
    mr(tmp_path / "new", "best", 0.9)
    mr(tmp_path / "new", "bad", 0.1)
    checked = check(tmp_path / "new", tmp_path / "board")
    assert found(checked) == []
    texts = {f.path.stem: f.message for f in checked.findings if f.severity == "warning"}
    assert "times as good as the best row so far, good" in texts["best"]
    assert "is below the floor(s) low (" in texts["bad"]
    assert {s.entry.result.submission.name: s.place for s in checked.standings} == {"bad": 4, "best": 1}


def test_replacing_a_row(current: Path, tmp_path: Path) -> None:
    newer = "2026-06-01T00:00:00+00:00"
    sound(tmp_path / "a", "good", 0.61, created=newer)
    checked = check(tmp_path / "a", current)
    assert found(checked, "warning") == []
    assert "made with the same code" in found(checked, "note")[0][1]
    assert (checked.standings[0].n_rows, checked.standings[0].place) == (3, 1)
    sound(tmp_path / "b", "good", 0.61, code="d" * 64, created="2025-01-01T00:00:00+00:00")
    warned = found(check(tmp_path / "b", current), "warning")
    assert [field for field, _ in warned] == ["created", "submission.version"]
    assert "not newer" in warned[0][1]


def test_copies_of_another_result(current: Path, tmp_path: Path) -> None:
    source = current / SUITE / TASK / "good.json"
    path = sound(tmp_path / "new", "mine", 0.6, noise=4)
    stolen = json.loads(source.read_text())
    raw = json.loads(path.read_text())
    raw["predictions"], raw["run_id"] = stolen["predictions"], stolen["run_id"]
    write_json(path, raw)
    checked = check(tmp_path / "new", current)
    assert found(checked) == [("run_id", f"is that of {SUITE}/{TASK}/good: a result is made by one run")]
    assert "3 file(s) are byte for byte those of" in found(checked, "note")[0][1]


def test_two_files_of_one_row(current: Path, tmp_path: Path) -> None:
    a = sound(tmp_path / "a", "mine", 0.55, noise=9)
    b = sound(tmp_path / "b", "mine", 0.56, noise=9)
    assert [message for _, message in found(check([a, b], current))] == [
        f"a second file of this row: {b}",
        f"a second file of this row: {a}",
    ]


def test_costs_compare_on_equal_hardware_only(current: Path, tmp_path: Path) -> None:
    sound(tmp_path / "a", "mine", 0.55, hw_id="hw-two")
    assert found(check(tmp_path / "a", current), "note") == [
        ("hardware.hw_id", "costs are compared with 0 of 3 rows only: those of hardware hw-two")
    ]
    path = sound(tmp_path / "b", "mine", 0.55, flags=("self_reported",))
    raw = json.loads(path.read_text())
    raw["hardware"]["hw_id"] = None
    write_json(path, raw)
    assert [field for field, _ in found(check(tmp_path / "b", current), "note")] == [
        "flags",
        "hardware.hw_id",
    ]


def queries_changed(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    write_parquet(queries_path(path), change(pd.read_parquet(queries_path(path))))
    queries_stated(path)


def queries_stated(path: Path) -> None:
    """State the hash of the per-query file as it is now."""
    raw = json.loads(path.read_text())
    raw["queries_sha256"] = sha256_file(queries_path(path))
    write_json(path, raw)


def test_per_query_scores(current: Path, tmp_path: Path) -> None:
    path = sound(tmp_path / "a", "mine", 0.55)
    queries_changed(path, lambda frame: frame.assign(main_seed1=frame["main_seed1"] * 0.5))
    assert "the scores give ndcg@20" in found(check(path, current))[0][1]
    path = sound(tmp_path / "b", "mine", 0.55)
    queries_changed(path, lambda frame: frame.assign(query=frame["query"] + 1000))
    assert found(check(path, current)) == [
        ("queries", "scored on other queries than the board's rows of this task")
    ]
    path = sound(tmp_path / "c", "mine", 0.55, with_queries=False)
    checked = check(path, current)
    assert [field for field, _ in found(checked, "warning")] == ["queries_sha256"]
    assert checked.standings[0].rank is None
    assert checked.standings[0].best is not None
    assert checked.standings[0].best.p_value is None
    path = sound(tmp_path / "d", "mine", 0.55)
    queries_path(path).unlink()
    assert "are missing" in found(check(path, current))[0][1]


def test_per_query_files_hold_scores_alone(current: Path, tmp_path: Path) -> None:
    path = sound(tmp_path / "a", "mine", 0.55)
    queries_changed(path, lambda frame: frame.assign(home="/home/me"))
    assert found(check(path, current)) == [
        ("queries", "mine.queries.parquet has 1 column(s) that are no scores: home")
    ]
    path = sound(tmp_path / "b", "mine", 0.55)
    table = pq.read_table(queries_path(path)).replace_schema_metadata({"made at": "/home/me"})
    pq.write_table(table, queries_path(path))
    queries_stated(path)
    assert "carries metadata" in found(check(path, current))[0][1]


def test_classes_without_end(tmp_path: Path) -> None:
    sound(tmp_path / "board", "good", 0.6, "amazon_games_qa")
    path = sound(tmp_path / "new", "mine", 0.55, "amazon_games_qa")
    queries_changed(path, lambda frame: frame.assign(predicted_seed1=np.int64(10**12)))
    assert "a task has at most 1000" in found(check(path, tmp_path / "board"))[0][1]


def test_repeated_columns(current: Path, tmp_path: Path) -> None:
    path = sound(tmp_path / "new", "mine", 0.55)
    table = pq.read_table(queries_path(path))
    pq.write_table(table.append_column("query", table["query"]), queries_path(path))
    queries_stated(path)
    assert "cannot be read as Parquet" in found(check(path, current))[0][1]


def test_files_that_belong_to_no_result(current: Path, tmp_path: Path) -> None:
    path = sound(tmp_path / "new", "mine", 0.55, noise=9)
    path.with_name("mine.bin").write_bytes(b"x")
    path.with_name("gone.queries.parquet").write_bytes(b"x")
    checked = check(tmp_path / "new", current)
    assert [(f.severity, f.path.name) for f in checked.findings] == [
        ("error", "gone.queries.parquet"),
        ("warning", "mine.bin"),
    ]


def test_the_first_row_of_a_task(tmp_path: Path) -> None:
    (tmp_path / "board").mkdir()
    sound(tmp_path / "new", "mine", 0.55)
    checked = check(tmp_path / "new", tmp_path / "board")
    assert found(checked, "note") == [("task", f"the board has no other row of {SUITE}/{TASK}")]
    (standing,) = checked.standings
    assert (standing.place, standing.best, standing.floor) == (1, None, None)
    assert "(chance) .0100" in check_markdown(checked)


def test_the_comment_cannot_be_written_by_a_contributor(current: Path, tmp_path: Path) -> None:
    path = sound(tmp_path / "new", "mine", 0.55)
    raw = json.loads(path.read_text())
    raw["flags"] = ["`@everyone` <img src=x>\n# Approved"]
    raw["created"] = "x" * 10_000
    write_json(path, raw)
    comment = check_markdown(check(tmp_path / "new", current))
    for line in comment.split("\n"):
        outside = "".join(line.split("`")[::2])
        assert "@everyone" not in outside
        assert "<img" not in outside
        assert not line.startswith("# ")
    assert max(len(line) for line in comment.split("\n")) < 500


def test_a_long_comment_is_cut(current: Path, tmp_path: Path) -> None:
    path = sound(tmp_path / "new", "mine", 0.55)
    raw = json.loads(path.read_text())
    raw["floors"] |= {f"luck{i}": 0.5 for i in range(150)}
    write_json(path, raw)
    comment = check_markdown(check(tmp_path / "new", current))
    assert comment.count("no metric of this name") == 100
    assert "- and 50 more" in comment


def test_nothing_to_check(current: Path, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="is no results folder"):
        check(current, tmp_path / "nowhere")
    assert found(check(tmp_path / "nothing.json", current))[0][0] == "file"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResultError, match="no result file in"):
        check(tmp_path / "empty", current)


def test_the_command_on_published_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Published results have no error, and a tampered one among them is found."""
    new, place, comment = tmp_path / "new", tmp_path / "board", tmp_path / "comment.md"
    shutil.copytree(PUBLISHED / "wn18rr", new / "wn18rr")
    for folder, name in ((place, "random"), (new, "metasd")):
        (folder / "codex-s" / "codex-s").mkdir(parents=True)
        for ending in (".json", ".queries.parquet"):
            file = f"codex-s/codex-s/{name}{ending}"
            shutil.copy(PUBLISHED / file, folder / file)
    arguments = ["leaderboard", "check", str(new), "--board", str(place), "--markdown", str(comment)]
    assert main(arguments) == 0
    assert " 0 error(s)" in capsys.readouterr().out
    assert comment.read_text().startswith("### Contributed results: can be merged\n")
    path = next((new / "wn18rr").rglob("*.json"))
    raw = json.loads(path.read_text())
    raw["flags"].append("verified")
    write_json(path, raw)
    assert main(arguments) == 1
    assert main([*arguments, "--allow-verified"]) == 0
    assert main(["leaderboard", "check", str(new), "--board", str(tmp_path / "none")]) == 2
