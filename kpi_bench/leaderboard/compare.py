"""Two submissions side by side: where they differ, whether that is real, and what each costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kpi_bench.errors import ResultError
from kpi_bench.evaluators.comparison import (
    PairedTest,
    holm,
    mcnemar,
    paired_permutation_test,
    permutation_test_macro_f1,
)
from kpi_bench.evaluators.intervals import Interval
from kpi_bench.leaderboard.costs import COLUMNS, HARDWARE_FREE, Costs, costs_of, hw_id_of, rounds_of
from kpi_bench.leaderboard.load import Results, StoredResult, SuiteResults, select_suite
from kpi_bench.leaderboard.pairwise import ALPHA
from kpi_bench.leaderboard.queries import QueryScores, classes_of, read_queries, same_queries
from kpi_bench.leaderboard.targets import target_of

N_PERMUTATIONS = 10_000


@dataclass(frozen=True)
class TaskComparison:
    """One task. ``difference`` is a minus b with its bootstrap interval over queries; ``p_adjusted`` is Holm's over the tasks compared.

    ``difference`` is the statistic of the test: for macro-F1 over several seeds (counts averaged over seeds) it differs slightly from
    ``mean_a - mean_b``. ``winner`` is None when the test cannot tell. ``test`` and the p-values are None when a side has no usable
    per-query scores. ``mcnemar_p`` is beside for accuracy with one seed each.
    """

    task: str
    metric: str
    higher_is_better: bool
    mean_a: float
    mean_b: float
    difference: float
    interval: Interval | None
    test: str | None
    p_value: float | None
    p_adjusted: float | None
    mcnemar_p: float | None
    winner: str | None
    n_queries: int
    seeds_a: int
    seeds_b: int


@dataclass(frozen=True)
class CostComparison:
    """Costs over the tasks that both have. ``ratios`` are a / b, for seconds and memory only on equal hardware (``hw_id``). ``by_rounds``:
    seconds of adapt and predict are those of timed rounds, which both have on all of these tasks; else both are those of the runs."""

    costs_a: Costs
    costs_b: Costs
    hw_id: str | None
    by_rounds: bool
    ratios: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """Submission ``a`` against ``b`` on a suite; ``only_a`` and ``only_b`` are tasks that the other lacks."""

    suite: str
    sha256: str
    a: str
    b: str
    tasks: tuple[TaskComparison, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    cost: CostComparison | None
    notes: tuple[str, ...]


def compare(results: Results, a: str, b: str, suite: str) -> Comparison:
    """Compare two submissions task by task with paired tests on the same queries.

    Raises:
        ResultError: unknown suite or submission (what exists is listed), or a and b are the same.
    """
    chosen = select_suite(results, suite)
    of_a, of_b = _of(chosen, a), _of(chosen, b)
    if a == b:
        raise ResultError(f"a comparison needs two submissions, not {a!r} twice")
    notes = [*results.problems, *chosen.left_out]
    shared = [task for task in chosen.tasks if task in of_a and task in of_b]
    tests = {task: _test(of_a[task], of_b[task], notes) for task in shared}
    tested = [task for task in shared if tests[task] is not None]
    p_values = [test.p_value for task in tested if (test := tests[task]) is not None]
    adjusted = dict(zip(tested, holm(p_values) if p_values else [], strict=True))
    return Comparison(
        suite=suite,
        sha256=chosen.sha256,
        a=a,
        b=b,
        tasks=tuple(_task(of_a[task], of_b[task], tests[task], adjusted.get(task)) for task in shared),
        only_a=tuple(task for task in of_a if task not in of_b),
        only_b=tuple(task for task in of_b if task not in of_a),
        cost=_cost(chosen, [of_a[task] for task in shared], [of_b[task] for task in shared])
        if shared
        else None,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Tested:
    """A paired test with its name, and McNemar's p where it applies."""

    name: str
    paired: PairedTest
    mcnemar_p: float | None

    @property
    def p_value(self) -> float:
        return self.paired.p_value


