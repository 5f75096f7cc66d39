"""What people and machines get: formats that parse back, no rounding in data, markers, helpful errors."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from result_factory import SUITE, TASKS, Maker

from kpi_bench.errors import ResultError
from kpi_bench.leaderboard import _numbers, board, compare_text, load_results, render, show, update_markdown
from kpi_bench.leaderboard.readme import marked_suites
from kpi_bench.leaderboard.tables import BoardTable


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    maker = Maker(tmp_path_factory.mktemp("board") / "results", n_queries=120)
    maker.submission("best_one", 0.8, noise=1)
    maker.submission("twin", 0.8, noise=2, seeds=(0,), fidelity="reconstruction")
    maker.submission("away", 0.6, hw_id="hw-two", flags=("resumed",))
    maker.submission("popularity", 0.3, tasks=TASKS[:2], tags=("floor",))
    return maker.root


@pytest.fixture(scope="module")
def table(root: Path) -> BoardTable:
    return board(load_results(root), SUITE)


def test_terminal_table_shows_what_must_be_seen(table: BoardTable) -> None:
    text = render([table], "table")
    assert "· popularity" in text
    assert "twin ~¹" in text
    assert "2/4" in text
    assert "=1" in text
    assert "hw-two†" in text
    assert "resumed" in text
    assert "(chance)" in text
    assert max(len(line) for line in text.splitlines()) <= 140


def test_kept_parameters_have_a_column_where_a_row_was_pruned(table: BoardTable, tmp_path: Path) -> None:
    assert "kept" not in render([table], "table")
    maker = Maker(tmp_path / "results", n_queries=120)
    maker.submission("whole", 0.8)
    maker.submission("pruned", 0.7, kept=1_234)
    maker.submission("older", 0.6, kept=None)
    text = render([board(load_results(maker.root), SUITE)], "markdown")
    header = next(line for line in text.splitlines() if "params" in line)
    column = [cell.strip() for cell in header.split("|")].index("kept")
    costs = text[text.index(header) :].splitlines()[2:5]
    cells = {line.split("|")[1].strip(): line.split("|")[column].strip() for line in costs}
    assert cells == {"whole": "1.23M", "pruned": "1.23k*", "older": "-"}


def test_markdown_bolds_the_best_and_marks_floors(table: BoardTable) -> None:
    text = render([table], "markdown")
    for row in table.rows:
        line = next(line for line in text.splitlines() if line.startswith(f"| {row.name} "))
        firsts = sum(cell.rank is not None and cell.rank.rank == 1 for cell in row.cells.values())
        assert line.count("**") == 2 * firsts
    assert "| popularity (floor)" in text
    assert "| twin (reconstruction, 1 seed)" in text


def test_latex_is_booktabs_and_escaped(table: BoardTable) -> None:
    text = render([table], "latex")
    assert text.count("{") == text.count("}")
    for part in (r"\toprule", r"\midrule", r"\bottomrule", r"best\_one", r"\textit{popularity}"):
        assert part in text
    assert r"\textsuperscript{=1}" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in rows} == {3 + len(TASKS)}


def test_csv_parses_back_unrounded(table: BoardTable) -> None:
    # As text: pandas' default float parser may be off in the last digit.
    frame = pd.read_csv(io.StringIO(render([table], "csv")), dtype=str).set_index("submission")
    assert list(frame.index) == [row.name for row in table.rows]
    for row in table.rows:
        for task in table.tasks:
            if task.name in row.cells:
                main = row.cells[task.name].main
                assert float(frame.loc[row.name, f"{task.name}.{task.metric}"]) == main.mean
                assert main.ci95_queries is not None
                assert float(frame.loc[row.name, f"{task.name}.ci95_queries_low"]) == main.ci95_queries[0]
            else:
                assert pd.isna(frame.loc[row.name, f"{task.name}.{task.metric}"])
        assert float(frame.loc[row.name, "cost.cpu_s"]) == row.costs.cpu_s
    assert pd.isna(frame.loc["popularity", "mean_rank"])
    assert set(frame[f"{TASKS[-1]}.rank"].dropna()) <= set("1234"), "ranks are integers"


def test_json_is_complete_and_unrounded(table: BoardTable) -> None:
    (parsed,) = json.loads(render([table], "json"), parse_constant=pytest.fail)["boards"]
    for raw, row in zip(parsed["rows"], table.rows, strict=True):
        assert (raw["name"], raw["mean_rank"], raw["covered"]) == (row.name, row.mean_rank, row.covered)
        for name, cell in row.cells.items():
            stored = raw["cells"][name]["result"]
            assert stored["metrics"][cell.result.task.main_metric]["per_seed"] == list(cell.main.per_seed)
            assert raw["cells"][name]["main"]["mean"] == cell.main.mean
            assert stored["variants"]
            assert cell.rank is not None
            assert raw["cells"][name]["rank"] == {"rank": cell.rank.rank, "tied": cell.rank.tied}
    for raw, task in zip(parsed["tasks"], table.tasks, strict=True):
        assert (raw["name"], raw["tests"]["names"]) == (task.name, list(task.tests.names))
        assert raw["tests"]["p_values"] == task.tests.p_values.tolist()
        assert raw["tests"]["p_adjusted"] == task.tests.p_adjusted.tolist()


def test_json_of_a_large_board_has_no_matrix_of_pairs(
    table: BoardTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kpi_bench.leaderboard.export.MOST_ROWS_IN_PAIRS", 2)
    (parsed,) = json.loads(render([table], "json"))["boards"]
    for raw, task in zip(parsed["tasks"], table.tasks, strict=True):
        assert raw["tests"]["p_values"] is raw["tests"]["p_adjusted"] is None
        assert raw["tests"]["n_permutations"] == task.tests.n_permutations > 0


@pytest.mark.parametrize(
    ("sort", "first"),
    [("name", "away"), ("borda", "best_one"), (TASKS[0], "best_one"), ("adapt_predict_s", "popularity")],
)
def test_sorting(table: BoardTable, sort: str, first: str) -> None:
    names = pd.read_csv(io.StringIO(render([table], "csv", sort=sort)))["submission"].tolist()
    assert names[0] == first or (first == "best_one" and names[0] == "twin")
    assert set(names) == {row.name for row in table.rows}


def test_show_and_compare_text(root: Path) -> None:
    assert SUITE in show(root)
    assert show(root, suite=SUITE) == show(root)
    assert "best_one against away" in compare_text(root, "best_one", "away")


def test_errors_list_what_is_allowed(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="table, markdown, csv, latex, json"):
        show(root, fmt="html")
    with pytest.raises(ResultError, match="mean_rank, borda, name"):
        show(root, sort="speed")
    with pytest.raises(ResultError, match=f"it has: {SUITE}"):
        show(root, suite="nothing")
    with pytest.raises(ResultError, match="best_one, popularity, twin"):
        compare_text(root, "best_one", "nobody")
    with pytest.raises(ResultError, match="no result that can be shown"):
        show(tmp_path)


def test_markdown_between_markers(table: BoardTable, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    start, end = f"<!-- leaderboard:start suite={SUITE} -->", "<!-- leaderboard:end -->"
    other = "<!-- leaderboard:start suite=other -->\nkeep\n<!-- leaderboard:end -->"
    readme.write_text(f"# Title\n\n{other}\n\n{start}\nold\n{end}\n\nafter\n", encoding="utf-8")
    assert update_markdown(readme, table)
    text = readme.read_text(encoding="utf-8")
    assert "old" not in text.split(start)[1].split(end)[0].splitlines()
    assert text.startswith(f"# Title\n\n{other}\n")
    assert text.endswith(f"{end}\n\nafter\n")
    assert "best_one" in text
    assert not update_markdown(readme, table), "a second update changes nothing"


def test_a_marker_may_ask_for_rows_that_cover_some_tasks(table: BoardTable, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    tasks = max(row.covered for row in table.rows)
    start = f"<!-- leaderboard:start suite={SUITE} tasks={tasks} -->"
    readme.write_text(f"{start}\n<!-- leaderboard:end -->\n", encoding="utf-8")
    assert marked_suites(readme) == [SUITE]
    assert update_markdown(readme, table)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(start)
    shown = {row.name: f"| {row.name}" in text for row in table.rows}
    assert shown == {row.name: row.covered == tasks for row in table.rows}
    assert not all(shown.values())
    assert f"{list(shown.values()).count(False)} rows that cover fewer than {tasks} tasks" in text
    assert not update_markdown(readme, table)


@pytest.mark.parametrize("text", ["no markers", f"<!-- leaderboard:start suite={SUITE} -->\nno end"])
def test_markers_must_be_there(table: BoardTable, tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text, encoding="utf-8")
    with pytest.raises(ResultError, match="expected once"):
        update_markdown(readme, table)
    assert readme.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.08571, ".0857"), (-0.5, "-.5000"), (1.0, "1.0000"), (123.456, "123.46")]
)
def test_score_text(value: float, text: str) -> None:
    assert _numbers.score(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0004, "<.001"), (0.0461, ".046"), (1.0, "1.000"), (None, "-")]
)
def test_p_value_text(value: float | None, text: str) -> None:
    assert _numbers.p_value(value) == text
