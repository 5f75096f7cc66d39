"""Compare a forecast with the results of the run that it was made for."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kpi_bench.errors import RunError
from kpi_bench.harness.forecast.fit import Figure
from kpi_bench.harness.forecast.record import HARNESS, SCORE, Forecast, RunForecast
from kpi_bench.harness.results import Result, read_result, result_files

PRETRAIN = "pretrain"


@dataclass(frozen=True)
class Checked:
    """One figure beside what happened. ``what`` names task and cost, ``unit`` is ``s`` or ``bytes``."""

    task: str | None
    what: str
    unit: str
    figure: Figure
    actual: float

    @property
    def factor(self) -> float:
        """Actual over forecast; infinite where nothing was forecast."""
        return self.actual / self.figure.mid if self.figure.mid > 0 else float("inf")

    @property
    def within(self) -> bool:
        """Whether it came out in the range."""
        return self.figure.low <= self.actual <= self.figure.high


@dataclass(frozen=True)
class Check:
    """All figures that the results tell of, and what makes the comparison doubtful."""

    checked: tuple[Checked, ...]
    doubts: tuple[str, ...]


def check_forecast(forecast: Forecast, results: Sequence[Path]) -> Check:
    """Compare with the results of the forecast's row and suite among result files, and folders of them.

    Costs are means over a result's seeds. A task's memory is the larger one of its own runs and pre-training, as results have it.

    Raises:
        RunError: none of the results is of that row and suite.
        ResultError: a result file breaks the schema.
    """
    found = [read_result(path) for path in result_files(results)]
    own = [
        result
        for result in found
        if result.submission.name == forecast.submission and result.suite.sha256 == forecast.suite_sha256
    ]
    runs = {run.task: run for run in forecast.runs}
    own = [result for result in own if result.task.name in runs]
    if not own:
        raise RunError(
            f"no result of {forecast.submission} on {forecast.suite} {forecast.suite_version} (digest {forecast.suite_sha256[:16]}) "
            f"for a task of the forecast among {len(found)} result file(s) in {', '.join(map(str, results))}"
        )
    checked: list[Checked] = []
    pretraining = runs.get(None)
    for number, result in enumerate(own):
        if number == 0 and pretraining is not None:
            checked += _phases(pretraining, result, (PRETRAIN,))
        checked += _phases(runs[result.task.name], result, ("load", "adapt", "predict", SCORE))
        checked += _rest(runs[result.task.name], result)
        checked += _memory(runs[result.task.name], pretraining, result)
    return Check(tuple(checked), tuple(_doubts(forecast, own)))


def _phases(run: RunForecast, result: Result, names: Sequence[str]) -> list[Checked]:
    found = []
    for name in names:
        timing, phase = result.timing.phases.get(name), run.phases.get(name)
        if timing is None or phase is None:
            continue
        found.append(Checked(run.task, f"{name} wall", "s", phase.wall, statistics.fmean(timing.wall_s)))
        if phase.cpu is not None:
            found.append(Checked(run.task, f"{name} CPU", "s", phase.cpu, statistics.fmean(timing.cpu_s)))
    return found


def _rest(run: RunForecast, result: Result) -> list[Checked]:
    phase, seconds = run.phases.get(HARNESS), result.timing.harness_s
    if phase is None or not seconds:
        return []
    return [Checked(run.task, f"{HARNESS} wall", "s", phase.wall, statistics.fmean(seconds))]


def _memory(run: RunForecast, pretraining: RunForecast | None, result: Result) -> list[Checked]:
    found = []
    for what, attribute, actual in (
        ("peak memory", "memory", result.memory.peak_rss),
        ("peak device memory", "device_memory", result.memory.peak_device),
    ):
        figures = [getattr(each, attribute) for each in (run, pretraining) if each is not None]
        figures = [figure for figure in figures if figure is not None]
        if figures and actual:
            largest = max(figures, key=lambda figure: figure.mid)
            found.append(Checked(run.task, what, "bytes", largest, max(actual)))
    return found


def _doubts(forecast: Forecast, results: Sequence[Result]) -> list[str]:
    """What differs between the forecast and results, with their tasks."""
    tasks: dict[str, list[str]] = {}
    for result in results:
        params = forecast.params, result.submission.params
        differing = sorted(
            name for name in {*params[0], *params[1]} if params[0].get(name) != params[1].get(name)
        )
        ids = result.hardware.get("hw_id"), forecast.hardware.get("hw_id")
        for differs, what in (
            (bool(differing), f"other parameters ({', '.join(differing)})"),
            (result.submission.sha256 != forecast.source_sha256, "other code of the submission"),
            (
                _other_code(forecast.git, result.kpi_bench.git),
                "other code of kpi-bench, or uncommitted changes",
            ),
            (ids[0] != ids[1], f"other hardware or threads (hw_id {ids[0]}, forecast {ids[1]})"),
        ):
            if differs:
                tasks.setdefault(what, []).append(result.task.name)
    return [f"{what}: {', '.join(names)}" for what, names in tasks.items()]


def _other_code(*revisions: str | None) -> bool:
    """Whether kpi-bench may have changed in between: two dirty trees at one commit need not be the same."""
    return len(set(revisions)) > 1 or any(
        revision is not None and "+dirty" in revision for revision in revisions
    )
