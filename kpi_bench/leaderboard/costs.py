"""What a row cost: seconds, memory and size from results, comparable only between runs on the same hardware."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean, median
from typing import TypeVar

from kpi_bench.evaluators.aggregation import SharedRank
from kpi_bench.harness.results import PhaseTiming, Result, RoundTiming
from kpi_bench.leaderboard.targets import Target, seconds_to

Number = TypeVar("Number", int, float)

TASK_PHASES = ("adapt", "predict")


@dataclass(frozen=True)
class Costs:
    """Costs of a submission over the tasks that it covers; None where nothing was measured.

    Seconds of ``adapt`` and ``predict`` (wall, CPU, GPU) are medians of timed rounds where every task has them; all others are means over seeds.

    ``pretrain_s`` counts once for all tasks (the largest on record when the tasks were run apart), ``adapt_predict_s`` and
    ``cpu_s`` (pretrain once, adapt and predict of each task) add up over tasks. ``amortised_s`` is pretrain / n_tasks + adapt
    per task, averaged over tasks. Memory (bytes), ``parameters``, ``kept`` and ``serving_bytes`` are the largest of any task and seed.
    ``queries_per_s`` is all test queries over the time they take. ``gpu_s`` is that share of the seconds in which a GPU was held.
    ``to_target_s`` adds up, over tasks with a target, the seconds of ``adapt`` until the learning curve reaches it; None when one is not reached.
    """

    pretrain_s: float | None
    adapt_predict_s: float | None
    amortised_s: float | None
    cpu_s: float | None
    gpu_s: float | None
    peak_rss: int | None
    peak_device: int | None
    parameters: int | None
    kept: int | None
    serving_bytes: int | None
    queries_per_s: float | None
    to_target_s: float | None


COLUMNS = tuple(field.name for field in fields(Costs))
"""Names of the cost columns."""
HARDWARE_FREE = ("parameters", "kept", "serving_bytes")
"""Columns that mean the same on any machine."""
HIGHER_IS_BETTER = ("queries_per_s",)
BY_ROUNDS = ("adapt_predict_s", "amortised_s", "cpu_s", "gpu_s", "queries_per_s")
"""Columns that timed rounds change: they leave out what a run pays once a process, and so compare with others by rounds only."""


def costs_of(
    results: Sequence[Result], targets: Mapping[str, Target] | None = None, *, by_rounds: bool | None = None
) -> Costs:
    """Costs of one submission from its results, one a task; ``targets`` by task.

    ``by_rounds``: take timed rounds, which every result must have, or do not; None takes them where every result has them.
    """
    rounds = rounds_of(results)[0] > 0 if by_rounds is None else by_rounds
    pretrain = [_seconds(result, "pretrain", _wall, rounds) for result in results]
    once = _largest(pretrain)
    tasks = [_sum(_seconds(result, phase, _wall, rounds) for phase in TASK_PHASES) for result in results]
    adapt = [_seconds(result, "adapt", _wall, rounds) for result in results]
    n_tasks = max(result.task.n_tasks for result in results)
    amortised = [(once or 0.0) / n_tasks + seconds for seconds in adapt if seconds is not None]
    return Costs(
        pretrain_s=once,
        adapt_predict_s=_sum(tasks),
        amortised_s=fmean(amortised) if amortised else None,
        cpu_s=_total(results, _cpu, rounds),
        gpu_s=_total(results, _gpu, rounds),
        peak_rss=_largest(value for result in results for value in result.memory.peak_rss),
        peak_device=_largest(value for result in results for value in result.memory.peak_device or ()),
        parameters=_largest(result.size.parameters for result in results),
        kept=_largest(result.size.kept for result in results),
        serving_bytes=_largest(result.size.serving_bytes for result in results),
        queries_per_s=_throughput(results, rounds),
        to_target_s=_to_targets(results, targets or {}),
    )


def rounds_of(results: Iterable[Result]) -> tuple[int, int]:
    """The fewest and the most timed rounds of the results; with 0 of one all seconds are those of the runs."""
    counts = []
    for result in results:
        rounds = result.timing.rounds
        counts.append(min((len(p.wall_s) for p in rounds.phases.values()), default=0) if rounds else 0)
    return min(counts), max(counts)


def hw_id_of(results: Iterable[Result]) -> str | None:
    """The hardware that all of the results were made on; None when they differ or do not say."""
    found = {result.hardware.get("hw_id") for result in results}
    only = found.pop() if len(found) == 1 else None
    return only if isinstance(only, str) else None


def cost_ranks(
    costs: Mapping[str, Costs], groups: Mapping[str, str | None], timed: Collection[str] = ()
) -> dict[str, dict[str, SharedRank]]:
    """Ranks of rows by column, cheapest first, within groups of equal hardware; a row of group None is not ranked.

    Hardware-free columns are ranked over all rows that have a group. In columns ``BY_ROUNDS`` the rows ``timed``, by rounds on every
    task, and the others are ranked apart.
    """
    ranks: dict[str, dict[str, SharedRank]] = {name: {} for name in costs}
    for column in COLUMNS:
        sign = -1.0 if column in HIGHER_IS_BETTER else 1.0
        values = {
            name: sign * value
            for name in costs
            if groups[name] and (value := getattr(costs[name], column)) is not None
        }
        league = {
            name: None if column in HARDWARE_FREE else (groups[name], column in BY_ROUNDS and name in timed)
            for name in values
        }
        peers = defaultdict(list)
        for value, name in sorted((value, name) for name, value in values.items()):
            peers[league[name]].append(value)
        for name, value in values.items():
            ordered = peers[league[name]]
            better = bisect_left(ordered, value)
            ranks[name][column] = SharedRank(1 + better, bisect_right(ordered, value) > better + 1)
    return ranks


_Column = Callable[[PhaseTiming | RoundTiming], Sequence[float]]


def _wall(phase: PhaseTiming | RoundTiming) -> Sequence[float]:
    return phase.wall_s


def _cpu(phase: PhaseTiming | RoundTiming) -> Sequence[float]:
    return phase.cpu_s


def _gpu(phase: PhaseTiming | RoundTiming) -> Sequence[float]:
    return phase.gpu_s or ()


def _seconds(result: Result, phase: str, column: _Column, by_rounds: bool) -> float | None:
    """Median over timed rounds of a phase's seconds, else the mean over seeds; None when it was not run or not measured."""
    rounds = result.timing.rounds
    if by_rounds and rounds is not None and phase in rounds.phases:
        values = column(rounds.phases[phase])
        return median(values) if values else None
    timing = result.timing.phases.get(phase)
    values = column(timing) if timing else ()
    return fmean(values) if values else None


