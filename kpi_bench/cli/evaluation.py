"""Commands that run, score and start submissions."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpi_bench.cli.arguments import count, names, params, positive, seeds
from kpi_bench.cli.executor import add_executor, executor_for
from kpi_bench.errors import KpiBenchError, ResultError, RunError

if TYPE_CHECKING:
    from kpi_bench.harness.supervise import Limits

DEFAULT_OUT = Path("runs")


def add_evaluate(commands: Any) -> None:
    """``kpi-bench evaluate``."""
    command = commands.add_parser(
        "evaluate", help="run submissions on a suite, score them, write result files"
    )
    command.add_argument(
        "--submission",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="folder(s) with submission.toml",
    )
    command.add_argument(
        "--suite", required=True, help="kpi-mini, a suite's folder, or hf://OWNER/NAME@<40-hex revision>"
    )
    command.add_argument("--tasks", type=names, metavar="A,B", help="only these tasks")
    command.add_argument(
        "--seeds", type=seeds, default=(0, 1, 2), metavar="0,1,2", help="seeds (default 0,1,2)"
    )
    command.add_argument(
        "--out",
        type=Path,
        default=DEFAULT_OUT,
        help="runs, predictions and pre-trained state (default runs/)",
    )
    command.add_argument("--results", type=Path, help="folder for result files (default OUT/results)")
    command.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="do not repeat what is done (default)",
    )
    command.add_argument(
        "--reuse-pretrained",
        type=Path,
        metavar="DIR",
        help="take pre-training from another run: .../SUITE/NAME/pretrained",
    )
    command.add_argument(
        "--timing",
        type=count,
        nargs="?",
        const=5,
        metavar="N",
        help="after a task's run, time adapt and predict N times more with the first seed, everything warm (default N: 5)",
    )
    command.add_argument(
        "--processes",
        type=count,
        default=1,
        metavar="N",
        help="pre-train in N processes that share every batch, where the submission can (default 1)",
    )
    command.add_argument(
        "--processes-per-node",
        type=count,
        metavar="M",
        help="with ray, so many of the --processes on each of N / M machines (default: all on one)",
    )
    command.add_argument(
        "--tuned",
        type=Path,
        metavar="FILE",
        help="run with the best parameters of this search.json (kpi-bench tune), and state the search's budget in the results",
    )
    add_running(command)
    command.set_defaults(run=_evaluate)


def add_running(command: argparse.ArgumentParser) -> None:
    """How the runs of a submission are made."""
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default auto)")
    command.add_argument("--config", help="a named config of the submission, e.g. base")
    command.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a parameter (VALUE as in TOML)",
    )
    command.add_argument(
        "--time-limit", type=positive, metavar="S", help="seconds a run may take (default 14400)"
    )
    command.add_argument(
        "--memory-limit",
        type=positive,
        metavar="GB",
        help="resident memory a run may take (default 90%% of the machine; with ray its share of that)",
    )
    command.add_argument(
        "--online",
        action="store_true",
        help="let the submission reach the Hub (default: offline, from cache)",
    )
    add_executor(command)


def limits_for(options: argparse.Namespace) -> Limits:
    """The bounds of each run that the options of :func:`add_running` name."""
    from kpi_bench.harness.evaluate import DEFAULT_SECONDS
    from kpi_bench.harness.supervise import Limits, default_memory_limit

    memory = int(options.memory_limit * 2**30) if options.memory_limit else None
    if options.executor == "local":
        memory = memory or default_memory_limit()
    return Limits(options.time_limit or DEFAULT_SECONDS, memory)


def _evaluate(options: argparse.Namespace) -> int:
    from kpi_bench.harness.config import read_config
    from kpi_bench.harness.display import Display
    from kpi_bench.harness.evaluate import Options, evaluate
    from kpi_bench.harness.report import render_report
    from kpi_bench.harness.tuning.record import read_search
    from kpi_bench.suites.load import load_suite

    configs = [read_config(folder) for folder in options.submission]
    search = read_search(options.tuned) if options.tuned else None
    if search is not None and options.param:
        raise RunError(
            "--param and --tuned: the search has its own parameters; give --param to `kpi-bench tune`"
        )
    suite = load_suite(options.suite)
    settings = Options(
        out=options.out,
        results=options.results or options.out / "results",
        seeds=options.seeds,
        tasks=options.tasks,
        config=options.config,
        params=params(options.param),
        resume=options.resume,
        reuse_pretrained=options.reuse_pretrained,
        offline=not options.online,
        limits=limits_for(options),
        rounds=options.timing,
        processes=options.processes,
    )
    code = 0
    with executor_for(options, options.processes_per_node) as (executor, device):
        settings = dataclasses.replace(settings, device=device)
        for config in configs:
            try:
                if search is not None:
                    row = config.row_name(options.config)
                    best, info = search.tuned(row, options.config, suite.manifest.digest)
                    settings = dataclasses.replace(settings, params=best, tuned=info)
                with Display(f"{config.name} on {suite.name}") as display:
                    report = evaluate(config, suite, settings, display, executor)
            except KpiBenchError as error:
                # One submission that cannot be started does not keep the others from their runs.
                print(f"kpi-bench: {error}", file=sys.stderr)
                code = 2
                continue
            print(render_report(report, settings.results))
            code = max(code, int(bool(report.failures)))
    return code


def add_score(commands: Any) -> None:
    """``kpi-bench score``."""
    command = commands.add_parser("score", help="score a folder of predictions made by anything")
    command.add_argument(
        "predictions",
        type=Path,
        help="folder with <task>/seed<k>.parquet, or a submission of kind predictions",
    )
    command.add_argument(
        "--suite", required=True, help="kpi-mini, a suite's folder, or hf://OWNER/NAME@<40-hex revision>"
    )
    command.add_argument("--name", help="name of the row (default: the folder's)")
    command.add_argument("--results", type=Path, help="also write result files here, flagged self_reported")
    command.set_defaults(run=_score)


def _score(options: argparse.Namespace) -> int:
    from kpi_bench.harness.report import render_scores
    from kpi_bench.harness.rescore import score_folder
    from kpi_bench.suites.load import load_suite

    scored = score_folder(
        options.predictions, load_suite(options.suite), name=options.name, results=options.results
    )
    print(render_scores(scored.results))
    for task, reason in scored.refused.items():
        print(f"refused {task}: {reason}", file=sys.stderr)
    return int(bool(scored.refused))


def add_verify(commands: Any) -> None:
    """``kpi-bench verify``."""
    command = commands.add_parser(
        "verify", help="score the predictions of results again and compare every value"
    )
    command.add_argument(
        "results", type=Path, nargs="+", metavar="RESULT", help="result files, or folders of them"
    )
    command.add_argument(
        "--suite", required=True, help="kpi-mini, a suite's folder, or hf://OWNER/NAME@<40-hex revision>"
    )
    command.add_argument(
        "--predictions",
        type=Path,
        metavar="FOLDER",
        help="an --out folder, a submission's folder in it, or a folder with <task>/seed<k>.parquet "
        "(default: the --out folder whose results/ holds the file)",
    )
    command.add_argument(
        "--write",
        action="store_true",
        help="set the flag `verified` where all agrees, take it away where the predictions contradict the result",
    )
    command.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> int:
    from kpi_bench.harness.results import result_files
    from kpi_bench.harness.verify import Verdict, Verifier, render_verifications
    from kpi_bench.suites.load import load_suite

    files = result_files(options.results)
    if not files:
        raise ResultError(f"no result file in {', '.join(map(str, options.results))}")
    verifier = Verifier(load_suite(options.suite), options.predictions, write=options.write)
    verifications = [verifier.verify(path) for path in files]
    print(render_verifications(verifications))
    return int(any(v.verdict is not Verdict.VERIFIED for v in verifications))


def add_submission(commands: Any) -> None:
    """``kpi-bench submission new`` and ``check``."""
    group = commands.add_parser("submission", help="start or check a submission").add_subparsers(
        required=True, metavar="ACTION"
    )
    new = group.add_parser("new", help="write a working template into a new folder")
    new.add_argument(
        "folder", type=Path, metavar="NAME", help="folder to make; its name becomes the submission's"
    )
    new.set_defaults(run=_submission_new)
    check = group.add_parser(
        "check", help="find faults before a long run: toml, import, signatures, a smoke run on kpi-mini"
    )
    check.add_argument("folder", type=Path, metavar="DIR")
    check.set_defaults(run=_submission_check)


def _submission_new(options: argparse.Namespace) -> int:
    from kpi_bench.harness.scaffold import new_submission

    for path in new_submission(options.folder):
        print(f"wrote {path}")
    print(f"next: kpi-bench submission check {options.folder}")
    return 0


def _submission_check(options: argparse.Namespace) -> int:
    from kpi_bench.harness.display import Display
    from kpi_bench.harness.scaffold import check_submission
    from kpi_bench.suites.load import load_suite

    with Display(f"checking {options.folder}") as display:
        checks = check_submission(options.folder, lambda: load_suite("kpi-mini"), display)
    for check in checks:
        print(f"{'FAIL' if check.fault else 'ok  '} {check.name}")
        if check.fault:
            print(f"     {check.fault}")
    return int(any(check.fault for check in checks))
