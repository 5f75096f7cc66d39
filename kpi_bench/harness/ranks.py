"""Several processes of one pre-training. On each machine a parent watches the first rank there, which starts the others; these have no line
to the parent: what they report is dropped, and one that fails ends the run.

They find each other as torchrun's processes do: RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from kpi_bench.errors import RunError
from kpi_bench.harness.channel import Channel, Message
from kpi_bench.harness.environment import usable_cores

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
POLL_S = 0.2
GRACE_S = 10.0
CAUSE_S = 2.0
"""When one process dies the others fail too, at once: so long the first waits to learn whether another failed before it."""


@dataclass(frozen=True)
class Place:
    """The ranks of one machine, ``first`` and those after it, and where all ranks of the run meet; ``interface`` leads there."""

    first: int
    count: int
    address: str
    port: int
    interface: str | None

    @classmethod
    def of_machine(cls, processes: int) -> Place:
        """All ranks are on this one."""
        # Gloo would look up the machine's name otherwise, which need not be known.
        return cls(
            0, processes, "127.0.0.1", free_port("127.0.0.1"), "lo" if sys.platform == "linux" else None
        )

    def variables(self, processes: int) -> dict[str, str]:
        """Environment of the first rank here and, but for the rank, of the others; ``processes`` are those of all machines."""
        places = {
            "RANK": str(self.first),
            "LOCAL_RANK": "0",
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(self.count),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }
        return places | ({"GLOO_SOCKET_IFNAME": self.interface} if self.interface else {})


def free_port(address: str) -> int:
    """A port of ``address``, which is one of this machine, that nobody listens on now."""
    with socket.socket() as free:
        free.bind((address, 0))
        return int(free.getsockname()[1])


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has ``address``."""
    return next(
        (
            name
            for name, found in psutil.net_if_addrs().items()
            if any(one.address == address for one in found)
        ),
        None,
    )


def thread_shares(processes: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that divide the threads of a process among so many."""
    if processes == 1:
        return {}
    given = {name: environ.get(name, "") for name in THREADS}
    return {
        name: str(max(1, (int(value) if value.isdigit() else usable_cores()) // processes))
        for name, value in given.items()
    }


def own_rank() -> int:
    """The rank of this process, once it has one; 0 elsewhere."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Its number among the ranks of this machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def device_of(device: str, rank: int) -> str:
    """Each rank of a machine has a GPU of its own where there are several."""
    if rank == 0 or not device.startswith("cuda"):
        return device
    import torch

    first = int(device.partition(":")[2] or 0)
    return f"cuda:{(first + rank) % torch.cuda.device_count()}"


class Others:
    """The other ranks of a machine as its first sees them. Their messages come over one line, in the order in which they were sent."""

    def __init__(self, job: Path, processes: int, place: Place, parent: Channel) -> None:
        """Start them on the job file that this process was started with, which becomes the first; ``parent`` is told when one fails."""
        self._parent, self._size = parent, processes
        self._line, theirs = Channel.pair()
        os.environ.update(place.variables(processes))
        self._processes = {
            rank: subprocess.Popen(
                [sys.executable, "-m", "kpi_bench.harness.worker", str(job), str(theirs.fileno())],
                env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank - place.first)},
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )
            for rank in range(place.first + 1, place.first + place.count)
        }
        theirs.close()
        self._changed = threading.Condition()
        self._told: dict[str, set[int]] = {"ready": set(), "done": set()}
        self._error: str | None = None
        threading.Thread(target=self._watch, daemon=True).start()

    def wait_until(self, what: str) -> None:
        """Wait until all have told that they are ``ready`` or ``done``.

        Raises:
            RunError: one has failed.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._error is not None or len(self._told[what]) == len(self._processes)
            )
            if self._error is not None:
                raise RunError(self._error)
        if what == "done":
            for process in self._processes.values():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_S)

    def begin(self) -> None:
        """Let them begin, as the clock of the first does."""
        for process in self._processes.values():
            if process.stdin is not None:
                process.stdin.close()

    def failed(self) -> bool:
        """Whether one of them failed: then what this process raises follows from that, and the parent has been told."""
        with self._changed:
            return self._changed.wait_for(lambda: self._error is not None, CAUSE_S)

    def _watch(self) -> None:
        while self._error is None and len(self._told["done"]) < len(self._processes):
            # Asked before reading: what a process sent before its end is still read below.
            ended = self._ended()
            try:
                message = self._line.receive(timeout=POLL_S)
            except EOFError:
                time.sleep(POLL_S)
                message = None
            if message is not None and message["kind"] == "failed":
                # That may be the echo of another's sudden end; not of its own, which comes after what it told.
                time.sleep(POLL_S)
                killed = (
                    found for found in self._ended() if found["killed"] and found["rank"] != message["rank"]
                )
                self._fail(next(killed, message))
            elif message is not None:
                with self._changed:
                    self._told[message["kind"]].add(message["rank"])
                    self._changed.notify_all()
            elif ended:
                self._fail(ended[0])

    def _ended(self) -> list[Message]:
        """What is to be told of ranks that could not tell it themselves."""
        found = []
        for rank, process in self._processes.items():
            code = process.poll()
            if code is None or rank in self._told["done"]:
                continue
            how = f"exit code {code}"
            if code < 0:
                how = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
            # Libraries abort when a peer is gone or an exception is under way: that is no cause of its own.
            killed = code < 0 and code != -signal.SIGABRT
            found.append({"rank": rank, "error": f"its process ended with {how}", "killed": killed})
        return found

    def _fail(self, message: Message) -> None:
        error = f"rank {message['rank']} of {self._size}: {message['error']}"
        told = {"error": error, "where": message.get("where", ""), "sudden": message.get("killed", False)}
        self._parent.send({"kind": "failed", **told})
        with self._changed:
            self._error = error
            self._changed.notify_all()
