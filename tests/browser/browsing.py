"""What the browser tests share. A test module that imports this is skipped where playwright is not installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from site_factory import SUITE

from kpi_bench.leaderboard import BoardTable

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="browser tests need playwright (pip install playwright)"
)

expect = sync_api.expect
Page = sync_api.Page
Browser = sync_api.Browser
Open = Callable[..., sync_api.Page]

DESKTOP, PHONE = (1440, 900), (390, 844)
PAGES = {
    "index": "index.html",
    "board": f"{SUITE}/index.html",
    "submission": f"{SUITE}/submissions/fjord-00005@no-link.html",
    "compare": f"{SUITE}/compare.html?a=amber-00000&b=birch-00001",
}


@dataclass(frozen=True)
class Site:
    """A built site and the board that it shows."""

    root: Path
    results: Path
    board: BoardTable

    def url(self, place: str = PAGES["board"]) -> str:
        """The address of a file, with what follows it."""
        path, mark, rest = place.partition("?") if "?" in place else place.partition("#")
        return (self.root / path).as_uri() + mark + rest
