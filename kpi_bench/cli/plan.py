"""The command that says beforehand what a run will take."""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpi_bench.cli.arguments import names, params, positive, seeds
from kpi_bench.cli.evaluation import add_running, limits_for
from kpi_bench.cli.executor import executor_for
from kpi_bench.errors import RunError

if TYPE_CHECKING:
    from kpi_bench.harness.forecast.record import Probe

DEFAULT_OUT = Path("forecast.json")
DEFAULT_BUDGET = 300.0


def add_plan(commands: Any) -> None:
    """``kpi-bench plan``."""
    command = commands.add_parser(
        "plan", help="forecast what evaluating a submission takes, from runs on shrunken copies of the suite"
    )
    command.add_argument("--submission", type=Path, metavar="DIR", help="folder with submission.toml")
    command.add_argument("--suite", help="kpi-mini, a suite's folder, or hf://OWNER/NAME@<40-hex revision>")
    command.add_argument("--tasks", type=names, metavar="A,B", help="only these tasks")
    command.add_argument(
        "--seeds",
        type=seeds,
        default=(0, 1, 2),
        metavar="0,1,2",
        help="seeds of the run to come (default 0,1,2); the first is run on the copies",
    )
    command.add_argument(
        "--budget-seconds",
        type=positive,
        default=DEFAULT_BUDGET,
        metavar="S",
        help=f"wall time to spend (default {DEFAULT_BUDGET:g})",
    )
    command.add_argument(
        "--shares",
        type=_shares,
        metavar="1/32,1/16,1/8",
        help="sizes of the copies, smallest first (default 1/16,1/8,1/4, smaller for a huge suite)",
    )
    command.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, help=f"the forecast (default {DEFAULT_OUT})"
    )
    command.add_argument(
        "--check",
        type=Path,
        nargs=2,
        metavar=("RESULTS", "FORECAST"),
        help="run nothing: compare a forecast with result files, or a folder of them",
    )
    add_running(command)
    command.set_defaults(run=_plan)


def _shares(text: str) -> tuple[float, ...]:
    """Comma-separated shares, as fractions or numbers, ascending, between 0 and 1."""
    found = []
    for part in text.split(","):
        over, slash, under = part.strip().partition("/")
        try:
            found.append(float(over) / float(under) if slash else float(over))
        except (ValueError, ZeroDivisionError):
            raise argparse.ArgumentTypeError(f"{part.strip()!r} is no share such as 1/16 or 0.1") from None
    if len(found) < 2 or any(a >= b for a, b in pairwise(found)):
        raise argparse.ArgumentTypeError(f"{text!r}: wanted are two shares or more, smallest first")
    if not found[0] > 0 or not found[-1] < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: shares lie between 0 and 1")
    return tuple(found)


def _plan(options: argparse.Namespace) -> int:
    from kpi_bench.harness.forecast.check import check_forecast
    from kpi_bench.harness.forecast.record import read_forecast
    from kpi_bench.harness.forecast.render import render_check

    if options.check:
        results, forecast = options.check
        print(render_check(check_forecast(read_forecast(forecast), [results])))
        return 0
    return _forecast(options)


def _forecast(options: argparse.Namespace) -> int:
    from kpi_bench.harness.config import read_config
    from kpi_bench.harness.display import Display
    from kpi_bench.harness.forecast.probes import PlanOptions, make_forecast
    from kpi_bench.harness.forecast.record import write_forecast
    from kpi_bench.harness.forecast.render import render_forecast
    from kpi_bench.suites.load import load_suite

    if options.submission is None or options.suite is None:
        raise RunError("a forecast needs --submission and --suite; --check RESULTS FORECAST looks at one")
    config = read_config(options.submission)
    suite = load_suite(options.suite)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with executor_for(options) as (executor, device):
        settings = PlanOptions(
            budget_s=options.budget_seconds,
            shares=options.shares,
            seeds=options.seeds,
            tasks=options.tasks,
            device=device,
            config=options.config,
            params=params(options.param),
            offline=not options.online,
            limits=limits_for(options),
            scratch=options.out.parent,
        )
        forecast = make_forecast(config, suite, settings, show=Display, on_probe=_tell, executor=executor)
    write_forecast(options.out, forecast)
    print(render_forecast(forecast))
    print(f"\n{options.out}; afterwards: kpi-bench plan --check RESULTS {options.out}")
    return 0


def _tell(probe: Probe) -> None:
    """One line a probe, as it ends."""
    ended = "" if probe.complete else ", ended by the budget"
    print(f"1/{1 / probe.share:g} of the suite: {probe.seconds:.1f} s{ended}", flush=True)
