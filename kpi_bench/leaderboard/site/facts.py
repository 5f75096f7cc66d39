"""What a submission's page says, in words and rounded numbers: texts only, the template decides how they look.

Every text that comes from a result was written by a stranger: nothing here is markup, and addresses are links only if :func:`web_address` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from kpi_bench._schema import encode
from kpi_bench.harness.results import FLAGS, VERIFIED, Result
from kpi_bench.leaderboard import _numbers
from kpi_bench.leaderboard.render import COST_HEADERS
from kpi_bench.leaderboard.site.reproduce import Step, comparison, reproduction, verification
from kpi_bench.leaderboard.site.task_facts import Meaning, TaskFacts, plain, task_facts
from kpi_bench.leaderboard.tables import BoardTable, Row

FIDELITY_MEANINGS = {
    "faithful": "follows its paper or the authors' code",
    "reconstruction": "the paper leaves parts open, which were filled in",
}
KIND_MEANINGS = {
    "code": "the harness ran it",
    "predictions": "made elsewhere, the harness scored them",
}


@dataclass(frozen=True)
class Address:
    """A reference as it was written; ``href`` only where it may be a link."""

    text: str
    href: str | None


@dataclass(frozen=True)
class Value:
    """A value, and the tasks that have it: none where all tasks agree."""

    text: str
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """A named setting of a row, with each value that it has in some task."""

    key: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Cost:
    """A cost over all tasks that the row covers; ``rank`` only among rows that it may be compared with."""

    label: str
    value: str
    rank: str


@dataclass(frozen=True)
class Rival:
    """Another row worth a comparison, in words and by name."""

    what: str
    name: str


@dataclass(frozen=True)
class SubmissionFacts:
    """A row's page. ``verified``: ``all``, ``some`` or ``none`` of its tasks; ``place`` among ``n_rows`` in the board's order."""

    name: str
    version: str
    description: str
    floor: bool
    kind: Meaning
    fidelity: Meaning
    fidelity_notes: tuple[str, ...]
    size: str
    tags: tuple[str, ...]
    flags: tuple[Meaning, ...]
    paper: Address | None
    source: Address | None
    verified: str
    place: int
    n_rows: int
    covered: int
    n_tasks: int
    missing: tuple[str, ...]
    on_gpu: bool
    mean_rank: str
    borda: str
    tasks: tuple[TaskFacts, ...]
    costs: tuple[Cost, ...]
    params: tuple[Entry, ...]
    search: tuple[Entry, ...]
    protocol: tuple[Entry, ...]
    hardware: tuple[Entry, ...]
    environment: tuple[Entry, ...]
    provenance: tuple[Entry, ...]
    rivals: tuple[Rival, ...]
    reproduce: tuple[Step, ...]
    verify: tuple[Step, ...]
    compare: str


def submission_facts(board: BoardTable, row: Row) -> SubmissionFacts:
    """What the page of a row of the board says."""
    results = {task.name: row.cells[task.name].result for task in board.tasks if task.name in row.cells}
    newest = max(results.values(), key=lambda result: result.created).submission
    place = next(place for place, other in enumerate(board.rows, 1) if other.name == row.name)
    rivals = _rivals(board, place)
    n_verified = sum(VERIFIED in result.flags for result in results.values())
    return SubmissionFacts(
        name=row.name,
        version=row.version,
        description=row.description,
        floor=row.floor,
        kind=Meaning(row.kind, KIND_MEANINGS.get(newest.kind, "")),
        fidelity=Meaning(row.fidelity, FIDELITY_MEANINGS.get(row.fidelity, "")),
        fidelity_notes=tuple(
            dict.fromkeys(
                r.submission.fidelity_notes for r in results.values() if r.submission.fidelity_notes
            )
        ),
        size=row.size,
        tags=row.tags,
        flags=tuple(Meaning(flag, FLAGS.get(flag, "")) for flag in row.flags),
        paper=_address(newest.paper),
        source=_address(newest.source_url),
        verified="all" if n_verified == len(results) else "some" if n_verified else "none",
        place=place,
        n_rows=len(board.rows),
        covered=row.covered,
        n_tasks=board.n_tasks,
        missing=tuple(task.name for task in board.tasks if task.name not in row.cells),
        on_gpu=any(
            result.memory.peak_device or any(timing.gpu_s for timing in result.timing.phases.values())
            for result in results.values()
        ),
        mean_rank=_numbers.fixed(row.mean_rank, 2),
        borda=_numbers.fixed(row.borda, 2),
        tasks=tuple(task_facts(row.cells[task]) for task in results),
        costs=_costs(row),
        params=across({task: result.submission.params for task, result in results.items()}),
        search=across(
            {task: _search(result) for task, result in results.items() if result.search is not None}
        ),
        protocol=across({task: vars(result.protocol) for task, result in results.items()}),
        hardware=across({task: result.hardware for task, result in results.items()}),
        environment=across({task: result.environment for task, result in results.items()}),
        provenance=across({task: _provenance(result) for task, result in results.items()}),
        rivals=rivals,
        reproduce=reproduction(row.name, results, board.n_tasks),
        verify=verification(row.name, results),
        compare=comparison(row.name, rivals[0].name, board.suite) if rivals else "",
    )


def web_address(text: str) -> str | None:
    """The address itself if it is a plain ``http`` or ``https`` URL with a host, else None: it must not become a link."""
    if not text.isascii() or not text.isprintable() or any(letter in text for letter in " \\\"'<>`"):
        return None
    try:
        parts = urlsplit(text)
        named = parts.hostname
    except ValueError:
        return None
    return text if parts.scheme in ("http", "https") and named and "@" not in parts.netloc else None


def across(tasks: Mapping[str, Mapping[str, Any]]) -> tuple[Entry, ...]:
    """Settings of all tasks in one list: nested ones by dotted keys, a value that all tasks share once."""
    flat = {task: dict(_flat(values)) for task, values in tasks.items()}
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    entries = []
    for key in keys:
        holders: dict[str, list[str]] = {}
        for task, values in flat.items():
            if key in values:
                holders.setdefault(values[key], []).append(task)
        agreed = len(holders) == 1 and len(next(iter(holders.values()))) == len(tasks)
        entries.append(
            Entry(key, tuple(Value(text, () if agreed else tuple(of)) for text, of in holders.items()))
        )
    return tuple(entries)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", plain(value)


def _address(text: str) -> Address | None:
    return Address(text, web_address(text)) if text.strip() else None


def _rivals(board: BoardTable, place: int) -> tuple[Rival, ...]:
    """The row above and the first one; for the first row the second."""
    if place == 1:
        return tuple(Rival("the row below", row.name) for row in board.rows[1:2])
    leader = (Rival("the first row", board.rows[0].name),) if place > 2 else ()
    return (Rival("the row above" if leader else "the first row", board.rows[place - 2].name), *leader)


def _costs(row: Row) -> tuple[Cost, ...]:
    found = ((column, label, getattr(row.costs, column)) for column, label in COST_HEADERS.items())
    return tuple(
        Cost(label, _numbers.cost(column, value), _numbers.rank(row.cost_ranks.get(column)))
        for column, label, value in found
        if value is not None
    )


def _search(result: Result) -> dict[str, Any]:
    assert result.search is not None
    same = result.search.source_sha256 == result.submission.sha256
    return {**encode(result.search), "code": "as searched for" if same else "changed after the search"}


def _provenance(result: Result) -> dict[str, Any]:
    return {
        "run id": result.run_id,
        "created": result.created,
        "kpi-bench version": result.kpi_bench.version,
        "kpi-bench commit": result.kpi_bench.git or "not recorded",
        "submission SHA-256": result.submission.sha256,
        "config": result.submission.config or "none",
        "suite": f"{result.suite.name} {result.suite.version}",
        "suite digest": result.suite.sha256,
        "suite repository": result.suite.repo or "a local folder",
        "suite revision": result.suite.revision or "none",
        "flags": ", ".join(result.flags) or "none",
        "per-query scores SHA-256": result.queries_sha256 or "none",
    }
