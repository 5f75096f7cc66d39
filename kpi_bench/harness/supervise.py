"""Run one job in a child process: start it without secrets, keep its clocks, enforce its limits, collect what it reports."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

from kpi_bench._io import write_json
from kpi_bench._schema import encode
from kpi_bench.errors import RunError
from kpi_bench.harness.channel import Channel, Message
from kpi_bench.harness.child_environment import child_environment, import_path
from kpi_bench.harness.clock import Lap, ProcessMeter, Reading
from kpi_bench.harness.ranks import CAUSE_S, thread_shares
from kpi_bench.harness.results import CurvePoint, Size
from kpi_bench.harness.worker import Job

SAMPLE_S = 0.1
GRACE_S = 10.0
LOG_TAIL_BYTES = 4096
ELSEWHERE = "another machine of the run failed"

Progress = Callable[[Message], None]


@dataclass(frozen=True)
class Limits:
    """Bounds of one job: seconds of wall time and bytes of resident memory; None is no bound."""

    seconds: float | None = None
    rss_bytes: int | None = None


def default_memory_limit() -> int:
    """90 % of the machine's memory, in bytes: the run ends before the system does."""
    return int(psutil.virtual_memory().total * 0.9)


@dataclass
class JobRecord:
    """What the parent measured and the child reported."""

    laps: dict[str, Lap] = field(default_factory=dict)
    rounds: list[Lap] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    size: Size | None = None
    peak_rss: int = 0
    peak_device: int | None = None
    wall_s: float = 0.0
    error: str | None = None
    echo: bool = False
    """The error may be what another rank's end led to."""


class Partners(Protocol):
    """The other machines of a pre-training, as the parent on this one sees them."""

    def ready(self) -> bool:
        """Whether all can begin; asked again and again once this one can."""
        ...

    def failed(self, seconds: float = 0.0) -> bool:
        """Whether another one has failed, or does within so many seconds."""
        ...


