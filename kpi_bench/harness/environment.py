"""What a run ran on: hardware fingerprint, a short calibration, and the software around it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from threadpoolctl import threadpool_info

from kpi_bench.errors import KpiBenchError

PACKAGES = (
    "torch", "transformers", "dgl", "datasets", "huggingface-hub", "numpy", "scipy", "pandas", "pyarrow", "numba", "safetensors",
)  # fmt: skip
CALIBRATION_ROUNDS = 5


def hardware(device: str) -> dict[str, Any]:
    """Fingerprint of the machine and the device of a run, with ``hw_id`` (a hash of all of it): costs compare within one ``hw_id``.

    CPU model, usable cores, memory (GiB), BLAS threads, GPU name, memory and driver. The calibration is added by the caller.
    """
    facts: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "ram_gib": round(psutil.virtual_memory().total / 2**30),
        "blas_threads": _blas_threads(),
        "device": device.partition(":")[0],
        "gpu": None,
    }
    if facts["device"] == "cuda":
        facts["gpu"] = _gpu(device)
    canonical = json.dumps(facts, sort_keys=True)
    return {**facts, "hw_id": hashlib.sha256(canonical.encode()).hexdigest()[:12]}


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def calibrate() -> dict[str, float]:
    """Median speed of three kernels on this CPU now: float32 matmul (GFLOP/s), random gather (GB/s), sparse matmul (GFLOP/s).

    Stored with each result, so that a reader can see whether two machines, or one machine on two days, were alike.
    """
    from scipy import sparse

    rng = np.random.default_rng(0)
    a, b = rng.random((1024, 1024), dtype=np.float32), rng.random((1024, 1024), dtype=np.float32)
    table, rows = rng.random((200_000, 64), dtype=np.float32), rng.integers(0, 200_000, 200_000)
    matrix = sparse.random_array((20_000, 20_000), density=1e-3, format="csr", dtype=np.float32, rng=rng)
    dense = rng.random((20_000, 32), dtype=np.float32)
    return {
        "matmul_gflops": 2 * 1024**3 / _median_seconds(lambda: a @ b) / 1e9,
        "gather_gb_s": rows.size * 64 * 4 / _median_seconds(lambda: table[rows]) / 1e9,
        "sparse_gflops": 2 * matrix.nnz * 32 / _median_seconds(lambda: matrix @ dense) / 1e9,
    }


def environment() -> dict[str, Any]:
    """Python, platform, package versions, thread settings and load average at this moment."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "threads": {
            name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
        },
        "load_average": list(os.getloadavg()),
    }


def git_revision(folder: Path | None = None) -> str | None:
    """Commit of the kpi-bench checkout in use, with ``+dirty`` when tracked code differs from it; None outside a checkout."""
    package = folder or Path(__file__).parents[1]
    try:
        # An installed package may lie inside somebody else's checkout.
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(package, "rev-parse", "HEAD")
        code = ("kpi_bench", "baselines", "submissions/*/submission.toml")
        changed = _git(package.parent, "status", "--porcelain", "--untracked-files=no", "--", *code)
        return f"{commit}+dirty" if changed else commit
    except (OSError, subprocess.CalledProcessError):
        return None


def resolve_device(name: str) -> str:
    """``auto`` becomes ``cuda:0`` where torch sees a GPU and ``cpu`` elsewhere, ``cuda`` becomes ``cuda:0``.

    Raises:
        KpiBenchError: there is no such device here.
    """
    if name == "cpu":
        return name
    import torch

    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if name == "auto":
        return gpus[0] if gpus else "cpu"
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in gpus:
        raise KpiBenchError(f"no device {name!r} here; there are: {', '.join(['cpu', *gpus])}")
    return wanted


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _median_seconds(action: Callable[[], Any]) -> float:
    action()
    laps = []
    for _ in range(CALIBRATION_ROUNDS):
        start = time.perf_counter()
        action()
        laps.append(time.perf_counter() - start)
    return statistics.median(laps)


def cpu_vendor() -> str | None:
    """As Linux names it ("AuthenticAMD", "GenuineIntel"); None elsewhere."""
    return _cpu_facts().get("vendor_id")


def _cpu_model() -> str:
    """Vendor, family, model and name: the name alone is generic on virtual machines."""
    first = _cpu_facts()
    if not first:
        return platform.processor() or platform.machine()
    return f"{first.get('model name', platform.machine())} (family {first.get('cpu family', '?')}, model {first.get('model', '?')})"


def _cpu_facts() -> dict[str, str]:
    """What Linux says of its first processor; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines[: lines.index("")] if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _blas_threads() -> int | None:
    counts = [int(pool["num_threads"]) for pool in threadpool_info() if pool.get("user_api") == "blas"]
    return max(counts) if counts else None


def _gpu(device: str) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(device)
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, check=True, capture_output=True, text=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = None
    return {"name": properties.name, "memory_gib": round(properties.total_memory / 2**30), "driver": driver}
