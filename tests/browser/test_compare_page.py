"""Two side by side: the page computes what kpi_bench.leaderboard computes, and says so when it cannot."""

from __future__ import annotations

import re
from itertools import islice

import numpy as np
import pytest
from browsing import Open, Page, Site, expect
from numpy.typing import NDArray
from site_factory import SUITE

from kpi_bench.evaluators.comparison import holm
from kpi_bench.leaderboard import _numbers, compare, load_results
from kpi_bench.leaderboard.costs import HARDWARE_FREE
from kpi_bench.leaderboard.load import select_suite
from kpi_bench.leaderboard.queries import read_queries
from kpi_bench.leaderboard.render import COST_HEADERS
from kpi_bench.leaderboard.resamples import Resamples, macro_f1_of, resample_rows


def url(a: str, b: str) -> str:
    return f"{SUITE}/compare.html?a={a}&b={b}"


def pairs(site: Site) -> list[tuple[str, str]]:
    """The first two, two in the middle, two with different seeds, two that share few tasks."""
    names = [row.name for row in site.board.rows]
    single = next(row.name for row in site.board.rows if row.n_seeds == (1, 1))
    return [(names[0], names[1]), (names[7], names[6]), (names[0], single), (names[3], "links-only")]


def cells(page: Page, table: str) -> dict[str, dict[str, str]]:
    """Texts of a table by the headers of its rows and columns."""
    headers = page.locator(f"{table} thead th").all_inner_texts()
    rows = [row.locator("th, td").all_inner_texts() for row in page.locator(f"{table} tbody tr").all()]
    return {row[0]: dict(zip(headers[1:], row[1:], strict=True)) for row in rows}


def number(text: str) -> float:
    return float(text.replace("−", "-").replace("<", "").strip())


def test_table_agrees_with_python(open_page: Open, site: Site) -> None:
    """Differences to all digits shown; p is the board's to all digits; intervals and Holm's p within what other draws change."""
    results = load_results(site.results)
    for a, b in pairs(site):
        page = open_page(url(a, b))
        expect(page.locator("#outcome")).to_be_visible()
        found = cells(page, "table#tasks")
        wanted = compare(results, a, b, SUITE)
        assert list(found) == [task.task for task in wanted.tasks]
        raw = {task.name: board_p(site, task.name, a, b) for task in site.board.tasks if task.name in found}
        adjusted = dict(zip(raw, holm(list(raw.values())), strict=True))
        for task in wanted.tasks:
            row = found[task.task]
            assert number(row[a]) == pytest.approx(task.mean_a, rel=6e-3, abs=6e-5)
            assert number(row[b]) == pytest.approx(task.mean_b, rel=6e-3, abs=6e-5)
            shown = re.fullmatch(r"(\S+)\s*\[(\S+), (\S+)\]", row[f"{a} − {b} [95 %]"])
            assert shown
            middle, low, high = map(number, shown.groups())
            assert task.interval is not None
            width = task.interval[1] - task.interval[0]
            assert middle == pytest.approx(task.difference, abs=6e-5 if abs(task.difference) < 10 else 6e-3)
            assert (low, high) == pytest.approx(task.interval, abs=0.12 * width + 1e-4)
            for text, exact in ((row["p"], raw[task.task]), (row["p (Holm)"], adjusted[task.task])):
                assert text == "<.001" if exact < 0.001 else number(text) == pytest.approx(exact, abs=5.1e-4)
            better = row["which is better"]
            assert (adjusted[task.task] < 0.05) == ("is better" in better)
            assert "is better" not in better or better.startswith(f"{task.winner} ")
            assert int(row["queries"]) == task.n_queries


def board_p(site: Site, task: str, a: str, b: str) -> float:
    tests = next(column.tests for column in site.board.tasks if column.name == task)
    return float(tests.p_values[tests.names.index(a), tests.names.index(b)])


def test_arithmetic_of_the_page_is_exact(open_page: Open, site: Site) -> None:
    """The page's functions on the stored resamples, against numpy on the same numbers."""
    chosen = select_suite(load_results(site.results), SUITE)
    page = open_page(url(*pairs(site)[0]))
    expect(page.locator("#outcome")).to_be_visible()
    for task in chosen.tasks:
        stored = islice((entry for entry in chosen.of_task(task).values() if entry.queries), 4)
        made = resample_rows({e.result.submission.name: s for e in stored if (s := read_queries(e))})
        one, *others = made.values()
        for other in others:
            got = page.evaluate(
                """([a, b, n]) => { const { pairedMean, pairedMacroF1 } = kpiCompare;
                                    return a.kind === "mean" ? pairedMean(a, b, n) : pairedMacroF1(a, b); }""",
                [one.payload(), other.payload(), 200],
            )
            difference, p, interval = reference(one, other, 200)
            assert got["difference"] == pytest.approx(difference, rel=1e-12, abs=1e-12)
            assert got["p"] == pytest.approx(p, rel=1e-12)
            assert got["interval"] == pytest.approx(interval, rel=1e-9, abs=1e-12)


