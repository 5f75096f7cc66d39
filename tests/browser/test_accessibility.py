"""The site by keyboard, and what axe finds."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from browsing import DESKTOP, PAGES, PHONE, Open, Page, Site, expect
from site_factory import SUITE

axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="the check needs axe-playwright-python"
)

FOCUS = """() => {
    const one = document.activeElement;
    const marked = (element) => {
        if (!element) return false;
        const style = getComputedStyle(element);
        return (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1) || style.boxShadow !== "none";
    };
    const box = one.getBoundingClientRect();
    return {
        what: `${one.tagName.toLowerCase()}${one.id ? "#" + one.id : ""} ${(one.getAttribute("aria-label") || one.textContent).trim().slice(0, 30)}`,
        marked: marked(one) || marked(one.nextElementSibling) || marked(one.closest("label")),
        onScreen: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
        page: one === document.body,
    };
}"""


def tab_to(page: Page, selector: str, *, key: str = "Tab", limit: int = 80) -> list[dict[str, Any]]:
    """Press a key until an element has the focus; returns every stop on the way."""
    stops = []
    for _ in range(limit):
        page.keyboard.press(key)
        stops.append(page.evaluate(FOCUS))
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return stops
    raise AssertionError(f"{selector} was not reached in {limit} steps: {[stop['what'] for stop in stops]}")


def test_every_stop_of_the_board_is_visible(open_page: Open) -> None:
    page = open_page(PAGES["board"])
    stops = tab_to(page, "#board tbody tr:nth-child(3) a")
    assert len(stops) > 20
    assert [stop["what"] for stop in stops if not stop["marked"]] == []
    assert [stop["what"] for stop in stops if not stop["onScreen"]] == []
    assert not any(stop["page"] for stop in stops)


@pytest.mark.parametrize("page_name", ["index", "submission", "compare"])
def test_every_stop_of_other_pages_is_visible(open_page: Open, page_name: str) -> None:
    page = open_page(PAGES[page_name])
    if page_name == "compare":
        expect(page.locator("#outcome")).to_be_visible()
    stops = []
    for _ in range(60):
        page.keyboard.press("Tab")
        stop = page.evaluate(FOCUS)
        if stop["page"]:
            break
        stops.append(stop)
    assert len(stops) > 5
    assert [stop["what"] for stop in stops if not stop["marked"]] == []
    assert [stop["what"] for stop in stops if not stop["onScreen"]] == []


def test_the_first_stop_skips_to_the_content(open_page: Open) -> None:
    page = open_page(PAGES["board"])
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")


def test_sorting_by_keyboard_keeps_the_focus(open_page: Open, site: Site) -> None:
    page = open_page(PAGES["board"])
    selector = '#board thead button[data-key="t:fb15k"]'
    tab_to(page, selector)
    page.keyboard.press("Enter")
    best = max(
        (row for row in site.board.rows if "fb15k" in row.cells), key=lambda row: row.cells["fb15k"].main.mean
    )
    expect(page.locator("#board tbody tr").first).to_contain_text(best.name)
    assert page.evaluate("selector => document.activeElement.matches(selector)", selector)
    page.keyboard.press("Space")
    expect(page.locator("#board thead th[aria-sort]")).to_have_attribute("aria-sort", "ascending")


def test_filtering_picking_and_opening_by_keyboard(open_page: Open, site: Site) -> None:
    page = open_page(PAGES["board"])
    tab_to(page, "input[name=q]")
    page.keyboard.type("amber")
    assert page.locator("#board tbody tr").count() == sum("amber" in row.name for row in site.board.rows)
    tab_to(page, "select[name=fidelity]")
    page.keyboard.press("ArrowDown")
    assert page.locator("select[name=fidelity]").input_value() == "faithful"
    page.keyboard.press("ArrowUp")
    tab_to(page, "#tags > summary")
    page.keyboard.press("Enter")
    tab_to(page, "#tags input", limit=2)
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.matches('#tags > summary')")
    assert page.locator("#tags").get_attribute("open") is None
    tab_to(page, "input[name=complete]")
    page.keyboard.press("Space")
    shown = page.locator("#board tbody tr th a").all_inner_texts()
    assert 2 <= len(shown) < len(site.board.rows)
    tab_to(page, "#board tbody tr:nth-child(1) input.pick")
    page.keyboard.press("Space")
    tab_to(page, "#board tbody tr:nth-child(2) input.pick")
    page.keyboard.press("Space")
    tab_to(page, "#compare-bar a")
    page.keyboard.press("Enter")
    expect(page.locator("#heading")).to_have_text(f"{shown[0]} against {shown[1]}")


def test_a_submission_opens_by_keyboard(open_page: Open, site: Site) -> None:
    page = open_page(PAGES["board"])
    tab_to(page, "#board tbody a")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text(site.board.rows[0].name)


def test_the_table_region_scrolls_by_keyboard(open_page: Open) -> None:
    page = open_page(PAGES["board"], size=PHONE)
    page.locator("#table-region").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('#table-region').scrollLeft > 0")


def _views() -> list[Any]:
    """Each page in both schemes at both widths; all but a few are slow."""
    fast = {("board", "dark", PHONE), *((name, "light", DESKTOP) for name in PAGES)}
    views = itertools.product(PAGES, ("light", "dark"), (DESKTOP, PHONE))
    return [
        pytest.param(
            *view, id=f"{view[0]}-{view[1]}-{view[2][0]}", marks=() if view in fast else pytest.mark.slow
        )
        for view in views
    ]


@pytest.mark.parametrize(("page_name", "scheme", "size"), _views())
def test_axe_finds_nothing_serious(
    open_page: Open, page_name: str, scheme: str, size: tuple[int, int]
) -> None:
    page = open_page(PAGES[page_name], size=size, scheme=scheme)
    if page_name == "compare":
        expect(page.locator("#outcome")).to_be_visible()
    if page_name == "board":
        for box in page.locator("#board input.pick").all()[:2]:
            box.check(force=True)
    page.evaluate("document.querySelectorAll('details:not(.menu)').forEach((one) => { one.open = true; })")
    for figure in page.locator("figure.chart:visible").all():
        figure.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    # Without preload: axe would ask for the style sheets once more, which a page from a file may not.
    found = axe.Axe().run(page, options={"preload": False}).response
    assert found["passes"]
    serious = [
        (one["id"], one["impact"], one["help"], [node["target"] for node in one["nodes"]][:4])
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_a_page_of_a_board_names_its_parts(open_page: Open) -> None:
    """What a screen reader lists: one first heading, a table with a caption, headers with scopes, a region with a name."""
    page = open_page(f"{SUITE}/index.html")
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.locator("#board caption").inner_text().strip()
    assert page.locator("#board thead th:not([scope=col])").count() == 0
    assert page.locator("#board tbody tr > :first-child:not(th[scope=row])").count() == 0
    expect(page.get_by_role("region", name=SUITE)).to_have_count(1)
    expect(page.get_by_role("status").first).to_contain_text("submissions")
