"""Runs of ``benchmarks/``, which a source checkout has and an installed package has not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kpi_bench.bench.ratios import LIMITS
from kpi_bench.bench.runs import BenchRun
from kpi_bench.errors import BenchError

RESULTS = Path("benchmarks") / "results"
_FAILED, _NOTHING_CHOSEN = 1, 5


def source_root() -> Path:
    """The checkout that this package is imported from.

    Raises:
        BenchError: it is installed without one.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "benchmarks" / "conftest.py").is_file():
        raise BenchError(
            f"no benchmarks/ beside {root / 'kpi_bench'}: they are not part of the installed package. Clone the repository, run `make setup` "
            "there, then `.venv/bin/kpi-bench bench`; a stored run is shown anywhere with --json FILE"
        )
    return root


def run_benchmarks(groups: Sequence[str], root: Path) -> tuple[BenchRun, bool]:
    """Run the chosen groups (all when none), and the limits, in a process of their own; whether all of them passed.

    A contender whose result is wrong fails and is missing from the run; a peer that is not installed is skipped.

    Raises:
        BenchError: no such group, or pytest could not run.
    """
    with tempfile.TemporaryDirectory(prefix="kpi-bench-") as folder:
        target = Path(folder) / "run.json"
        chosen = [f"--hot-path={name}" for name in (*groups, LIMITS)] if groups else []
        done = _pytest(root, *chosen, "--benchmark-only", f"--benchmark-json={target}")
        if done.returncode not in (0, _FAILED) or not target.is_file() or target.stat().st_size == 0:
            raise BenchError(f"the benchmarks did not run (pytest ended with {done.returncode}); see above")
        return BenchRun.read(target), done.returncode == 0


def list_groups(root: Path) -> None:
    """Print which groups there are.

    Raises:
        BenchError: pytest could not collect them.
    """
    done = _pytest(root, "--list-hot-paths", "--collect-only", "-qq")
    if done.returncode not in (0, _NOTHING_CHOSEN):
        raise BenchError(
            f"the benchmarks could not be collected (pytest ended with {done.returncode}); see above"
        )


def _pytest(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    files = sorted(str(path.relative_to(root)) for path in (root / "benchmarks").glob("bench_*.py"))
    command = [sys.executable, "-m", "pytest", *files, "-rs", "--benchmark-enable", "--benchmark-quiet"]
    # In a test that pytest-xdist runs, its variables would tell pytest-benchmark that this run shares the machine, too.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**kept, "PYTHONPATH": os.pathsep.join([str(root), *_inherited()])}
    return subprocess.run([*command, *arguments], cwd=root, check=False, env=environment)


def _inherited() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
