"""CPU seconds instead of wall time, a description of the machine, and peak memory for every benchmark here."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import Cost, report
from benchmarks.workloads import peak_rss_mb

Measure = Callable[..., float]
_UNIT_COST = "_cpu_s"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """User + system seconds of all threads: wall time on a shared machine is not stable."""
    config.option.benchmark_timer = "time.process_time"


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, object]) -> None:
    """Add what decides the speed of these benchmarks."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    machine_info.clear()
    machine_info.update(
        cpu=_cpu_model(),
        cores=os.cpu_count(),
        system=platform.platform(),
        python=platform.python_version(),
        numpy=np.__version__,
        numpy_blas=f"{blas['name']} {blas['version']}",
        torch=torch.__version__,
        torch_threads=torch.get_num_threads(),
        torch_cpu_capability=torch.backends.cpu.get_cpu_capability(),
        environment={name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")},
    )


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: object, output_json: dict) -> None:
    """Keep a stored file small and free of paths: statistics, sizes and the machine."""
    for name in ("commit_info", "datetime"):
        output_json.pop(name, None)
    for entry in output_json["benchmarks"]:
        entry.pop("options", None)
        entry["stats"] = {name: entry["stats"][name] for name in ("min", "median", "max", "rounds")}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What an epoch or a step costs, scaled from what was timed, and the aims: for benchmarks that note ``<unit>_cpu_s``."""
    session = getattr(config, "_benchmarksession", None)
    costs = [
        Cost(b.extra_info["contender"], b.group, name.removesuffix(_UNIT_COST), value)
        for b in getattr(session, "benchmarks", ())
        for name, value in b.extra_info.items()
        if name.endswith(_UNIT_COST)
    ]
    if costs:
        terminalreporter.section("CPU seconds, ratios, aims")
        for line in report(costs):
            terminalreporter.write_line(line)


@pytest.fixture
def measure(benchmark: BenchmarkFixture) -> Measure:
    """Run a contender once to warm up (``warmup`` times), then ``rounds`` times; note the kernel's share of the
    CPU seconds (most of it clears the pages of large temporaries) and the peak ``memory`` of a fresh process."""

    def run(
        module: str,
        name: str,
        contender: Callable[[], float],
        *,
        rounds: int = 5,
        warmup: int = 1,
        memory: bool = True,
        **sizes: object,
    ) -> float:
        before = os.times()
        value: float = benchmark.pedantic(contender, rounds=rounds, warmup_rounds=warmup, iterations=1)
        after = os.times()
        user, system = after.user - before.user, after.system - before.system
        benchmark.extra_info.update(
            sizes, contender=name, system_share=round(system / max(user + system, 1e-9), 3)
        )
        if memory:
            benchmark.extra_info["peak_rss_mb"] = peak_rss_mb(module, name)
        return value

    return run


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
