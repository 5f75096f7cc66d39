"""How time and memory grow with the data: each case of :mod:`benchmarks.growth_cases` at several sizes, each in a process of its own.

    OMP_NUM_THREADS=1 python -m benchmarks.growth [CASE ...]

writes ``benchmarks/results/growth.json`` (cases that are not named keep what they had) and ``docs/assets/growth.svg``, and prints the table.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import psutil
from tabulate import tabulate

from benchmarks.growth_cases import CASES, Case
from benchmarks.workloads import ROOT
from kpi_bench._io import read_json, write_json, write_text
from kpi_bench.harness.environment import git_revision, hardware
from kpi_bench.leaderboard.site.charts import ACCENT, MUTED, TEXT, WARN, compiled
from kpi_bench.leaderboard.site.pictures import svg

RESULTS = ROOT / "benchmarks" / "results" / "growth.json"
PICTURE = ROOT / "docs" / "assets" / "growth.svg"
ROUNDS, LONG_S = 5, 4.0
DECADES = 1.6
"""Exponents are fitted to the sizes within so many decades of the largest: below, constants hide what grows."""
LEAST_S, LEAST_BYTES = 2e-3, 8 * 2**20
EXCESS = 0.15
"""An exponent above the expected one by more is marked."""


def measure(name: str, size: int) -> dict[str, float]:
    """CPU seconds of one size and of its limit (the least of some rounds in turn, after one that compiles) and the peak of memory above its
    input, in bytes.

    Raises:
        ValueError: what was computed is wrong.
    """
    # The smallest size compiles and imports what there is.
    CASES[name].make(min(CASES[name].sizes)).run()
    work = CASES[name].make(size)
    before = psutil.Process().memory_info().rss
    # Linux: the peak begins anew.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def run() -> None:
        value = work.run()
        if not work.low <= value <= work.high:
            raise ValueError(f"{name} at {size}: {value} is not within {work.low} to {work.high}")

    laps = [_timed(run)]
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    limits = [_timed(work.limit)] if work.limit else []
    while len(laps) <= ROUNDS and sum(laps + limits) < LONG_S:
        laps.append(_timed(run))
        if work.limit:
            limits.append(_timed(work.limit))
    found = {"size": size, "cpu_s": min(laps[1:] or laps) / work.part, "bytes": max(0, peak * 1024 - before)}
    return found | ({"limit_s": min(limits[1:] or limits) / work.part} if limits else {})


def _timed(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def exponent(points: Sequence[dict[str, float]], cost: str, least: float) -> tuple[float, float] | None:
    """Slope of log cost over log size among the largest sizes, and its standard error; None with fewer than three that cost enough."""
    largest = max((point["size"] for point in points), default=0.0)
    used = [p for p in points if cost in p and p["size"] >= largest / 10**DECADES and p[cost] >= least]
    if len(used) < 3:
        return None
    x, y = (np.log([point[key] for point in used]) for key in ("size", cost))
    slope, intercept = np.polyfit(x, y, 1)
    rest = y - (slope * x + intercept)
    error = math.sqrt(float(rest @ rest) / (len(x) - 2) / float(np.sum((x - x.mean()) ** 2)))
    return float(slope), error


def measure_all(names: Sequence[str]) -> dict[str, Any]:
    """Run every size of the cases, each in a child, and add what was known of the others."""
    known = read_json(RESULTS)["cases"] if RESULTS.is_file() else {}
    # Of each case: those that are kept were measured with other code.
    revision = git_revision()
    for name in names:
        points = []
        for size in CASES[name].sizes:
            command = [sys.executable, "-m", "benchmarks.growth", "--one", name, str(size)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
            points.append(json.loads(done.stdout))
            print(f"{name} {size:,}: {points[-1]['cpu_s']:.3g} s", file=sys.stderr, flush=True)
        known[name] = {"points": points, "load_average": os.getloadavg()[0], "git": revision}
    return {
        "machine": hardware("cpu"),
        "cases": {name: known[name] for name in CASES if name in known},
    }


def summarise(name: str, case: Case, points: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Exponents of a case, and whether its time grows faster than it must."""
    seconds, size = exponent(points, "cpu_s", LEAST_S), exponent(points, "bytes", LEAST_BYTES)
    beside = [p | {"ratio": p["cpu_s"] / p["limit_s"]} for p in points if "limit_s" in p]
    ratio = exponent(beside, "ratio", 0.0)
    # What the limit needs, too, is not ours to spare.
    excess = ratio[0] if ratio else seconds[0] - case.expected if seconds else 0.0
    return {
        "case": name,
        "variable": case.variable,
        "expected": case.expected,
        "why": case.why,
        "time": seconds,
        "memory": size,
        "limit": exponent(points, "limit_s", 0.0),
        "ratio": ratio,
        "too_fast": [
            what
            for what, more in (("time", excess), ("memory", size[0] - case.expected if size else 0.0))
            if more > EXCESS
        ],
    }


