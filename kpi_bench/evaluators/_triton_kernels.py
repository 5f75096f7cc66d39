"""The counting of ``_device_kernels`` as one Triton kernel, which reads each score once from the GPU's memory.

In torch operations a score is copied to its positives' rows, compared twice and looked at for NaN: six passes of 1 to 4 bytes. Imported
only where triton is installed and there is a GPU; ``TRITON_INTERPRET=1`` runs the kernel on the CPU, without a GPU and very slowly.
"""

from __future__ import annotations

import subprocess

import torch
import triton  # type: ignore[import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, unused-ignore]
from torch import Tensor

CHUNK = 4096
"""Scores of a row that a program holds in registers."""
_LARGEST = tl.constexpr(3.4028234663852886e38)


# Triton reads annotations of arguments as its own types, so there are none.
@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _count_kernel(scores, stride, n, starts, wanted, above, same, bad, chunk: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * chunk + tl.arange(0, chunk)
    inside = columns < n
    values = tl.load(scores + row * stride + columns, mask=inside, other=0.0)
    # Nothing but a finite value is within: NaN compares as false.
    wrong = tl.sum(tl.where(tl.abs(values) <= _LARGEST, 0, 1))
    if wrong > 0:
        tl.atomic_add(bad, wrong.to(tl.int64))
    for place in range(tl.load(starts + row), tl.load(starts + row + 1)):
        level = tl.load(wanted + place)
        tl.atomic_add(above + place, tl.sum((inside & (values > level)).to(tl.int32)).to(tl.int64))
        tl.atomic_add(same + place, tl.sum((inside & (values == level)).to(tl.int32)).to(tl.int64))


def count(scores: Tensor, starts: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores above and equal to each wanted one in its row, int64 ``[m]`` each, and how many are NaN or infinite, int64 ``[]``.

    ``scores`` float32 ``[B, n]`` with rows in one piece, ``wanted`` float32 ``[m]`` of which those of row b are
    ``starts[b]`` to ``starts[b + 1] - 1`` (int64 ``[B + 1]``).
    """
    above, same = torch.zeros_like(wanted, dtype=torch.int64), torch.zeros_like(wanted, dtype=torch.int64)
    bad = starts.new_zeros(())
    n_rows, n = scores.shape
    if scores.numel():
        grid = (n_rows, triton.cdiv(n, CHUNK))
        chunk = min(CHUNK, triton.next_power_of_2(n))
        # Triton launches on the current GPU, which need not be that of the scores.
        with torch.cuda.device_of(scores):  # type: ignore[no-untyped-call, unused-ignore]
            _count_kernel[grid](scores, scores.stride(0), n, starts, wanted, above, same, bad, chunk=chunk)
    return above, same, bad


def try_out(device: torch.device) -> None:
    """Compile the kernel and count a block of one score.

    Raises:
        RuntimeError: there is no compiler, the GPU is too old for this Triton, or the count is wrong.
    """
    one = torch.zeros(1, 1, device=device)
    try:
        found = [int(value) for value in count(one, torch.tensor([0, 1], device=device), one[0])]
    except (triton.TritonError, OSError, subprocess.SubprocessError) as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
    if found != [0, 1, 0]:
        raise RuntimeError(f"a score was counted as {found}")
