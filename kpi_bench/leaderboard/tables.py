"""The board of a suite as data: rows, tasks, ranks, aggregates and costs, unrounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from kpi_bench.errors import ResultError
from kpi_bench.evaluators.aggregation import Aggregate, SharedRank, borda, mean_rank, shared_ranks
from kpi_bench.harness.results import VERIFIED, MetricSummary, Result
from kpi_bench.leaderboard.costs import (
    BY_ROUNDS,
    HARDWARE_FREE,
    Costs,
    cost_ranks,
    costs_of,
    hw_id_of,
    rounds_of,
)
from kpi_bench.leaderboard.load import Results, StoredResult, SuiteResults, select_suite
from kpi_bench.leaderboard.pairwise import TaskTests, paired_tests
from kpi_bench.leaderboard.queries import QueryScores, read_queries, same_queries
from kpi_bench.leaderboard.targets import Target, seconds_to, target_of

FLOOR_TAG = "floor"
"""A submission with this tag is a floor: what a method must beat to be worth a look."""


@dataclass(frozen=True)
class TaskColumn:
    """A task of the board. ``chance`` is what random scores would get, where it is known in closed form; ``target`` what time to target
    is taken to, where the row that sets it is on the board."""

    name: str
    kind: str
    metric: str
    higher_is_better: bool
    chance: float | None
    tests: TaskTests
    target: Target | None = None


@dataclass(frozen=True)
class Cell:
    """A submission on a task. ``rank`` is None when no paired test is possible (no per-query scores), ``to_target_s`` when the column has
    no target or the learning curve does not reach it."""

    result: Result
    rank: SharedRank | None
    to_target_s: float | None = None

    @property
    def main(self) -> MetricSummary:
        """The main metric."""
        return self.result.main


@dataclass(frozen=True)
class Row:
    """A submission. ``cells`` by task; ``mean_rank`` and ``borda`` are None when a task is missing.

    ``n_seeds`` is the fewest and the most seeds of its tasks, ``n_rounds`` of timed rounds. ``n_trials`` and ``search_s`` (seconds) are the budget of the searches
    that chose its parameters, where one is recorded. ``cost_ranks`` holds the columns that may be compared: rows that cover all
    tasks, on one hardware; seconds by rounds and by runs apart.
    """

    name: str
    version: str
    description: str
    kind: str
    size: str
    fidelity: str
    floor: bool
    tags: tuple[str, ...]
    flags: tuple[str, ...]
    n_seeds: tuple[int, int]
    n_rounds: tuple[int, int]
    n_trials: int
    search_s: float
    cells: Mapping[str, Cell]
    mean_rank: float | None
    borda: float | None
    covered: int
    hw_id: str | None
    costs: Costs
    cost_ranks: Mapping[str, SharedRank]

    @property
    def timed(self) -> bool:
        """Whether adapt and predict were timed in rounds on every task, from which the costs are then taken."""
        return self.n_rounds[0] > 0


@dataclass(frozen=True)
class BoardTable:
    """A suite's board. ``rows`` are sorted (see ``board``); ``hw_id`` is the hardware most rows share; ``timed`` holds, by hardware, whether
    most ranked rows were timed in rounds; ``notes`` what a reader must know."""

    suite: str
    version: str
    sha256: str
    n_tasks: int
    tasks: tuple[TaskColumn, ...]
    rows: tuple[Row, ...]
    hw_id: str | None
    timed: Mapping[str, bool]
    notes: tuple[str, ...]

    def compares(self, row: Row, column: str) -> bool:
        """Whether a row's cost stands in comparison with those of most rows."""
        if column not in row.cost_ranks or column in HARDWARE_FREE:
            return column in row.cost_ranks
        return row.hw_id == self.hw_id and (
            column not in BY_ROUNDS or row.timed == self.timed[row.hw_id or ""]
        )

    def row(self, name: str) -> Row:
        """The row of a submission."""
        return next(row for row in self.rows if row.name == name)


def board(results: Results, suite: str, *, reference: str | None = None) -> BoardTable:
    """Make a suite's board: complete rows by mean rank, then the others by coverage and name.

    ``reference`` is the row that sets the targets of all tasks, instead of those in :mod:`kpi_bench.leaderboard.targets`.

    Raises:
        ResultError: the suite has no result, or none that can be shown; it has no row ``reference``.
    """
    chosen = select_suite(results, suite)
    notes = [*results.problems, *chosen.left_out]
    columns: list[TaskColumn] = []
    cells: dict[str, dict[str, Cell]] = {}
    for task in chosen.tasks:
        column, of_task = _task(task, chosen.of_task(task), notes, reference)
        if of_task:
            columns.append(column)
        for name, cell in of_task.items():
            cells.setdefault(name, {})[task] = cell
    if not cells:
        raise ResultError(f"no result of suite {suite} can be shown: " + "; ".join(notes))
    if reference is not None and reference not in cells:
        raise ResultError(
            f"suite {suite} has no row {reference!r} to set targets; it has: {', '.join(sorted(cells))}"
        )
    rows = _rows(chosen, columns, cells, notes)
    return BoardTable(
        suite=suite,
        version=chosen.version,
        sha256=chosen.sha256,
        n_tasks=chosen.n_tasks,
        tasks=tuple(columns),
        rows=tuple(sorted(rows, key=_default_order)),
        hw_id=_reference_hardware(rows),
        timed=_mostly_timed(rows),
        notes=tuple(notes),
    )


