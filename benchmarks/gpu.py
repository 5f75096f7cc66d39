"""Every submission on one GPU, phase by phase, and two floors: ranking links, and a training step.

    python -m benchmarks.gpu NAME [--submissions A,B] [--suite SUITE] [--generated ENTITIES]

writes ``benchmarks/results/gpu-NAME.json`` (what is there of other submissions stays) and prints tables. Each submission runs in two processes
of its own: one is timed, the other counts what waits for the device (``torch.cuda.set_sync_debug_mode``), which slows it down.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from benchmarks.gpu_floors import floors
from benchmarks.gpu_suite import generated_suite
from benchmarks.workloads import ROOT
from kpi_bench import (
    ClassificationQueries,
    ClassificationTask,
    Context,
    LinkPredictionQueries,
    Queries,
    RecommendationQueries,
    RecommendationTask,
    Suite,
    Task,
)
from kpi_bench._io import read_json, write_json
from kpi_bench.evaluators.ranking import tie_order
from kpi_bench.harness.config import load_class, read_config
from kpi_bench.harness.environment import environment, git_revision, hardware
from kpi_bench.suites.load import load_suite

RESULTS = ROOT / "benchmarks" / "results"
SAMPLE_S = 0.05
TIME_LIMIT_S = 3600
DEVICE = "cuda"


class Phases:
    """What each phase of a submission took; with ``counting``, how often and where the host waited for the device."""

    def __init__(self, *, counting: bool) -> None:
        self.counting = counting
        self.rows: list[dict[str, Any]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        waits: Counter[str] = Counter()
        busy: list[int] = []
        done = threading.Event()
        sampler = threading.Thread(target=_sample, args=(busy, done))
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        with warnings.catch_warnings():
            if self.counting:
                warnings.simplefilter("always")
                warnings.showwarning = _counter(waits)  # restored with the filters
                torch.cuda.set_sync_debug_mode("warn")
            else:
                sampler.start()
            begin = time.perf_counter()
            try:
                yield
                torch.cuda.set_sync_debug_mode("default")
                torch.cuda.synchronize()
            finally:
                seconds = time.perf_counter() - begin
                torch.cuda.set_sync_debug_mode("default")
                done.set()
                if not self.counting:
                    sampler.join()
        row: dict[str, Any] = {"phase": name, "s": seconds, "peak_bytes": torch.cuda.max_memory_allocated()}
        if self.counting:
            row |= {"waits": waits.total(), "places": dict(waits.most_common(12))}
        else:
            row["utilisation"] = float(np.mean(busy)) / 100 if busy else None
        self.rows.append(row)


def run_submission(folder: Path, suite: Suite, *, counting: bool) -> list[dict[str, Any]]:
    """The phases of one submission with the parameters that it has for the suite, seed 0."""
    config = read_config(folder)
    params = config.resolve_params(suite.name, None, {})
    cls = load_class(config)
    graphs = {name: suite.graph(name) for name in suite.graph_names()}
    tasks = [suite.task(name) for name in suite.task_names()]
    tasks = [task for task in tasks if task.spec.kind in config.submission.tasks]
    phases = Phases(counting=counting)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        ctx = Context(0, DEVICE, place, graphs, lambda kind, **values: None, place / "cache")
        submission = cls(params)
        if cls.pretrains({task.spec.kind for task in tasks}):
            with phases.phase("pretrain"):
                submission.pretrain(graphs, ctx)
            state = place / "state"
            state.mkdir()
            submission.save_pretrained(state)
            submission = cls(params)
            submission.load_pretrained(state)
        for task in tasks:
            with phases.phase(f"adapt {task.spec.name}"):
                submission.adapt(task, ctx)
            with phases.phase(f"predict {task.spec.name}"):
                answer = submission.predict(task, _queries(task), ctx)
                if isinstance(answer, Iterator):
                    for _ in answer:
                        pass
    return phases.rows


def _queries(task: Task) -> Queries:
    if isinstance(task, RecommendationTask):
        users = np.unique(task.test.users)
        known = task.matrix("train", "valid").select(users)
        return RecommendationQueries(users, known, task.spec.k, tie_order(task.n_items, 0))
    if isinstance(task, ClassificationTask):
        return ClassificationQueries(task.test.examples, task.test.entities, task.test.texts)
    asked = np.unique(np.stack([task.test.heads, task.test.relations], axis=1), axis=0)
    return LinkPredictionQueries(asked[:, 0], asked[:, 1], np.zeros(len(asked), np.int64))


def _sample(busy: list[int], done: threading.Event) -> None:
    """Utilisation in percent, as NVML gives it (the share of its last window in which a kernel ran), until ``done``."""
    while not done.wait(SAMPLE_S):
        busy.append(torch.cuda.utilization())


def _counter(waits: Counter[str]) -> Any:
    def count(message: Any, category: Any, filename: str, lineno: int, *rest: Any) -> None:
        if "synchronizing CUDA operation" in str(message):
            waits[f"{filename.removeprefix(f'{ROOT}/')}:{lineno}"] += 1

    return count


def measured(folder: Path, suite: str, generated: int | None) -> dict[str, Any]:
    """Both processes of a submission: its phases, or the end of what it said when it failed."""
    found: dict[str, Any] = {}
    for kind in ("timed", "counted"):
        command = [sys.executable, "-m", "benchmarks.gpu", folder.name, "--child", kind, "--suite", suite]
        command += ["--generated", str(generated)] if generated else []
        try:
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return {"error": f"{kind}: more than {TIME_LIMIT_S} s"}
        if done.returncode:
            return {"error": f"{kind}: {done.stderr[-2000:]}"}
        found[kind] = json.loads(done.stdout.splitlines()[-1])
    counted = {row["phase"]: row for row in found["counted"]}
    return {
        "phases": [
            row | {key: counted[row["phase"]][key] for key in ("waits", "places")} for row in found["timed"]
        ]
    }


def table(rows: dict[str, Any]) -> str:
    """Submissions and phases as Markdown."""
    lines = []
    for name, row in rows.items():
        for phase in row.get("phases", ()):
            busy = phase["utilisation"]
            lines.append(
                (name, phase["phase"], phase["s"], busy, phase["peak_bytes"] / 2**20, phase["waits"])
            )
        if "error" in row:
            lines.append((name, f"failed: {row['error'].strip().splitlines()[-1]}", *(None,) * 4))
    heads = ("submission", "phase", "s", "GPU busy", "peak MB", "waits")
    return tabulate(lines, heads, tablefmt="github", floatfmt=("", "", ".2f", ".0%", ".0f", ""))


def main() -> None:
    """Measure all, or in a child one submission."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="of the machine: benchmarks/results/gpu-NAME.json")
    parser.add_argument("--submissions", metavar="A,B", help="of submissions/ (default all)")
    parser.add_argument(
        "--suite",
        default="kpi-mini",
        help="kpi-mini, a folder or hf://OWNER/NAME@REVISION (default kpi-mini)",
    )
    parser.add_argument(
        "--generated",
        type=int,
        metavar="ENTITIES",
        help="a generated suite of this size instead, e.g. 100000",
    )
    parser.add_argument("--child", choices=("timed", "counted"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(
            2, "benchmarks.gpu: torch sees no CUDA GPU on this machine; there is nothing to measure here\n"
        )
    if given.generated:
        suite = generated_suite(Path(tempfile.gettempdir()) / f"generated-{given.generated}", given.generated)
    else:
        suite = load_suite(given.suite)
    if given.child:
        rows = run_submission(ROOT / "submissions" / given.name, suite, counting=given.child == "counted")
        print(json.dumps(rows))
        return
    file = RESULTS / f"gpu-{given.name}.json"
    stored: dict[str, Any] = read_json(file) if file.exists() else {"suites": {}}
    stored |= {
        "hardware": hardware(DEVICE),
        "environment": environment(),
        "git": git_revision(ROOT),
        "floors": floors(DEVICE),
    }
    folders = sorted(path.parent for path in (ROOT / "submissions").glob("*/submission.toml"))
    wanted = given.submissions.split(",") if given.submissions else [folder.name for folder in folders]
    rows = stored["suites"].setdefault(suite.name, {})
    for folder in folders:
        if folder.name in wanted:
            print(folder.name, file=sys.stderr, flush=True)
            rows[folder.name] = measured(folder, given.suite, given.generated)
            write_json(file, stored)
    print(table(rows))
    print(tabulate(stored["floors"], headers="keys", tablefmt="github", floatfmt=".4g"))


if __name__ == "__main__":
    main()
