"""Plots: specs that hold no data and load nothing, pictures that no name can break, a Pareto front equal to that of brute force."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from result_factory import SUITE, Maker

from kpi_bench.errors import ResultError
from kpi_bench.leaderboard.load import load_results
from kpi_bench.leaderboard.tables import BoardTable, board

pytest.importorskip("altair")
pytest.importorskip("vl_convert")
charts = pytest.importorskip("kpi_bench.leaderboard.site.charts")
pictures = pytest.importorskip("kpi_bench.leaderboard.site.pictures")

STATIC = Path(charts.__file__).parent / "static"
HOSTILE = "</text><script>alert(1)</script>&\"'"
DATASETS = {
    "pareto": {"points", "front"},
    "dots": {"rows", "chance"},
    "phases": {"rows", "totals"},
    "curves": {"points", "ends"},
    "slices": {"points", "ends"},
    "per_task_pair": {"rows"},
}
FIELDS = {
    "pareto": "name kind state cost value lo hi cost_text value_text",
    "dots": "name value lo hi text rank mark",
    "phases": "name phase start end text",
    "curves": "x value line series name seed x_text value_text at last",
    "slices": "group value name series text n_queries group_text at last",
    "per_task_pair": "name value lo hi text series",
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> BoardTable:
    maker = Maker(tmp_path_factory.mktemp("charts") / "results")
    maker.submission("low", 0.2, tags=("floor",), adapt_s=1.0)
    maker.submission("mid", 0.5, fidelity="reconstruction", adapt_s=5.0)
    maker.submission("dear", 0.4, adapt_s=50.0)
    maker.submission("high", 0.8, adapt_s=500.0)
    maker.submission("elsewhere", 0.9, adapt_s=0.1, hw_id="hw-two")
    return board(load_results(maker.root), SUITE)


@pytest.fixture(scope="module")
def specs() -> dict[str, Any]:
    return charts.chart_specs()


@pytest.fixture(scope="module")
def script() -> str:
    return charts.vega_bundle()


@pytest.fixture(scope="module")
def picture(table: BoardTable) -> str:
    return pictures.board_picture(table)


def _walk(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict):
        for item in value.values():
            yield from _walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item)


def _renamed(table: BoardTable, names: dict[str, str]) -> BoardTable:
    rows = tuple(dataclasses.replace(row, name=names.get(row.name, row.name)) for row in table.rows)
    return dataclasses.replace(table, rows=rows)


def _texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_specs_have_their_datasets_and_no_data(specs: dict[str, Any]) -> None:
    assert specs.keys() == DATASETS.keys()
    for name, spec in specs.items():
        sources = {
            entry["name"]
            for entry in spec["data"]
            if "source" not in entry and entry["name"] != "under_store"
        }
        assert sources == DATASETS[name]
        assert not any("values" in entry for entry in spec["data"])


def test_specs_read_the_documented_fields_all_of_them_and_no_other(specs: dict[str, Any]) -> None:
    for name, spec in specs.items():
        text = json.dumps({key: spec[key] for key in ("data", "marks", "scales")})
        text = re.sub(r'"sort": \{"field": "[xy]"\}', "", text)  # By place on the screen.
        read = re.findall(r'datum\[\\"(\w+)\\"\]|datum\.(?:datum\.)?(\w+)|"field": "(\w+)"', text)
        assert {"".join(groups) for groups in read} - {"datum"} == set(FIELDS[name].split()), name


def test_specs_load_nothing_and_have_no_colour_of_their_own(specs: dict[str, Any]) -> None:
    for spec in specs.values():
        for value in _walk({key: value for key, value in spec.items() if key != "$schema"}):
            assert not (isinstance(value, dict) and {"url", "href"} & value.keys())
            assert not (isinstance(value, str) and re.match(r"#[0-9a-fA-F]{3,8}$|https?:|//", value)), value


def test_titles_are_signals_that_the_page_sets(specs: dict[str, Any]) -> None:
    assert "@" not in json.dumps(specs)
    for name, spec in specs.items():
        signals = {signal["name"] for signal in spec["signals"]}
        assert "name_limit" in signals
        assert "x_title" in signals, name
    assert {"x_ticks", "x_reverse", "y_reverse"} <= {signal["name"] for signal in specs["pareto"]["signals"]}


def test_specs_are_the_same_each_time(specs: dict[str, Any]) -> None:
    assert json.dumps(charts.chart_specs()) == json.dumps(specs)


def test_bundle_defines_vega_and_names_no_host_to_load_from(script: str) -> None:
    assert re.search(r"window\.vega=\{View:[\w$]+,parse:[\w$]+\};?\s*$", script)
    assert not re.search(r"https?://(?!www\.w3\.org/|vega\.github\.io/schema/|github\.com/)[\w.]+", script)
    assert "import(" not in script
    assert "</script" not in script
    assert (STATIC / "vega-license.txt").is_file()


def test_board_picture_shows_every_row_of_every_task(table: BoardTable, picture: str) -> None:
    texts = _texts(picture)
    for task in table.tasks:
        assert task.name in texts
    for row in table.rows:
        assert texts.count(f"· {row.name}" if row.floor else row.name) == len(row.cells)
    assert pictures.board_picture(table) == picture


def test_board_picture_is_light_and_dark_and_needs_no_font_of_its_own(picture: str) -> None:
    assert "prefers-color-scheme:dark" in picture
    assert "var(--" not in picture
    for colour in set(re.findall(r'(?:fill|stroke)="([^"]*)"', picture)) - {"none", "transparent"}:
        assert f'="{colour}"]' in picture, colour
    assert set(re.findall(r'font-family="([^"]*)"', picture)) == {"system-ui, sans-serif"}


def test_hostile_names_stay_text(table: BoardTable) -> None:
    rows = tuple(dataclasses.replace(row, tags=(HOSTILE,), version=HOSTILE) for row in table.rows)
    hostile = _renamed(
        dataclasses.replace(table, rows=rows, suite=HOSTILE), {"mid": HOSTILE, "high": "@x_title"}
    )
    one_task = dataclasses.replace(hostile, tasks=hostile.tasks[:1])
    drawn = pictures.board_picture(one_task), pictures.pareto_picture(hostile)
    for svg in drawn:
        root = ElementTree.fromstring(svg)
        assert not [
            element for element in root.iter() if element.tag.endswith(("script", "foreignObject", "}a"))
        ]
        assert "@x_title" in _texts(svg)
    # Vega cuts long names short, but what is left is still text.
    assert any(text.startswith("</text><script") for text in _texts(drawn[0]))


def test_picture_shows_the_first_rows_only_and_says_so(table: BoardTable) -> None:
    many = tuple(
        dataclasses.replace(table.rows[i % len(table.rows)], name=f"row{i:02}")
        for i in range(pictures.PICTURE_ROWS + 5)
    )
    svg = pictures.board_picture(dataclasses.replace(table, rows=many, tasks=table.tasks[:1]))
    assert "row39" in svg.replace("· ", "")
    assert "row40" not in svg
    assert f"the first {pictures.PICTURE_ROWS} of {len(many)} submissions" in svg


def test_pareto_points_leave_other_hardware_off_the_front(table: BoardTable) -> None:
    states = {point["name"]: point["state"] for point in pictures.pareto_points(table, "amortised_s")}
    assert states == {
        "low": charts.FRONT,
        "mid": charts.FRONT,
        "dear": charts.COMPARED,
        "high": charts.FRONT,
        "elsewhere": charts.NOT_COMPARED,
    }
    sizes = {point["name"]: point["state"] for point in pictures.pareto_points(table, "parameters")}
    assert sizes["elsewhere"] == charts.FRONT


def test_pareto_picture_needs_points(table: BoardTable) -> None:
    rows = tuple(dataclasses.replace(row, mean_rank=None) for row in table.rows)
    with pytest.raises(ResultError, match="no submission has a mean rank"):
        pictures.pareto_picture(dataclasses.replace(table, rows=rows))


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=12))
def test_front_is_what_nothing_dominates(table: BoardTable, places: list[tuple[int, int]]) -> None:
    row = table.row("mid")
    rows = tuple(
        dataclasses.replace(
            row,
            name=str(i),
            mean_rank=float(rank),
            costs=dataclasses.replace(row.costs, amortised_s=float(cost)),
        )
        for i, (cost, rank) in enumerate(places)
    )
    points = pictures.pareto_points(dataclasses.replace(table, rows=rows), "amortised_s")
    for point, (cost, rank) in zip(points, places, strict=True):
        beaten = any((c < cost and r <= rank) or (c <= cost and r < rank) for c, r in places)
        assert (point["state"] == charts.FRONT) is not beaten


@given(st.lists(st.floats(1e-6, 1e12), min_size=1, max_size=5))
def test_log_ticks_surround_the_values(values: list[float]) -> None:
    ticks = pictures.log_ticks(values)
    assert ticks[0] <= min(values) * (1 + 1e-9)
    assert ticks[-1] >= max(values) * (1 - 1e-9)
    assert all(a < b for a, b in itertools.pairwise(ticks))
    assert len(ticks) <= 28


def test_without_the_extra_the_message_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['altair'] = None\n"
        "from kpi_bench.errors import ResultError\n"
        "import kpi_bench.leaderboard.site.charts"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "pip install 'kpi-bench[site]'" in done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, specs: dict[str, Any], script: str) -> Iterator[Any]:
    """A page with four figures, opened from a file; errors of its scripts and requests beyond files fail the test."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium")
    folder = tmp_path_factory.mktemp("page")
    for name in ("theme.js", "charts.js"):
        shutil.copy(STATIC / name, folder)
    (folder / "vega.js").write_text(script)
    (folder / "specs.js").write_text(f"kpiBench.specs = {json.dumps(specs)}")
    figures = "".join(f"<figure id={name}></figure>" for name in ("curves", "phases", "slices", "pair"))
    (folder / "index.html").write_text(
        f"<!doctype html><meta charset=utf-8><script src=theme.js></script>{figures}<script src=charts.js></script>"
    )
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page()
        problems: list[str] = []
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("request", lambda request: request.url.startswith("file:") or problems.append(request.url))
        opened.goto((folder / "index.html").as_uri())
        yield opened
        browser.close()
    assert not problems