def run_job(
    job: Job,
    folder: Path,
    *,
    limits: Limits | None = None,
    offline: bool = True,
    on_message: Progress | None = None,
    search: Sequence[str] | None = None,
    check: Callable[[], str | None] | None = None,
    partners: Partners | None = None,
) -> JobRecord:
    """Run ``job`` and wait for its end. ``folder`` receives ``job.json`` and ``run.log`` (the child's output).

    ``search`` are the folders that the child imports from before its own (default: those of this process). ``check`` is called when a
    timing round has answered, and says what is wrong with its answers; the child waits meanwhile, and that is not its time.
    With ``partners``, pre-training begins when they are ready and ends when one of them fails, of which the ``error`` says no more than that.

    A failure of any kind (exception, crash, time or memory limit) is not raised: it is the record's ``error``.
    """
    scratch, folder = Path(job.scratch), folder.resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "job.json", encode(job))
    ours, theirs = Channel.pair()
    command = [
        sys.executable,
        "-m",
        "kpi_bench.harness.worker",
        str(folder / "job.json"),
        str(theirs.fileno()),
    ]
    with (folder / "run.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=scratch,
            env={
                # The child's home ends with its run: kernels would be compiled in each.
                "TRITON_CACHE_DIR": str(Path(job.cache).with_name("triton")),
                **child_environment(scratch, offline=offline),
                **thread_shares(job.processes, os.environ),
                "PYTHONPATH": os.pathsep.join(import_path() if search is None else search),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    theirs.close()
    watch = _Watch(process, ours, limits or Limits(), on_message, check, partners)
    try:
        record = watch.follow()
    finally:
        watch.end()
    if record.error is not None:
        record.error = f"{record.error}{_last_words(folder / 'run.log')}"
    return record


def _plain(value: Any) -> str | float | bool | None:
    """The value itself when a result file can hold it.

    Raises:
        ValueError: it is no text, number or truth value, or not finite.
    """
    if value is None or (
        isinstance(value, str | int | float) and not (isinstance(value, float) and not math.isfinite(value))
    ):
        return value
    raise ValueError(f"{value!r} is no text, truth value or finite number")


def _last_words(log: Path) -> str:
    """The last line that the child wrote, and where the rest is."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        lines = stream.read().decode("utf-8", errors="replace").strip().splitlines()
    return f" (log: {log}" + (f"; it ends: {lines[-1].strip()[:200]})" if lines else ")")


def _place(phase: str, number: int | None) -> str:
    return phase if number is None else f"{phase} of timing round {number}"


class _Watch:
    """Follows one child from start to end."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        channel: Channel,
        limits: Limits,
        on_message: Progress | None,
        check: Callable[[], str | None] | None,
        partners: Partners | None,
    ) -> None:
        self._process = process
        self._channel = channel
        self._limits = limits
        self._on_message = on_message
        self._check = check
        self._checking_s = 0.0
        self._partners = partners
        self._held: Message | None = None
        self._meter = ProcessMeter(process.pid)
        self._record = JobRecord()
        self._phase: str | None = None
        self._queries: int | None = None
        self._round: int | None = None
        self._begun = Reading(0.0, 0.0)
        self._finished = False

    def follow(self) -> JobRecord:
        start = time.perf_counter()
        next_sample = start
        record = self._record
        while record.error is None and not self._finished:
            now = time.perf_counter()
            if now >= next_sample:
                next_sample = now + SAMPLE_S
                record.error = self._broken_limit(now - start - self._checking_s)
                if self._partners is not None:
                    if record.error is None and self._partners.failed():
                        record.error = ELSEWHERE
                    if self._held is not None and self._partners.ready():
                        self._begin(self._held)
                if record.error:
                    break
            # Asked before reading: what a process sent before its end is still read below.
            ended = self._process.poll() is not None
            try:
                message = self._channel.receive(timeout=max(0.0, next_sample - now))
                if message is not None:
                    self._handle(message)
            except EOFError:
                record.error = self._died()
            except (RunError, KeyError, TypeError, ValueError) as error:
                record.error = f"{self._where()} sent the harness a message that it cannot read: {error!r}"
            else:
                # Faults of these are no message that cannot be read.
                if message is not None:
                    self._look_at_answers(message)
                    if self._on_message is not None:
                        self._on_message(message)
                if ended and message is None:
                    # A process that it forked holds the line open.
                    record.error = self._died()
        if record.echo and self._partners is not None and self._partners.failed(CAUSE_S):
            record.error = ELSEWHERE
        record.wall_s = time.perf_counter() - start
        record.peak_rss = self._meter.peak_rss
        return record

    def end(self) -> None:
        """Let a finished child leave by itself for a moment, then end everything that is left of its process group."""
        if self._finished:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
        self._meter.kill()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._channel.close()

    def _broken_limit(self, elapsed: float) -> str | None:
        rss = self._meter.sample_memory()
        if self._limits.seconds is not None and elapsed > self._limits.seconds:
            return f"time limit: {self._where()} was still running after {self._limits.seconds:g} s"
        if self._limits.rss_bytes is not None and rss > self._limits.rss_bytes:
            return f"memory limit: {self._where()} held {rss / 2**20:,.0f} MB, the limit is {self._limits.rss_bytes / 2**20:,.0f} MB"
        return None

    def _handle(self, message: Message) -> None:
        kind = message.get("kind")
        if kind == "begin" and message["phase"] == "pretrain" and self._partners is not None:
            self._held = message
        elif kind == "begin":
            self._begin(message)
        elif kind == "end":
            self._end_phase(message.get("peak_device"))
            self._channel.send({})
        elif kind == "answered":
            int(message["round"])
        elif kind == "curve":
            seconds = time.perf_counter() - self._begun.wall
            step, value, metric = int(message["step"]), float(message["value"]), str(message["metric"])
            _plain(value)
            point = CurvePoint(seconds, step, value, metric, self._phase or "")
            self._record.curve.append(point)
        elif kind == "note":
            self._record.notes[str(message["key"])] = _plain(message["value"])
        elif kind == "size":
            self._record.size = Size(
                message["parameters"], message["trainable"], message["serving_bytes"], message["kept"]
            )
        elif kind == "failed":
            where = f" at {message['where']}" if message.get("where") else ""
            self._record.error = f"{self._where()} failed: {message['error']}{where}"
            self._record.echo = not message.get("sudden", False)
        elif kind == "done":
            self._finished = True
        elif kind != "progress":
            raise RunError(f"the child sent an unknown message: {message}")

    def _begin(self, message: Message) -> None:
        self._held = None
        self._phase, self._queries = str(message["phase"]), message.get("queries")
        self._round = message.get("round")
        self._begun = self._meter.read()
        self._channel.send({})

    def _end_phase(self, peak_device: int | None) -> None:
        now = self._meter.read()
        self._meter.sample_memory()
        if self._phase is None:
            raise RunError("the child ended a phase that it had not begun")
        wall, cpu = now.wall - self._begun.wall, now.cpu - self._begun.cpu
        lap = Lap(self._phase, wall, cpu, self._queries, peak_device, self._round)
        if self._round is None:
            self._record.laps[self._phase] = lap
        else:
            self._record.rounds.append(lap)
        if peak_device is not None:
            self._record.peak_device = max(peak_device, self._record.peak_device or 0)
        self._phase = None

    def _look_at_answers(self, message: Message) -> None:
        if message["kind"] != "answered":
            return
        begun = time.perf_counter()
        fault = self._check() if self._check is not None else None
        self._checking_s += time.perf_counter() - begun
        if fault is None:
            self._channel.send({})
        else:
            self._record.error = f"timing round {message['round']} does not count: {fault}"

    def _where(self) -> str:
        if self._phase is not None:
            return _place(self._phase, self._round)
        ended = [*self._record.laps.values(), *self._record.rounds]
        return f"the time after {_place(ended[-1].phase, ended[-1].round)}" if ended else "the start"

    def _died(self) -> str:
        try:
            code = self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            return f"{self._where()} closed the line to the harness"
        self._record.echo = code == -signal.SIGABRT
        if code < 0:
            name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
            hint = (
                "; the system may have run out of memory"
                if name == "SIGKILL" and psutil.virtual_memory().percent > 90
                else ""
            )
            return f"{self._where()} crashed: the process was ended by {name}{hint}"
        return f"{self._where()} ended the process with exit code {code} before its work was done"
