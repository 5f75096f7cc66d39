"""One site, read from files by Debian's Chromium; each test gets a page and fails when it errs or asks for anything that is no file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from site_factory import SUITE, Submission, draw, write

from kpi_bench.leaderboard import board, load_results

if TYPE_CHECKING:
    # Without playwright this import skips, which a conftest may not.
    from browsing import Browser, Open, Page, Site

CHROMIUM = os.environ.get("KPI_BENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")  # fmt: skip


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """25 submissions of all sorts on six tasks."""
    from browsing import Site

    from kpi_bench.leaderboard.site import build_site

    folder = tmp_path_factory.mktemp("browser")
    write(folder / "results", [*draw(24), Submission("links-only", 0.4, tasks=("fb15k",))])
    results = load_results(folder / "results")
    build_site(results, folder / "site")
    return Site(folder / "site", folder / "results", board(results, SUITE))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Chromium, where one is installed. Not for the whole session: an open playwright keeps asyncio from other tests."""
    if CHROMIUM is None:
        pytest.skip(
            "browser tests need Chromium (apt install chromium, or set KPI_BENCH_CHROMIUM to a browser)"
        )
    from playwright import sync_api

    # Chromium's sandbox does not start for root.
    sandbox = () if os.geteuid() else ("--no-sandbox",)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *sandbox])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser, site: Site) -> Iterator[Open]:
    """``open_page(place, size=DESKTOP, scheme="light")``: a page of the site in a browser with an empty memory."""
    from browsing import DESKTOP, PAGES, PHONE

    contexts: list[Any] = []
    trouble: list[str] = []

    def watch(page: Page) -> None:
        page.on("console", lambda message: trouble.append(f"{message.type}: {message.text}") if message.type in ("error", "warning") else None)  # fmt: skip
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        # Leaving a page ends what it is still loading.
        page.on("requestfailed", lambda request: None if request.failure == "net::ERR_ABORTED" else trouble.append(f"failed: {request.url} {request.failure}"))  # fmt: skip
        page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else trouble.append(f"left: {request.url}"))  # fmt: skip

    def open_(place: str = PAGES["board"], *, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> Page:
        width, height = size
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            reduced_motion="reduce",
            is_mobile=size == PHONE,
            has_touch=size == PHONE,
        )
        context.set_default_timeout(20_000)
        context.on("page", watch)
        contexts.append(context)
        page = context.new_page()
        page.goto(site.url(place))
        return page

    yield open_
    for context in contexts:
        context.close()
    assert trouble == []
