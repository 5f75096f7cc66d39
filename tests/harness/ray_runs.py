"""Evaluations of the tiny suite on Ray: what is asked, heard and left behind."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import psutil
from submission_factory import write_submission

from kpi_bench.harness.channel import Message
from kpi_bench.harness.evaluate import Options, Outcome
from kpi_bench.harness.executors.base import Premises
from kpi_bench.harness.records import RunFolders, RunRecord, read_record
from kpi_bench.harness.results import result_files
from kpi_bench.harness.source import source_sha256
from kpi_bench.harness.withhold import file_states, withheld_copy
from kpi_bench.suites.suite import Suite

QA, REVIEW = "shop_games_qa", "library_review"
# What a result says of the scores, and where it came from; the rest of it are costs.
SCORED = ("submission", "suite", "task", "protocol", "seeds", "metrics", "variants", "slices", "counts", "floors", "predictions", "queries_sha256")  # fmt: skip
# Kills the process that watches its run, once for each task and seed, in the middle of predicting.
KILLS = """
def predict(self, task, queries, ctx):
    mark = Path(self.params["marks"]) / f"{task.spec.name}-{ctx.seed}"
    best = super().predict(task, queries, ctx)
    if not mark.exists():
        mark.write_text(str(os.getpid()))
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(300)
    return best
"""


class Log:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.starts: list[tuple[str | None, int]] = []
        self.messages: list[Message] = []
        self.ends: list[Outcome] = []

    def planned(self, runs: int) -> None:
        self.runs = runs

    def started(self, task: str | None, seed: int) -> None:
        self.starts.append((task, seed))

    def message(self, message: Message) -> None:
        self.messages.append(message)

    def finished(self, outcome: Outcome) -> None:
        self.ends.append(outcome)


def options_for(place: Path, **changes: Any) -> Options:
    options = Options(out=place / "out", results=place / "results", seeds=(0, 1), tasks=(QA,))
    return dataclasses.replace(options, **changes)


def prediction_bytes(place: Path) -> dict[str, bytes]:
    files = sorted((place / "out" / "tiny").rglob("predictions/**/*.parquet"))
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in files}


def scores(place: Path) -> dict[str, dict[str, Any]]:
    found = {path.name: json.loads(path.read_text()) for path in result_files([place / "results"])}
    return {
        f"{name}/{result['task']['name']}": {part: result[part] for part in SCORED}
        for name, result in found.items()
    }


def records(place: Path, name: str, tasks: tuple[str, ...], seeds: tuple[int, ...]) -> list[RunRecord]:
    folders = RunFolders(place / "out" / "tiny" / name)
    read = [read_record(folders.run(task, seed)) for task in tasks for seed in seeds]
    return [record for record in read if record is not None]


def ended(pid: int, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def premises_of(suite: Suite, place: Path) -> Premises:
    config = write_submission(place / "plain")
    copy = withheld_copy(suite, place / "withheld")
    return Premises(place, copy, file_states(copy), config, source_sha256(config), "cpu")
