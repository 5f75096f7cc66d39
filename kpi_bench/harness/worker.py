"""The child process: it runs the submission's code and tells the parent where the phases begin and end.

Started as ``python -m kpi_bench.harness.worker JOB.json FD``. It sees a suite without test labels and an environment without
secrets; clocks, labels and results belong to the parent.
"""

from __future__ import annotations

import ctypes
import gc
import json
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from kpi_bench._io import read_json
from kpi_bench._schema import decode
from kpi_bench.errors import KpiBenchError, RunError, SubmissionError
from kpi_bench.evaluators.explanations import ExplainedTopK
from kpi_bench.harness.channel import Channel
from kpi_bench.harness.config import load_class, read_config
from kpi_bench.harness.explanations import write_paths
from kpi_bench.harness.predictions import MUDOK, MUDOK_MASK, OFFICIAL, write_predictions
from kpi_bench.harness.protocol import Context, LazyGraphs, Predictions, Queries, Submission, silent
from kpi_bench.harness.ranks import Others, Place, device_of, local_rank, own_rank
from kpi_bench.harness.withhold import read_queries
from kpi_bench.suites.suite import Suite, open_suite
from kpi_bench.suites.task import Task, TaskKind

# What a submission may send through its context; the other kinds are the harness's own.
REPORTS = ("curve", "note", "progress")
PR_SET_PDEATHSIG = 1
PRETRAINS = "pretrains"
DATA_PARALLEL = "data_parallel"
ADAPT_ONLY = "adapt_only"


class Action(StrEnum):
    """What a child can be asked for."""

    INSPECT = "inspect"
    PRETRAIN = "pretrain"
    ADAPT = "adapt"
    TIME = "time"


@dataclass(frozen=True)
class Job:
    """What a child is to do: look at the class, pre-train, adapt to and predict one task, or do so again and again. Paths are absolute.

    ``kinds`` are those of the suite's tasks that the submission answers, whichever of them are run. ``rounds`` are to be timed, after
    one more as a warm-up (action ``time``). ``processes`` pre-train together, those of ``place`` on this machine
    (None: all).
    """

    action: Action
    submission: str
    params: dict[str, Any]
    suite: str
    kinds: tuple[TaskKind, ...]
    task: str | None
    seed: int
    device: str
    scratch: str
    cache: str
    pretrained: str | None
    output: str
    export: str
    rounds: int = 0
    processes: int = 1
    place: Place | None = None


class Worker:
    """State of one job in the child."""

    def __init__(self, job: Job, channel: Channel, others: Others | None = None) -> None:
        self.job = job
        self.channel = channel
        self.others = others
        self.rank = own_rank()
        self.device = device_of(job.device, local_rank())

    def run(self) -> None:
        """Do the job, phase by phase."""
        if self.job.action is Action.INSPECT:
            cls = load_class(read_config(Path(self.job.submission)))
            pretrains = cls.pretrains(frozenset(self.job.kinds))
            adapt_only = json.dumps(sorted(_names(cls)))
            for key, value in (
                (PRETRAINS, pretrains),
                (DATA_PARALLEL, bool(cls.data_parallel)),
                (ADAPT_ONLY, adapt_only),
            ):
                self.channel.send({"kind": "note", "key": key, "value": value})
            return
        if self.job.action is Action.TIME:
            for number in range(self.job.rounds + 1):
                self._time(number)
            return
        with self.phase("load"):
            suite, task, submission, context = self._load(self._scratch())
            if self.others is not None:
                self.others.wait_until("ready")
        if task is None:
            with self.phase("pretrain"):
                if self.others is not None:
                    self.others.begin()
                submission.pretrain(context.graphs, context)
                if self.others is not None:
                    self.others.wait_until("done")
            if self.rank == 0:
                submission.save_pretrained(Path(self.job.output))
            return
        queries, answer = self._adapt_and_predict(suite, task, submission, context)
        self._keep(task, queries, answer)
        self._report_size(submission)
        if MUDOK in task.spec.variants:
            unmasked = read_queries(suite.folder, task, mask=MUDOK_MASK)
            write_predictions(
                Path(self.job.output), MUDOK, task, unmasked, submission.predict(task, unmasked, context)
            )

    def follow(self) -> None:
        """Pre-train as a rank that another one started; what was learned is saved by rank 0."""
        _, _, submission, context = self._load(self._scratch())
        self.channel.send({"kind": "ready", "rank": self.rank})
        sys.stdin.read()  # its end is the first rank's word to begin
        submission.pretrain(context.graphs, context)

    def _scratch(self) -> Path:
        """An empty folder of a task's run or round; that of pre-training is shared by its ranks."""
        place = self.job.scratch
        return Path(place if self.job.task is None else tempfile.mkdtemp(dir=place))

    def _load(self, scratch: Path) -> tuple[Suite, Task | None, Submission, Context]:
        cls = load_class(read_config(Path(self.job.submission)))
        seed_everything(self.job.seed, self.job.device)
        submission = cls(self.job.params)
        suite = open_suite(Path(self.job.suite))
        task = suite.task(self.job.task) if self.job.task else None
        if task is not None and self.job.pretrained:
            submission.load_pretrained(Path(self.job.pretrained))
        return suite, task, submission, self._context(suite, scratch)

    def _adapt_and_predict(
        self, suite: Suite, task: Task, submission: Submission, context: Context, **facts: Any
    ) -> tuple[Queries, Predictions]:
        with self.phase("adapt", **facts):
            submission.adapt(task, context)
        queries = read_queries(suite.folder, task)
        with self.phase("predict", queries=len(queries), **facts):
            answer = submission.predict(task, queries, context)
            if task.spec.kind is TaskKind.LINK_PREDICTION:
                # Blocks are made as they are consumed, so writing them is part of predicting.
                write_predictions(Path(self.job.output), OFFICIAL, task, queries, answer)
        return queries, answer

    def _keep(self, task: Task, queries: Queries, answer: Predictions) -> None:
        """Write what ``predict`` returned, but for what was written while it was made."""
        if task.spec.kind is not TaskKind.LINK_PREDICTION:
            write_predictions(Path(self.job.output), OFFICIAL, task, queries, answer)
        if isinstance(answer, ExplainedTopK):
            write_paths(Path(self.job.output), answer.paths)

    def _time(self, number: int) -> None:
        """One round: what the run did from ``load`` to ``predict``, with a new instance, suite and scratch folder; 0 is the warm-up.

        What it answers is looked at, and removed, by the parent.
        """
        gc.collect()
        scratch = self._scratch()
        suite, task, submission, context = self._load(scratch)
        if task is None:
            raise RunError("only a task can be timed; the job names none")
        queries, answer = self._adapt_and_predict(suite, task, submission, context, round=number)
        self._keep(task, queries, answer)
        shutil.rmtree(scratch)
        self._ask({"kind": "answered", "round": number})

    @contextmanager
    def phase(self, name: str, **facts: Any) -> Iterator[None]:
        """Tell the parent that a phase begins and ends; it answers when its clock has been read."""
        reset_peak(self.job.device)
        self._ask({"kind": "begin", "phase": name, **facts})
        yield
        peak = synchronise(self.job.device)
        self._ask({"kind": "end", "phase": name, "peak_device": peak})

    def _ask(self, message: dict[str, Any]) -> None:
        self.channel.send(message)
        self.channel.receive()

    def _context(self, suite: Suite, scratch: Path) -> Context:
        def report(kind: str, **values: Any) -> None:
            if kind not in REPORTS:
                raise SubmissionError(f"a submission reports {', '.join(REPORTS)} only, not {kind!r}")
            self.channel.send({"kind": kind, **values})

        graphs = LazyGraphs(suite.graph_names(), suite.graph)
        return Context(
            self.job.seed,
            self.device,
            scratch,
            graphs,
            report if self.rank == 0 else silent,
            Path(self.job.cache),
            self.rank,
            self.job.processes,
        )

    def _report_size(self, submission: Submission) -> None:
        counts = submission.parameters()
        total = int(counts.get("total", 0))
        kept = int(counts.get("kept", total))
        if not 0 <= kept <= total:
            raise SubmissionError(
                f"parameters() counts {kept} kept of {total} in total; kept are the non-zero ones among the total"
            )
        export = Path(self.job.export)
        submission.export(export)
        files = [path for path in export.rglob("*") if path.is_file()]
        self.channel.send(
            {
                "kind": "size",
                "parameters": total,
                "trainable": int(counts.get("trainable", 0)),
                "serving_bytes": sum(path.stat().st_size for path in files) if files else None,
                "kept": kept,
            }
        )


