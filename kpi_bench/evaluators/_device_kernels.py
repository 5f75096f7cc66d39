"""Block kernels in torch operations, for scores on an accelerator; the contract is that of ``_numba_kernels``.

``scores`` is a float32 tensor on any device; CSR arrays and outputs stay numpy arrays on the host. Where triton runs on a CUDA GPU,
the pass over all scores is ``_triton_kernels``.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kpi_bench.evaluators import _keys
from kpi_bench.evaluators._array_kernels import known_pairs

Ints = NDArray[np.int64]
logger = logging.getLogger(__name__)
_CELLS = 1 << 24
"""Most scores compared at once: small enough that ranking on valid does not set the peak of device memory."""


def count_block(
    scores: Tensor,
    first: int,
    positives_ptr: Ints,
    positives: Ints,
    filters_ptr: Ints,
    filters: Ints,
    greater: Ints,
    equal: Ints,
) -> int:
    """For each positive: the other, unfiltered columns scored above it and the same as it."""
    own_rows, own, span = _entries(scores, first, positives_ptr, positives)
    pairs = known_pairs(len(scores), first, positives_ptr, filters_ptr, filters)
    starts, rows, targets, known_rows, known, owner = _sent(
        scores.device, _starts(scores, first, positives_ptr), own_rows, own, *pairs
    )
    wanted = scores[rows, targets]
    above, same, bad = _count(scores, rows, wanted, starts)
    others, mine = scores[known_rows, known], wanted[owner]
    above.scatter_add_(0, owner, -(others > mine).long())
    same.scatter_add_(0, owner, -((others == mine) & (known != targets[owner])).long())
    counted = torch.cat([above, same - 1, bad[None]]).cpu().numpy()
    greater[span], equal[span] = counted[:-1].reshape(2, -1)
    return int(counted[-1])


def rank_block(
    scores: Tensor,
    first: int,
    positives_ptr: Ints,
    positives: Ints,
    masks_ptr: Ints,
    masks: Ints,
    ranks: Ints,
) -> int:
    """For each positive: its rank from 1 among unmasked columns, the lower column first among equal scores.

    Masked scores are overwritten; a positive is never masked.
    """
    own_rows, own, span = _entries(scores, first, positives_ptr, positives)
    starts, rows, targets, masked_rows, masked = _sent(
        scores.device,
        _starts(scores, first, positives_ptr),
        own_rows,
        own,
        *_entries(scores, first, masks_ptr, masks)[:2],
    )
    bad = _count_bad(scores)
    if bad:
        return bad
    scores[masked_rows, masked] = -torch.inf
    wanted = scores[rows, targets]
    above, same, _ = _count(scores, rows, wanted, starts)
    columns = torch.arange(scores.shape[1], device=scores.device)
    for tied in torch.split(torch.nonzero(same > 1)[:, 0], max(1, _CELLS // max(1, scores.shape[1]))):
        level = scores[rows[tied]] == wanted[tied, None]
        above[tied] += (level & (columns < targets[tied, None])).sum(1)
    ranks[span] = above.cpu().numpy() + 1
    return 0


def select_block(scores: Tensor, first: int, masks_ptr: Ints, masks: Ints, keys: NDArray[np.int64]) -> int:
    """Fill ``keys`` ``[B, k]`` with each row's best unmasked columns in any order; masked scores are overwritten."""
    rows, columns = _sent(scores.device, *_entries(scores, first, masks_ptr, masks)[:2])
    bad = _count_bad(scores)
    if bad:
        return bad
    bits = (scores + 0.0).view(torch.int32).long()
    monotone = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    places = 0xFFFFFFFF - torch.arange(scores.shape[1], device=scores.device)
    encoded = (monotone << 32) | places
    encoded[rows, columns] = _keys.EMPTY
    k = min(keys.shape[1], scores.shape[1])
    keys[:, :k] = torch.topk(encoded, k, dim=1, sorted=False).values.cpu().numpy()
    return 0


def _count_bad(scores: Tensor) -> int:
    """Number of NaN and infinite values."""
    return int(_not_finite(scores))


def _not_finite(scores: Tensor) -> Tensor:
    return (~torch.isfinite(scores)).sum()


@cache
def _one_pass(
    device: torch.device,
) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] | None:
    """The Triton kernel, where it runs on the GPU."""
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        from kpi_bench.evaluators import _triton_kernels

        _triton_kernels.try_out(device)
    except (ImportError, RuntimeError) as error:
        logger.warning("ranking on %s in torch operations: triton is installed, but fails: %s", device, error)
        return None
    return _triton_kernels.count


def _count(scores: Tensor, rows: Tensor, wanted: Tensor, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores above and equal to each wanted score in its row, int64, and how many scores are not finite; the wanted ones of row b are
    those from ``starts[b]`` on."""
    one_pass = _one_pass(scores.device) if scores.device.type == "cuda" else None
    if one_pass is not None:
        return one_pass(scores, starts, wanted)
    step = max(1, _CELLS // max(1, scores.shape[1]))
    above, same = torch.empty_like(rows), torch.empty_like(rows)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        chosen = scores[rows[part]]
        above[part] = (chosen > wanted[part, None]).sum(1)
        same[part] = (chosen == wanted[part, None]).sum(1)
    return above, same, _not_finite(scores)


def _starts(scores: Tensor, first: int, ptr: Ints) -> Ints:
    """Where the entries of each of the block's rows begin among those of the block, int64 ``[B + 1]``."""
    bounds = ptr[first : first + len(scores) + 1]
    starts: Ints = bounds - bounds[0]
    return starts


def _entries(scores: Tensor, first: int, ptr: Ints, columns: Ints) -> tuple[Ints, Ints, slice]:
    """CSR entries of the block's rows: row in the block, column, and where they lie in the CSR."""
    bounds = ptr[first : first + len(scores) + 1]
    span = slice(int(bounds[0]), int(bounds[-1]))
    return np.repeat(np.arange(len(scores)), np.diff(bounds)), columns[span], span


def _sent(device: torch.device, *parts: Ints) -> tuple[Tensor, ...]:
    """The parts on the device by one copy, for which the host does not wait: the product that makes the scores still runs."""
    packed = torch.from_numpy(np.concatenate(parts))
    if device.type == "cuda":
        packed = packed.pin_memory()
    return torch.split(packed.to(device, non_blocking=True), [len(part) for part in parts])
