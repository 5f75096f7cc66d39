"""Commands that read results."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_RESULTS: dict[str, Any] = {
    "type": Path,
    "default": Path("leaderboard/results"),
    "help": "results folder (default leaderboard/results)",
}


def add_leaderboard(commands: Any) -> None:
    """``kpi-bench leaderboard show``, ``update``, ``build``, ``picture`` and ``check``, ``kpi-bench compare``."""
    group = commands.add_parser("leaderboard", help="show the board").add_subparsers(
        required=True, metavar="ACTION"
    )
    show = group.add_parser("show", help="print the table")
    show.add_argument("results", nargs="?", **_RESULTS)
    show.add_argument("--suite", help="only this suite")
    show.add_argument("--format", choices=("table", "markdown", "csv", "latex", "json"), default="table")
    show.add_argument("--sort", default="mean_rank", help="mean_rank, borda, name, a task or a cost column")
    show.add_argument(
        "--reference",
        metavar="NAME",
        help="row whose best score on valid is the target of `s to target` (default by kind of task: lightgcn, text-classifier, kg-embedding)",
    )
    show.set_defaults(run=_leaderboard_show)
    update = group.add_parser("update", help="bring the boards between markers of a Markdown file up to date")
    update.add_argument("file", type=Path)
    update.add_argument("--results", **_RESULTS)
    update.set_defaults(run=_leaderboard_update)
    build = group.add_parser("build", help="write the boards as a static site")
    build.add_argument("results", nargs="?", **_RESULTS)
    build.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="new folder, or one of an earlier build"
    )
    build.add_argument(
        "--docs",
        metavar="URL",
        help="where the documentation lies, for a link on every page (may be relative to the first page)",
    )
    build.set_defaults(run=_leaderboard_build)
    picture = group.add_parser("picture", help="draw a board as SVG, for a README")
    picture.add_argument("suite")
    picture.add_argument("--out", type=Path, required=True, metavar="FILE")
    picture.add_argument("--results", **_RESULTS)
    picture.add_argument(
        "--plot",
        choices=("scores", "cost"),
        default="scores",
        help="scores by task with intervals, or quality against cost (default scores)",
    )
    picture.add_argument(
        "--tasks", type=int, default=0, metavar="N", help="only rows that cover so many tasks"
    )
    picture.set_defaults(run=_leaderboard_picture)
    check = group.add_parser("check", help="check contributed results against the rules and the board")
    check.add_argument(
        "results", type=Path, nargs="+", metavar="RESULTS", help="result files, or folders of them"
    )
    check.add_argument(
        "--board", type=Path, required=True, metavar="FOLDER", help="results folder of the current board"
    )
    check.add_argument("--markdown", type=Path, metavar="FILE", help="also write a comment in Markdown")
    check.add_argument(
        "--allow-verified",
        action="store_true",
        help="let the flag `verified` stand: the files come from a maintainer",
    )
    check.set_defaults(run=_leaderboard_check)
    compare = commands.add_parser(
        "compare", help="per-task differences between two submissions, with p values"
    )
    compare.add_argument("a")
    compare.add_argument("b")
    compare.add_argument("--results", **_RESULTS)
    compare.add_argument("--suite", help="which suite, when there are several")
    compare.add_argument("--format", choices=("table", "markdown", "csv", "latex", "json"), default="table")
    compare.set_defaults(run=_compare)


def _leaderboard_show(options: argparse.Namespace) -> int:
    from kpi_bench.leaderboard import show

    text = show(
        options.results,
        suite=options.suite,
        fmt=options.format,
        sort=options.sort,
        reference=options.reference,
    )
    print(text)
    return 0


def _leaderboard_update(options: argparse.Namespace) -> int:
    from kpi_bench.leaderboard import update_file

    for suite, changed in update_file(options.file, options.results).items():
        print(f"{options.file}: board of {suite} {'brought up to date' if changed else 'is up to date'}")
    return 0


def _leaderboard_build(options: argparse.Namespace) -> int:
    from rich.console import Console

    from kpi_bench.leaderboard import load_results
    from kpi_bench.leaderboard.site import build_site

    with Console(stderr=True).status("reading results") as status:
        report = build_site(
            load_results(options.results),
            options.out,
            docs_url=options.docs,
            progress=lambda suite: status.update(f"writing the board of {suite}"),
        )
    for note in report.notes:
        print(note)
    print(
        f"{report.out}: {len(report.suites)} suites, {report.n_submissions} submissions, {report.n_results} results in "
        f"{report.n_files} files of {report.n_bytes / 1e6:.1f} MB; open {report.out / 'index.html'}"
    )
    return 0


def _leaderboard_picture(options: argparse.Namespace) -> int:
    from kpi_bench._io import write_text
    from kpi_bench.leaderboard import board, load_results
    from kpi_bench.leaderboard.readme import covering
    from kpi_bench.leaderboard.site.pictures import board_picture, pareto_picture

    draw = {"scores": board_picture, "cost": pareto_picture}[options.plot]
    write_text(
        options.out, draw(covering(board(load_results(options.results), options.suite), options.tasks))
    )
    print(f"{options.out}: {options.plot} of {options.suite}")
    return 0


def _leaderboard_check(options: argparse.Namespace) -> int:
    from kpi_bench._io import write_text
    from kpi_bench.leaderboard import check_markdown, check_results, render_check

    check = check_results(options.results, options.board, may_verify=options.allow_verified)
    print(render_check(check))
    if options.markdown is not None:
        write_text(options.markdown, check_markdown(check))
    return int(check.count("error") > 0)


def _compare(options: argparse.Namespace) -> int:
    from kpi_bench.leaderboard import compare_text

    print(compare_text(options.results, options.a, options.b, suite=options.suite, fmt=options.format))
    return 0