def table(summaries: Sequence[dict[str, Any]], cases: dict[str, Any]) -> str:
    """Exponents with their errors, the ratio to the limit and the cost of the largest size."""

    def shown(found: tuple[float, float] | None) -> str:
        return "" if found is None else f"{found[0]:.2f} ± {found[1]:.2f}"

    rows = []
    for summary in summaries:
        last = cases[summary["case"]]["points"][-1]
        rows.append(
            [
                summary["case"], summary["variable"], f"{summary['expected']:g}", shown(summary["time"]), shown(summary["limit"]),
                shown(summary["ratio"]), f"{last['cpu_s'] / last['limit_s']:.2f}" if "limit_s" in last else "", shown(summary["memory"]),
                f"{last['size']:,}", f"{last['cpu_s']:.3g}", f"{last['bytes'] / 2**20:,.0f}", ", ".join(summary["too_fast"]),
            ]
        )  # fmt: skip
    headers = [
        "case",
        "grows with",
        "must",
        "time",
        "limit",
        "ours / limit",
        "at the largest",
        "memory",
        "largest",
        "CPU s",
        "MB",
        "faster than it must",
    ]
    return tabulate(rows, headers=headers, disable_numparse=True, tablefmt="pipe")


def picture(summaries: Sequence[dict[str, Any]], cases: dict[str, Any]) -> str:
    """CPU time over size of every case on logarithmic axes, with a line of the expected slope through the largest size, as SVG."""
    panels = [_panel(summary, cases[summary["case"]]["points"]) for summary in summaries]
    spec = compiled(alt.concat(*panels, columns=3, spacing=30))
    return svg(spec, "CPU time of hot paths against the size of their data")


def _panel(summary: dict[str, Any], points: Sequence[dict[str, float]]) -> alt.LayerChart:
    rows = [{"size": point["size"], "s": point["cpu_s"]} for point in points]
    last = rows[-1]
    must = [
        {"size": row["size"], "s": last["s"] * (row["size"] / last["size"]) ** summary["expected"]}
        for row in rows
    ]
    lows = [row["s"] for row in (*rows, *must)]
    domain = [10 ** math.floor(math.log10(min(lows))), 10 ** math.ceil(math.log10(max(lows) * 1.01))]
    x = alt.X(
        "size:Q",
        scale=alt.Scale(type="log", nice=False, padding=8),
        axis=alt.Axis(title=summary["variable"], values=[10.0**i for i in range(3, 8)], format="~s"),
    )
    y = alt.Y(
        "s:Q",
        scale=alt.Scale(type="log", domain=domain, nice=False),
        axis=alt.Axis(title="CPU s", format="~g", values=_decades(domain)),
    )
    colour = WARN if "time" in summary["too_fast"] else ACCENT
    slope = (
        ""
        if summary["time"] is None
        else f"exponent {summary['time'][0]:.2f}, must be {summary['expected']:g}"
    )
    title = alt.TitleParams(
        summary["case"], subtitle=slope, anchor="start", fontSize=12, color=TEXT, subtitleColor=MUTED
    )
    reference = alt.Chart(alt.InlineData(values=must)).mark_line(
        color=MUTED, strokeDash=[4, 4], strokeWidth=1
    )
    measured = alt.Chart(alt.InlineData(values=rows)).mark_line(
        color=colour, strokeWidth=1.5, point=alt.OverlayMarkDef(color=colour, size=24)
    )
    layers = [reference.encode(x=x, y=y), measured.encode(x=x, y=y)]
    return alt.LayerChart(layer=layers).properties(width=190, height=120, title=title)


def _decades(domain: Sequence[float]) -> list[float]:
    low, high = (round(math.log10(value)) for value in domain)
    return [10.0**power for power in range(low, high + 1)]


def main() -> None:
    """Measure, or in a child one size; then table, JSON and picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)} (default all)")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "SIZE"), help=argparse.SUPPRESS)
    parser.add_argument(
        "--draw", action="store_true", help="measure nothing: table and picture of what is there"
    )
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]))))
        return
    found = read_json(RESULTS) if options.draw else measure_all(options.cases or list(CASES))
    cases = found["cases"]
    summaries = [
        summarise(name, CASES[name], entry["points"]) for name, entry in cases.items() if name in CASES
    ]
    write_json(RESULTS, {**found, "summary": summaries})
    write_text(PICTURE, picture(summaries, cases))
    print(table(summaries, cases))
    revisions = {entry["git"] for entry in cases.values()}
    if len(revisions) > 1:
        print(f"measured with different code, not to be compared: {', '.join(sorted(map(str, revisions)))}")
    print(f"median load {statistics.median(entry['load_average'] for entry in cases.values()):.1f}")


if __name__ == "__main__":
    main()
