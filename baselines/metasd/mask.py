"""Magnitude pruning over all tables together (MetaSD section 3, ``Mask``)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

FLOOR = 1e-8
"""What the mask leaves of a pruned weight in training; in evaluation it is zero."""
SORTED_UP_TO = 50_000_000
CHUNK = 1 << 24
BUCKET_BITS = 16


def kept_tables(tables: Sequence[Tensor], share: float, *, sorted_up_to: int = SORTED_UP_TO) -> list[Tensor]:
    """Which weights stay when ``share`` of them is pruned: bool tensors of the tables' shapes.

    The threshold is the ceil(share * N)-th smallest of all N magnitudes; what equals it is kept.
    """
    threshold = magnitude_threshold(tables, share, sorted_up_to=sorted_up_to)
    return [table.detach().abs() >= threshold for table in tables]


def magnitude_threshold(
    tables: Sequence[Tensor], share: float, *, sorted_up_to: int = SORTED_UP_TO
) -> Tensor:
    """The ceil(share * N)-th smallest magnitude, a tensor without dimensions; ``share`` above 0 and up to 1."""
    total = sum(table.numel() for table in tables)
    # 0.9 * 10 is 9.000000000000002 for some products: rounded up it would prune one weight too many.
    rank = max(1, math.ceil(round(share * total, 6)))
    if total <= sorted_up_to or tables[0].dtype != torch.float32:
        return torch.cat([table.detach().reshape(-1) for table in tables]).abs().kthvalue(rank).values
    return _selected(tables, rank)


def training_mask(kept: Tensor, like: Tensor) -> Tensor:
    """1 where a weight is kept and :data:`FLOOR` elsewhere, in the type of ``like``."""
    return torch.where(kept, torch.ones_like(like), torch.full_like(like, FLOOR))


def _selected(tables: Sequence[Tensor], rank: int) -> Tensor:
    """As ``kthvalue`` of the magnitudes of float32 tables, without a copy of them all.

    The bits of non-negative floats are ordered as the floats: their upper half finds the bucket, and only that one is sorted.
    """
    counts = torch.zeros(1 << (31 - BUCKET_BITS + 1), dtype=torch.int64, device=tables[0].device)
    for magnitudes in _chunks(tables):
        counts += torch.bincount(_buckets(magnitudes), minlength=len(counts))
    below = counts.cumsum(0)
    bucket = int(torch.searchsorted(below, rank))
    rest = rank - int(below[bucket] - counts[bucket])
    members = [magnitudes[_buckets(magnitudes) == bucket] for magnitudes in _chunks(tables)]
    return torch.cat(members).kthvalue(rest).values


def _buckets(magnitudes: Tensor) -> Tensor:
    return magnitudes.view(torch.int32) >> BUCKET_BITS


def _chunks(tables: Sequence[Tensor]) -> Iterator[Tensor]:
    for table in tables:
        for part in table.detach().reshape(-1).split(CHUNK):  # type: ignore[no-untyped-call]
            yield part.abs()
