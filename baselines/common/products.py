"""Float32 products of matrices on a CPU: MKL keeps to 256-bit instructions on AMD's processors, oneDNN compiles for what is there."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from baselines.common.allocator import keep_few_products
from kpi_bench.harness.environment import cpu_vendor


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of float ``[m, k]`` and ``[k, n]``; equal to rounding on any device. Not differentiable.

    Where an AMD CPU has AVX-512, oneDNN multiplies float32: 2.3 times as fast as MKL on an EPYC 9005 (family 26), blocks of 512 x 64 x 4100.
    """
    float32 = a.dtype == b.dtype == torch.float32
    # oneDNN leaves a sum over nothing as it was in memory.
    if a.device.type == "cpu" and float32 and a.shape[1] and _compiled():
        found: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.T, None, "none", [], "")
        return found
    return a @ b


@cache
def _compiled() -> bool:
    """Whether torch hands a product to oneDNN when asked, and that pays."""
    wide = "AVX512" in torch.backends.cpu.get_cpu_capability()
    if not (
        wide
        and cpu_vendor() == "AuthenticAMD"
        and torch._C._has_mkldnn
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    ):
        return False
    keep_few_products()
    return True
