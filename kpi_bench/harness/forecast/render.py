"""Tables of a forecast and of its check."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tabulate import tabulate

from kpi_bench.harness.forecast.check import Check, Checked
from kpi_bench.harness.forecast.fit import Figure
from kpi_bench.harness.forecast.record import Forecast, Phase, RunForecast

GIB, MIB = 2.0**30, 2.0**20
WORTH_CHECKING_S = 1.0
"""Times below this are not counted in the summary of a check: a factor of two of nothing is nothing."""


def render_forecast(forecast: Forecast) -> str:
    """Phases of each run with their ranges, totals, what was assumed, and warnings."""
    rows = [row for run in forecast.runs for row in _run_rows(run)]
    headers = ["run", "phase", "wall s", "range", "CPU s", "range", "exponent", "measured at"]
    parts = [tabulate(rows, headers=headers, disable_numparse=True)]
    memory = [
        [
            run.task or "pretrain",
            *_sized(run.memory),
            *(_sized(run.device_memory) if run.device_memory else ()),
            _exponent(run.memory),
        ]
        for run in forecast.runs
        if run.memory is not None
    ]
    device = any(run.device_memory for run in forecast.runs)
    headers = ["run", "peak memory", "range", *(("device", "range") if device else ()), "exponent"]
    parts.append(tabulate(memory, headers=headers, disable_numparse=True))
    low, mid, high = forecast.seconds()
    seeds = f"{len(forecast.seeds)} seed{'s' if len(forecast.seeds) > 1 else ''}"
    parts.append(
        f"{forecast.submission} on {forecast.suite}, {seeds}, one run after another: {_span(mid)} ({_span(low)} to {_span(high)})\n"
        f"from {_probes(forecast)}"
    )
    assumed = [line for run in forecast.runs for line in _assumptions(run)]
    if assumed:
        parts.append("\n".join(assumed))
    if forecast.warnings:
        parts.append("\n".join(f"warning: {warning}" for warning in forecast.warnings))
    return "\n\n".join(parts)


def render_check(check: Check) -> str:
    """Every figure beside what happened, and a summary over those of a second and more."""
    rows = [
        [
            entry.task or "pretrain",
            entry.what,
            _value(entry.figure.mid, entry.unit),
            f"{_value(entry.figure.low, entry.unit)} to {_value(entry.figure.high, entry.unit)}",
            _value(entry.actual, entry.unit),
            f"{entry.factor:.2f}",
            "" if entry.within else "outside",
        ]
        for entry in check.checked
    ]
    table = tabulate(
        rows,
        headers=["run", "cost", "forecast", "range", "actual", "actual/forecast", ""],
        disable_numparse=True,
    )
    lines = [table, ""]
    for unit, name in (("s", f"times of {WORTH_CHECKING_S:g} s and more"), ("bytes", "memory")):
        entries = [entry for entry in check.checked if entry.unit == unit and _counts(entry)]
        if entries:
            lines.append(f"{name}: {_summary(entries)}")
    return "\n".join([*lines, *(f"note: {doubt}" for doubt in check.doubts)])


def _counts(entry: Checked) -> bool:
    return entry.unit == "bytes" or max(entry.actual, entry.figure.mid) >= WORTH_CHECKING_S


def _summary(entries: Sequence[Checked]) -> str:
    factors = [entry.factor for entry in entries]
    off = [max(factor, 1 / factor) if factor > 0 else float("inf") for factor in factors]
    worst = factors[off.index(max(off))]
    within = sum(entry.within for entry in entries)
    return f"{within} of {len(entries)} in the range; off by a factor of {statistics.median(off):.2f} (median), {max(off):.2f} at worst (actual/forecast {worst:.2f})"


def _run_rows(run: RunForecast) -> list[list[str]]:
    if not run.phases:
        return [[run.task or "pretrain", "none", "", "", "", "", "", ""]]
    return [
        [
            (run.task or "pretrain") if number == 0 else "",
            name,
            *_timed(phase.wall),
            *(_timed(phase.cpu) if phase.cpu else ("", "")),
            _exponent(phase.cpu or phase.wall),
            ", ".join(f"{sample.share:.3f}: {sample.value:.3g}" for sample in phase.wall.samples),
        ]
        for number, (name, phase) in enumerate(run.phases.items())
    ]


def _assumptions(run: RunForecast) -> list[str]:
    return [line for name, phase in run.phases.items() if (line := _assumption(run, name, phase))]


def _assumption(run: RunForecast, name: str, phase: Phase) -> str | None:
    if not phase.steps:
        return None
    steps = ", ".join(map(str, phase.steps))
    where = f"{run.task or 'pretrain'} {name}"
    if phase.steps_assumed is None:
        return f"{where}: its learning curve ended at step {steps}: the steps follow the size"
    low, mid, high = phase.steps_assumed
    span = str(mid) if low == high else f"{mid} ({low} to {high})"
    return f"{where}: assumes that its learning curve ends at step {span}; at the sizes measured: {steps}"


def _timed(figure: Figure) -> tuple[str, str]:
    return _seconds(figure.mid), f"{_seconds(figure.low)} to {_seconds(figure.high)}"


def _sized(figure: Figure | None) -> tuple[str, str]:
    if figure is None:
        return "", ""
    return _bytes(figure.mid), f"{_bytes(figure.low)} to {_bytes(figure.high)}"


def _value(value: float, unit: str) -> str:
    return _bytes(value) if unit == "bytes" else f"{_seconds(value)} s"


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _span(value: float) -> str:
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 2 * 3600 else f"{value / 3600:.1f} h"


def _bytes(value: float) -> str:
    return f"{value / GIB:.1f} GiB" if value >= 10 * GIB else f"{value / MIB:,.0f} MiB"


def _exponent(figure: Figure | None) -> str:
    if figure is None or figure.exponent is None:
        return "not shown"
    low, high = figure.exponent
    return f"{low:.2f} to {high:.2f}"


def _probes(forecast: Forecast) -> str:
    parts = [
        f"1/{1 / probe.share:g} of the suite ({probe.seconds:.0f} s{'' if probe.complete else ', not to its end'})"
        for probe in forecast.probes
    ]
    busy = max(probe.load_average for probe in forecast.probes)
    cores = forecast.hardware.get("cores") or 1
    note = (
        f"; the machine was busy (load {busy:.1f} on {cores} cores): wall times are those of a busy machine"
    )
    return ", ".join(parts) + (note if busy > cores + 0.5 else "")
