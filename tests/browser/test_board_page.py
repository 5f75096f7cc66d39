"""The board's page: order, filters, the choice of tasks, the address that keeps them, and picks."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from browsing import Open, Page, Site, expect
from site_factory import SUITE

from kpi_bench.leaderboard.costs import COLUMNS, HIGHER_IS_BETTER
from kpi_bench.leaderboard.tables import Row


def names(page: Page) -> list[str]:
    """Names in the order of the table."""
    return page.locator("table#board tbody tr th a").all_inner_texts()


def header(page: Page, key: str) -> Any:
    return page.locator(f'table#board thead button[data-key="{key}"]')


def arrow(page: Page, key: str) -> str | None:
    return header(page, key).locator("xpath=ancestor::th").get_attribute("aria-sort")


def ordered(site: Site, value: Callable[[Row], Any], *, up: bool) -> list[str]:
    """Best first, rows without a value last, equal ones in the board's order."""
    rows = site.board.rows
    present = [row for row in rows if value(row) is not None]
    order = sorted(present, key=value) if up else sorted(present, key=lambda row: -value(row))
    return [row.name for row in [*order, *(row for row in rows if value(row) is None)]]


def cell(task: str) -> Callable[[Row], float | None]:
    # The page has six significant digits.
    return lambda row: float(f"{row.cells[task].main.mean:.6g}") if task in row.cells else None


def numbers_of(site: Site) -> dict[str, tuple[str, Callable[[Row], Any], bool]]:
    """By column: the view that has it, its value, and whether small is best."""
    found: dict[str, tuple[str, Callable[[Row], Any], bool]] = {
        "mean_rank": ("quality", lambda row: row.mean_rank, True),
        "covered": ("quality", lambda row: row.covered, False),
        "borda": ("quality", lambda row: row.borda, False),
        "seeds": ("costs", lambda row: row.n_seeds[0], False),
    }
    for task in site.board.tasks:
        found[f"t:{task.name}"] = ("quality", cell(task.name), not task.higher_is_better)
    for column in COLUMNS:
        if any(getattr(row.costs, column) is not None for row in site.board.rows):
            found[f"c:{column}"] = ("costs", lambda row, c=column: getattr(row.costs, c), column not in HIGHER_IS_BETTER)  # fmt: skip
    return found


def test_default_order_is_that_of_the_board(open_page: Open, site: Site) -> None:
    page = open_page()
    assert names(page) == [row.name for row in site.board.rows]
    assert arrow(page, "mean_rank") == "ascending"


def test_every_number_sorts_both_ways_with_absent_values_last(open_page: Open, site: Site) -> None:
    page = open_page()
    columns = numbers_of(site)
    assert {"t:wordnet", "t:fb15k", "c:queries_per_s", "c:parameters"} <= columns.keys()
    for key, (view, value, up) in columns.items():
        page.locator(f'input[name=view][value="{view}"]').check(force=True)
        header(page, key).click()
        if key == "mean_rank":  # The default; a click reverses it.
            header(page, key).click()
        best_first = ordered(site, value, up=up)
        assert names(page) == best_first, key
        assert arrow(page, key) == ("ascending" if up else "descending")
        header(page, key).click()
        assert names(page) == ordered(site, value, up=not up), key
        assert arrow(page, key) == ("descending" if up else "ascending")


def test_texts_sort_both_ways(open_page: Open, site: Site) -> None:
    page = open_page()
    # Names of the factory are words and padded numbers.
    wanted = sorted(row.name for row in site.board.rows)
    header(page, "name").click()
    assert names(page) == wanted
    header(page, "name").click()
    assert names(page) == wanted[::-1]
    page.locator('input[name=view][value="costs"]').check(force=True)
    header(page, "hw").click()
    machines = [row.hw_id for name in names(page) for row in [site.board.row(name)]]
    assert machines == sorted(machines, key=lambda hw: (hw is None, hw or ""))
    assert machines[-1] is None or None not in [row.hw_id for row in site.board.rows]


