"""Every result file of a results folder, read strictly; bad files are reported and do not hide the good ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from statistics import fmean

from kpi_bench._io import sha256_file
from kpi_bench.errors import ResultError
from kpi_bench.harness.results import Result, queries_path, read_result


@dataclass(frozen=True)
class StoredResult:
    """A result with its place. ``queries`` is its per-query file, whose hash was checked; None when it has none."""

    path: Path
    result: Result
    queries: Path | None


@dataclass(frozen=True)
class Results:
    """All readable results under ``root``, by suite, task and submission; ``problems`` says what could not be read."""

    root: Path
    stored: tuple[StoredResult, ...]
    problems: tuple[str, ...] = ()

    @property
    def suites(self) -> tuple[str, ...]:
        """Names of the suites that have results."""
        return tuple(sorted({entry.result.suite.name for entry in self.stored}))


@dataclass(frozen=True)
class SuiteResults:
    """The results of one suite that may share a table; ``left_out`` says which others were not admitted, and why."""

    suite: str
    version: str
    sha256: str
    tasks: tuple[str, ...]
    n_tasks: int
    stored: tuple[StoredResult, ...]
    left_out: tuple[str, ...]

    @property
    def submissions(self) -> tuple[str, ...]:
        """Names of the submissions that have results."""
        return tuple(sorted({entry.result.submission.name for entry in self.stored}))

    def of_task(self, task: str) -> dict[str, StoredResult]:
        """Results of a task by submission."""
        return {e.result.submission.name: e for e in self.stored if e.result.task.name == task}

    def of_submission(self, submission: str) -> dict[str, StoredResult]:
        """Results of a submission by task."""
        return {e.result.task.name: e for e in self.stored if e.result.submission.name == submission}


def load_results(root: Path) -> Results:
    """Read ``<root>/<suite>/<task>/<submission>.json``, each with the hash of its per-query file.

    Raises:
        ResultError: ``root`` is no folder.
    """
    if not root.is_dir():
        raise ResultError(f"{root} is no results folder: nothing is there")
    stored: list[StoredResult] = []
    problems: list[str] = []
    for path in sorted(root.rglob("*.json")):
        if len(path.relative_to(root).parts) != 3:
            problems.append(f"{path}: misplaced; results lie at {root}/<suite>/<task>/<submission>.json")
            continue
        try:
            stored.append(_read_stored(path))
        except ResultError as error:
            problems.append(str(error))
    return Results(root, tuple(stored), tuple(problems))


def require_some(results: Results) -> Results:
    """The results, of which there is at least one.

    Raises:
        ResultError: there is none that can be shown; the message says what could not be read.
    """
    if not results.stored:
        problems = "".join(f"\n- {problem}" for problem in results.problems)
        raise ResultError(
            f"{results.root} has no result that can be shown{':' if problems else ''}{problems}"
        )
    return results


def select_suite(results: Results, suite: str) -> SuiteResults:
    """The results of a suite that were made on the same data and judged by the same metrics.

    Of several suite digests the one with most results is kept (of equals the newest), and of several main metrics of a task likewise: a
    stray result cannot displace a board. What is not kept is listed in ``left_out``.

    Raises:
        ResultError: no result of that suite; the message lists the suites that have some.
    """
    entries = [entry for entry in results.stored if entry.result.suite.name == suite]
    if not entries:
        known = ", ".join(results.suites) or "none"
        unread = f"; {len(results.problems)} file(s) could not be read" if results.problems else ""
        raise ResultError(f"{results.root} has no result of suite {suite!r}; it has: {known}{unread}")
    digest = _prevailing(entries, [entry.result.suite.sha256 for entry in entries])
    kept: list[StoredResult] = []
    left_out: list[str] = []
    for entry in entries:
        if entry.result.suite.sha256 == digest:
            kept.append(entry)
        else:
            left_out.append(
                f"{entry.path}: made on {_short(entry)}; the board shows suite digest {digest[:12]}"
            )
    tasks = tuple(sorted({entry.result.task.name for entry in kept}))
    metrics = {
        task: _prevailing(mine, [e.result.task.main_metric for e in mine])
        for task in tasks
        if (mine := [e for e in kept if e.result.task.name == task])
    }
    odd = [e for e in kept if e.result.task.main_metric != metrics[e.result.task.name]]
    left_out += [
        f"{e.path}: its main metric is {e.result.task.main_metric}; the board shows {metrics[e.result.task.name]}"
        for e in odd
    ]
    admitted = tuple(entry for entry in kept if entry not in odd)
    newest = max(admitted, key=lambda entry: entry.result.created)
    return SuiteResults(
        suite=suite,
        version=newest.result.suite.version,
        sha256=digest,
        tasks=tasks,
        # A task that nobody ran still counts as missing.
        n_tasks=max(len(tasks), *(entry.result.task.n_tasks for entry in admitted)),
        stored=admitted,
        left_out=tuple(left_out),
    )


def _read_stored(path: Path) -> StoredResult:
    result = read_result(path)
    if not isclose(result.main.mean, fmean(result.main.per_seed), rel_tol=1e-9, abs_tol=1e-12):
        raise ResultError(f"{path}: {result.task.main_metric} has a mean that is not that of its seeds")
    return StoredResult(path, result, stored_queries(path, result))


def stored_queries(path: Path, result: Result) -> Path | None:
    """The per-query file of a result, its hash checked; None when the result states none.

    Raises:
        ResultError: the file is missing or has another SHA-256.
    """
    if result.queries_sha256 is None:
        return None
    queries = queries_path(path)
    if not queries.is_file():
        raise ResultError(f"{path}: its per-query scores are missing: {queries.name}")
    found = sha256_file(queries)
    if found != result.queries_sha256:
        raise ResultError(
            f"{queries}: sha256 is {found[:12]}..., the result states {result.queries_sha256[:12]}..."
        )
    return queries


def _prevailing(entries: list[StoredResult], values: list[str]) -> str:
    """The most frequent value, of equally frequent ones that of the newest result."""
    counts = Counter(values)
    newest: dict[str, str] = {}
    for entry, value in zip(entries, values, strict=True):
        newest[value] = max(newest.get(value, ""), entry.result.created)
    return max(counts, key=lambda value: (counts[value], newest[value], value))


def _short(entry: StoredResult) -> str:
    suite = entry.result.suite
    return f"version {suite.version} of the suite, digest {suite.sha256[:12]}"
