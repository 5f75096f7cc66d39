"""How well ``kpi-bench plan`` forecasts what was measured: a plan of every row that has results on a suite from this machine.

    OMP_NUM_THREADS=1 python -m benchmarks.plan_truth --suite ../suites/kpi-open --results leaderboard/results [ROW ...]

makes the plans that are not there yet, checks each against the results with this machine's ``hw_id`` (which depends on the number of
threads, too), writes ``benchmarks/results/plan.json`` and the table ``plan.md`` beside it, and prints it. Rows that are not named keep what
they had; those of another suite or machine are dropped. Plan where results were made, and with nothing else on the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.workloads import ROOT
from kpi_bench._io import read_json, write_json, write_text
from kpi_bench._schema import encode
from kpi_bench.cli.arguments import positive, seeds
from kpi_bench.errors import KpiBenchError
from kpi_bench.harness.config import SubmissionConfig, read_config
from kpi_bench.harness.environment import git_revision, hardware
from kpi_bench.harness.forecast.check import Check, Checked, check_forecast
from kpi_bench.harness.forecast.fit import Figure
from kpi_bench.harness.forecast.probes import PlanOptions, make_forecast
from kpi_bench.harness.forecast.record import Forecast, read_forecast, write_forecast
from kpi_bench.harness.results import read_result, result_files
from kpi_bench.harness.source import source_sha256
from kpi_bench.suites.load import load_suite
from kpi_bench.suites.suite import Suite

RESULTS = ROOT / "benchmarks" / "results" / "plan.json"
SUBMISSIONS = ROOT / "submissions"
BUDGET_S = 600.0
WORTH_CHECKING_S = 1.0
"""Sums of seconds below this are not counted: a factor of two of nothing is nothing."""
MIB = 2.0**20


def measured_rows(results: Path, suite_sha256: str, hw_id: str) -> dict[str, list[Path]]:
    """Result files on the suite with that digest from the machine with this ``hw_id``, by row."""
    found: dict[str, list[Path]] = {}
    for path in result_files([results]):
        result = read_result(path)
        if result.suite.sha256 == suite_sha256 and result.hardware.get("hw_id") == hw_id:
            found.setdefault(result.submission.name, []).append(path)
    return dict(sorted(found.items()))


def forecast_of(config: SubmissionConfig, suite: Suite, options: PlanOptions, path: Path) -> Forecast:
    """The plan that lies in ``path``, where it was made of the same code and asked for the same, or else a new one.

    Raises:
        KpiBenchError: it cannot be planned.
    """
    if path.is_file():
        known = read_forecast(path)
        asked = (
            source_sha256(config),
            suite.manifest.digest,
            config.resolve_params(suite.name, options.config, {}),
            options.seeds,
            options.budget_s,
            hardware(options.device)["hw_id"],
            set(options.tasks or ()),
        )
        made = (
            known.source_sha256,
            known.suite_sha256,
            known.params,
            known.seeds,
            known.budget_s,
            known.hardware.get("hw_id"),
            {run.task for run in known.runs} - {None},
        )
        if made == asked:
            return known
    path.parent.mkdir(parents=True, exist_ok=True)
    forecast = make_forecast(config, suite, options)
    write_forecast(path, forecast)
    return forecast


def summed(check: Check) -> list[Checked]:
    """The figures of all tasks together: seconds added up by cost, of memory the largest."""
    by_cost: dict[str, list[Checked]] = {}
    for entry in check.checked:
        by_cost.setdefault(entry.what, []).append(entry)
    return [_together(what, entries) for what, entries in by_cost.items()]


def _together(what: str, entries: Sequence[Checked]) -> Checked:
    unit = entries[0].unit
    over = sum if unit == "s" else max
    low, mid, high = (
        over(getattr(entry.figure, name) for entry in entries) for name in ("low", "mid", "high")
    )
    return Checked(
        None, what, unit, Figure(low, mid, high, None, ()), over(entry.actual for entry in entries)
    )


def row_entry(forecast: Forecast, check: Check) -> dict[str, Any]:
    """What is kept of one row."""
    return {
        "submission": forecast.submission,
        "budget_s": forecast.budget_s,
        "seeds": forecast.seeds,
        "git": forecast.git,
        "probes": encode(forecast.probes),
        "tasks": sorted({entry.task for entry in check.checked if entry.task is not None}),
        "summed": [_plain(entry) for entry in summed(check)],
        "checked": [_plain(entry) for entry in check.checked],
        "not_forecast": {run.task or "pretrain": run.why for run in forecast.runs if run.why},
        "doubts": check.doubts,
    }


def _plain(entry: Checked) -> dict[str, Any]:
    figure = entry.figure
    return {
        "task": entry.task,
        "what": entry.what,
        "unit": entry.unit,
        "predicted": [figure.low, figure.mid, figure.high],
        "actual": entry.actual,
        "factor": entry.factor if figure.mid > 0 else None,
        "within": entry.within,
    }


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Predicted, actual and factor of every row by phase and peak memory as Markdown, and a summary."""
    lines = [
        [
            row if number == 0 else "",
            entry["what"],
            _shown(entry["predicted"][1], entry["unit"]),
            " to ".join(_shown(entry["predicted"][end], entry["unit"]) for end in (0, 2)),
            _shown(entry["actual"], entry["unit"]),
            f"{entry['factor']:.2f}" if entry["factor"] is not None else "",
            "" if entry["within"] else "outside",
        ]
        for row, found in rows.items()
        for number, entry in enumerate(found["summed"])
    ]
    headers = ["row", "cost", "predicted", "range", "actual", "actual/predicted", ""]
    parts = [tabulate(lines, headers=headers, tablefmt="pipe", disable_numparse=True)]
    entries = [entry for found in rows.values() for entry in found["summed"]]
    for name, end in (("CPU time", " CPU"), ("wall time", " wall"), ("peak memory", " memory")):
        counted = [entry for entry in entries if entry["what"].endswith(end) and _counts(entry)]
        if counted:
            parts.append(f"- {name}: {_summary(counted)}")
    parts += [f"- {row}: {doubt}" for row, found in rows.items() for doubt in found["doubts"]]
    return "\n".join([parts[0], "", *parts[1:]]) + "\n"