def _total(results: Sequence[Result], column: _Column, by_rounds: bool) -> float | None:
    """Pretrain once plus the task phases of every task."""
    pretrain = _largest(_seconds(result, "pretrain", column, by_rounds) for result in results)
    of_tasks = (_seconds(result, phase, column, by_rounds) for result in results for phase in TASK_PHASES)
    return _sum([pretrain, *of_tasks])


def _throughput(results: Sequence[Result], by_rounds: bool) -> float | None:
    """Test queries of all tasks over the seconds they take at each task's own rate."""
    rates = [
        (result.main.n_queries, rate) for result in results if (rate := _rate(result, by_rounds)) is not None
    ]
    seconds = sum(n / rate for n, rate in rates if rate > 0)
    return sum(n for n, _ in rates) / seconds if seconds > 0 else None


def _rate(result: Result, by_rounds: bool) -> float | None:
    """Queries a second of one task."""
    rounds = result.timing.rounds if by_rounds else None
    if rounds is not None and (seconds := _seconds(result, "predict", _wall, by_rounds)):
        return rounds.queries / seconds
    return fmean(result.timing.queries_per_s) if result.timing.queries_per_s else None


def _to_targets(results: Sequence[Result], targets: Mapping[str, Target]) -> float | None:
    aimed = [(targets[result.task.name], result) for result in results if result.task.name in targets]
    seconds = [seconds_to(target, result) for target, result in aimed]
    return None if None in seconds else _sum(seconds)


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _largest(values: Iterable[Number | None]) -> Number | None:
    return max((value for value in values if value is not None), default=None)