def _names(cls: type[Submission]) -> Collection[str]:
    names: Any = cls.adapt_only
    if not isinstance(names, set | frozenset | tuple | list) or not all(isinstance(n, str) for n in names):
        raise SubmissionError(
            f"{cls.__name__}.adapt_only is {names!r}; wanted is a set of names of parameters, such as frozenset({{'dropout'}})"
        )
    return names


def seed_everything(seed: int, device: str) -> None:
    """Seed the global generators of Python, NumPy and (where a submission has loaded it) torch, for code that forgets to."""
    import random

    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    if device != "cpu" or "torch" in sys.modules:
        import torch

        torch.manual_seed(seed)


def reset_peak(device: str) -> None:
    """Let the device's peak of allocated bytes start from what is allocated now."""
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def synchronise(device: str) -> int | None:
    """Wait for the device and return its peak of allocated bytes; None on a CPU."""
    if device == "cpu":
        return None
    import torch

    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device))


def end_with_parent() -> None:
    """Have the kernel end this process when the harness dies, so that no run goes on unwatched (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    """Run the job named on the command line; the exit code is 0 when it is done, 1 when the submission failed."""
    job = decode(Job, read_json(Path(sys.argv[1])), sys.argv[1], RunError)
    channel = Channel.from_fd(int(sys.argv[2]))
    end_with_parent()
    rank, others = own_rank(), None
    about = {"rank": rank} if rank else {}
    try:
        if rank:
            Worker(job, channel).follow()
        else:
            if job.processes > 1:
                place = job.place or Place.of_machine(job.processes)
                others = Others(Path(sys.argv[1]), job.processes, place, channel)
            Worker(job, channel, others).run()
    except Exception as error:
        # The boundary to foreign code: whatever it raises becomes a message to the parent, with its traceback in the log.
        traceback.print_exc()
        if others is None or not others.failed():
            name = "" if isinstance(error, KpiBenchError) else f"{type(error).__name__}: "
            if own_rank() and not rank:
                name = f"rank {own_rank()} of {job.processes}: {name}"
            channel.send({"kind": "failed", "error": f"{name}{error}", "where": _last_frame(error), **about})
        if job.processes > 1:
            # Its end would break the connections of the other ranks before they are told why: it stays until it is ended.
            with suppress(EOFError):
                channel.receive()
        return 1
    channel.send({"kind": "done", **about})
    return 0


def _last_frame(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""


if __name__ == "__main__":
    sys.exit(main())