def _counts(entry: Mapping[str, Any]) -> bool:
    seconds: float = max(entry["actual"], entry["predicted"][1])
    return entry["unit"] == "bytes" or seconds >= WORTH_CHECKING_S


def _summary(entries: Iterable[Mapping[str, Any]]) -> str:
    entries = list(entries)
    off = [max(factor, 1 / factor) for entry in entries if (factor := entry["factor"])]
    within = sum(entry["within"] for entry in entries)
    return f"{within} of {len(entries)} in the range; off by a factor of {statistics.median(off):.2f} (median), {max(off):.2f} at worst"


def _shown(value: float, unit: str) -> str:
    return f"{value / MIB:,.0f} MiB" if unit == "bytes" else f"{value:,.2f} s"


def _budgets(entries: Sequence[str]) -> dict[str, float]:
    return {row: positive(value) for row, _, value in (entry.partition("=") for entry in entries)}


def main() -> None:
    """Plan, check, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help="rows such as pkgm or mudok@gentle (default all)"
    )
    parser.add_argument("--suite", required=True, help="kpi-mini, a suite's folder, or one on the Hub")
    parser.add_argument("--results", type=Path, required=True, help="folder of result files")
    parser.add_argument("--budget-seconds", type=positive, default=BUDGET_S, help="of a plan (default 600)")
    parser.add_argument("--budget", action="append", default=[], metavar="ROW=S", help="of that row's plan")
    parser.add_argument("--seeds", type=seeds, default=(0,), help="the first is planned with (default 0)")
    parser.add_argument(
        "--plans", type=Path, default=Path("runs/plan_truth"), help="folder that keeps the plans"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"default {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args()
    suite, budgets = load_suite(options.suite), _budgets(options.budget)
    here = hardware("cpu")
    measured = measured_rows(options.results, suite.manifest.digest, here["hw_id"])
    known = read_json(options.out) if options.out.is_file() else {}
    same = (known.get("suite_sha256"), known.get("hw_id")) == (suite.manifest.digest, here["hw_id"])
    rows: dict[str, dict[str, Any]] = known["rows"] if same else {}
    for row in options.rows or measured:
        if row not in measured:
            print(f"{row}: no result on {suite.name} with this machine's hw_id {here['hw_id']}", flush=True)
            continue
        name, _, config = row.partition("@")
        plan = options.plans / suite.name / f"{row}.json"
        settings = PlanOptions(
            budgets.get(row, options.budget_seconds),
            seeds=options.seeds,
            tasks=tuple(sorted(read_result(path).task.name for path in measured[row])),
            config=config or None,
            scratch=plan.parent,
        )
        try:
            forecast = forecast_of(read_config(SUBMISSIONS / name), suite, settings, plan)
            rows[row] = row_entry(forecast, check_forecast(forecast, measured[row]))
        except KpiBenchError as error:
            print(f"{row}: {error}", flush=True)
            continue
        print(f"{row}: planned and checked, load {os.getloadavg()[0]:.1f}", flush=True)
        rows = dict(sorted(rows.items()))
        about = {"suite": suite.name, "suite_sha256": suite.manifest.digest, "hw_id": here["hw_id"]}
        write_json(options.out, {**about, "hardware": here, "git": git_revision(), "rows": rows})
        write_text(options.out.with_suffix(".md"), table(rows))
    print(f"\n{table(rows)}" if rows else "nothing to show")


if __name__ == "__main__":
    main()
