"""From the costs of runs on shrunken suites to those of the whole suite."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median

from kpi_bench.harness.forecast.fit import Figure, Sample, extrapolate
from kpi_bench.harness.forecast.measure import Costs, RunCost
from kpi_bench.harness.forecast.record import Forecast, Phase, RunForecast
from kpi_bench.harness.supervise import Limits

CLOCK_S = 0.02
MEMORY_BYTES = 4 * 2**20
RATIO_S = 0.1
"""From so many CPU seconds on, wall time over CPU time means something."""
STEPS_GROW = 0.75
"""A learning curve whose steps grow by this power of the size or more (and its inverse or less) counts batches, not epochs."""


def forecast_runs(tasks: Sequence[str], measured: Sequence[Costs]) -> tuple[RunForecast, ...]:
    """Pre-training where there is one, then every task."""
    pretrains = any(None in costs.costs or None in costs.errors for costs in measured)
    longest: dict[tuple[str, str], int] = {}
    for costs in measured:
        for run in costs.costs.values():
            for phase, (metric, step) in run.curves.items():
                longest[phase, metric] = max(step, longest.get((phase, metric), 0))
    return tuple(_forecast_run(task, measured, longest) for task in ((None, *tasks) if pretrains else tasks))


def _forecast_run(
    task: str | None, measured: Sequence[Costs], longest: Mapping[tuple[str, str], int]
) -> RunForecast:
    runs = [costs.costs[task] for costs in measured if task in costs.costs]
    if len({run.share for run in runs}) < 2:
        why = next((costs.errors[task] for costs in reversed(measured) if task in costs.errors), None)
        return RunForecast(task, {}, None, None, why or f"{len(runs)} size(s) measured, of two needed")
    names = [name for name in runs[-1].seconds if all(name in run.seconds for run in runs)]
    devices = [Sample(run.share, run.device_memory) for run in runs if run.device_memory is not None]
    return RunForecast(
        task,
        {name: _phase(name, runs, longest) for name in names},
        extrapolate([Sample(run.share, run.memory) for run in runs], MEMORY_BYTES),
        extrapolate(devices, MEMORY_BYTES) if len(devices) == len(runs) else None,
    )


def _phase(name: str, runs: Sequence[RunCost], longest: Mapping[tuple[str, str], int]) -> Phase:
    curves = [run.curves.get(name, ("", 0)) for run in runs]
    steps = tuple(step for _, step in curves) if all(step for _, step in curves) else ()
    assumed = None
    if steps and not _grow(steps, runs):
        # A small part may stop early where the whole does not: as far as any run went that logs the same metric.
        assumed = (min(steps), steps[-1], longest[name, curves[-1][0]])
    walls, cpus = zip(*(run.seconds[name] for run in runs), strict=True)
    cpu = None if None in cpus else _seconds(cpus, runs, steps, assumed)
    on_cpu = cpu is not None and all(run.device_memory is None for run in runs)
    ratios = [wall / cpu_s for wall, cpu_s in zip(walls, cpus, strict=True) if cpu_s and cpu_s >= RATIO_S]
    if cpu is None or not on_cpu or not ratios:
        return Phase(_seconds(walls, runs, steps, assumed), cpu, steps, assumed)
    # Other work on the machine stretches wall time from one size to the next; CPU time shows how the cost grows.
    samples = tuple(Sample(run.share, wall) for run, wall in zip(runs, walls, strict=True))
    low, mid, high = cpu.low * min(ratios), cpu.mid * median(ratios), cpu.high * max(ratios)
    return Phase(Figure(low, mid, high, cpu.exponent, samples), cpu, steps, assumed)


def _seconds(
    values: Sequence[float],
    runs: Sequence[RunCost],
    steps: Sequence[int],
    assumed: tuple[int, int, int] | None,
) -> Figure:
    if assumed is None:
        return extrapolate([Sample(*point) for point in zip(_shares(runs), values, strict=True)], CLOCK_S)
    samples = [Sample(*point) for point in zip(_shares(runs), values, steps, strict=True)]
    low, mid, high = (extrapolate(samples, CLOCK_S, repeats=n) for n in assumed)
    return dataclasses.replace(mid, low=low.low, high=high.high)


def _shares(runs: Sequence[RunCost]) -> list[float]:
    return [run.share for run in runs]


def _grow(steps: Sequence[int], runs: Sequence[RunCost]) -> bool:
    """Whether the curve's steps follow the size: from each size to the next by nearly the same factor."""
    pairs = zip(pairwise(steps), pairwise(_shares(runs)), strict=True)
    return all(
        STEPS_GROW * math.log(large / small)
        <= math.log(after / before)
        <= math.log(large / small) / STEPS_GROW
        for (before, after), (small, large) in pairs
        if large > small
    )


def limit_warnings(forecast: Forecast, limits: Limits, machine_bytes: int) -> tuple[str, ...]:
    """What the run will or may break: limits of a run, the machine's memory, the GPU's."""
    gpu = forecast.hardware.get("gpu")
    found = []
    for run in forecast.runs:
        name = run.task or "pretrain"
        if run.why:
            found.append(f"{name}: no forecast: {run.why}")
        if limits.seconds is not None and run.phases:
            low, mid, high = run.seconds()
            figure = Figure(low, mid, high, None, ())
            found += _over(f"{name}: wall time", figure, limits.seconds, "--time-limit", 1.0, "s")
        if run.memory is not None:
            limit = min(machine_bytes, limits.rss_bytes or machine_bytes)
            what = "--memory-limit" if limit < machine_bytes else "this machine's memory"
            found += _over(f"{name}: memory", run.memory, limit, what, 2.0**30, "GiB")
        if run.device_memory is not None and gpu:
            limit = int(gpu["memory_gib"]) * 2**30
            found += _over(
                f"{name}: device memory", run.device_memory, limit, "the GPU's memory", 2.0**30, "GiB"
            )
    return tuple(found)


def _over(what: str, figure: Figure, limit: float, name: str, unit: float, symbol: str) -> list[str]:
    if figure.high <= limit:
        return []
    sure = (
        "exceeds" if figure.low > limit else "is expected to exceed" if figure.mid > limit else "may exceed"
    )
    return [
        f"{what} {sure} {name}: {figure.mid / unit:.4g} {symbol} ({figure.low / unit:.4g} to {figure.high / unit:.4g}), limit {limit / unit:.4g} {symbol}"
    ]
