"""What this machine can do at most: the bare product, copy and look-up that every other figure is held against."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

GEMM = 1536
"""Rows and columns of the square float32 matrices."""
COPY_MB = 256
"""More than any cache holds."""
ROWS, WIDTH = 1_000_000, 64


@cache
def matrices() -> tuple[Tensor, Tensor, Tensor]:
    a, b = torch.randn(2, GEMM, GEMM, generator=torch.Generator().manual_seed(0)).unbind(0)
    return a.contiguous(), b.contiguous(), torch.empty(GEMM, GEMM)


@cache
def buffers() -> tuple[Tensor, Tensor]:
    n = COPY_MB * 2**20 // 4
    return torch.ones(n), torch.zeros(n)


@cache
def table() -> tuple[Tensor, Tensor, Tensor]:
    """A table ``[1M, 64]``, a permutation of its rows, and where they go."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(ROWS, generator=generator)
    return torch.randn(ROWS, WIDTH, generator=generator), rows, torch.zeros(ROWS, WIDTH)


def gemm() -> float:
    a, b, out = matrices()
    return float(torch.mm(a, b, out=out)[0, 0])


def copy() -> float:
    source, target = buffers()
    return float(target.copy_(source)[-1])


def gather() -> float:
    """Rows in random order."""
    source, rows, target = table()
    return float(torch.index_select(source, 0, rows, out=target)[0, 0])


WORK = {
    "gemm": {"flops": 2 * GEMM**3},
    "copy": {"bytes": 2 * COPY_MB * 2**20},
    "gather": {"bytes": 2 * ROWS * WIDTH * 4},
}
"""FLOPs, or bytes read and written, of a call."""
CONTENDERS: dict[str, Callable[[], float]] = {"gemm": gemm, "copy": copy, "gather": gather}