def _task(
    task: str, stored: Mapping[str, StoredResult], notes: list[str], reference: str | None
) -> tuple[TaskColumn, dict[str, Cell]]:
    """Read, test and rank one task; only its per-query scores are in memory meanwhile."""
    shown: dict[str, Result] = {}
    read: dict[str, QueryScores] = {}
    for name, entry in stored.items():
        try:
            scores = read_queries(entry)
        except ResultError as error:
            notes.append(f"left out: {error}")
            continue
        shown[name] = entry.result
        if scores is not None:
            read[name] = scores
    alike, others = same_queries(read)
    for name in others:
        notes.append(f"left out: {stored[name].path}: scored on other queries than most results of {task}")
        del shown[name]
    untested = [name for name in shown if name not in alike]
    if untested:
        notes.append(
            f"{task}: no paired test, and so no rank, for {', '.join(untested)}: no per-query scores"
        )
    tests = paired_tests(alike)
    any_result = next(iter(stored.values())).result
    higher = any_result.main.higher_is_better
    ranks = shared_ranks(
        {name: shown[name].main.mean for name in alike}, tests.separated, higher_is_better=higher
    )
    chance = next(
        (r.floors[r.task.main_metric] for r in shown.values() if r.task.main_metric in r.floors), None
    )
    target = target_of(shown.values(), reference)
    seconds = {name: seconds_to(target, result) for name, result in shown.items()} if target else {}
    main_metric = any_result.task.main_metric
    column = TaskColumn(task, any_result.task.kind, main_metric, higher, chance, tests, target)
    return column, {name: Cell(result, ranks.get(name), seconds.get(name)) for name, result in shown.items()}


def _rows(
    chosen: SuiteResults,
    columns: list[TaskColumn],
    cells: Mapping[str, Mapping[str, Cell]],
    notes: list[str],
) -> list[Row]:
    scores: dict[str, dict[str, float]] = {
        column.name: {name: row[column.name].main.mean for name, row in cells.items() if column.name in row}
        for column in columns
    }
    higher = {column.name: column.higher_is_better for column in columns}
    for number in range(chosen.n_tasks - len(columns)):
        # A task of the suite that has no result at all is missing from every row.
        scores[f"(missing {number})"], higher[f"(missing {number})"] = {}, True
    means, shares = mean_rank(scores, higher), borda(scores, higher)
    results = {name: [cell.result for cell in row.values()] for name, row in cells.items()}
    targets = {column.name: column.target for column in columns if column.target is not None}
    costs = {name: costs_of(mine, targets) for name, mine in results.items()}
    hardware = {name: hw_id_of(mine) for name, mine in results.items()}
    # Totals over two tasks are no bargain against totals over six.
    complete = {name: hardware[name] if len(cells[name]) == chosen.n_tasks else None for name in cells}
    timed = {name for name, mine in results.items() if rounds_of(mine)[0]}
    ranked = cost_ranks(costs, complete, timed)
    return [
        _row(name, cells[name], means[name], shares[name], costs[name], ranked[name], hardware[name], notes)
        for name in cells
    ]


def _row(
    name: str,
    cells: Mapping[str, Cell],
    mean: Aggregate,
    share: Aggregate,
    costs: Costs,
    ranked: Mapping[str, SharedRank],
    hw_id: str | None,
    notes: list[str],
) -> Row:
    results = [cell.result for cell in cells.values()]
    newest = max(results, key=lambda result: result.created).submission
    for field in ("sha256", "size", "fidelity"):
        if len({getattr(result.submission, field) for result in results}) > 1:
            what = "code" if field == "sha256" else field
            notes.append(f"{name}: its tasks were run with different {what}; the newest is shown")
    seeds = [len(result.seeds) for result in results]
    # Tasks may share a search, or have one each.
    searches = {result.search for result in results if result.search is not None}
    return Row(
        name=name,
        version=newest.version,
        description=newest.description,
        kind=newest.kind,
        size=newest.size,
        fidelity=newest.fidelity,
        floor=FLOOR_TAG in newest.tags,
        tags=newest.tags,
        flags=_flags(results),
        n_seeds=(min(seeds), max(seeds)),
        n_rounds=rounds_of(results),
        n_trials=sum(search.trials for search in searches),
        search_s=sum(search.seconds for search in searches),
        cells=cells,
        mean_rank=mean.value,
        borda=share.value,
        covered=mean.covered,
        hw_id=hw_id,
        costs=costs,
        cost_ranks=ranked,
    )


def _flags(results: list[Result]) -> tuple[str, ...]:
    """Flags that any task carries; ``verified`` only when all do: it is praise, the others are caveats."""
    seen = {flag for result in results for flag in result.flags}
    if not all(VERIFIED in result.flags for result in results):
        seen.discard(VERIFIED)
    if any(len(result.seeds) == 1 for result in results):
        seen.add("single_seed")
    return tuple(sorted(seen))


def _reference_hardware(rows: list[Row]) -> str | None:
    counts = Counter(row.hw_id for row in rows if row.hw_id is not None)
    return max(sorted(counts), key=lambda hw_id: counts[hw_id]) if counts else None


def _mostly_timed(rows: list[Row]) -> dict[str, bool]:
    ranked = [row for row in rows if row.cost_ranks and row.hw_id is not None]
    votes = Counter({str(row.hw_id): 0 for row in ranked})
    for row in ranked:
        votes[str(row.hw_id)] += 1 if row.timed else -1
    return {hw_id: count > 0 for hw_id, count in sorted(votes.items())}


def _default_order(row: Row) -> tuple[bool, float, int, str]:
    return (row.mean_rank is None, row.mean_rank or 0.0, -row.covered, row.name)