def reference(a: Resamples, b: Resamples, n: int) -> tuple[float, float, NDArray[np.float64]]:
    """Formulas of the contract, in numpy."""
    swaps_a, swaps_b = a.swaps.astype(np.float64), b.swaps.astype(np.float64)
    if a.kind == "mean":
        total = a.totals[0] - b.totals[0]
        slack = 1e-6 * (abs(a.totals[0]) + abs(b.totals[0]))
        difference, observed = total / n, abs(total)
        after = np.abs(total - 2.0 * (swaps_a[0] - swaps_b[0]))
    else:
        sizes, slack = a.sizes[:, None], 1e-6
        change = swaps_b - swaps_a
        difference = float(
            macro_f1_of(a.totals[:, None], sizes)[0] - macro_f1_of(b.totals[:, None], sizes)[0]
        )
        observed = abs(difference)
        after = np.abs(
            macro_f1_of(a.totals[:, None] + change, sizes) - macro_f1_of(b.totals[:, None] - change, sizes)
        )
    p = (1 + int((after >= observed - slack).sum())) / (len(after) + 1)
    drawn = a.bootstrap.astype(np.float64) - b.bootstrap.astype(np.float64)
    return difference, p, np.percentile(drawn, [2.5, 97.5])


@pytest.mark.parametrize(
    "p_values", [[0.01, 0.04, 0.03, 0.005], [0.5, 0.5, 0.9], [0.02], [], [0.0005, 0.0005, 1.0]]
)
def test_holm_of_the_page(open_page: Open, site: Site, p_values: list[float]) -> None:
    page = open_page(url(*pairs(site)[0]))
    assert page.evaluate("p => kpiCompare.holm(p)", p_values) == pytest.approx(
        holm(p_values) if p_values else []
    )


def test_costs_are_those_of_the_board_and_ratios_only_of_like_with_like(open_page: Open, site: Site) -> None:
    complete = [row for row in site.board.rows if row.covered == site.board.n_tasks and row.costs.pretrain_s]
    here = [row for row in complete if row.hw_id == site.board.hw_id]
    apart = next(row for row in complete if row.hw_id not in (None, site.board.hw_id))
    partial = next(
        row for row in site.board.rows if row.covered < site.board.n_tasks and row.costs.parameters
    )
    for a, b, says in (
        (here[0], here[1], "AMD EPYC"),
        (here[0], apart, "different hardware"),
        (here[0], partial, "different tasks"),
    ):
        page = open_page(url(a.name, b.name))
        expect(page.locator("#costs-note")).to_contain_text(says)
        found = cells(page, "table#costs-table")
        assert len(found) >= 8
        for column, label in COST_HEADERS.items():
            values = [getattr(row.costs, column) for row in (a, b)]
            if label not in found:
                assert values == [None, None]
                continue
            row = found[label]
            ratio = row[f"{a.name} / {b.name}"]
            assert [row[a.name], row[b.name]] == [_numbers.cost(column, value) for value in values]
            comparable = says == "AMD EPYC" or (says == "different hardware" and column in HARDWARE_FREE)
            wanted = values[0] / values[1] if comparable and values[0] is not None and values[1] else None
            assert (
                ratio == "-"
                if wanted is None
                else number(ratio.strip("×")) == pytest.approx(wanted, abs=6e-3)
            )


def test_tasks_that_only_one_has_are_named(open_page: Open, site: Site) -> None:
    page = open_page(url(site.board.rows[0].name, "links-only"))
    expect(page.locator("#only")).to_contain_text("wordnet")
    assert list(cells(page, "table#tasks")) == ["fb15k"]


def test_a_row_without_per_query_scores_is_not_tested(open_page: Open, site: Site) -> None:
    untested = next(row for row in site.board.rows if all(cell.rank is None for cell in row.cells.values()))
    page = open_page(url(site.board.rows[0].name, untested.name))
    expect(page.locator("#outcome")).to_be_visible()
    for row in cells(page, "table#tasks").values():
        assert "no per-query scores" in row["which is better"]
        assert row["p"] == row["p (Holm)"] == "-"


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "Choose two"),
        ("?a=nobody&b=links-only", "nobody"),
        ("?a=links-only", "second"),
        ("?a=links-only&b=links-only", "both sides"),
        ("?a=../../secret&b=%2e%2e%2fx", "no submission"),
        ("?a=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E&b=__proto__", "<img src=x"),
    ],
)
def test_names_that_cannot_be_compared_are_explained(open_page: Open, query: str, says: str) -> None:
    page = open_page(f"{SUITE}/compare.html{query}")
    expect(page.locator("#message")).to_contain_text(says)
    expect(page.locator("#outcome")).to_be_hidden()
    assert page.locator("img").count() == 0


def test_the_form_and_swap_lead_to_another_comparison(open_page: Open, site: Site) -> None:
    first, second = site.board.rows[0].name, site.board.rows[1].name
    page = open_page(f"{SUITE}/compare.html")
    page.get_by_label("A", exact=True).fill(first)
    page.get_by_label("B", exact=True).fill(second)
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#heading")).to_have_text(f"{first} against {second}")
    page.get_by_role("button", name="Swap").click()
    expect(page.locator("#heading")).to_have_text(f"{second} against {first}")
