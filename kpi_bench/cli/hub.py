"""Commands that publish and read results."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add_hub(commands: Any) -> None:
    """``kpi-bench push``, ``push-model`` and ``pull``."""
    push = commands.add_parser(
        "push", help="send results to a results repository of the Hub, as a pull request"
    )
    push.add_argument(
        "results", type=Path, nargs="+", metavar="RESULT", help="result file(s), or folders of them"
    )
    push.add_argument("--repo", required=True, metavar="OWNER/NAME", help="dataset repository of results")
    push.add_argument("--direct", action="store_true", help="commit to main instead (maintainers)")
    push.add_argument(
        "--with-predictions",
        action="store_true",
        help="attach the predictions, so that anyone can re-score them",
    )
    push.add_argument("--message", metavar="TEXT", help="title (default: names submissions and suites)")
    push.set_defaults(run=_push)
    model = commands.add_parser(
        "push-model", help="write a submission's scores into its model repository, as a pull request"
    )
    model.add_argument(
        "results",
        type=Path,
        nargs="+",
        metavar="RESULT",
        help="result file(s) of one submission on one suite, or folders of them",
    )
    model.add_argument("--repo", required=True, metavar="OWNER/MODEL", help="model repository, which exists")
    model.add_argument(
        "--dataset", metavar="OWNER/NAME", help="the suite on the Hub, if it was not loaded from there"
    )
    model.add_argument("--direct", action="store_true", help="commit to main instead (owners)")
    model.set_defaults(run=_push_model)
    pull = commands.add_parser("pull", help="read all results of a results repository, checked")
    pull.add_argument("--repo", required=True, metavar="OWNER/NAME")
    pull.add_argument(
        "--revision", default="main", help="branch, tag, refs/pr/N or full commit hash (default main)"
    )
    pull.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="new folder, or one of an earlier pull"
    )
    pull.add_argument(
        "--with-predictions", action="store_true", help="also the predictions that are attached"
    )
    pull.set_defaults(run=_pull)
    for command in (push, model, pull):
        add_endpoint(command)


def add_endpoint(command: argparse.ArgumentParser) -> None:
    """``--endpoint``."""
    command.add_argument("--endpoint", metavar="URL", help="another Hub (default: HF_ENDPOINT, else the Hub)")


def _push(options: argparse.Namespace) -> int:
    from kpi_bench.publish import pack_results, push_results

    parcel = pack_results(options.results, predictions=options.with_predictions)
    done = push_results(
        parcel, options.repo, direct=options.direct, message=options.message, endpoint=options.endpoint
    )
    print(f"{len(parcel.results)} result(s), {len(parcel.uploads)} file(s) {_where(done)}")
    return 0


def _push_model(options: argparse.Namespace) -> int:
    from kpi_bench.publish import pack_results, push_model

    results = pack_results(options.results).results
    done = push_model(
        results, options.repo, dataset=options.dataset, direct=options.direct, endpoint=options.endpoint
    )
    print(f"{len(results)} score(s) of {results[0].submission.name} {_where(done)}")
    return 0


def _where(done: Any) -> str:
    place = "on main" if done.pull_request is None else f"in pull request {done.pull_request}"
    if not done.changed:
        return f"already {place}, nothing was sent: {done.url}\nrevision {done.revision}"
    return f"{place}: {done.url}\nrevision {done.revision}"


def _pull(options: argparse.Namespace) -> int:
    from kpi_bench.publish import pull_results

    pulled = pull_results(
        options.repo,
        options.out,
        revision=options.revision,
        predictions=options.with_predictions,
        endpoint=options.endpoint,
    )
    print(
        f"{len(pulled.stored)} result(s) of {options.repo} in {options.out / 'results'}\nrevision {pulled.revision}"
    )
    for problem in pulled.problems:
        print(f"left out {problem}", file=sys.stderr)
    return int(bool(pulled.problems))
