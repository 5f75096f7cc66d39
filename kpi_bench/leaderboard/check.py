"""Check contributed result files against the rules and the current board: what CI of a results repository runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kpi_bench._secrets import redact
from kpi_bench.errors import ResultError
from kpi_bench.harness.results import queries_path, result_files
from kpi_bench.leaderboard._check_board import Rival, Standing, check_against_board, standings
from kpi_bench.leaderboard._check_file import Finding, Rules, Severity, check_file
from kpi_bench.leaderboard.load import StoredResult, load_results
from kpi_bench.suites.official import OFFICIAL_DIGESTS

__all__ = ["Check", "Finding", "Rival", "Severity", "Standing", "check_results"]


@dataclass(frozen=True)
class Check:
    """Findings about contributed files, worst first; ``standings`` of those without an error.

    ``new`` are all contributed files, readable or not; ``n_unchanged`` files are the board's own, byte for byte, and not looked at.
    """

    new: tuple[Path, ...]
    n_unchanged: int
    findings: tuple[Finding, ...]
    standings: tuple[Standing, ...]

    def count(self, severity: Severity) -> int:
        """Findings of one severity."""
        return sum(finding.severity == severity for finding in self.findings)


def check_results(
    paths: Sequence[Path],
    board: Path,
    *,
    may_verify: bool = False,
    digests: Mapping[str, str] = OFFICIAL_DIGESTS,
    now: datetime | None = None,
) -> Check:
    """Check result files, or folders of them, that are to be merged into the results folder ``board``.

    Args:
        may_verify: the flag ``verified`` is a maintainer's; without it, a new file that bears it is refused.
        digests: the suites that are admitted, by name@version.

    Raises:
        ResultError: ``board`` is no folder, or there is no file to check.
    """
    current = load_results(board)
    files = result_files(paths)
    if not files:
        raise ResultError(f"no result file in {', '.join(map(str, paths))}")
    new = [path for path in files if not _unchanged(path, board)]
    rules = Rules(digests, may_verify, now or datetime.now(UTC))
    findings = _strays(paths)
    findings += [Finding("note", board, "board", problem) for problem in current.problems]
    entries: list[StoredResult] = []
    for path in new:
        entry, found = check_file(path, rules)
        findings += found
        if entry is not None:
            entries.append(entry)
    for entry in entries:
        findings += check_against_board(entry, current, entries)
    made = standings(_without_errors(entries, findings), current)
    findings += [
        Finding(
            "error", s.entry.path, "queries", "scored on other queries than the board's rows of this task"
        )
        for s in made
        if not s.shown
    ]
    return Check(
        new=tuple(new),
        n_unchanged=len(files) - len(new),
        findings=tuple(dataclasses.replace(f, message=redact(f.message)) for f in _worst_first(findings)),
        standings=tuple(made),
    )


def _unchanged(path: Path, board: Path) -> bool:
    """Whether a file and its per-query scores are the board's."""
    own = board.joinpath(*path.resolve().parts[-3:])
    if path.is_symlink() or not path.is_file():
        return False
    return _same_bytes(path, own) and _same_bytes(queries_path(path), queries_path(own))


def _same_bytes(a: Path, b: Path) -> bool:
    if not a.is_file() or not b.is_file():
        return a.exists() == b.exists()
    return a.stat().st_size == b.stat().st_size and a.read_bytes() == b.read_bytes()


def _strays(paths: Sequence[Path]) -> list[Finding]:
    """Files under contributed folders that no result accounts for."""
    findings = []
    for path in sorted(file for folder in paths if folder.is_dir() for file in folder.rglob("*")):
        if path.is_dir() or path.suffix == ".json":
            continue
        of_queries = path.name.endswith(".queries.parquet")
        if not of_queries:
            message = "no part of a result; a results folder holds <suite>/<task>/<submission>.json and .queries.parquet"
            findings.append(Finding("warning", path, "file", message))
        elif not path.with_name(path.name.removesuffix(".queries.parquet") + ".json").is_file():
            findings.append(Finding("error", path, "file", "per-query scores without their result"))
    return findings


def _without_errors(entries: Sequence[StoredResult], findings: Sequence[Finding]) -> list[StoredResult]:
    wrong = {finding.path for finding in findings if finding.severity == "error"}
    return [entry for entry in entries if entry.path not in wrong]


def _worst_first(findings: Sequence[Finding]) -> list[Finding]:
    order: tuple[Severity, ...] = ("error", "warning", "note")
    return sorted(findings, key=lambda finding: (order.index(finding.severity), finding.path))
