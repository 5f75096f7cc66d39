"""The board between markers of a Markdown file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from kpi_bench._io import write_text
from kpi_bench.errors import ResultError
from kpi_bench.leaderboard.render import render_markdown
from kpi_bench.leaderboard.tables import BoardTable

END = "<!-- leaderboard:end -->"
_START = r"<!-- leaderboard:start suite={suite}(?: tasks=(\d+))? -->"


def start_marker(suite: str) -> str:
    """The line after which a suite's board stands. With `` tasks=N`` before its end, only rows that cover N tasks are shown."""
    return f"<!-- leaderboard:start suite={suite} -->"


def marked_suites(path: Path) -> list[str]:
    """Suites whose boards stand between markers of a file.

    Raises:
        ResultError: the file cannot be read.
    """
    return [suite for suite, _ in re.findall(_START.format(suite=r"(\S+)"), _read(path))]


def update_markdown(path: Path, board: BoardTable) -> bool:
    """Put a board between its suite's markers; says whether the file changed. Ranks and tests are those of the whole board.

    Raises:
        ResultError: the file lacks the markers, or has a start without an end.
    """
    text = _read(path)
    start = _START.format(suite=re.escape(board.suite))
    blocks = list(re.finditer(start + r"(?:(?!<!-- leaderboard:start).)*?" + re.escape(END), text, re.DOTALL))
    if len(blocks) != 1 or len(re.findall(start, text)) != 1:
        raise ResultError(f"{path}: expected once '{start_marker(board.suite)}' followed by '{END}'")
    (block,) = blocks
    marker = block.group().partition("\n")[0].partition("-->")[0] + "-->"
    shown = covering(board, int(block.group(1) or 0))
    updated = f"{text[: block.start()]}{marker}\n\n{render_markdown(shown)}\n\n{END}{text[block.end() :]}"
    if updated == text:
        return False
    write_text(path, updated)
    return True


def covering(board: BoardTable, tasks: int) -> BoardTable:
    """A board without the rows that cover fewer than so many tasks, and a note of how many these are; ranks stay those of all rows."""
    rows = tuple(row for row in board.rows if row.covered >= tasks)
    left_out = len(board.rows) - len(rows)
    if not left_out:
        return board
    note = f"{left_out} rows that cover fewer than {tasks} tasks are not shown, but take part in ranks: kpi-bench leaderboard show"
    return replace(board, rows=rows, notes=(*board.notes, note))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ResultError(f"{path}: cannot be read: {error}") from error
