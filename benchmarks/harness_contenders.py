"""What an evaluation costs beside the submission's own phases: ``popularity``, which takes milliseconds, on a task of kpi-mini.

``own-evaluate`` is one run from nothing: the suite's copy, a child that is asked what the submission does, the run's child, scoring with
intervals, the result. ``own-resume`` is the same command once more: everything is there.
``bare-child`` starts a process that imports what a child imports: the floor of a design that isolates runs. CPU seconds of all
processes. A contender returns the task's main metric.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path

from benchmarks.workloads import ROOT
from kpi_bench import load_suite
from kpi_bench.harness.config import read_config
from kpi_bench.harness.evaluate import Options, Report, evaluate
from kpi_bench.suites.suite import Suite

SUBMISSION = ROOT / "submissions" / "popularity"
_numbers = count()


def cpu_seconds() -> float:
    """User and system seconds of this process and of all children that have ended."""
    return sum(os.times()[:4])


@cache
def folder() -> Path:
    path = Path(tempfile.mkdtemp(prefix="kpi-bench-harness-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@cache
def suite() -> Suite:
    return load_suite("kpi-mini")


def task() -> str:
    """The first task that the submission answers."""
    return next(spec.name for spec in suite().manifest.tasks if spec.kind.value == "recommendation")


def run(out: Path) -> Report:
    options = Options(out=out, results=out / "results", seeds=(0,), tasks=(task(),))
    report = evaluate(read_config(SUBMISSION), suite(), options)
    if report.failures:
        raise RuntimeError(report.failures[0].error)
    return report


def metric(report: Report) -> float:
    result = report.results[0]
    return result.metrics[result.task.main_metric].mean


def own_evaluate() -> float:
    out = folder() / f"fresh{next(_numbers)}"
    value = metric(run(out))
    shutil.rmtree(out)
    return value


@cache
def finished() -> Path:
    out = folder() / "finished"
    run(out)
    return out


def own_resume() -> float:
    return metric(run(finished()))


def bare_child() -> float:
    subprocess.run([sys.executable, "-c", "import kpi_bench.harness.worker"], cwd=ROOT, check=True)
    return float("nan")


CONTENDERS: dict[str, Callable[[], float]] = {
    "bare-child": bare_child,
    "own-evaluate": own_evaluate,
    "own-resume": own_resume,
}