def test_cells_say_what_the_command_line_says(open_page: Open, site: Site) -> None:
    page = open_page()
    row = next(row for row in site.board.rows if row.covered == site.board.n_tasks)
    line = page.locator("table#board tbody tr", has=page.get_by_role("link", name=row.name, exact=True))
    texts = line.locator("td.score").all_inner_texts()
    for task, text in zip(site.board.tasks, texts, strict=True):
        found = row.cells[task.name]
        shown, half, rank = re.fullmatch(r"\s*(\d*\.\d+)\s*±\s*(\d*\.\d+)\s*(=?\d+)?\s*", text).groups()  # type: ignore[union-attr]
        low, high = found.main.ci95_queries  # type: ignore[misc]
        assert float(shown) == pytest.approx(found.main.mean, rel=1e-3)
        assert float(half) == pytest.approx((high - low) / 2, abs=6e-4)
        assert rank == (f"{'=' if found.rank.tied else ''}{found.rank.rank}" if found.rank else None)


FILTERS: dict[str, tuple[Callable[[Page], None], Callable[[Row], bool]]] = {
    "search": (lambda p: p.get_by_label("Search").fill("FJORD"), lambda row: "fjord" in row.name),
    "search for a tag": (lambda p: p.get_by_label("Search").fill("graph"), lambda row: "graph" in row.tags),
    "kind": (lambda p: p.locator("select[name=kind]").select_option("predictions"), lambda row: row.kind == "predictions"),
    "fidelity": (lambda p: p.locator("select[name=fidelity]").select_option("reconstruction"), lambda row: row.fidelity == "reconstruction"),
    "size": (lambda p: p.locator("select[name=size]").select_option("large"), lambda row: row.size == "large"),
    "hardware": (lambda p: p.locator("select[name=hw]").select_option("a1b2c3d4"), lambda row: (row.hw_id or "").startswith("a1b2c3d4")),
    "verified": (lambda p: p.get_by_label("only verified").check(), lambda row: "verified" in row.flags),
    "complete": (lambda p: p.get_by_label("only complete").check(), lambda row: row.covered == 6),
    "floors": (lambda p: p.get_by_label("hide floors").check(), lambda row: not row.floor),
    "tasks of a kind": (lambda p: p.locator("select[name=task]").select_option("k:recommendation"), lambda row: not {"amazon_music", "douban_book"}.isdisjoint(row.cells)),
    "one task": (lambda p: p.locator("select[name=task]").select_option("t:wordnet"), lambda row: "wordnet" in row.cells),
}  # fmt: skip


@pytest.mark.parametrize("name", FILTERS)
def test_filter_keeps_what_it_says(open_page: Open, site: Site, name: str) -> None:
    page = open_page()
    act, keeps = FILTERS[name]
    act(page)
    wanted = {row.name for row in site.board.rows if keeps(row)}
    assert 0 < len(wanted) < len(site.board.rows), "the filter has something to do"
    assert set(names(page)) == wanted
    expect(page.get_by_role("status").first).to_contain_text(f"{len(wanted)} of {len(site.board.rows)}")
    page.get_by_role("button", name="Clear filters").click()
    assert set(names(page)) == {row.name for row in site.board.rows}


def test_filters_by_tags_want_all_of_them(open_page: Open, site: Site) -> None:
    page = open_page()
    page.locator("#tags > summary").click()
    for tag in ("text", "graph"):
        page.locator(f'#tags input[value="{tag}"]').check()
    assert set(names(page)) == {row.name for row in site.board.rows if {"text", "graph"} <= set(row.tags)}


def test_filters_combine_and_an_empty_table_says_how_to_go_on(open_page: Open, site: Site) -> None:
    page = open_page()
    page.get_by_label("hide floors").check()
    page.get_by_label("only verified").check()
    both = {row.name for row in site.board.rows if not row.floor and "verified" in row.flags}
    assert set(names(page)) == both
    page.get_by_label("Search").fill("no such thing")
    expect(page.locator("#table-region")).to_be_hidden()
    expect(page.locator("#empty")).to_contain_text("No submission passes")
    page.locator("#empty").get_by_role("button", name=re.compile("Without search")).click()
    assert set(names(page)) == both
    page.get_by_role("button", name="Clear filters").click()
    assert len(names(page)) == len(site.board.rows)
    assert not page.get_by_label("hide floors").is_checked()


