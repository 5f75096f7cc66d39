"""What runs on the machines of a Ray cluster: the check of a machine, a run, and the way back for what runs tell."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from kpi_bench._version import __version__
from kpi_bench.errors import KpiBenchError
from kpi_bench.harness.channel import Message
from kpi_bench.harness.environment import hardware, usable_cores
from kpi_bench.harness.execute import Executed, Order, execute, measure_site
from kpi_bench.harness.executors.base import Premises, about
from kpi_bench.harness.records import RunSite
from kpi_bench.harness.source import source_sha256
from kpi_bench.harness.supervise import Limits
from kpi_bench.harness.withhold import file_states

FLUSH_S = 0.25


@dataclass(frozen=True)
class Node:
    """A machine as it was found before the runs, and the CPUs that Ray has to give there."""

    site: RunSite
    cpus: float


@dataclass(frozen=True)
class Share:
    """What a run gets of its machine. ``cpus`` also bounds its threads."""

    cpus: int
    gpus: float


class Mailbox:
    """A Ray actor that holds messages between the runs and the process that shows them."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    def put(self, messages: list[Message]) -> None:
        self._messages += messages

    def take(self) -> list[Message]:
        taken, self._messages = self._messages, []
        return taken


class Outbox:
    """Sends messages to the mailbox, at most four times a second; of progress in between only the last."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._messages: list[Message] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Outbox:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def add(self, message: Message) -> None:
        with self._lock:
            if self._messages and self._messages[-1]["kind"] == message["kind"] == "progress":
                self._messages.pop()
            self._messages.append(message)

    def _work(self) -> None:
        import ray

        over = False
        while not over:
            over = self._over.wait(FLUSH_S)
            with self._lock:
                messages, self._messages = self._messages, []
            if messages:
                sent = self._mailbox.put.remote(messages)
                if over:
                    # The run's end is not told before what it said; a lost mailbox costs messages only.
                    ray.wait([sent], timeout=5.0)


def check_node(premises: Premises, token: Path, secret: str) -> tuple[list[str], RunSite | None]:
    """What keeps runs from being made on this machine, and what the machine is when nothing does.

    ``token`` is a file in the output folder that holds ``secret``.
    """
    if premises.version != __version__:
        return [f"it has kpi-bench {__version__}; install {premises.version} there, as here"], None
    try:
        seen = token.read_text(encoding="utf-8") == secret
    except OSError:
        seen = False
    if not seen:
        return [
            f"it does not see the output folder {premises.out}: name one on a file system that all machines share with --out"
        ], None
    faults = []
    if file_states(premises.suite) != premises.suite_files:
        faults.append(
            f"it sees other files, or other times and inodes of files, in {premises.suite}: the file system must show the same everywhere"
        )
    try:
        same = source_sha256(premises.config) == premises.sha256
    except (OSError, KpiBenchError):
        same = False
    if not same:
        faults.append(
            f"the submission's code in {premises.config.folder}, or what it imports, is missing or another one there"
        )
    return faults, None if faults else measure_site("cpu")


def make_run(order: Order, share: Share, nodes: Mapping[str, Node], mailbox: Any) -> Executed:
    """Make one run here. Called again when the worker died in it: whatever that left is cleared first."""
    import ray

    # A machine that joined the cluster after the evaluation began is measured now.
    node = nodes.get(ray.get_runtime_context().get_node_id()) or Node(
        measure_site("cpu"), float(usable_cores())
    )
    site = node.site
    if order.job.device != "cpu":
        calibration = site.hardware["calibration"]
        site = dataclasses.replace(site, hardware={**hardware(order.job.device), "calibration": calibration})
    if order.limits.rss_bytes is None:
        # As many runs as fit share what one alone may have.
        bound = int(psutil.virtual_memory().total * 0.9 * min(1.0, share.cpus / node.cpus))
        order = dataclasses.replace(order, limits=Limits(order.limits.seconds, bound))
    with Outbox(mailbox) as outbox:
        tell = about(order, outbox.add)
        tell({"kind": "started", "pid": os.getpid()})
        return execute(order, site, tell, shared=node.cpus > share.cpus or 0 < share.gpus < 1)
