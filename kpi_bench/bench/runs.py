"""A run of the benchmarks as pytest-benchmark wrote it, trimmed and typed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from kpi_bench._io import write_text
from kpi_bench.bench.machine import HARDWARE, SOFTWARE, differences, explained, label
from kpi_bench.errors import BenchError

UNIT = "_cpu_s"
"""``extra_info["<unit>_cpu_s"]``: CPU seconds for one unit of work, where contenders of a group do different amounts in a call."""
_KNOWN = frozenset({"contender", "role", "beside", "peak_rss_mb", "system_share", "aims"})


class Role(StrEnum):
    """What a contender is: ours, a package, a restatement of a method in our words, what no form of the path escapes, or a part of ours."""

    OWN = "own"
    PEER = "peer"
    FORM = "form"
    LIMIT = "limit"
    PART = "part"


@dataclass(frozen=True)
class Aim:
    """A contender should need at least, at most or about ``times`` the seconds of ``fast``; set before it was measured."""

    fast: str
    times: float
    bound: Literal["at least", "at most", "about"] = "at least"

    def reached(self, ratio: float) -> bool:
        """About is met by anything: it is for the reader to judge."""
        return {"at least": ratio >= self.times, "at most": ratio <= self.times, "about": True}[self.bound]


@dataclass(frozen=True)
class Timing:
    """One contender. ``median``, ``q1`` and ``q3`` are CPU seconds for one ``unit`` (of all threads; quartiles NaN where not stored).

    ``calls`` is how many units a call does. ``beside`` are the contenders of ours that a peer or limit is compared with, None: all of
    its group. ``sizes`` are the numbers and words noted of the workload.
    """

    name: str
    group: str
    contender: str
    role: Role
    unit: str
    median: float
    q1: float
    q3: float
    rounds: int
    calls: float
    peak_rss_mb: float | None
    sizes: Mapping[str, Any]
    beside: tuple[str, ...] | None
    aims: tuple[Aim, ...]


@dataclass(frozen=True)
class BenchRun:
    """``entries`` are the benchmarks of pytest-benchmark's JSON, ``timings`` the same typed; ``machine`` what they ran on."""

    machine: Mapping[str, Any]
    entries: Sequence[Mapping[str, Any]]
    timings: tuple[Timing, ...]

    @classmethod
    def read(cls, path: Path) -> BenchRun:
        """Read a JSON of ``pytest --benchmark-json`` or of :meth:`write`.

        Raises:
            BenchError: unreadable, or not written by these benchmarks.
        """
        try:
            return cls.of(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise BenchError(f"{path}: cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise BenchError(
                f"{path}: no JSON of these benchmarks ({type(error).__name__}: {error}); "
                "make one with `kpi-bench bench --save`"
            ) from None

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> BenchRun:
        """A parsed JSON of them.

        Raises:
            KeyError, TypeError, ValueError: it is not.
        """
        entries = content["benchmarks"]
        return cls(content["machine_info"], entries, tuple(_timing(entry) for entry in entries))

    def write(self, path: Path) -> None:
        """Write as pytest-benchmark does."""
        content = {"machine_info": dict(self.machine), "benchmarks": list(self.entries)}
        write_text(path, json.dumps(content, indent=1) + "\n")


def save(run: BenchRun, folder: Path) -> Path:
    """Keep a run in ``folder`` under its machine's label; groups that are there already and were run again are replaced, others stay.

    Raises:
        BenchError: the machine is not described, or the file there was made with other software, whose figures must not be mixed.
    """
    _described(run, "this run")
    path = folder / f"{label(run.machine)}.json"
    if not path.exists():
        run.write(path)
        return path
    kept = BenchRun.read(path)
    found = differences(kept.machine, run.machine, (*HARDWARE, *SOFTWARE))
    if found:
        raise BenchError(
            f"{path}: kept there is a run with {explained(found)}. One file is of one machine and one set of packages: run all groups "
            "with --save after removing it, or keep this run elsewhere"
        )
    again = {entry["group"] for entry in run.entries}
    entries = [*(entry for entry in kept.entries if entry["group"] not in again), *run.entries]
    BenchRun(run.machine, entries, ()).write(path)
    return path


def same_machine(a: BenchRun, b: BenchRun) -> None:
    """Times of two runs may be compared.

    Raises:
        BenchError: they were made on different machines, or one does not say on which.
    """
    for run, which in ((a, "the first run"), (b, "the second run")):
        _described(run, which)
    found = differences(a.machine, b.machine)
    if found:
        raise BenchError(
            f"the runs are of different machines ({explained(found)}): only their ratios to peers and limits compare; "
            "print each with `kpi-bench bench --json FILE`"
        )


def _described(run: BenchRun, which: str) -> None:
    if "hw_id" not in run.machine:
        raise BenchError(f"{which} does not say on which machine it was made (no hw_id): run it again")


def _timing(entry: Mapping[str, Any]) -> Timing:
    info, stats = entry["extra_info"], entry["stats"]
    unit = next((key.removesuffix(UNIT) for key in info if key.endswith(UNIT)), "call")
    each = float(info.get(unit + UNIT, stats["median"]))
    scale = each / stats["median"] if stats["median"] > 0 else math.nan
    return Timing(
        name=entry["fullname"],
        group=entry["group"] or entry["fullname"],
        contender=info["contender"],
        role=Role(info["role"]),
        unit=unit.replace("_", " "),
        median=each,
        q1=scale * stats.get("q1", math.nan),
        q3=scale * stats.get("q3", math.nan),
        rounds=stats["rounds"],
        calls=1 / scale if scale > 0 else math.nan,
        peak_rss_mb=info.get("peak_rss_mb"),
        sizes={key: value for key, value in info.items() if _is_size(key, value)},
        beside=tuple(info["beside"]) if info.get("beside") is not None else None,
        aims=tuple(Aim(**aim) for aim in info.get("aims", ())),
    )


def _is_size(key: str, value: Any) -> bool:
    measured = key in _KNOWN or key.endswith((UNIT, "_per_cpu_second")) or key.startswith("cpu_s_per_")
    return not measured and isinstance(value, int | float | str)


def by_group(timings: Iterable[Timing]) -> dict[str, list[Timing]]:
    """Timings of each group, in the order of the run."""
    groups: dict[str, list[Timing]] = {}
    for timing in timings:
        groups.setdefault(timing.group, []).append(timing)
    return groups