def test_one_task_shows_its_ranks_and_intervals_and_sorts_by_it(open_page: Open, site: Site) -> None:
    page = open_page()
    page.locator("select[name=task]").select_option("t:wordnet")
    assert header(page, "t:fb15k").count() == 0
    wanted = [
        name for name in ordered(site, cell("wordnet"), up=True) if "wordnet" in site.board.row(name).cells
    ]
    assert names(page) == wanted
    header(page, "rank").click()
    shown = [site.board.row(name).cells["wordnet"].rank for name in names(page)]
    places = [rank.rank if rank else 10**6 for rank in shown]
    assert places == sorted(places)


def test_the_address_brings_a_view_back(open_page: Open, site: Site) -> None:
    page = open_page()
    page.get_by_label("hide floors").check()
    page.locator("select[name=task]").select_option("k:link_prediction")
    page.locator('input[name=view][value="both"]').check(force=True)
    header(page, "t:fb15k").click()
    header(page, "t:fb15k").click()
    page.get_by_label("Search").fill("e")
    before, place = names(page), page.url.partition("/kpi-site/")[2]
    assert len(before) > 2
    again = open_page(f"{SUITE}/{place}")
    assert names(again) == before
    assert again.get_by_label("hide floors").is_checked()
    assert again.get_by_label("Search").input_value() == "e"
    assert arrow(again, "t:fb15k") == "ascending"
    assert header(again, "c:cpu_s").count() == 1


def test_going_back_undoes_a_filter(open_page: Open, site: Site) -> None:
    page = open_page()
    page.get_by_label("only verified").check()
    assert len(names(page)) < len(site.board.rows)
    page.go_back()
    page.wait_for_function(
        "n => document.querySelectorAll('#board tbody tr').length === n", arg=len(site.board.rows)
    )
    assert not page.get_by_label("only verified").is_checked()


@pytest.mark.parametrize("hash_", ["sort=nothing", "task=t%3Anothing", "view=x&q=%ff&tags=none", "pick=a&pick=b&pick=c", "__proto__=1&hw=%3Cimg%3E", "main", "=", "%"])  # fmt: skip
def test_odd_addresses_do_no_harm(open_page: Open, site: Site, hash_: str) -> None:
    page = open_page(f"{SUITE}/index.html#{hash_}")
    expect(
        page.locator("#table-region").or_(page.locator("#empty")).locator("visible=true").first
    ).to_be_visible()
    if page.locator("#clear").is_visible():
        page.locator("#clear").click()
    assert len(names(page)) == len(site.board.rows)


def test_picks_lead_to_the_comparison(open_page: Open, site: Site) -> None:
    page = open_page()
    first, second, third = (row.name for row in site.board.rows[:3])
    page.get_by_label(f"Compare {first}", exact=True).check()
    bar = page.get_by_role("region", name="Compare two submissions")
    expect(bar).to_contain_text("pick another")
    page.get_by_label(f"Compare {second}", exact=True).check()
    page.get_by_label(f"Compare {third}", exact=True).check()
    assert not page.get_by_label(f"Compare {second}", exact=True).is_checked()
    header(page, "name").click()
    assert page.get_by_label(f"Compare {first}", exact=True).is_checked()
    bar.get_by_role("link", name=f"Compare {first} with {third}").click()
    expect(page.get_by_role("heading", level=2).first).to_have_text(f"{first} against {third}")


def test_picks_can_be_taken_back(open_page: Open, site: Site) -> None:
    page = open_page()
    box = page.get_by_label(f"Compare {site.board.rows[0].name}", exact=True)
    box.check()
    page.get_by_role("region", name="Compare two submissions").get_by_role("button", name="Clear").click()
    assert not box.is_checked()
    expect(page.locator("#compare-bar")).to_be_hidden()


def test_a_row_opens_its_submission_and_comes_back_to_the_view(open_page: Open, site: Site) -> None:
    page = open_page()
    page.get_by_label("hide floors").check()
    shown = names(page)
    page.get_by_role("link", name=shown[2], exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(shown[2])
    page.go_back()
    page.wait_for_function("document.querySelectorAll('#board tbody tr').length > 0")
    assert names(page) == shown