def _payload(name: str, mean: float) -> dict[str, Any]:
    task = {
        "metric": "mrr",
        "higher": True,
        "mean": mean,
        "seeds": [0, 1],
        "ci_queries": [mean - 0.1, mean + 0.1],
        "phases": {"pretrain": [4.0, 6.0], "adapt": [1.0, 2.0], "predict": [0.5, 0.5]},
        "curves": [[[1.0, 1, 0.1, "valid_mrr", "adapt"], [2.0, 2, mean, "valid_mrr", "adapt"]]] * 2,
        "slices": [["frequency", "100-999", 0.4, 7], ["frequency", "1-9", 0.1, 12]],
    }
    return {"name": name, "tasks": {"one": task, "two": task}}


def test_page_draws_submissions_and_gives_the_numbers_as_text(page: Any) -> None:
    both = [_payload(HOSTILE, 0.5), _payload("other", 0.6)]
    drawn = page.evaluate(
        """async ([a, b]) => {
            const get = (id) => document.getElementById(id);
            await kpiCharts.curves(get("curves"), [a, b], "one");
            await kpiCharts.phases(get("phases"), [a, b]);
            await kpiCharts.slices(get("slices"), [a, b], "one");
            await kpiCharts.pair(get("pair"), a, b);
            const figures = [...document.querySelectorAll("figure")];
            for (const one of document.querySelectorAll("details")) one.open = true;
            await new Promise((resolve) => setTimeout(resolve, 50));
            return Object.fromEntries(figures.map((figure) => [figure.id, {
                plots: figure.querySelectorAll("svg").length,
                labels: [...figure.querySelectorAll(".chart-plot")].every((plot) => plot.getAttribute("aria-label")),
                texts: [...figure.querySelectorAll("svg text")].map((text) => text.textContent),
                table: [...figure.querySelectorAll("tbody tr")].map((row) => [...row.children].map((cell) => cell.textContent)),
                scripts: figure.querySelectorAll("script").length,
            }]));
        }""",
        both,
    )
    assert {name: one["plots"] for name, one in drawn.items()} == {
        "curves": 1,
        "phases": 2,
        "slices": 1,
        "pair": 2,
    }
    assert all(one["labels"] and not one["scripts"] for one in drawn.values())
    assert drawn["phases"]["table"][0] == ["one", HOSTILE, "5.00", "1.50", "0.50", "7.00"]
    assert drawn["pair"]["table"][1] == ["one", "other", ".6000", ".5000 to .7000"]
    assert drawn["curves"]["table"][0][1:] == ["0", "valid_mrr, adapt", "1.00 s, step 1", ".1000"]
    # The tail comes first, whatever the order of the payload.
    assert [row[1] for row in drawn["slices"]["table"]] == ["1-9", "1-9", "100-999", "100-999"]
    assert "other" in drawn["slices"]["texts"]


