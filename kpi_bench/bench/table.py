"""Runs and comparisons as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from kpi_bench.bench.machine import SOFTWARE, differences
from kpi_bench.bench.ratios import Judged, Ratio, Row, judged, rows
from kpi_bench.bench.runs import BenchRun, Role, Timing, same_machine

_HEADERS = ("hot path", "contender", "role", "CPU time", "IQR", "per", "ours/peer", "ours/limit", "peak MB", "sizes")  # fmt: skip
_ALIGN = ("left", "left", "left", "right", "right", "left", "left", "left", "right", "left")
_RATES = {"flops": ("GFLOP/s", 1e9), "bytes": ("GB/s", 1e9)}


def report(run: BenchRun) -> str:
    """The machine, one table of all contenders, how to read it, and the aims."""
    cells: list[tuple[str, ...]] = []
    for group, members in rows(run).items():
        common = _common([row.timing.sizes for row in members])
        cells += [
            _cells(row, group if first else "", row.timing.sizes if not first else None, common)
            for first, row in ((i == 0, row) for i, row in enumerate(members))
        ]
    drawn = tabulate(cells, headers=_HEADERS, disable_numparse=True, colalign=_ALIGN)
    parts = [machine_line(run.machine), drawn, _LEGEND]
    verdicts = [_verdict(one) for one in judged(run)]
    if verdicts:
        parts.append("Aims set beforehand:\n" + "\n".join(f"- {line}" for line in verdicts))
    return "\n\n".join(parts)


_LEGEND = (
    "CPU time: user + system of all threads, median over rounds after a warm-up; IQR: in percent of the median. ours/peer: to the fastest "
    "peer (a package) or form (a restatement in our words) of the same run; below 1, ours is faster. ours/limit: to what no form of the "
    "path escapes, measured in the same run (gemm, copy: from the FLOPs or bytes that it cannot avoid). Only ratios carry over to another machine."
)


def comparison(now: BenchRun, then: BenchRun) -> str:
    """Medians of two runs on one machine.

    Raises:
        BenchError: they are of different machines.
    """
    same_machine(now, then)
    before = {timing.name: timing for timing in then.timings}
    cells = [
        (
            timing.group,
            timing.contender,
            duration(before[timing.name].median),
            duration(timing.median),
            f"{timing.median / before[timing.name].median:.2f}",
            "" if _apart(timing, before[timing.name]) else "within the spread",
        )
        for timing in now.timings
        if timing.name in before and before[timing.name].median > 0
    ]
    headers = ("hot path", "contender", "then", "now", "now/then", "")
    other = differences(then.machine, now.machine, SOFTWARE)
    changed = [f"{name}: {old} then, {new} now" for name, (old, new) in other.items()]
    return "\n\n".join(
        [
            machine_line(now.machine),
            tabulate(cells, headers=headers, disable_numparse=True, colalign=("left",) * 2 + ("right",) * 3 + ("left",)),
            *(["Other software:\n" + "\n".join(f"- {line}" for line in changed)] if changed else []),
        ]
    )  # fmt: skip


def machine_line(machine: Mapping[str, Any]) -> str:
    """One line that names CPU, threads, BLAS and GPU."""
    gpu = machine.get("gpu")
    parts = [
        str(machine.get("cpu", "unknown CPU")),
        f"{machine.get('cores', '?')} core(s)",
        f"numpy with {machine.get('blas', machine.get('numpy_blas', '?'))}, {machine.get('blas_threads', '?')} thread(s)",
        f"torch {machine.get('torch', '?')} with {machine.get('torch_blas', '?')}, {machine.get('torch_threads', '?')} thread(s)",
        f"GPU {gpu['name']}" if gpu else "no GPU",
        f"hw_id {machine.get('hw_id', 'unknown')}",
    ]
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _cells(
    row: Row, group: str, sizes: Mapping[str, Any] | None, common: Mapping[str, Any]
) -> tuple[str, ...]:
    timing = row.timing
    # What all contenders share is said once, in the group's first row.
    shown = timing.sizes if sizes is None else {k: v for k, v in sizes.items() if k not in common}
    return (
        group,
        timing.contender,
        timing.role.value,
        duration(timing.median),
        _spread(timing),
        timing.unit,
        _shown(row.peer),
        _shown(row.limit),
        "" if timing.peak_rss_mb is None else f"{timing.peak_rss_mb:,.0f}",
        _sizes(shown, timing),
    )


def _spread(timing: Timing) -> str:
    if math.isnan(timing.q1) or timing.median <= 0 or timing.rounds < 2:
        return ""
    return f"{100 * (timing.q3 - timing.q1) / timing.median:.0f} %"


def _shown(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    star = "" if ratio.role is not Role.FORM else " (form)"
    return f"{ratio.value:.3g} {ratio.contender}{star}"


def _sizes(sizes: Mapping[str, Any], timing: Timing) -> str:
    words = []
    for name, value in sizes.items():
        if name in _RATES and timing.role is Role.LIMIT:
            unit, factor = _RATES[name]
            words.append(f"{value / factor / (timing.median * timing.calls):.3g} {unit}")
        elif isinstance(value, float):
            words.append(f"{name}={value:.4g}")
        else:
            words.append(f"{name}={value:,}" if isinstance(value, int) else f"{name}={value}")
    return " ".join(words)


def _common(sizes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in sizes[0].items() if all(one.get(name) == value for one in sizes)}


def _verdict(one: Judged) -> str:
    aim = one.aim
    met = "" if aim.bound == "about" else ": reached" if aim.reached(one.ratio) else ": NOT reached"
    return f"{one.slow} needs {one.ratio:.2f} times {aim.fast} (aim {aim.bound} {aim.times:g}{met})"


def _apart(a: Timing, b: Timing) -> bool:
    """Whether the quartiles of two timings do not overlap."""
    if math.isnan(a.q1) or math.isnan(b.q1):
        return True
    return a.q1 > b.q3 or b.q1 > a.q3
