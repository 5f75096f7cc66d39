"""The command that searches for parameters."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpi_bench.cli.arguments import count, names, params, seeds, whole
from kpi_bench.cli.evaluation import add_running, limits_for
from kpi_bench.cli.executor import executor_for

if TYPE_CHECKING:
    from kpi_bench.harness.tuning.record import Trial

DEFAULT_OUT = Path("runs/tune")


def add_tune(commands: Any) -> None:
    """``kpi-bench tune``."""
    command = commands.add_parser(
        "tune", help="search for a submission's parameters by its scores on the valid splits"
    )
    command.add_argument(
        "--submission", type=Path, required=True, metavar="DIR", help="folder with submission.toml"
    )
    command.add_argument(
        "--suite", required=True, help="kpi-mini, a suite's folder, or hf://OWNER/NAME@<40-hex revision>"
    )
    command.add_argument("--tasks", type=names, metavar="A,B", help="only these tasks")
    command.add_argument(
        "--space", type=Path, required=True, metavar="FILE", help="space.toml: what is searched"
    )
    command.add_argument(
        "--trials",
        type=count,
        required=True,
        metavar="N",
        help="end when so many trials have ended, those of earlier sessions and the pruned and failed ones too",
    )
    command.add_argument(
        "--parallel",
        type=count,
        default=1,
        metavar="K",
        help="make K trials at once, each without knowing of the others, with --executor ray (default 1)",
    )
    command.add_argument("--seed", type=whole, default=0, help="seed that draws the trials (default 0)")
    command.add_argument(
        "--seeds",
        type=seeds,
        default=(0,),
        metavar="0,1,2",
        help="seeds that each trial is run with (default 0)",
    )
    command.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, help=f"folder of searches (default {DEFAULT_OUT}/)"
    )
    command.add_argument(
        "--prune",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="end a trial whose learning curve falls below the median of the others (default)",
    )
    add_running(command)
    command.set_defaults(run=_tune)


def _tune(options: argparse.Namespace) -> int:
    from kpi_bench.harness.config import read_config
    from kpi_bench.harness.display import Display
    from kpi_bench.harness.tuning.record import BEST, SEARCH, best_toml, render_search
    from kpi_bench.harness.tuning.search import TuneOptions, search_folder, tune
    from kpi_bench.harness.tuning.space import read_space
    from kpi_bench.suites.load import load_suite

    config = read_config(options.submission)
    # Unverified: checking a suite reads its test labels. The files that trials see are checked when the view is made.
    suite = load_suite(options.suite, verify=False)
    given = params(options.param)
    space = read_space(options.space, config.resolve_params(suite.name, options.config, given))
    with executor_for(options) as (executor, device):
        settings = TuneOptions(
            out=options.out,
            trials=options.trials,
            seed=options.seed,
            seeds=options.seeds,
            tasks=options.tasks,
            device=device,
            config=options.config,
            params=given,
            prune=options.prune,
            parallel=options.parallel,
            offline=not options.online,
            limits=limits_for(options),
        )
        search = tune(config, suite, space, settings, show=Display, on_trial=_tell, executor=executor)
    folder = search_folder(options.out, suite.name, config.row_name(options.config))
    print(render_search(search))
    if search.best is None:
        print(f"no trial finished; logs of failed runs: {folder / 'failed'}")
        return 1
    print(f"\n{best_toml(search)}\n{folder / BEST}; for a row on the board: --tuned {folder / SEARCH}")
    return 0


def _tell(trial: Trial) -> None:
    """One line a trial, as it ends."""
    found = "" if trial.value is None else f" {trial.value:.4f}"
    drawn = " ".join(f"{name}={value}" for name, value in trial.params.items())
    print(f"trial {trial.number}: {trial.ended}{found} ({trial.seconds:.1f} s) {drawn}", flush=True)
    if trial.why:
        print(f"    {trial.why}", flush=True)
