"""Forecast a long run: probes of growing size within a budget of wall time, then an extrapolation of each phase of each run."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from kpi_bench.errors import RunError, SuiteError
from kpi_bench.harness.config import SubmissionConfig
from kpi_bench.harness.environment import git_revision, hardware
from kpi_bench.harness.evaluate import DEFAULT_SECONDS, Listener, Options
from kpi_bench.harness.executors.base import Executor
from kpi_bench.harness.executors.local import LocalExecutor
from kpi_bench.harness.forecast.extrapolate import forecast_runs, limit_warnings
from kpi_bench.harness.forecast.fit import Sample, extrapolate
from kpi_bench.harness.forecast.measure import Costs, measure
from kpi_bench.harness.forecast.record import Forecast, Probe
from kpi_bench.harness.forecast.shrink import shrink
from kpi_bench.harness.plan import select_tasks
from kpi_bench.harness.source import source_sha256
from kpi_bench.harness.supervise import Limits, default_memory_limit
from kpi_bench.suites.manifest import Manifest
from kpi_bench.suites.suite import Suite

Show = Callable[[str], AbstractContextManager[Listener]]
"""A progress display with the given title, for the runs of one probe."""

N_SHARES = 3
LARGEST_FIRST = 1 / 16
ROWS_FIRST = 200_000
"""The first copy has no more rows than this (all tables but the KGs' entities), so that a huge suite begins small enough."""


@dataclass(frozen=True)
class PlanOptions:
    """How to forecast. ``shares`` are tried in this order while the budget lasts (None: three from 1/16, less for a huge suite, doubling);
    probes use the first seed; ``limits`` are those of the run to come, which the forecast is held against."""

    budget_s: float = 300.0
    shares: tuple[float, ...] | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    tasks: tuple[str, ...] | None = None
    device: str = "cpu"
    config: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    offline: bool = True
    limits: Limits = field(default_factory=lambda: Limits(DEFAULT_SECONDS, default_memory_limit()))
    scratch: Path | None = None


def first_shares(manifest: Manifest) -> tuple[float, ...]:
    """Shares to try on a suite: powers of two, each twice the one before."""
    rows = sum(entry.rows for path, entry in manifest.files.items() if not path.endswith("entities.parquet"))
    share = LARGEST_FIRST
    while share * rows > ROWS_FIRST:
        share /= 2
    return tuple(share * 2**i for i in range(N_SHARES))


def make_forecast(
    config: SubmissionConfig,
    suite: Suite,
    options: PlanOptions,
    *,
    show: Show | None = None,
    on_probe: Callable[[Probe], None] | None = None,
    executor: Executor | None = None,
) -> Forecast:
    """Run ``config`` on shrunken copies of ``suite``, smallest first, and extrapolate. Everything but the forecast is deleted.

    Raises:
        SubmissionError: the submission cannot be started at all, or does not answer the tasks.
        RunError: fewer than two sizes fit into the budget, or no run succeeded on two.
        SuiteError: the suite is too small to be shrunk.
    """
    return _Probing(config, suite, options, show, on_probe, executor or LocalExecutor()).run()


class _Probing:
    """State of one forecast: what was measured, and how much of the budget is left."""

    def __init__(
        self,
        config: SubmissionConfig,
        suite: Suite,
        options: PlanOptions,
        show: Show | None,
        on_probe: Callable[[Probe], None] | None,
        executor: Executor,
    ) -> None:
        self.config, self.suite, self.options = config, suite, options
        self.show, self.on_probe, self.executor = show, on_probe, executor
        self.tasks = tuple(select_tasks(config, suite, options.tasks))
        self.params = config.resolve_params(suite.name, options.config, options.params)
        self.deadline = time.perf_counter() + options.budget_s
        self.probes: list[Probe] = []
        self.measured: list[Costs] = []

    def run(self) -> Forecast:
        options = self.options
        too_small: SuiteError | None = None
        for share in options.shares or first_shares(self.suite.manifest):
            if not self._fits(share):
                break
            try:
                self._probe(share)
            except SuiteError as error:
                too_small = error
        whole = [probe for probe in self.probes if probe.complete]
        if len(whole) < 2 and too_small is not None:
            raise too_small
        runs = forecast_runs(self.tasks, self.measured)
        if not any(run.phases for run in runs if run.task is not None):
            raise RunError(self._too_few(runs[-1].why))
        forecast = Forecast(
            submission=self.config.row_name(options.config),
            config=options.config,
            source_sha256=source_sha256(self.config),
            params=self.params,
            suite=self.suite.name,
            suite_version=self.suite.manifest.version,
            suite_sha256=self.suite.manifest.digest,
            device=options.device,
            hardware=hardware(options.device),
            seeds=options.seeds,
            budget_s=options.budget_s,
            probes=tuple(self.probes),
            runs=runs,
            warnings=(),
            git=git_revision(),
        )
        warnings = limit_warnings(forecast, options.limits, psutil.virtual_memory().total)
        return dataclasses.replace(forecast, warnings=warnings)

    def _left(self) -> float:
        return self.deadline - time.perf_counter()

    def _fits(self, share: float) -> bool:
        """Whether the next probe is expected to end within the budget."""
        if len(self.probes) < 2:
            # Even a part of the second says more than nothing.
            return self._left() > 0 and all(probe.complete for probe in self.probes)
        return self.probes[-1].complete and self._expected(share) <= self._left()

    def _expected(self, share: float) -> float:
        samples = [Sample(probe.share, probe.seconds) for probe in self.probes]
        return extrapolate(samples, 0.1, share).mid

    def _probe(self, share: float) -> None:
        start = time.perf_counter()
        options = self.options
        with tempfile.TemporaryDirectory(dir=options.scratch, prefix=".forecast-") as folder:
            small = shrink(self.suite, share, Path(folder) / "suite")
            left = max(1.0, self._left())
            settings = Options(
                out=Path(folder) / "out",
                results=Path(folder) / "results",
                seeds=options.seeds[:1],
                tasks=self.tasks,
                device=options.device,
                config=options.config,
                # All of them: [suites] tables of submission.toml are looked up by the suite's name, and the copy has another.
                params=self.params,
                offline=options.offline,
                limits=Limits(min(left, options.limits.seconds or left), options.limits.rss_bytes),
            )
            display = (
                self.show(f"{self.config.name} on {_fraction(share)} of {self.suite.name}")
                if self.show
                else None
            )
            costs = measure(
                self.config, self.suite.manifest, small, settings, self.deadline, self.executor, display
            )
        self.measured.append(costs)
        probe = Probe(share, time.perf_counter() - start, os.getloadavg()[0], costs.complete)
        self.probes.append(probe)
        if self.on_probe:
            self.on_probe(probe)

    def _too_few(self, why: str | None) -> str:
        spent = ", ".join(
            f"{_fraction(probe.share)} {'took' if probe.complete else 'was ended after'} {probe.seconds:.0f} s"
            for probe in self.probes
        )
        return (
            f"a forecast needs two sizes, and only {sum(probe.complete for probe in self.probes)} fitted into {self.options.budget_s:g} s ({spent}"
            f"{f'; {why}' if why else ''}); raise --budget-seconds, or give smaller --shares"
        )


def _fraction(share: float) -> str:
    return f"1/{1 / share:g}" if abs(1 / share - round(1 / share)) < 1e-9 else f"{share:g}"
