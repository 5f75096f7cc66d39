"""Tables of which each process of a run holds some rows, with their gradient and the optimizer's state: for those that fit no one device.

Ranks compute their parts of a batch as :mod:`~baselines.common.parallel` has it, and the gradient that a rank has of anything is its
summand of the true one. Rows travel by all-to-all: each rank asks the owners for the distinct rows that it needs, and sends their
gradients back, which the owner adds up. So a held row's gradient is whole, and is not exchanged again.

torch.distributed alone does this. A DTensor that is split by rows gathers its look-ups by all-reduce and builds the gradient of the whole
table on every rank; TorchRec fixes the version of torch (docs/scale.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional

from baselines.common.device import counts
from baselines.common.parallel import OwnRows, Ranks
from kpi_bench.errors import SubmissionError

_DRAWN = 1 << 18
"""Numbers of an initial table drawn at once."""
_VECTOR = 16
"""torch fills normal numbers 16 at a time: pieces of a multiple of that are what one call gives."""


@dataclass(frozen=True)
class Shard:
    """The rows ``lo`` .. ``hi - 1`` of ``n`` that this rank holds; they differ by one at most between ranks."""

    ranks: Ranks
    n: int

    def __post_init__(self) -> None:
        if self.n < self.ranks.size:
            raise SubmissionError(
                f"a table of {self.n} rows cannot be split over {self.ranks.size} processes; use fewer (--processes)"
            )
        if self.ranks.size > 1 and self.ranks.device != "cpu" and distributed.get_backend() == "gloo":
            raise SubmissionError(
                "kge_shard_entities needs a GPU for each process: Gloo does not exchange rows of GPUs; use fewer --processes, or --device cpu"
            )

    @property
    def lo(self) -> int:
        return self._start(self.ranks.rank)

    @property
    def hi(self) -> int:
        return self._start(self.ranks.rank + 1)

    @property
    def widest(self) -> int:
        """The most rows that a rank holds: the same number on all of them."""
        return -(-self.n // self.ranks.size)

    def _start(self, rank: int) -> int:
        return rank * self.n // self.ranks.size

    def normal(self, dim: int, generator: torch.Generator) -> Tensor:
        """This rank's rows of ``torch.randn(n, dim)``, ``[hi - lo, dim]``, which leaves ``generator`` as that does. All numbers are drawn, a piece at a time."""
        own = torch.empty(self.hi - self.lo, dim)
        step = max(_VECTOR, _DRAWN // dim // _VECTOR * _VECTOR)
        starts = list(range(0, max(1, self.n - _VECTOR), step))  # the last piece has 16 numbers or more
        for start, stop in zip(starts, [*starts[1:], self.n], strict=True):
            piece = torch.randn(stop - start, dim, generator=generator)
            first, last = max(start, self.lo), min(stop, self.hi)
            if first < last:
                own[first - self.lo : last - self.lo] = piece[first - start : last - start]
        return own

    def lookup(self, held: Tensor, ids: Tensor) -> Tensor:
        """Rows ``ids`` int64 ``[...]`` of the table whose rows this rank holds are ``held [hi - lo, d]``: ``[..., d]``. All ranks call it
        at once, each with its own ids; gradients go back to the owners. Which rows travel depends on ids, so a GPU is waited for: by ``unique``,
        and when the numbers of rows that are sent and received are read."""
        if self.ranks.size == 1:
            return functional.embedding(ids, held)
        wanted, places = torch.unique(ids, return_inverse=True)  # sorted, so those of an owner are adjacent
        owners = ((wanted + 1) * self.ranks.size - 1) // self.n  # the inverse of _start
        asked = counts(owners, self.ranks.size)
        told = torch.empty_like(asked)
        distributed.all_to_all_single(told, asked)
        take, give = torch.stack([asked, told]).tolist()
        theirs = _exchange(wanted, take, give)
        rows: Tensor = _Exchanged.apply(functional.embedding(theirs - self.lo, held), give, take)  # type: ignore[no-untyped-call]
        return functional.embedding(places, rows)

    def held(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Of ``ids`` int64 ``[m]``: which this rank holds, bool ``[m]``, and their places among its rows (0 for the others)."""
        mine = (ids >= self.lo) & (ids < self.hi)
        return mine, torch.where(mine, ids - self.lo, 0)


class ShardedRows(OwnRows):
    """The rows of a table that a rank holds, ``[hi - lo, d]``."""

    shard: Shard

    @classmethod
    def of(cls, rows: Tensor, shard: Shard) -> ShardedRows:
        made = cls(rows)
        made.shard = shard
        return made

    def lookup(self, ids: Tensor) -> Tensor:
        """See :meth:`Shard.lookup`."""
        return self.shard.lookup(self, ids)


def cross_entropy(scores: Tensor, rows: Tensor, columns: Tensor, shard: Shard) -> Tensor:
    """Cross-entropy ``[m]`` of each target over the candidates of all ranks, exact; every rank gets all of it.

    ``scores [b, hi - lo]`` are this rank's, for the same ``b`` queries on all ranks; their memory is used up. Target i is candidate
    ``columns[i]`` of query ``rows[i]``, int64 ``[m]`` each.
    """
    return _ShardedSoftmax.apply(scores, rows, columns, shard)  # type: ignore[no-any-return, no-untyped-call]


class _ShardedSoftmax(torch.autograd.Function):
    """One buffer ``[b, hi - lo]``: of scores, then of the softmax, then of the gradient."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, rows: Tensor, columns: Tensor, shard: Shard) -> Tensor:
        mine, places = shard.held(columns)
        top = shard.ranks.highest(scores.amax(1))
        target = torch.where(mine, scores[rows, places], 0.0)
        scores.sub_(top[:, None]).exp_()
        sums = shard.ranks.add(torch.cat([scores.sum(1), target]))
        total, target = sums[: len(scores)], sums[len(scores) :]
        scores.div_(total[:, None])
        ctx.shard = shard
        ctx.save_for_backward(scores, rows, places, mine)
        shift: Tensor = total.log() + top
        return shift[rows] - target

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        softmax, rows, places, mine = ctx.saved_tensors
        # Each rank has weighed the targets of its part of the batch; here it needs those of all.
        grad = ctx.shard.ranks.add(grad.clone(memory_format=torch.contiguous_format))
        of_row = grad.new_zeros(len(softmax)).index_add_(0, rows, grad)
        by_scores = softmax.mul_(of_row[:, None])
        by_scores.index_put_((rows, places), torch.where(mine, -grad, 0.0), accumulate=True)
        return by_scores, None, None, None


class _Exchanged(torch.autograd.Function):
    """Rows that travel; their gradients travel back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, give: list[int], take: list[int]) -> Tensor:
        ctx.splits = take, give
        return _exchange(rows, give, take)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _exchange(grad.contiguous(), *ctx.splits), None, None


def _exchange(rows: Tensor, give: list[int], take: list[int]) -> Tensor:
    """Send ``give[r]`` rows to rank r, in order, and receive ``take[r]`` of it."""
    received = rows.new_empty(sum(take), *rows.shape[1:])
    distributed.all_to_all_single(received, rows, take, give)
    return received
