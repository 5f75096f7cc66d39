"""What keeps a GPU busy: batches of the host sent without waiting, the next one made meanwhile, counts whose size is known beforehand.

A copy from ordinary memory, and every operation whose result's shape depends on values (``nonzero``, ``unique``, ``bincount``), makes the
host wait until the GPU has done all it was given; the GPU then idles until new work arrives (docs/gpu.md). On a CPU nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

B = TypeVar("B")


def sent(values: Tensor | NDArray[Any], device: torch.device) -> Tensor:
    """``values`` on the device, the same shape and type; from the host to a GPU through pinned memory, for which nobody waits."""
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def ahead(batches: Iterable[B], device: torch.device) -> Iterator[B]:
    """The batches in their order. On a GPU a second thread makes (and sends) one while the step before it runs: for batches that are made on
    the host. What makes them must draw from random numbers that no step uses.
    """
    if device.type != "cuda":
        yield from batches
        return
    remaining, end = iter(batches), object()
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(next, remaining, end)
        while (batch := upcoming.result()) is not end:
            upcoming = pool.submit(next, remaining, end)
            yield batch  # type: ignore[misc]


def counts(ids: Tensor, n: int) -> Tensor:
    """How often each of 0 .. n - 1 is in int64 ``ids [m]``, int64 ``[n]``: ``bincount`` without its look at the smallest and largest id, for
    which a GPU is waited for (and faster on a CPU)."""
    return ids.new_zeros(n).scatter_add_(0, ids, ids.new_ones(()).expand(len(ids)))
