"""Every page opens from a file; submissions, plots, themes, phones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from browsing import DESKTOP, PAGES, PHONE, Browser, Open, Page, Site, expect
from site_factory import SUITE, TASKS, draw, write

from kpi_bench.leaderboard import load_results
from kpi_bench.leaderboard.site import build_site


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page_name", PAGES)
def test_page_opens_with_a_heading_in_the_scheme_asked_for(
    open_page: Open, page_name: str, scheme: str
) -> None:
    page = open_page(PAGES[page_name], scheme=scheme)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    red, green, blue = background(page)
    assert (red + green + blue > 600) == (scheme == "light")


def background(page: Page) -> tuple[int, ...]:
    text = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return tuple(int(value) for value in re.findall(r"\d+", text)[:3])


def test_the_first_page_leads_to_boards_and_leaders(open_page: Open, site: Site) -> None:
    page = open_page("index.html")
    page.get_by_role("link", name=SUITE, exact=True).first.click()
    expect(page.locator("#board tbody tr").first).to_be_visible()
    page.go_back()
    page.get_by_role("link", name="fb15k", exact=True).click()
    page.wait_for_function("document.querySelectorAll('#board tbody tr').length > 0")
    assert page.locator("select[name=task]").input_value() == "t:fb15k"
    best = next(row.name for row in site.board.rows if (rank := row.cells["fb15k"].rank) and rank.rank == 1)
    page.go_back()
    page.get_by_role("link", name=best, exact=True).first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(best)


def test_a_theme_that_was_chosen_stays(open_page: Open) -> None:
    page = open_page("index.html", scheme="dark")
    page.locator("#theme").select_option("light")
    assert sum(background(page)) > 600
    page.reload()
    assert sum(background(page)) > 600
    page.goto(page.url.replace("index.html", PAGES["board"]))
    assert page.locator("#theme").input_value() == "light"
    assert sum(background(page)) > 600
    page.locator("#theme").select_option("system")
    assert sum(background(page)) < 150
    page.emulate_media(color_scheme="light")
    page.wait_for_function("document.documentElement.dataset.theme === 'light'")


def test_pages_work_where_storage_is_refused(chromium: Browser, site: Site) -> None:
    with chromium.new_context(color_scheme="light") as context:
        errors: list[str] = []
        context.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } });")  # fmt: skip
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(site.url())
        page.locator("#theme").select_option("dark")
        assert sum(background(page)) < 150
        assert page.locator("#board tbody tr").count() == len(site.board.rows)
        assert errors == []


# --- Submissions -----------------------------------------------------------------------------------------------------


def test_a_submission_shows_its_scores_and_settings(open_page: Open, site: Site) -> None:
    row = site.board.row("fjord-00005@no-link")
    page = open_page(PAGES["submission"])
    for task, cell in row.cells.items():
        line = page.locator(
            "section[aria-labelledby=results] tbody tr", has=page.get_by_role("link", name=task, exact=True)
        )
        shown = line.locator("td").all_inner_texts()
        assert float(shown[1]) == pytest.approx(cell.main.mean, rel=1e-3)
        assert len(shown[5].split(",")) == len(cell.main.per_seed)
    text = page.locator("main").inner_text()
    for piece in (
        "kpi-bench evaluate --submission submissions/fjord-00005 --config no-link",
        "optimizer.lr",
        "0.001",
        "AMD EPYC",
        "5" * 64,
    ):
        assert piece in text, piece


def test_a_link_to_a_task_opens_its_details(open_page: Open) -> None:
    page = open_page(f"{PAGES['submission']}#task-2")
    expect(page.locator("#task-2")).to_have_attribute("open", "")
    expect(page.locator("#task-2 table").first).to_be_visible()
    page.locator('a[href="#task-1"]').first.click()
    expect(page.locator("#task-1")).to_have_attribute("open", "")


def test_a_submission_leads_to_comparisons(open_page: Open, site: Site) -> None:
    page = open_page(PAGES["submission"])
    page.get_by_role("link", name=re.compile("Compare with the ")).first.click()
    expect(page.locator("#heading")).to_contain_text("fjord-00005@no-link")


def test_a_submission_is_readable_without_scripts(chromium: Browser, site: Site) -> None:
    with chromium.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(site.url(PAGES["submission"]))
        assert "fjord-00005@no-link" in page.get_by_role("heading", level=1).inner_text()
        assert page.locator("section[aria-labelledby=results] tbody tr").count() >= 6
        page.goto(site.url())
        expect(page.locator("noscript p")).to_be_visible()
        assert page.locator('a[href^="submissions/"]').count() == len(site.board.rows)


# --- Plots -----------------------------------------------------------------------------------------------------------


def marks(page: Page, figure: str, kind: str) -> int:
    """Marks of a kind drawn in a figure."""
    return page.locator(f"{figure} svg g.mark-{kind} > path, {figure} svg g.mark-{kind} > line").count()


def drawn(page: Page, figure: str) -> None:
    page.locator(figure).scroll_into_view_if_needed()
    expect(page.locator(f"{figure} svg").first).to_be_visible(timeout=20_000)


def numbers(page: Page, figure: str) -> list[list[str]]:
    """The table under a plot."""
    page.locator(f"{figure} details.chart-data > summary").click()
    rows = page.locator(f"{figure} details.chart-data tbody tr")
    expect(rows.first).to_be_visible()
    return [row.locator("th, td").all_inner_texts() for row in rows.all()]


def test_a_board_loads_no_plotting_library_before_it_is_needed(open_page: Open) -> None:
    page = open_page(PAGES["board"])
    asked = "[...document.scripts].map((one) => one.src.split('/').pop())"
    page.wait_for_timeout(300)
    assert not {"vega.js", "specs.js", "plots.js"} & set(page.evaluate(asked))
    drawn(page, "#plot-dots")
    assert {"vega.js", "specs.js"} <= set(page.evaluate(asked))
    assert page.evaluate("typeof vega") == "object"


def test_scores_plot_has_a_mark_a_row_and_its_numbers(open_page: Open, site: Site) -> None:
    page = open_page(PAGES["board"])
    drawn(page, "#plot-dots")
    page.locator("#plot-dots select[data-control=task]").select_option(label="fb15k mrr")
    having = [row for row in site.board.rows if "fb15k" in row.cells]
    page.wait_for_function(
        "n => document.querySelectorAll('#plot-dots svg g.mark-symbol > path').length === n", arg=len(having)
    )
    listed = numbers(page, "#plot-dots")
    best_first = sorted(having, key=lambda row: -row.cells["fb15k"].main.mean)
    assert [name.lstrip("· ") for name, *_ in listed] == [row.name for row in best_first]
    assert [float(value) for _, value, *_ in listed] == pytest.approx(
        [row.cells["fb15k"].main.mean for row in best_first], abs=6e-5
    )


def test_cost_plot_has_a_mark_for_each_row_with_both_numbers(open_page: Open, site: Site) -> None:
    page = open_page(PAGES["board"])
    drawn(page, "#plot-pareto")
    page.locator("#plot-pareto select[data-control=cost]").select_option(label="params")
    page.locator("#plot-pareto select[data-control=task]").select_option(label="wordnet mr")
    having = [row for row in site.board.rows if "wordnet" in row.cells and row.costs.parameters]
    page.wait_for_function(
        "n => document.querySelectorAll('#plot-pareto svg g.mark-symbol > path').length === n",
        arg=len(having),
    )
    listed = {name: state for name, *_, state in numbers(page, "#plot-pareto")}
    assert listed.keys() == {row.name for row in having}
    complete = [row for row in having if row.cost_ranks.get("parameters")]
    key = {row.name: (row.costs.parameters or 0, row.cells["wordnet"].main.mean) for row in complete}
    best = {a for a, (cost, rank) in key.items() if not any(c <= cost and r <= rank and (c, r) != (cost, rank) for c, r in key.values())}  # fmt: skip
    assert {name for name, state in listed.items() if "on the front" in state} == best


def test_cost_plot_without_a_front(open_page: Open, site: Site) -> None:
    """A row that covers not all tasks is not compared; open_page sees the errors of the plotting library."""
    partial = next(
        row
        for row in site.board.rows
        if row.mean_rank is None and "fb15k" in row.cells and row.costs.amortised_s
    )
    page = open_page(f"{PAGES['board']}#q={partial.name}")
    page.locator("#plot-pareto").scroll_into_view_if_needed()
    page.locator("#plot-pareto select[data-control=task]").select_option(label="fb15k mrr")
    drawn(page, "#plot-pareto")
    assert page.locator("#plot-pareto svg g.mark-symbol > path").count() == 1
    assert "not compared" in numbers(page, "#plot-pareto")[0][-1]


def test_time_plot_agrees_with_the_board(open_page: Open, site: Site) -> None:
    page = open_page(PAGES["board"])
    drawn(page, "#plot-phases")
    listed = {cells[0].lstrip("· ").split(" ")[0]: cells for cells in numbers(page, "#plot-phases")}
    for row in (row for row in site.board.rows if row.kind == "code"):
        _, pretrain, adapt, predict, _ = listed[row.name]
        assert (pretrain == "-") == (row.costs.pretrain_s is None)
        assert float(adapt) + float(predict) == pytest.approx(row.costs.adapt_predict_s, rel=0.02, abs=0.02)


def test_plots_follow_the_filters(open_page: Open, site: Site) -> None:
    page = open_page(PAGES["board"])
    page.get_by_label("Search").fill("fjord")
    drawn(page, "#plot-dots")
    having = [row for row in site.board.rows if "fjord" in row.name and TASKS[0].name in row.cells]
    page.wait_for_function(
        "n => document.querySelectorAll('#plot-dots svg g.mark-symbol > path').length === n", arg=len(having)
    )
    page.get_by_label("Search").fill("fjord-00005")
    page.wait_for_function("document.querySelectorAll('#plot-dots svg g.mark-symbol > path').length === 1")


def test_slices_are_plotted_where_a_task_has_them(open_page: Open) -> None:
    page = open_page(PAGES["board"])
    page.locator("#plot-slices").scroll_into_view_if_needed()
    page.locator("#plot-slices select[data-control=task]").select_option(label="fb15k mrr")
    drawn(page, "#plot-slices")
    families = page.locator("#plot-slices select[data-control=slice] option").all_inner_texts()
    assert sorted(families) == ["entity frequency", "relation frequency"]


def test_plots_of_a_submission_and_of_a_pair(open_page: Open) -> None:
    page = open_page(PAGES["submission"])
    for kind, least in (("slices", 3), ("phases", 6), ("curves", 3)):
        figure = f"figure[data-chart={kind}]"
        drawn(page, figure)
        assert len(numbers(page, figure)) >= least, kind
    pair = open_page(PAGES["compare"])
    for kind in ("pair", "phases", "curves", "slices"):
        drawn(pair, f"figure[data-chart={kind}]")
    assert len(numbers(pair, "figure[data-chart=pair]")) == 2 * len(TASKS)


def test_plots_follow_the_theme(open_page: Open) -> None:
    page = open_page(PAGES["board"])
    drawn(page, "#plot-dots")
    colour = "() => getComputedStyle(document.querySelector('#plot-dots svg .role-axis-label text')).fill"
    light = page.evaluate(colour)
    page.locator("#theme").select_option("dark")
    page.wait_for_function("([before]) => getComputedStyle(document.querySelector('#plot-dots svg .role-axis-label text')).fill !== before", arg=[light])  # fmt: skip


# --- Phones ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_name", PAGES)
def test_a_phone_scrolls_tables_and_not_the_page(open_page: Open, page_name: str) -> None:
    page = open_page(PAGES[page_name], size=PHONE)
    if page_name == "compare":
        expect(page.locator("#outcome")).to_be_visible()
    for figure in page.locator("figure.chart:visible").all():
        figure.scroll_into_view_if_needed()
        page.wait_for_timeout(100)
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth, visualViewport.width]")
    assert max(widths) == PHONE[0]
    if page_name == "board":
        assert page.evaluate(
            "(() => { const one = document.querySelector('#table-region'); return one.scrollWidth > one.clientWidth; })()"
        )
        name = page.locator("#board tbody th").first
        before = name.bounding_box()
        page.locator("#table-region").evaluate("one => { one.scrollLeft = 300; }")
        after = name.bounding_box()
        assert before is not None
        assert after is not None
        assert before["x"] == pytest.approx(after["x"], abs=2), "the names stay in sight"


# --- Size ------------------------------------------------------------------------------------------------------------


def test_a_long_board_shows_its_first_rows_and_the_rest_on_demand(chromium: Browser, tmp_path: Path) -> None:
    one = TASKS[4]
    rows = [row for row in draw(140) if one.name in row.tasks]
    write(
        tmp_path / "results",
        [type(row)(row.name, row.quality, tasks=(one.name,), seeds=(0,)) for row in rows],
        tasks=[one],
        n_queries=30,
    )
    build_site(load_results(tmp_path / "results"), tmp_path / "site")
    with chromium.new_context(viewport={"width": DESKTOP[0], "height": DESKTOP[1]}) as context:
        page = context.new_page()
        page.goto((tmp_path / "site" / SUITE / "index.html").as_uri())
        assert page.locator("#board tbody tr").count() == 100
        expect(page.get_by_role("status").first).to_contain_text("first 100")
        page.get_by_role("button", name="Show all").click()
        assert page.locator("#board tbody tr").count() == len(rows)
        page.get_by_label("Search").fill(rows[-1].name)
        assert page.locator("#board tbody tr").count() == 1
