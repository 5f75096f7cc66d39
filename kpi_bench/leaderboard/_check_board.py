"""A contributed result beside the rows that the board already has of its task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path

from kpi_bench.errors import ResultError
from kpi_bench.evaluators.aggregation import SharedRank
from kpi_bench.evaluators.intervals import Interval
from kpi_bench.harness.results import Result
from kpi_bench.leaderboard._check_file import Finding, Severity
from kpi_bench.leaderboard.compare import TaskComparison, compare
from kpi_bench.leaderboard.load import Results, StoredResult
from kpi_bench.leaderboard.tables import FLOOR_TAG, Cell, board

TOO_GOOD = 1.25
"""More than so many times the best main metric so far is looked at by a person."""

_Part = Iterator[tuple[Severity, str, str]]


@dataclass(frozen=True)
class Rival:
    """A row of the board against the new one: new minus rival, its 95% interval, and p of the paired test (None: not testable)."""

    name: str
    mean: float
    difference: float
    interval: Interval | None
    p_value: float | None


@dataclass(frozen=True)
class Standing:
    """What a new row would be on the board: ``place`` by score of ``n_rows``, ``rank`` as the board shows it, the best other row
    and the floor with the nearest score; ``chance`` is the score of random answers, where it is known. A row that was scored on
    other queries than most is not ``shown``."""

    entry: StoredResult
    place: int
    n_rows: int
    rank: SharedRank | None
    shown: bool
    best: Rival | None
    floor: Rival | None
    chance: float | None


def check_against_board(entry: StoredResult, current: Results, new: Sequence[StoredResult]) -> list[Finding]:
    """Findings about a result that only show beside other results."""
    before, peers = _on_board(entry.result, current)
    same_data = [before] if before is not None and before.suite.sha256 == entry.result.suite.sha256 else []
    parts = (
        _settings(entry.result, peers),
        _replacement(entry.result, before),
        _repeats(entry, current, new),
        _level(entry.result, [*peers, *same_data]),
        _hardware(entry.result, peers),
    )
    return [Finding(severity, entry.path, field, text) for part in parts for severity, field, text in part]


def standings(new: Sequence[StoredResult], current: Results) -> list[Standing]:
    """Where new rows would stand on the board with all of them merged, task by task."""
    made: list[Standing] = []
    for suite, task in sorted({(e.result.suite.name, e.result.task.name) for e in new}):
        mine = [e for e in new if (e.result.suite.name, e.result.task.name) == (suite, task)]
        replaced = {e.result.key for e in mine}
        others = [e for e in _comparable(mine[0].result, current) if e.result.key not in replaced]
        table = board(Results(current.root, (*others, *mine)), suite)
        for entry in mine:
            rivals = [e for e in (*others, *mine) if e is not entry]
            name = entry.result.submission.name
            cell = next((row.cells[task] for row in table.rows if row.name == name), None)
            made.append(_standing(entry, rivals, cell, current.root))
    return made


def _standing(entry: StoredResult, rivals: list[StoredResult], cell: Cell | None, root: Path) -> Standing:
    result = entry.result
    better = sum(_gain(other.result, result) > 0 for other in rivals)
    best = max(rivals, key=lambda e: _gain(e.result, result), default=None)
    floors = [e for e in rivals if _is_floor(e.result)]
    nearest = min(floors, key=lambda e: abs(_gain(e.result, result)), default=None)
    return Standing(
        entry=entry,
        place=better + 1,
        n_rows=len(rivals) + 1,
        rank=None if cell is None else cell.rank,
        shown=cell is not None,
        best=None if best is None else _rival(entry, best, root),
        floor=None if nearest is None else _rival(entry, nearest, root),
        chance=_chance(result),
    )


def _rival(entry: StoredResult, other: StoredResult, root: Path) -> Rival:
    name, mean = other.result.submission.name, other.result.main.mean
    task = _compared(entry, other, root)
    if task is None:
        return Rival(name, mean, entry.result.main.mean - mean, None, None)
    return Rival(name, mean, task.difference, task.interval, task.p_value)


def _compared(entry: StoredResult, other: StoredResult, root: Path) -> TaskComparison | None:
    """The pair's own test, without correction for other pairs."""
    try:
        pair = compare(
            Results(root, (entry, other)),
            entry.result.submission.name,
            other.result.submission.name,
            entry.result.suite.name,
        )
    except ResultError:
        return None
    return pair.tasks[0] if pair.tasks else None


def _comparable(result: Result, current: Results) -> list[StoredResult]:
    """Rows of the same task on the same data, judged by the same metric."""
    return [
        e
        for e in current.stored
        if (e.result.suite.name, e.result.task.name) == (result.suite.name, result.task.name)
        and e.result.suite.sha256 == result.suite.sha256
        and e.result.task.main_metric == result.task.main_metric
    ]


