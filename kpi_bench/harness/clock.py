"""The parent's instruments: wall and CPU time of a process tree, and its memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Reading:
    """Wall and CPU seconds at one moment; CPU counts user and system time of the whole tree, ended children included."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Lap:
    """One phase as measured: seconds, the queries it answered (predict), the device's peak bytes, and which timing round it is of
    (0: the warm-up; None: the run itself)."""

    phase: str
    wall_s: float
    cpu_s: float
    queries: int | None = None
    peak_device: int | None = None
    round: int | None = None


class ProcessMeter:
    """Measures one child process and everything it starts."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._seen: set[psutil.Process] = set()
        self.peak_rss = 0

    def read(self) -> Reading:
        """Read both clocks now."""
        return Reading(time.perf_counter(), self._cpu())

    def sample_memory(self) -> int:
        """Resident bytes of the tree now; the peak is kept, including spikes of the child itself between two samples."""
        total = int(sum(self._each(lambda process: process.memory_info().rss)))
        self.peak_rss = max(self.peak_rss, total, _high_water_mark(self._process.pid))
        return total

    def kill(self) -> None:
        """End the whole tree, and whatever was once seen in it: a process may have outlived its parent."""
        self._tree()
        for process in self._seen:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _cpu(self) -> float:
        # cpu_times counts children that were waited for; live descendants are added one by one.
        def spent(process: psutil.Process) -> float:
            times = process.cpu_times()
            return float(times.user + times.system + times.children_user + times.children_system)

        return sum(self._each(spent))

    def _tree(self) -> list[psutil.Process]:
        try:
            tree = [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
        self._seen.update(tree)
        return tree

    def _each(self, measure: Callable[[psutil.Process], float]) -> list[float]:
        values = []
        for process in self._tree():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                values.append(measure(process))
        return values


def _high_water_mark(pid: int) -> int:
    """Peak resident bytes of a process as the kernel counted it (Linux); 0 elsewhere or when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
