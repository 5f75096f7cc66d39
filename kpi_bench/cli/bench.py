"""``kpi-bench bench``: how fast the hot paths are, as ratios."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kpi_bench.errors import BenchError


def add_bench(commands: Any) -> None:
    """``kpi-bench bench``."""
    command = commands.add_parser(
        "bench", help="time the hot paths beside peers and limits, or show a stored run (source checkout)"
    )
    command.add_argument(
        "groups", nargs="*", metavar="GROUP", help="hot paths or files of benchmarks/ (default all; see --list)"
    )  # fmt: skip
    command.add_argument("--list", action="store_true", help="name the groups and do nothing else")
    command.add_argument("--json", type=Path, metavar="FILE", help="run nothing: read a stored run")
    command.add_argument(
        "--against", type=Path, metavar="FILE", help="compare with a stored run of the same machine"
    )
    command.add_argument(
        "--save", action="store_true", help="keep the run as benchmarks/results/<machine>.json"
    )
    command.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    from kpi_bench.bench.checkout import RESULTS, list_groups, run_benchmarks, source_root
    from kpi_bench.bench.runs import BenchRun, save
    from kpi_bench.bench.table import comparison, report

    if options.list:
        list_groups(source_root())
        return 0
    if options.json is not None and options.groups:
        raise BenchError("--json reads a stored run and GROUP makes one: give one of them")
    then = BenchRun.read(options.against) if options.against is not None else None
    passed = True
    if options.json is not None:
        run = BenchRun.read(options.json)
    else:
        run, passed = run_benchmarks(options.groups, source_root())
    # Printed before anything is refused: minutes of measuring must not be lost.
    print(report(run))
    if options.save:
        print(f"\nkept in {save(run, source_root() / RESULTS)}")
    if then is not None:
        print(f"\n{comparison(run, then)}")
    return 0 if passed else 1