def _on_board(result: Result, current: Results) -> tuple[Result | None, list[Result]]:
    """The row that the result would replace, and the others of its task on the same data."""
    before = next((e.result for e in current.stored if e.result.key == result.key), None)
    place = (result.suite.name, result.suite.sha256, result.task.name)
    rows = [e.result for e in current.stored if e.result.key != result.key]
    return before, [row for row in rows if (row.suite.name, row.suite.sha256, row.task.name) == place]


def _settings(result: Result, peers: list[Result]) -> _Part:
    if not peers:
        yield "note", "task", f"the board has no other row of {result.suite.name}/{result.task.name}"
        return

    def usual(values: list[object]) -> object:
        return Counter(values).most_common(1)[0][0]

    for field, own, others in (
        ("task", result.task, [peer.task for peer in peers]),
        ("protocol", result.protocol, [peer.protocol for peer in peers]),
        ("n_queries", result.main.n_queries, [peer.main.n_queries for peer in peers]),
        ("floors", _chance(result), [_chance(peer) for peer in peers]),
    ):
        if own != usual([*others]):
            yield "error", field, f"is {own}, that of the board's rows {usual([*others])}"


def _replacement(result: Result, before: Result | None) -> _Part:
    if before is None:
        return
    code = "the same code" if result.submission.sha256 == before.submission.sha256 else "other code"
    yield "note", "file", f"replaces the board's row of {before.created}, made with {code}"
    if result.created <= before.created:
        yield "warning", "created", f"{result.created} is not newer than the board's row of {before.created}"
    if code == "other code" and result.submission.version == before.submission.version:
        yield (
            "warning",
            "submission.version",
            f"other code than the board's row under the same version {result.submission.version!r}: raise it, or take another name",
        )
    if result.seeds != before.seeds:
        yield "warning", "seeds", f"{list(result.seeds)}, the board's row has {list(before.seeds)}"


def _repeats(entry: StoredResult, current: Results, new: Sequence[StoredResult]) -> _Part:
    result = entry.result
    beside = [other for other in new if other.path.resolve() != entry.path.resolve()]
    for other in beside:
        if other.result.key == result.key:
            yield "error", "file", f"a second file of this row: {other.path}"
    hashes = set(result.predictions.sha256.values())
    for row in [other.result for other in (*current.stored, *beside) if other.result.key != result.key]:
        if row.run_id == result.run_id:
            yield "error", "run_id", f"is that of {row.key}: a result is made by one run"
        shared = len(hashes.intersection(row.predictions.sha256.values()))
        if shared and (row.suite.name, row.task.name) == (result.suite.name, result.task.name):
            yield "note", "predictions.sha256", f"{shared} file(s) are byte for byte those of {row.key}"


def _level(result: Result, board_rows: list[Result]) -> _Part:
    metric, mean = result.task.main_metric, result.main.mean
    rows = [row for row in board_rows if row.task.main_metric == metric]
    best = max(rows, key=lambda row: _gain(row, result), default=None)
    if best is not None:
        ahead = (mean, best.main.mean) if result.main.higher_is_better else (best.main.mean, mean)
        if ahead[1] >= 0 and ahead[0] > TOO_GOOD * ahead[1]:
            rival = f"{best.submission.name} with {best.main.mean:.4f}"
            text = f"{mean:.4f} is more than {TOO_GOOD} times as good as the best row so far, {rival}: verify it, look for leaks"
            yield "warning", metric, text
    if _is_floor(result):
        yield "note", "submission.tags", f"tagged {FLOOR_TAG}: the board shows it as a floor, not as a method"
        return
    above = [
        f"{row.submission.name} ({row.main.mean:.4f})"
        for row in rows
        if _is_floor(row) and _gain(row, result) > 0
    ]
    chance = _chance(result)
    if chance is not None and (mean < chance) == result.main.higher_is_better and not isclose(mean, chance):
        above.append(f"chance ({chance:.4f})")
    if above:
        yield "warning", metric, f"{mean:.4f} is below the floor(s) {', '.join(above)}"


def _hardware(result: Result, peers: list[Result]) -> _Part:
    own = result.hardware.get("hw_id")
    if own is None:
        yield "note", "hardware.hw_id", "unknown or several machines: costs are shown, not compared"
        return
    alike = sum(peer.hardware.get("hw_id") == own for peer in peers)
    if alike < len(peers):
        yield (
            "note",
            "hardware.hw_id",
            f"costs are compared with {alike} of {len(peers)} rows only: those of hardware {own}",
        )


def _chance(result: Result) -> float | None:
    """What random answers get, to nine digits: it follows from the task alone."""
    value = result.floors.get(result.task.main_metric)
    return None if value is None else float(f"{value:.9g}")


def _is_floor(result: Result) -> bool:
    return FLOOR_TAG in result.submission.tags


def _gain(other: Result, own: Result) -> float:
    """How much better ``other`` is than ``own`` in the main metric."""
    difference = other.main.mean - own.main.mean
    return difference if own.main.higher_is_better else -difference
