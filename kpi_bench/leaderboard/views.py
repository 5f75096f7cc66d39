"""What the command line asks for: from a results folder to text."""

from __future__ import annotations

from pathlib import Path

from kpi_bench.errors import ResultError
from kpi_bench.leaderboard.compare import compare
from kpi_bench.leaderboard.load import load_results, require_some
from kpi_bench.leaderboard.readme import marked_suites, start_marker, update_markdown
from kpi_bench.leaderboard.render import check_format, render
from kpi_bench.leaderboard.render_compare import render_comparison
from kpi_bench.leaderboard.tables import board


def show(
    root: Path,
    *,
    suite: str | None = None,
    fmt: str = "table",
    sort: str = "mean_rank",
    reference: str | None = None,
) -> str:
    """The board of a suite, or of every suite that has results; ``reference`` as in :func:`board`.

    Raises:
        ResultError: no results, an unknown suite, format or sort key; the message lists what exists.
    """
    check_format(fmt)
    results = require_some(load_results(root))
    suites = results.suites if suite is None else (suite,)
    return render([board(results, name, reference=reference) for name in suites], fmt, sort=sort)


def update_file(path: Path, root: Path) -> dict[str, bool]:
    """Bring every board between markers of a Markdown file up to date; says by suite whether it changed.

    Raises:
        ResultError: the file has no markers, or a marked suite has no results.
    """
    suites = marked_suites(path)
    if not suites:
        raise ResultError(f"{path} has no line '{start_marker('SUITE')}' to put a board after")
    results = require_some(load_results(root))
    return {suite: update_markdown(path, board(results, suite)) for suite in suites}


def compare_text(root: Path, a: str, b: str, *, suite: str | None = None, fmt: str = "table") -> str:
    """Two submissions side by side on a suite, which may be left out when there is only one.

    Raises:
        ResultError: no results, an unknown suite or submission, several suites and none named; the message lists what exists.
    """
    check_format(fmt)
    results = require_some(load_results(root))
    if suite is None:
        if len(results.suites) > 1:
            raise ResultError(f"{root} has several suites, name one of them: {', '.join(results.suites)}")
        (suite,) = results.suites
    return render_comparison(compare(results, a, b, suite), fmt)
