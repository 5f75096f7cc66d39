"""Every submission on one GPU, phase by phase, and two floors: ranking links, and a training step.

    python -m benchmarks.gpu NAME [--submissions A,B] [--suite SUITE] [--generated ENTITIES]

writes ``benchmarks/results/gpu-NAME.json`` (what is there of other submissions stays) and prints tables. Each submission runs in two processes
of its own: one is timed, the other counts what waits for the device (``torch.cuda.set_sync_debug_mode``), which slows it down. The floors
have a process, too: this one makes no context on the GPU, which would take memory from those that are measured.
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
from benchmarks.gpu_suite import LEAST, generated_suite
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


def measured(folder: Path, suite: str) -> dict[str, Any]:
    """Both processes of a submission on a suite (as ``--suite`` names it): its phases, or the end of what it said when it failed."""
    found: dict[str, Any] = {}
    for kind in ("timed", "counted"):
        try:
            found[kind] = _child(kind, folder.name, "--suite", suite)
        except RuntimeError as error:
            return {"error": f"{kind}: {error}"}
    counted = {row["phase"]: row for row in found["counted"]}
    return {
        "phases": [
            row | {key: counted[row["phase"]][key] for key in ("waits", "places")} for row in found["timed"]
        ]
    }


def _child(kind: str, *arguments: str) -> Any:
    """What another process of this program has measured. Raises RuntimeError: it failed, with the end of what it said."""
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments, "--child", kind]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"more than {TIME_LIMIT_S} s") from None
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def stored_figures(file: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """What the file has of this machine, or nothing yet.

    Raises:
        ValueError: its figures are of another machine.
    """
    if not file.exists():
        return {"hardware": machine, "suites": {}}
    stored: dict[str, Any] = read_json(file)
    if stored["hardware"] != machine:
        raise ValueError(f"{file} has figures of other hardware: {stored['hardware']}; take another NAME")
    return stored


def chosen(names: str | None) -> list[Path]:
    """Folders of the submissions with these names, separated by commas (default all), in order.

    Raises:
        ValueError: there is no such submission.
    """
    folders = {path.parent.name: path.parent for path in (ROOT / "submissions").glob("*/submission.toml")}
    wanted = sorted(folders) if names is None else sorted(set(names.split(",")))
    unknown = [name for name in wanted if name not in folders]
    if unknown:
        raise ValueError(f"no submission {', '.join(unknown)}; there are: {', '.join(sorted(folders))}")
    return [folders[name] for name in wanted]


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
    parser.add_argument("--child", choices=("machine", "timed", "counted"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.generated is not None and given.generated < LEAST:
        parser.error(f"--generated needs {LEAST:,} entities or more: fewer leave no triple to learn from")
    try:
        folders = [] if given.child else chosen(given.submissions)
    except ValueError as error:
        parser.error(f"--submissions: {error}")
    if not torch.cuda.is_available():
        parser.exit(
            2, "benchmarks.gpu: torch sees no CUDA GPU on this machine; there is nothing to measure here\n"
        )
    if given.child == "machine":
        print(json.dumps({"hardware": hardware(DEVICE), "floors": floors(DEVICE)}))
        return
    if given.child:
        suite = load_suite(given.suite, verify=False)  # the parent has
        folder = ROOT / "submissions" / given.name
        print(json.dumps(run_submission(folder, suite, counting=given.child == "counted")))
        return
    file = RESULTS / f"gpu-{given.name}.json"
    # Of the floors and of each row: those that are kept were measured with other code.
    about = {"git": git_revision(), "environment": environment()}
    machine = _child("machine", given.name)
    try:
        stored = stored_figures(file, machine["hardware"])
    except ValueError as error:
        parser.error(str(error))
    stored["floors"] = {"rows": machine["floors"], **about}
    with tempfile.TemporaryDirectory() as scratch:
        name = given.suite
        if given.generated is not None:
            name = str(generated_suite(Path(scratch) / "suite", given.generated).folder)
        rows = stored["suites"].setdefault(load_suite(name).name, {})
        for folder in folders:
            print(folder.name, file=sys.stderr, flush=True)
            rows[folder.name] = measured(folder, name) | about
            write_json(file, stored)
    print(table(rows))
    print(tabulate(stored["floors"]["rows"], headers="keys", tablefmt="github", floatfmt=".4g"))


if __name__ == "__main__":
    main()