def test_page_says_so_where_there_is_nothing_to_draw(page: Any) -> None:
    note = page.evaluate(
        """async (payload) => {
            const figure = document.getElementById("curves");
            await kpiCharts.curves(figure, [payload], "absent");
            return [figure.querySelector(".chart-note").textContent, figure.querySelectorAll("svg").length];
        }""",
        _payload("any", 0.5),
    )
    assert note == ["No learning curve was logged.", 0]


def test_front_of_the_page_is_that_of_brute_force(page: Any) -> None:
    wrong = page.evaluate(
        """() => {
            const wrong = [];
            let state = 7;
            const draw = (n) => (state = (state * 16807) % 2147483647) % n;
            for (let round = 0; round < 400; round++) {
                const points = Array.from({ length: 1 + draw(12) }, () => ({ cost: 1 + draw(5), value: draw(5) }));
                for (const costHigh of [false, true]) for (const valueHigh of [false, true]) {
                    const c = (p) => (costHigh ? -p.cost : p.cost), v = (p) => (valueHigh ? -p.value : p.value);
                    const beats = (a, b) => (c(a) < c(b) && v(a) <= v(b)) || (c(a) <= c(b) && v(a) < v(b));
                    const expected = points.filter((p) => !points.some((q) => beats(q, p)));
                    const found = kpiCharts.front(points, costHigh, valueHigh);
                    const same = found.length === expected.length && expected.every((p) => found.includes(p));
                    const ordered = found.every((p, i) => !i || c(found[i - 1]) <= c(p));
                    if (!same || !ordered) wrong.push(points);
                }
            }
            return wrong;
        }"""
    )
    assert wrong == []
