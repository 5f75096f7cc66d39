"""``kpi-bench``: parses, calls, prints. Exit code 0: all done; 1: a run, check or rule failed; 2: the command could not be carried out."""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kpi_bench import __version__
from kpi_bench.errors import KpiBenchError, SubmissionError

DEFAULT_OUT = Path("runs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the ``kpi-bench`` command."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except KpiBenchError as error:
        print(f"kpi-bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("kpi-bench: interrupted; the same command continues where it was", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has enough; nothing more may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # A path that cannot be read or written, a full disk: the system's own words name it.
        print(f"kpi-bench: {error}", file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kpi-bench", description="The place where knowledge-graph pre-training methods are judged."
    )
    parser.add_argument("--version", action="version", version=f"kpi-bench {__version__}")
    parser.add_argument("--verbose", action="store_true", help="log what the libraries do")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_evaluate(commands)
    _add_score(commands)
    _add_submission(commands)
    _add_data(commands)
    _add_leaderboard(commands)
    return parser


def _add_evaluate(commands: Any) -> None:
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
    command.add_argument("--tasks", type=_names, metavar="A,B", help="only these tasks")
    command.add_argument(
        "--seeds", type=_seeds, default=(0, 1, 2), metavar="0,1,2", help="seeds (default 0,1,2)"
    )
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
        "--time-limit", type=_positive, metavar="S", help="seconds a run may take (default 14400)"
    )
    command.add_argument(
        "--memory-limit",
        type=_positive,
        metavar="GB",
        help="resident memory a run may take (default 90%% of the machine)",
    )
    command.add_argument(
        "--online",
        action="store_true",
        help="let the submission reach the Hub (default: offline, from cache)",
    )
    command.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    from kpi_bench.harness.config import read_config
    from kpi_bench.harness.display import Display
    from kpi_bench.harness.environment import resolve_device
    from kpi_bench.harness.evaluate import DEFAULT_SECONDS, Options, evaluate
    from kpi_bench.harness.report import render_report
    from kpi_bench.harness.supervise import Limits, default_memory_limit
    from kpi_bench.suites.load import load_suite

    configs = [read_config(folder) for folder in options.submission]
    suite = load_suite(options.suite)
    memory = int(options.memory_limit * 2**30) if options.memory_limit else default_memory_limit()
    settings = Options(
        out=options.out,
        results=options.results or options.out / "results",
        seeds=options.seeds,
        tasks=options.tasks,
        device=resolve_device(options.device),
        config=options.config,
        params=_params(options.param),
        resume=options.resume,
        reuse_pretrained=options.reuse_pretrained,
        offline=not options.online,
        limits=Limits(options.time_limit or DEFAULT_SECONDS, memory),
    )
    code = 0
    for config in configs:
        try:
            with Display(f"{config.name} on {suite.name}") as display:
                report = evaluate(config, suite, settings, display)
        except KpiBenchError as error:
            # One submission that cannot be started does not keep the others from their runs.
            print(f"kpi-bench: {error}", file=sys.stderr)
            code = 2
            continue
        print(render_report(report, settings.results))
        code = max(code, int(bool(report.failures)))
    return code


def _add_score(commands: Any) -> None:
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


def _add_submission(commands: Any) -> None:
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


def _add_data(commands: Any) -> None:
    from kpi_bench.suites.recipes import RECIPES

    group = commands.add_parser("data", help="build, verify and examine suites").add_subparsers(
        required=True, metavar="ACTION"
    )
    build = group.add_parser("build", help="build a suite with a recipe")
    build.add_argument("recipe", choices=sorted(RECIPES))
    build.add_argument(
        "--raw", type=Path, help="folder with the raw files (docs/data.md); not needed for kpi-mini"
    )
    build.add_argument("--out", type=Path, required=True, help="new folder for the suite")
    build.set_defaults(run=_data_build)
    for name, text, action in (
        ("stats", "sizes and coverage", _data_stats),
        ("verify", "check files against the manifest and the rules", _data_verify),
        (
            "audit",
            "look for leaks: duplicates, contradictory labels, inverse relations, hubs, coverage",
            _data_audit,
        ),
    ):
        command = group.add_parser(name, help=text)
        command.add_argument("suite", help="kpi-mini, a suite's folder, or hf://OWNER/NAME@<40-hex revision>")
        if name != "verify":
            command.add_argument("--json", type=Path, metavar="FILE", help="also write it as JSON")
        command.set_defaults(run=action)


def _data_build(options: argparse.Namespace) -> int:
    from kpi_bench.suites.recipes import build_suite

    manifest = build_suite(options.recipe, options.raw, options.out)
    size = sum(entry.bytes for entry in manifest.files.values())
    print(
        f"built {manifest.name} {manifest.version} in {options.out}: {len(manifest.files)} files, {size / 1e6:.1f} MB, digest {manifest.digest}"
    )
    return 0


def _data_stats(options: argparse.Namespace) -> int:
    from kpi_bench.suites.load import load_suite
    from kpi_bench.suites.stats import suite_stats

    stats = suite_stats(load_suite(options.suite))
    _emit(stats.render(), stats.to_json(), options.json)
    return 0


def _data_verify(options: argparse.Namespace) -> int:
    from kpi_bench.suites.load import load_suite

    suite = load_suite(options.suite)
    rows = sum(entry.rows for entry in suite.manifest.files.values())
    print(
        f"{suite.name} {suite.manifest.version}: {len(suite.manifest.files)} files and {rows:,} rows are as the manifest says; digest {suite.manifest.digest}"
    )
    return 0


def _data_audit(options: argparse.Namespace) -> int:
    from kpi_bench.suites.audit import audit_suite, findings_json, render_findings
    from kpi_bench.suites.load import load_suite

    findings = audit_suite(load_suite(options.suite))
    _emit(render_findings(findings), findings_json(findings), options.json)
    return 0


def _add_leaderboard(commands: Any) -> None:
    group = commands.add_parser("leaderboard", help="show the board").add_subparsers(
        required=True, metavar="ACTION"
    )
    show = group.add_parser("show", help="print the table")
    show.add_argument(
        "results",
        type=Path,
        nargs="?",
        default=Path("leaderboard/results"),
        help="results folder (default leaderboard/results)",
    )
    show.add_argument("--suite", help="only this suite")
    show.add_argument("--format", choices=("table", "markdown", "csv", "latex", "json"), default="table")
    show.add_argument("--sort", default="mean_rank", help="mean_rank, borda, name, a task or a cost column")
    show.set_defaults(run=_leaderboard_show)
    update = group.add_parser("update", help="bring the boards between markers of a Markdown file up to date")
    update.add_argument("file", type=Path)
    update.add_argument(
        "--results",
        type=Path,
        default=Path("leaderboard/results"),
        help="results folder (default leaderboard/results)",
    )
    update.set_defaults(run=_leaderboard_update)
    compare = commands.add_parser(
        "compare", help="per-task differences between two submissions, with p values"
    )
    compare.add_argument("a")
    compare.add_argument("b")
    compare.add_argument(
        "--results",
        type=Path,
        default=Path("leaderboard/results"),
        help="results folder (default leaderboard/results)",
    )
    compare.add_argument("--suite", help="which suite, when there are several")
    compare.add_argument("--format", choices=("table", "markdown", "csv", "latex", "json"), default="table")
    compare.set_defaults(run=_compare)


def _leaderboard_show(options: argparse.Namespace) -> int:
    from kpi_bench.leaderboard import show

    print(show(options.results, suite=options.suite, fmt=options.format, sort=options.sort))
    return 0


def _leaderboard_update(options: argparse.Namespace) -> int:
    from kpi_bench.leaderboard import update_file

    for suite, changed in update_file(options.file, options.results).items():
        print(f"{options.file}: board of {suite} {'brought up to date' if changed else 'is up to date'}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from kpi_bench.leaderboard import compare_text

    print(compare_text(options.results, options.a, options.b, suite=options.suite, fmt=options.format))
    return 0


def _emit(text: str, value: Any, path: Path | None) -> None:
    from kpi_bench._io import write_json

    print(text)
    if path is not None:
        write_json(path, value)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return names


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return value


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no comma-separated list of whole numbers") from None
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: seeds must be distinct, not negative, and at least one")
    return seeds


def _params(entries: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals:
            raise SubmissionError(f"--param {entry!r}: wanted is KEY=VALUE")
        try:
            values[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            # A bare word, as in --param encoder=hashed: TOML would want quotes that shells eat.
            values[key.strip()] = value
    return values


if __name__ == "__main__":
    sys.exit(main())
