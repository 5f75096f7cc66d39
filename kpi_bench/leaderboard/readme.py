"""The board between markers of a Markdown file."""

from __future__ import annotations

import re
from pathlib import Path

from kpi_bench._io import write_text
from kpi_bench.errors import ResultError
from kpi_bench.leaderboard.render import render_markdown
from kpi_bench.leaderboard.tables import BoardTable

END = "<!-- leaderboard:end -->"


def start_marker(suite: str) -> str:
    """The line after which a suite's board stands."""
    return f"<!-- leaderboard:start suite={suite} -->"


def marked_suites(path: Path) -> list[str]:
    """Suites whose boards stand between markers of a file.

    Raises:
        ResultError: the file cannot be read.
    """
    return re.findall(r"<!-- leaderboard:start suite=(\S+) -->", _read(path))


def update_markdown(path: Path, board: BoardTable) -> bool:
    """Put a board between its suite's markers; says whether the file changed.

    Raises:
        ResultError: the file lacks the markers, or has a start without an end.
    """
    text = _read(path)
    start = start_marker(board.suite)
    pattern = re.compile(re.escape(start) + r"(?:(?!<!-- leaderboard:start).)*?" + re.escape(END), re.DOTALL)
    if len(pattern.findall(text)) != 1 or text.count(start) != 1:
        raise ResultError(f"{path}: expected once '{start}' followed by '{END}'")
    block = f"{start}\n\n{render_markdown(board)}\n\n{END}"
    updated = pattern.sub(lambda _: block, text)
    if updated == text:
        return False
    write_text(path, updated)
    return True


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ResultError(f"{path}: cannot be read: {error}") from error
