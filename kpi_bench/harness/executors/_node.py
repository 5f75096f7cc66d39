"""What runs on the machines of a Ray cluster: the check of a machine, and what a run needs there: its limits, a way back for what it tells."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import psutil

from kpi_bench._version import __version__
from kpi_bench.errors import KpiBenchError, RunError
from kpi_bench.harness.channel import Message
from kpi_bench.harness.environment import hardware
from kpi_bench.harness.execute import Order, measure_site
from kpi_bench.harness.executors.base import Premises
from kpi_bench.harness.records import RunSite
from kpi_bench.harness.source import source_sha256
from kpi_bench.harness.supervise import Limits
from kpi_bench.harness.withhold import file_states

FLUSH_S = 0.25

T = TypeVar("T")


@dataclass(frozen=True)
class Node:
    """A machine as it was found before its first run, and the CPUs that Ray has to give there."""

    site: RunSite
    cpus: float


@dataclass(frozen=True)
class Share:
    """What a run gets of each of its machines; ``cpus`` also bounds its threads there."""

    cpus: int
    gpus: float
    machines: int = 1

    def of_several(self, node: Node) -> bool:
        """Whether others may get the rest of the machine."""
        return node.cpus > self.cpus or 0 < self.gpus < 1


@dataclass(frozen=True)
class Common:
    """What the runs of an evaluation have in common: its premises, the mailbox, and the variables of a run's environment."""

    premises: Premises
    mailbox: Any
    variables: Mapping[str, str]


class Mailbox:
    """A Ray actor: messages between the runs and the process that shows them, machines as they were found, meetings of the machines of a run."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._nodes: dict[str, Node] = {}
        self._meetings: dict[str, set[int]] = {}

    def put(self, messages: list[Message]) -> None:
        self._messages += messages

    def take(self) -> list[Message]:
        taken, self._messages = self._messages, []
        return taken

    def found(self, nodes: Mapping[str, Node]) -> None:
        self._nodes.update(nodes)

    def node(self, name: str) -> Node | None:
        return self._nodes.get(name)

    def meet(self, meeting: str, number: int) -> int:
        """Come, and learn how many have."""
        there = self._meetings.setdefault(meeting, set())
        there.add(number)
        return len(there)


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


def check_node(premises: Premises) -> tuple[list[str], RunSite | None]:
    """What keeps runs from being made on this machine, and what the machine is when nothing does."""
    if premises.version != __version__:
        return [f"it has kpi-bench {__version__}; install {premises.version} there, as here"], None
    seen = file_states(premises.suite)
    if not seen:
        return [
            f"it does not see the output folder {premises.out}: name one on a file system that all machines share with --out"
        ], None
    faults = []
    if seen != premises.suite_files:
        faults.append(
            f"it sees other files, or other times and inodes of files, in {premises.suite}: name a folder on a file system that all "
            "machines share with --out, one that shows the same everywhere"
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


def look(premises: Premises) -> tuple[list[str], Node | None]:
    """What keeps runs from being made here, with the machine's name in front; the machine, when nothing does."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    entry = next(node for node in nodes if node["NodeID"] == own)
    faults, site = check_node(premises)
    node = Node(site, float(entry["Resources"].get("CPU", 0))) if site else None
    return [f"{entry['NodeManagerHostname']}: {fault}" for fault in faults], node


def look_at(name: str, common: Common) -> Any:
    """Reference to what :func:`look` finds on a machine, with the environment of a run."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    options: dict[str, Any] = {
        "num_cpus": 0,
        "runtime_env": {"env_vars": dict(common.variables)},
        "scheduling_strategy": NodeAffinitySchedulingStrategy(name, soft=False),
    }
    return ray.remote(look).options(**options).remote(common.premises)


def require_fit(faults: Sequence[str]) -> None:
    """Raise RunError where machines have faults."""
    if faults:
        raise RunError("machines of the Ray cluster cannot make runs:\n  " + "\n  ".join(faults))


def node_here(common: Common) -> Node:
    """This machine as it was found; one that joined the cluster after the evaluation began is looked at when it gets its first run.

    Raises:
        RunError: it cannot make runs.
    """
    return aside(lambda: _node_here(common))


def _node_here(common: Common) -> Node:
    import ray
    from ray.exceptions import RayActorError

    name = ray.get_runtime_context().get_node_id()
    node: Node | None = None
    with suppress(RayActorError):
        node = ray.get(common.mailbox.node.remote(name))
    if node is None:
        faults, found = ray.get(look_at(name, common))
        require_fit(faults)
        node = found
        common.mailbox.found.remote({name: node})
    return node


def aside(call: Callable[[], T]) -> T:
    """Call in a thread: while the main thread of a task waits for Ray, Ray gives its CPUs to another run."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def prepare(order: Order, share: Share, node: Node) -> tuple[Order, RunSite]:
    """An order with the bounds of its share, and what it runs on."""
    site = node.site
    if order.job.device != "cpu":
        calibration = site.hardware["calibration"]
        site = dataclasses.replace(site, hardware={**hardware(order.job.device), "calibration": calibration})
    if order.limits.rss_bytes is None:
        # As many runs as fit share what one alone may have.
        bound = int(psutil.virtual_memory().total * 0.9 * min(1.0, share.cpus / node.cpus))
        order = dataclasses.replace(order, limits=Limits(order.limits.seconds, bound))
    return order, site
