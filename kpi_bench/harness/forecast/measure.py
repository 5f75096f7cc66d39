"""Run a submission on one shrunken suite and collect what its runs took."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from kpi_bench.errors import KpiBenchError
from kpi_bench.harness.channel import Message
from kpi_bench.harness.config import SubmissionConfig
from kpi_bench.harness.evaluate import Listener, Options, Outcome, evaluate
from kpi_bench.harness.executors.base import Executor
from kpi_bench.harness.forecast.record import HARNESS, SCORE
from kpi_bench.harness.forecast.shrink import graph_share, task_share
from kpi_bench.harness.records import RunFolders, RunRecord, read_record
from kpi_bench.harness.results import read_result, result_path
from kpi_bench.suites.manifest import Manifest
from kpi_bench.suites.suite import Suite


@dataclass(frozen=True)
class RunCost:
    """What one run on a shrunken suite took: seconds by phase (wall, CPU), bytes at the peaks, and by phase the learning curve's metric and
    last step. ``share`` is the size of what the run works on, measured, not asked for."""

    share: float
    seconds: Mapping[str, tuple[float, float | None]]
    memory: int
    device_memory: int | None
    curves: Mapping[str, tuple[str, int]]


@dataclass(frozen=True)
class Costs:
    """Runs by task (None: pre-training): what they took, or why there is nothing to know."""

    costs: Mapping[str | None, RunCost]
    errors: Mapping[str | None, str]
    complete: bool


class _BudgetSpentError(KpiBenchError):
    """The budget ran out in the middle of a run."""


def measure(
    config: SubmissionConfig,
    whole: Manifest,
    small: Suite,
    options: Options,
    deadline: float,
    executor: Executor,
    display: AbstractContextManager[Listener] | None = None,
) -> Costs:
    """Evaluate ``config`` on ``small``, with the one seed of ``options``, until ``deadline`` (``time.perf_counter``).

    Raises:
        SubmissionError: the submission cannot be started at all, or does not answer the tasks.
        RunError: the executor can make no runs.
    """
    complete, errors = True, {}
    with display or nullcontext() as shown:
        watch = _Watch(deadline, shown)
        try:
            evaluate(config, small, options, watch, executor)
        except _BudgetSpentError:
            complete = False
        errors = watch.errors
    (seed,) = options.seeds
    folders = RunFolders(options.out.resolve() / small.name / config.row_name(options.config))
    costs: dict[str | None, RunCost] = {}
    for task in (None, *small.task_names()):
        folder = folders.pretrained(seed) if task is None else folders.run(task, seed)
        record = read_record(folder)
        if record is None or not record.done:
            continue
        row = config.row_name(options.config)
        result = result_path(options.results, small.name, task or "", row)
        scored = read_result(result).timing.phases[SCORE] if task and result.is_file() else None
        share = task_share(small.manifest, whole, task) if task else graph_share(small.manifest, whole)
        score = (scored.wall_s[0], scored.cpu_s[0]) if scored else None
        costs[task] = _cost(record, share, score)
    return Costs(costs, errors, complete)


def _cost(record: RunRecord, share: float, score: tuple[float, float] | None) -> RunCost:
    seconds: dict[str, tuple[float, float | None]] = {
        name: (lap.wall_s, lap.cpu_s) for name, lap in record.laps.items()
    }
    seconds[HARNESS] = (max(0.0, record.wall_s - sum(wall for wall, _ in seconds.values())), None)
    if score is not None:
        seconds[SCORE] = score
    curves = {point.phase: (point.metric, point.step) for point in sorted(record.curve, key=lambda p: p.step)}
    return RunCost(share, seconds, record.peak_rss, record.peak_device, curves)


class _Watch:
    """A ``Listener`` that ends the evaluation at the deadline, and passes on what it hears."""

    def __init__(self, deadline: float, shown: Listener | None) -> None:
        self._deadline = deadline
        self._shown = shown
        self.errors: dict[str | None, str] = {}

    def planned(self, runs: int) -> None:
        if self._shown:
            self._shown.planned(runs)

    def started(self, task: str | None, seed: int) -> None:
        if self._shown:
            self._shown.started(task, seed)
        self._look_at_the_clock()

    def message(self, message: Message) -> None:
        if self._shown:
            self._shown.message(message)
        self._look_at_the_clock()

    def finished(self, outcome: Outcome) -> None:
        # A run that the deadline ended is no fault of the submission.
        if outcome.error is not None:
            self._look_at_the_clock()
            self.errors[outcome.task] = outcome.error
        if self._shown:
            self._shown.finished(outcome)

    def _look_at_the_clock(self) -> None:
        if time.perf_counter() > self._deadline:
            raise _BudgetSpentError
