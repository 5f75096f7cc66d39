"""``kpi-bench``: parses, calls, prints. Exit code 0: all done; 1: a run, check or rule failed; 2: the command could not be carried out."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from kpi_bench import __version__
from kpi_bench.cli.bench import add_bench
from kpi_bench.cli.board import add_leaderboard
from kpi_bench.cli.data import add_data
from kpi_bench.cli.evaluation import add_evaluate, add_score, add_submission, add_verify
from kpi_bench.cli.explain import add_explain
from kpi_bench.cli.hub import add_hub
from kpi_bench.cli.plan import add_plan
from kpi_bench.cli.tune import add_tune
from kpi_bench.errors import KpiBenchError


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
    add_evaluate(commands)
    add_plan(commands)
    add_tune(commands)
    add_score(commands)
    add_verify(commands)
    add_explain(commands)
    add_submission(commands)
    add_data(commands)
    add_leaderboard(commands)
    add_hub(commands)
    add_bench(commands)
    return parser
