"""What a benchmark ran on, and whether two runs may be compared."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np
import torch

from kpi_bench.harness.environment import hardware, resolve_device

HARDWARE = (
    "hw_id", "cpu", "cores", "ram_gib", "gpu", "blas", "blas_threads", "torch_blas", "torch_threads", "torch_capability"
)  # fmt: skip
SOFTWARE = ("python", "numpy", "torch", "packages")
_PACKAGES = ("dgl", "numba", "pandas", "pyarrow", "pykeen", "ranx", "recbole", "scikit-learn", "scipy", "transformers")  # fmt: skip


def describe() -> dict[str, Any]:
    """The facts that decide the speed of this process: :data:`HARDWARE` (as in results, and which BLAS numpy and torch have) and :data:`SOFTWARE`."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    facts = hardware(resolve_device("auto"))
    return {
        **{name: facts[name] for name in HARDWARE if name in facts},
        "blas": f"{blas['name']} {blas['version']}",
        "torch_blas": _torch_blas(),
        "torch_threads": torch.get_num_threads(),
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "packages": _versions(),
        "threads": {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")},
    }


def label(machine: Mapping[str, Any]) -> str:
    """A name for files: CPU or GPU, cores, BLAS threads, ``hw_id``."""
    named = machine["gpu"]["name"] if machine.get("gpu") else machine["cpu"].partition(" (")[0]
    words = re.sub(r"[^a-z0-9]+", "-", named.lower()).strip("-")
    return f"{words}-{machine['cores']}c-{machine['blas_threads']}t-{machine['hw_id']}"


def differences(
    a: Mapping[str, Any], b: Mapping[str, Any], names: tuple[str, ...] = HARDWARE
) -> dict[str, tuple[Any, Any]]:
    """Facts that are not the same, by name; of tables only what differs in them."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in names:
        first, second = a.get(name), b.get(name)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            inner = differences(first, second, tuple(dict.fromkeys([*first, *second])))
            found |= {f"{name}.{key}": pair for key, pair in inner.items()}
        elif first != second:
            found[name] = first, second
    return found


def explained(found: Mapping[str, tuple[Any, Any]]) -> str:
    """Differences for an error message."""
    return "; ".join(f"{name}: {first!r} and {second!r}" for name, (first, second) in found.items())


def _torch_blas() -> str:
    """The library that torch was built with, by its own description."""
    found = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    return found[1] if found else "unknown"


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