def _of(chosen: SuiteResults, submission: str) -> dict[str, StoredResult]:
    found = chosen.of_submission(submission)
    if not found:
        raise ResultError(
            f"suite {chosen.suite} has no result of submission {submission!r}; it has: {', '.join(chosen.submissions)}"
        )
    return found


def _test(a: StoredResult, b: StoredResult, notes: list[str]) -> _Tested | None:
    """The paired test of a task; None, with a note, when the two cannot be paired."""
    task = a.result.task.name
    read: dict[str, QueryScores] = {}
    for side, stored in (("a", a), ("b", b)):
        try:
            scores = read_queries(stored)
        except ResultError as error:
            notes.append(f"{task}: not tested: {error}")
            return None
        if scores is None:
            notes.append(f"{task}: not tested: {stored.path} has no per-query scores")
            return None
        read[side] = scores
    alike, _ = same_queries(read)
    if len(alike) != 2:
        notes.append(f"{task}: not tested: {a.path} and {b.path} were scored on different queries")
        return None
    first, second = alike["a"], alike["b"]
    if first.scores is not None and second.scores is not None:
        paired = paired_permutation_test(first.scores, second.scores, n_permutations=N_PERMUTATIONS)
        return _Tested("paired permutation of per-query scores", paired, _mcnemar(first, second))
    assert first.labels is not None
    assert first.predicted is not None
    assert second.predicted is not None
    paired = permutation_test_macro_f1(
        first.labels,
        first.predicted,
        second.predicted,
        classes_of(alike.values()),
        n_permutations=N_PERMUTATIONS,
    )
    return _Tested("paired permutation of macro-F1", paired, None)


def _mcnemar(a: QueryScores, b: QueryScores) -> float | None:
    if a.labels is None or a.predicted is None or b.predicted is None:
        return None
    if len(a.predicted) > 1 or len(b.predicted) > 1:
        return None
    return mcnemar(a.predicted[0] == a.labels, b.predicted[0] == a.labels, n_resamples=1).p_value


def _task(a: StoredResult, b: StoredResult, test: _Tested | None, adjusted: float | None) -> TaskComparison:
    first, second = a.result, b.result
    difference = first.main.mean - second.main.mean if test is None else test.paired.difference
    winner = None
    if adjusted is not None and adjusted < ALPHA:
        a_wins = (difference > 0) == first.main.higher_is_better
        winner = first.submission.name if a_wins else second.submission.name
    return TaskComparison(
        task=first.task.name,
        metric=first.task.main_metric,
        higher_is_better=first.main.higher_is_better,
        mean_a=first.main.mean,
        mean_b=second.main.mean,
        difference=difference,
        interval=test.paired.interval if test else None,
        test=test.name if test else None,
        p_value=test.p_value if test else None,
        p_adjusted=adjusted,
        mcnemar_p=test.mcnemar_p if test else None,
        winner=winner,
        n_queries=test.paired.n if test else first.main.n_queries,
        seeds_a=len(first.seeds),
        seeds_b=len(second.seeds),
    )


def _cost(chosen: SuiteResults, a: list[StoredResult], b: list[StoredResult]) -> CostComparison:
    results_a, results_b = [entry.result for entry in a], [entry.result for entry in b]
    rows = {r.task.name: [entry.result for entry in chosen.of_task(r.task.name).values()] for r in results_a}
    targets = {task: target for task, of_task in rows.items() if (target := target_of(of_task)) is not None}
    by_rounds = rounds_of([*results_a, *results_b])[0] > 0
    costs_a, costs_b = (costs_of(side, targets, by_rounds=by_rounds) for side in (results_a, results_b))
    hw_id = hw_id_of([*results_a, *results_b])
    ratios: dict[str, float] = {}
    for column in COLUMNS if hw_id else HARDWARE_FREE:
        own, other = getattr(costs_a, column), getattr(costs_b, column)
        if own is not None and other:
            ratios[column] = own / other
    return CostComparison(costs_a, costs_b, hw_id, by_rounds, ratios)
