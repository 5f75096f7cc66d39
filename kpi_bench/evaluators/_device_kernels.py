"""Block kernels in torch operations, for scores on an accelerator; the contract is that of ``_numba_kernels``.

``scores`` is a float32 tensor on any device; CSR arrays and outputs stay numpy arrays on the host.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kpi_bench.evaluators import _keys
from kpi_bench.evaluators._array_kernels import known_pairs

Ints = NDArray[np.int64]
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
    rows, targets, span = _entries(scores, first, positives_ptr, positives)
    wanted = scores[rows, targets]
    pairs = known_pairs(len(scores), first, positives_ptr, filters_ptr, filters)
    known_rows, known, owner = (torch.from_numpy(part).to(scores.device) for part in pairs)
    others, mine = scores[known_rows, known], wanted[owner]
    above, same = _count(scores, rows, wanted)
    above -= torch.bincount(owner, others > mine, minlength=len(rows)).long()
    same -= (
        1 + torch.bincount(owner, (others == mine) & (known != targets[owner]), minlength=len(rows)).long()
    )
    greater[span] = above.cpu().numpy()
    equal[span] = same.cpu().numpy()
    return _count_bad(scores)


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
    bad = _count_bad(scores)
    if bad:
        return bad
    masked_rows, masked, _ = _entries(scores, first, masks_ptr, masks)
    scores[masked_rows, masked] = -torch.inf
    rows, targets, span = _entries(scores, first, positives_ptr, positives)
    wanted = scores[rows, targets]
    above, same = _count(scores, rows, wanted)
    columns = torch.arange(scores.shape[1], device=scores.device)
    for tied in torch.split(torch.nonzero(same > 1)[:, 0], max(1, _CELLS // max(1, scores.shape[1]))):
        level = scores[rows[tied]] == wanted[tied, None]
        above[tied] += (level & (columns < targets[tied, None])).sum(1)
    ranks[span] = above.cpu().numpy() + 1
    return 0


def select_block(scores: Tensor, first: int, masks_ptr: Ints, masks: Ints, keys: NDArray[np.int64]) -> int:
    """Fill ``keys`` ``[B, k]`` with each row's best unmasked columns in any order; masked scores are overwritten."""
    bad = _count_bad(scores)
    if bad:
        return bad
    rows, columns, _ = _entries(scores, first, masks_ptr, masks)
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
    return int((~torch.isfinite(scores)).sum())


def _count(scores: Tensor, rows: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Scores above and equal to each wanted score in its row, int64."""
    step = max(1, _CELLS // max(1, scores.shape[1]))
    above, same = torch.empty_like(rows), torch.empty_like(rows)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        chosen = scores[rows[part]]
        above[part] = (chosen > wanted[part, None]).sum(1)
        same[part] = (chosen == wanted[part, None]).sum(1)
    return above, same


def _entries(scores: Tensor, first: int, ptr: Ints, columns: Ints) -> tuple[Tensor, Tensor, slice]:
    """CSR entries of the block's rows: row in the block, column, and where they lie in the CSR."""
    bounds = ptr[first : first + len(scores) + 1]
    span = slice(int(bounds[0]), int(bounds[-1]))
    rows = np.repeat(np.arange(len(scores)), np.diff(bounds))
    return (
        torch.from_numpy(rows).to(scores.device),
        torch.from_numpy(columns[span].copy()).to(scores.device),
        span,
    )
