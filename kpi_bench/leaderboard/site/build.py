"""Write the site: what lies where, and from which template."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kpi_bench import __version__
from kpi_bench._io import atomic_folder
from kpi_bench.errors import ResultError
from kpi_bench.harness.results import FLAGS
from kpi_bench.leaderboard._numbers import score
from kpi_bench.leaderboard.load import Results, require_some, select_suite
from kpi_bench.leaderboard.queries import read_queries
from kpi_bench.leaderboard.render import render
from kpi_bench.leaderboard.resamples import Resamples, resample_rows
from kpi_bench.leaderboard.site.charts import chart_specs, vega_bundle
from kpi_bench.leaderboard.site.data import (
    board_payload,
    compare_payload,
    plots_payload,
    script_json,
    submission_payload,
)
from kpi_bench.leaderboard.site.facts import submission_facts
from kpi_bench.leaderboard.tables import BoardTable, TaskColumn, board

MARK = ".kpi-bench-site"
"""A folder with this file was written by :func:`build_site`, and the next build may replace it."""

_SPACE_CARD = """\
---
title: kpi-bench leaderboard
sdk: static
app_file: index.html
pinned: false
---

The board of kpi-bench as static pages, built from result files by `kpi-bench leaderboard build`.
"""


@dataclass(frozen=True)
class TaskSummary:
    """A task on the first page: its best mean, rounded, and the rows that share the first rank, in the board's order."""

    name: str
    metric: str
    best: str
    leaders: tuple[str, ...]


@dataclass(frozen=True)
class SuiteSummary:
    """A suite on the first page."""

    name: str
    version: str
    tasks: tuple[TaskSummary, ...]
    n_submissions: int
    n_results: int


@dataclass(frozen=True)
class SiteContext:
    """What every page knows."""

    version: str
    suites: tuple[SuiteSummary, ...]
    n_results: int
    docs_url: str | None


@dataclass(frozen=True)
class SiteReport:
    """What was written: number of pages, submissions and bytes; ``notes`` of all boards."""

    out: Path
    suites: tuple[str, ...]
    n_submissions: int
    n_results: int
    n_files: int
    n_bytes: int
    notes: tuple[str, ...]


