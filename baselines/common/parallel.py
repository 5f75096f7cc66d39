"""Data-parallel training: the same steps as one process makes, each process computing a part of every batch.

All ranks make every batch, with the same random numbers, and each computes the loss of its rows, weighed so that the ranks' losses
add up to that of the whole batch. Gradients are added up, and every rank takes the same step: N ranks train what one process trains,
up to the order in which floats are added. Only dropout masks are other ones: each rank draws its own.

torch.distributed alone does this. DistributedDataParallel and what wraps it (Accelerate) take the plain mean of the ranks' gradients,
which is that of the batch only where every rank's loss is a mean over equally many terms, and they see only what goes through a
module's ``forward``; our losses read tables beside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from baselines.common.device import sent
from baselines.common.distill.teachers import fingerprint
from kpi_bench import Context
from kpi_bench.errors import SubmissionError

# Ranks wait for each other while one scores or samples. The harness bounds the run and ends all when one fails.
TIMEOUT = timedelta(days=7)
SMALL = 1 << 16
"""Gradients of fewer numbers travel together."""


class OwnRows(nn.Parameter):
    """A parameter of which each rank holds other rows, with their whole gradient: :mod:`baselines.common.shards`."""


def holds_rows(model: nn.Module) -> bool:
    """Whether each rank holds only some rows of a model."""
    return any(isinstance(parameter, OwnRows) for parameter in model.parameters())


def _shared(model: nn.Module) -> dict[str, Tensor]:
    """What is the same on all ranks: parameters and buffers by name."""
    state = model.state_dict(keep_vars=True)
    return {name: value.detach() for name, value in state.items() if not isinstance(value, OwnRows)}


@dataclass(frozen=True)
class Part:
    """What a rank computes of a batch of ``n`` rows: ``rows``, every N-th from its own number on, so that a sorted batch is shared
    evenly. Where there are fewer rows than ranks each computes all of them, as a mean over no row is none."""

    rank: int
    size: int
    n: int

    @property
    def whole(self) -> bool:
        """Whether it is all of the batch."""
        return self.n < self.size or self.size == 1

    @property
    def rows(self) -> slice:
        return slice(0, self.n) if self.whole else slice(self.rank, self.n, self.size)

    def weigh(self, loss: Tensor, own: Tensor | int | None = None, of: Tensor | int | None = None) -> Tensor:
        """``loss``, a mean over ``own`` terms (default: the part's rows), as a summand of the mean over ``of`` (default: all rows)."""
        if self.size == 1:
            return loss
        if self.whole:
            return loss / self.size
        terms = len(range(self.n)[self.rows]) if own is None else own
        return loss * (terms / (self.n if of is None else of))


@dataclass(frozen=True)
class Ranks:
    """The processes of a run as one of them sees them. Alone, nothing is exchanged."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @classmethod
    def of(cls, ctx: Context) -> Ranks:
        """Those of a run; the first call joins the process group that the harness has prepared (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT)."""
        if ctx.world_size == 1:
            return ALONE
        if not distributed.is_initialized():
            store, rank, size = next(
                distributed.rendezvous("env://", ctx.rank, ctx.world_size, timeout=TIMEOUT)
            )
            backend = agreed_backend(store, rank, size, own_gpu=has_own_gpu(ctx))
            distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        return cls(ctx.rank, ctx.world_size, ctx.device)

    def part(self, n: int) -> Part:
        """This rank's part of a batch of ``n`` rows."""
        return Part(self.rank, self.size, n)

    def seed(self, seed: int) -> int:
        """A seed for what ranks draw each for themselves (dropout); rank 0 has the run's own."""
        return (seed + self.rank * 0x9E3779B97F4A7C15) % (1 << 63)

    def add(self, value: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value

    def highest(self, value: Tensor) -> Tensor:
        """The greatest over ranks, in place."""
        if self.size > 1:
            distributed.all_reduce(value, distributed.ReduceOp.MAX)
        return value

    def decided(self, value: float) -> float:
        """Rank 0's value; the others wait for it."""
        if self.size == 1:
            return value
        told = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.broadcast(told, 0)
        return told.item()

    @contextmanager
    def first(self) -> Iterator[bool]:
        """A block that rank 0 runs before the others do; it yields whether this is rank 0."""
        if self.rank > 0:
            self.decided(0.0)
        yield self.rank == 0
        if self.rank == 0:
            self.decided(0.0)

    def gathered(self, own: Tensor, part: Part, places: Tensor, n: int) -> Tensor:
        """Rows ``[n, d]`` of a batch from each rank's ``own [m, d]``, which belong at ``places`` int64 ``[m]``. Gradients go back to the
        rank that a row came from."""
        if part.whole:
            return own
        rows: Tensor = _Gathered.apply(own, places, n)  # type: ignore[no-untyped-call]
        return rows

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Make the gradient of each trainable parameter the sum over ranks, but for :class:`OwnRows`; it stays None where no rank has one.

        Raises:
            SubmissionError: a gradient is sparse.
        """
        if self.size == 1:
            return
        chosen = [p for p in parameters if p.requires_grad and not isinstance(p, OwnRows)]
        for parameter in chosen:
            if parameter.grad is not None and parameter.grad.is_sparse:
                raise SubmissionError(
                    "sparse gradients (kge_sparse_rows) are not added up over processes; use one"
                )
        has = [float(parameter.grad is not None) for parameter in chosen]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in chosen]
        together = [g for g in grads if g.numel() < SMALL and g.dtype == torch.float32]
        alone = [g for g in grads if g.numel() >= SMALL or g.dtype != torch.float32]
        given = sent(torch.tensor(has), torch.device(self.device))
        flat = torch.cat([given, *(g.flatten() for g in together)])
        works = [distributed.all_reduce(grad, async_op=True) for grad in (flat, *alone)]
        for work in works:
            work.wait()
        counts, *sums = flat.split_with_sizes([len(chosen), *(g.numel() for g in together)])
        for grad, total in zip(together, sums, strict=True):
            grad.copy_(total.view_as(grad))
        if not all(has):  # read where it matters only: a GPU would be waited for
            for parameter, grad, count in zip(chosen, grads, counts.tolist(), strict=True):
                parameter.grad = grad if count else None

    def align(self, model: nn.Module) -> None:
        """Give all ranks rank 0's parameters and buffers, but for :class:`OwnRows`."""
        if self.size > 1:
            with torch.no_grad():
                for value in _shared(model).values():
                    distributed.broadcast(value, 0)

    def check_equal(self, model: nn.Module, description: str) -> None:
        """Raise SubmissionError where the ranks' models are not the same to the last bit: one has learned something else."""
        if self.size == 1:
            return
        own = torch.tensor(
            list(bytes.fromhex(fingerprint(_shared(model)))), dtype=torch.int64, device=self.device
        )
        lowest, highest = own.clone(), own.clone()
        distributed.all_reduce(lowest, distributed.ReduceOp.MIN)
        distributed.all_reduce(highest, distributed.ReduceOp.MAX)
        if not torch.equal(lowest, highest):
            raise SubmissionError(
                f"{description}: the {self.size} processes ended with different parameters; its training is not data-parallel, use one process"
            )


ALONE = Ranks()


def has_own_gpu(ctx: Context) -> bool:
    """Whether this rank shares its GPU with no other one of its machine (LOCAL_WORLD_SIZE; without it all ranks are on this one)."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ctx.world_size))
    return torch.device(ctx.device).type == "cuda" and torch.cuda.device_count() >= here


def agreed_backend(store: distributed.Store, rank: int, size: int, *, own_gpu: bool) -> str:
    """NCCL, which wants a GPU for each rank, where all have one; else Gloo, which also serves ranks that share one. All ranks call it, since
    those of another machine may have other GPUs."""
    store.set(f"own_gpu/{rank}", str(int(own_gpu)))
    return "nccl" if all(store.get(f"own_gpu/{one}") == b"1" for one in range(size)) else "gloo"


class _Gathered(torch.autograd.Function):
    """Rows are put in their places among zeros and added up: ranks may hold different numbers of them."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, places: Tensor, n: int) -> Tensor:
        ctx.save_for_backward(places)
        rows = own.new_zeros(n, *own.shape[1:]).index_copy_(0, places, own)
        distributed.all_reduce(rows)
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        total = grad.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total.index_select(0, places), None, None
