"""The command that shows explanations."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kpi_bench.cli.arguments import whole


def add_explain(commands: Any) -> None:
    """``kpi-bench explain``."""
    command = commands.add_parser(
        "explain", help="one user's recommendations with the paths that explain them"
    )
    command.add_argument("folder", type=Path, metavar="RUN", help="OUT/SUITE/NAME of an evaluation")
    command.add_argument(
        "--suite", required=True, help="kpi-mini, a suite's folder, or hf://OWNER/NAME@<40-hex revision>"
    )
    command.add_argument("--task", required=True, help="a recommendation task of the suite")
    command.add_argument("--user", type=whole, required=True, metavar="ID", help="a user with test items")
    command.add_argument("--seed", type=whole, default=0, help="which seed's predictions (default 0)")
    command.add_argument("--k", type=whole, default=10, help="how many items (default 10)")
    command.set_defaults(run=_explain)


def _explain(options: argparse.Namespace) -> int:
    from kpi_bench.harness.explain import explain
    from kpi_bench.suites.load import load_suite

    suite = load_suite(options.suite)
    print(explain(options.folder, suite, options.task, options.user, seed=options.seed, k=options.k))
    return 0
