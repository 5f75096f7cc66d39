"""Several processes of one pre-training. Rank 0 is the process that the parent watches; it starts the others, which have no line to the
parent: what they report is dropped, and one that fails ends the run.

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
from pathlib import Path

from kpi_bench.errors import RunError
from kpi_bench.harness.channel import Channel, Message
from kpi_bench.harness.environment import usable_cores

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
POLL_S = 0.2
GRACE_S = 10.0
CAUSE_S = 2.0
"""When one process dies the others fail too, at once: so long rank 0 waits to learn whether another failed first."""


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
    """The rank that rank 0 gave this process; 0 elsewhere."""
    return int(os.environ.get("RANK", "0"))


def device_of(device: str, rank: int) -> str:
    """Each rank has a GPU of its own where there are several."""
    if rank == 0 or not device.startswith("cuda"):
        return device
    import torch

    first = int(device.partition(":")[2] or 0)
    return f"cuda:{(first + rank) % torch.cuda.device_count()}"


class Others:
    """Ranks 1 .. N - 1 as rank 0 sees them. Their messages come over one line, in the order in which they were sent."""

    def __init__(self, job: Path, processes: int, parent: Channel) -> None:
        """Start them on the job file that this process was started with; ``parent`` is told when one fails."""
        self._parent, self._size = parent, processes
        self._line, theirs = Channel.pair()
        os.environ.update(_meeting_place(processes))
        self._processes = {
            rank: subprocess.Popen(
                [sys.executable, "-m", "kpi_bench.harness.worker", str(job), str(theirs.fileno())],
                env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )
            for rank in range(1, processes)
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
        """Let them begin, as rank 0's clock does."""
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
        self._parent.send({"kind": "failed", "error": error, "where": message.get("where", "")})
        with self._changed:
            self._error = error
            self._changed.notify_all()


def _meeting_place(processes: int) -> dict[str, str]:
    """Where the ranks of this machine meet: variables of rank 0, and but for the rank those of all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    # Gloo would look up the machine's name otherwise, which need not be known.
    return places | ({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {})