def build_site(
    results: Results,
    out: Path,
    *,
    docs_url: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> SiteReport:
    """Write the boards of all suites as a static site. Equal results give equal bytes.

    Args:
        results: what :func:`kpi_bench.leaderboard.load_results` read.
        out: new or empty folder, or one of an earlier build, which is replaced as a whole.
        docs_url: where the documentation lies, for a link in the head of every page.
        progress: called with the name of each suite before it is written.

    Raises:
        ResultError: no result can be shown, ``out`` holds something else, or the extra ``[site]`` is not installed.
    """
    require_some(results)
    if taken := sorted({"index.html", "README.md", MARK} & set(results.suites)):
        raise ResultError(f"a site has a file of its own named {taken[0]}, so no suite can be named so")
    boards = [_published(board(results, suite), results.root) for suite in results.suites]
    context = SiteContext(
        __version__, tuple(_summary(table) for table in boards), len(results.stored), docs_url
    )
    with atomic_folder(out, MARK) as staged:
        writer = _Writer(staged, context)
        writer.text(MARK, "Written by kpi-bench leaderboard build, which may replace this folder.\n")
        writer.text("README.md", _SPACE_CARD)
        writer.assets()
        writer.page("index.html", "index.html.j2", depth=0)
        for table in boards:
            if progress:
                progress(table.suite)
            writer.suite(table, _resamples(results, table))
    return SiteReport(
        out=out,
        suites=results.suites,
        n_submissions=sum(len(table.rows) for table in boards),
        n_results=len(results.stored),
        n_files=writer.n_files,
        n_bytes=writer.n_bytes,
        notes=tuple(f"{table.suite}: {note}" for table in boards for note in table.notes),
    )


class _Writer:
    """Files of a site under construction."""

    def __init__(self, root: Path, context: SiteContext) -> None:
        self.root, self.context = root, context
        self.n_files = self.n_bytes = 0
        self._templates = Environment(
            loader=PackageLoader("kpi_bench.leaderboard.site"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def text(self, place: str, text: str) -> None:
        """Write UTF-8 text at a place below the root."""
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        self.n_files += 1
        self.n_bytes += path.stat().st_size

    def page(self, place: str, template: str, *, depth: int, **values: Any) -> None:
        """Write a page that lies ``depth`` folders below the root."""
        root = "../" * depth
        docs = self.context.docs_url
        site = self.context if docs is None else replace(self.context, docs_url=_from(root, docs))
        html = self._templates.get_template(template).render(
            site=site, root=root, assets=f"{root}assets/", **values
        )
        self.text(place, html)

    def assets(self) -> None:
        """Scripts, styles and the plotting library."""
        for source in sorted(
            files("kpi_bench.leaderboard.site").joinpath("static").iterdir(), key=lambda f: f.name
        ):
            self.text(f"assets/{source.name}", source.read_text(encoding="utf-8"))
        self.text("assets/specs.js", f"kpiBench.specs = {script_json(chart_specs())};\n")
        self.text("assets/vega.js", vega_bundle())

    def suite(self, table: BoardTable, resamples: Mapping[str, Mapping[str, Resamples]]) -> None:
        """The board of a suite, its submissions and its comparison page; ``resamples`` by submission and task."""
        suite = table.suite
        payload = board_payload(table)
        self.page(
            f"{suite}/index.html",
            "board.html.j2",
            depth=1,
            board=payload,
            board_json=Markup(script_json(payload)),
            flags=FLAGS,
        )
        names = Markup(script_json(compare_payload(table)))
        self.page(f"{suite}/compare.html", "compare.html.j2", depth=1, board=payload, compare_json=names)
        self.text(f"{suite}/plots.js", _received("plots", plots_payload(table)))
        for fmt, suffix in (("csv", "csv"), ("latex", "tex")):
            self.text(f"{suite}/board.{suffix}", render([table], fmt))
        for row in table.rows:
            facts = submission_facts(table, row)
            self.page(
                f"{suite}/submissions/{row.name}.html",
                "submission.html.j2",
                depth=2,
                board=payload,
                facts=facts,
            )
            found = submission_payload(table, row, resamples.get(row.name, {}))
            self.text(f"{suite}/data/{row.name}.js", _received("submission", found))


def _resamples(results: Results, table: BoardTable) -> dict[str, dict[str, Resamples]]:
    """Resamples of the rows that the board ranks, by submission and task."""
    chosen = select_suite(results, table.suite)
    found: dict[str, dict[str, Resamples]] = {}
    for task in table.tasks:
        stored = chosen.of_task(task.name)
        ranked = [row.name for row in table.rows if (cell := row.cells.get(task.name)) and cell.rank]
        read = {name: scores for name in ranked if (scores := read_queries(stored[name])) is not None}
        for name, of_row in resample_rows(read).items():
            found.setdefault(name, {})[task.name] = of_row
    return found


def _from(root: str, url: str) -> str:
    """An address that is relative to the first page, as a page sees it that reaches the first page over ``root``."""
    return url if urlsplit(url).scheme or url.startswith("/") else root + url


def _received(kind: str, payload: Mapping[str, Any]) -> str:
    return f'kpiBench.receive("{kind}", {script_json(payload)});\n'


def _published(table: BoardTable, root: Path) -> BoardTable:
    """A board whose notes name files from the results folder on: where that lay is nobody's affair."""
    return replace(table, notes=tuple(note.replace(f"{root}/", "") for note in table.notes))


def _summary(table: BoardTable) -> SuiteSummary:
    return SuiteSummary(
        name=table.suite,
        version=table.version,
        tasks=tuple(_task_summary(table, task) for task in table.tasks),
        n_submissions=len(table.rows),
        n_results=sum(len(row.cells) for row in table.rows),
    )


def _task_summary(table: BoardTable, task: TaskColumn) -> TaskSummary:
    cells = {row.name: cell for row in table.rows if (cell := row.cells.get(task.name)) is not None}
    best = (max if task.higher_is_better else min)(cell.main.mean for cell in cells.values())
    leaders = tuple(name for name, cell in cells.items() if cell.rank is not None and cell.rank.rank == 1)
    return TaskSummary(task.name, task.metric, score(best), leaders)
