"""CPU seconds instead of wall time, the choice of hot paths, a description of the machine, and peak memory for every benchmark here."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.roles import notes, role_of
from benchmarks.workloads import peak_rss_mb
from kpi_bench.bench.machine import describe

Measure = Callable[..., float]
_FAILED = pytest.StashKey[set[str]]()
STATISTICS = ("min", "q1", "median", "q3", "max", "rounds")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kpi-bench")
    group.addoption(
        "--hot-path", action="append", default=[], help="only this group, or this file (bench_NAME.py)"
    )
    group.addoption("--list-hot-paths", action="store_true", help="print the groups of what is collected")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """User + system seconds of all threads: wall time on a shared machine is not stable."""
    config.option.benchmark_timer = "time.process_time"
    config.stash[_FAILED] = set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whose result was wrong: its time is worth nothing."""
    report = yield
    if report.failed:
        item.config.stash[_FAILED].add(item.nodeid)
    return report


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the chosen hot paths; a name is that of a group, spaces as hyphens, or of a file.

    Raises:
        pytest.UsageError: one is neither.
    """
    groups: dict[str, set[str]] = {}
    for item in items:
        groups.setdefault(_group(item), set()).add(_file(item))
    if config.getoption("--list-hot-paths"):
        for name, files in sorted(groups.items(), key=lambda pair: (sorted(pair[1]), pair[0])):
            print(f"{', '.join(sorted(files)):20s} {name}")
        items.clear()
        return
    chosen = config.getoption("--hot-path")
    known = {*groups, *(name for files in groups.values() for name in files)}
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise pytest.UsageError(f"no hot path {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    if chosen:
        items[:] = [item for item in items if _group(item) in chosen or _file(item) in chosen]


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, object]) -> None:
    """What decides the speed of these benchmarks, instead of names of hosts and users."""
    machine_info.clear()
    machine_info.update(describe())


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: object, output_json: dict) -> None:
    """Keep a stored file small and free of paths: statistics, sizes, roles, aims and the machine, of contenders that passed."""
    for name in ("commit_info", "datetime"):
        output_json.pop(name, None)
    output_json["machine_info"]["load_average"] = [round(load, 2) for load in os.getloadavg()]
    failed = config.stash[_FAILED]
    output_json["benchmarks"] = [
        entry for entry in output_json["benchmarks"] if entry["fullname"] not in failed
    ]
    for entry in output_json["benchmarks"]:
        entry.pop("options", None)
        entry["stats"] = {name: entry["stats"][name] for name in STATISTICS}
        entry["extra_info"].update(notes(entry["extra_info"]["contender"]))


@pytest.fixture
def measure(benchmark: BenchmarkFixture) -> Measure:
    """Run a contender once to warm up (``warmup`` times), then ``rounds`` times; note the kernel's share of the
    CPU seconds (most of it clears the pages of large temporaries) and the peak ``memory`` of a fresh process.

    With ``unit``, a call does ``amount`` of it, and ``<unit>_cpu_s`` is noted: what one takes by the median."""

    def run(
        module: str,
        name: str,
        contender: Callable[[], float],
        *,
        rounds: int = 5,
        warmup: int = 1,
        memory: bool = True,
        unit: str | None = None,
        amount: float = 1.0,
        **sizes: object,
    ) -> float:
        role_of(name)  # unknown names fail before minutes are spent
        before = os.times()
        value: float = benchmark.pedantic(contender, rounds=rounds, warmup_rounds=warmup, iterations=1)
        after = os.times()
        user, system = after.user - before.user, after.system - before.system
        benchmark.extra_info.update(
            sizes, contender=name, system_share=round(system / max(user + system, 1e-9), 3)
        )
        if benchmark.stats is None:  # --benchmark-disable: contenders are only checked
            return value
        if unit is not None:
            benchmark.extra_info[f"{unit}_cpu_s"] = benchmark.stats.stats.median / amount
        if memory:
            benchmark.extra_info["peak_rss_mb"] = peak_rss_mb(module, name)
        return value

    return run


def _group(item: pytest.Item) -> str:
    """The name of an item's group for the command line."""
    marks: Iterable[pytest.Mark] = item.iter_markers("benchmark")
    group = next((mark.kwargs["group"] for mark in marks if "group" in mark.kwargs), _file(item))
    return str(group).lower().replace(" ", "-")


def _file(item: pytest.Item) -> str:
    return item.path.stem.removeprefix("bench_")
