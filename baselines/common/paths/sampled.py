"""Softmax over a large table from a few candidates that a batch shares: cross-entropy and distillation, in closed form.

Under autocast the matrix products take bfloat16 numbers; softmax, sums and gradients stay float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from baselines.common.kge.losses import UNDERFLOW
from baselines.common.paths.losses import BLOCK
from kpi_bench.errors import SubmissionError


class Scores(NamedTuple):
    """Scores ``states [m, d] @ rows [c, d].T + bias [c]``, not computed yet."""

    states: Tensor
    rows: Tensor
    bias: Tensor


@dataclass(frozen=True, eq=False)
class Candidates:
    """Distinct ``ids`` int64 ``[c]``, ascending; each query's target among them, ``columns`` int64 ``[m]``; their log-Q correction
    ``offsets`` ``[c]``, which is added to all scores.

    Candidates are the m targets of the batch and K uniform ids. A query sees its own target and, as noise, the other m - 1 targets and
    the K: of entity c, q(c) = (m - 1) f(c) + K / n are expected. Where c occurs k(c) times its offset is log k(c) - log q(c). Given the
    candidates, a query's target is then distributed as the softmax of ``score + offset`` when the full softmax of the scores is its
    distribution (exactly so for Poisson counts): the loss has the minimum of the full softmax for any K and goes to it as K grows.
    This is why nothing is masked: an own target that others have too is more frequent, not wrong.
    """

    ids: Tensor
    columns: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, targets: Tensor, uniform: Tensor, frequency: Tensor) -> Candidates:
        """From int64 ``targets [m]``, int64 ``uniform [K]`` drawn from all n with replacement, and the distribution of targets
        ``frequency [n]`` (float, sums to 1).

        Raises:
            SubmissionError: no uniform candidate, without which a rare target has no noise to be told from.
        """
        if len(uniform) == 0:
            raise SubmissionError("a sampled softmax needs uniform candidates; raise their number above 0")
        ids, places, counts = torch.unique(
            torch.cat([targets, uniform]), return_inverse=True, return_counts=True
        )
        expected = max(len(targets) - 1, 0) * frequency[ids] + len(uniform) / len(frequency)
        return cls(ids, places[: len(targets)], (counts / expected).log())

    def asked(self, targets: Tensor) -> Candidates:
        """The same candidates for some of the queries, those with int64 ``targets [k]``."""
        return replace(self, columns=torch.searchsorted(self.ids, targets))


def sampled_softmax(scores: Scores, candidates: Candidates, weights: Tensor | None = None) -> Tensor:
    """Mean, weighted by ``weights [m]`` where given, of the cross-entropies of the targets among the candidates, a scalar; 0 for m = 0.

    ``scores.rows`` and ``scores.bias`` are those of ``candidates.ids``.
    """
    if weights is None:
        weights = scores.states.new_ones(len(scores.states))
    shares = weights / weights.sum().clamp_min(UNDERFLOW)
    loss: Tensor = _SampledSoftmax.apply(  # type: ignore[no-untyped-call]
        *scores, candidates.offsets, candidates.columns, shares, torch.is_grad_enabled()
    )
    return loss


def sampled_kl(target: Scores, other: Scores, *, temperature: float = 1.0) -> Tensor:
    """Mean over queries of T^2 KL(softmax(target / T) || softmax(other / T)) over the candidates, a scalar; 0 for no query.

    The same as :func:`baselines.common.distill.losses.soft_kl` of the two score matrices, which are never held whole. The target's d may
    be another; no gradient flows to it.
    """
    loss: Tensor = _SampledKl.apply(
        *other, *(x.detach() for x in target), temperature, torch.is_grad_enabled()
    )  # type: ignore[no-untyped-call]
    return loss


class _SampledSoftmax(torch.autograd.Function):
    """The gradient is made in forward, while a block's softmax is at hand; backward scales it."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        rows: Tensor,
        bias: Tensor,
        offsets: Tensor,
        columns: Tensor,
        shares: Tensor,
        with_gradient: bool,
    ) -> Tensor:
        total = states.new_zeros(())
        scores = _Product.of(states, rows, bias + offsets.to(bias.dtype))
        gradients = _Gradients(scores) if with_gradient else None
        for block in _blocks(len(states), len(rows)):
            softmax = scores.at(block)
            torch.softmax(softmax, dim=1, out=softmax)
            places, share = columns[block, None], shares[block, None]
            total -= (softmax.gather(1, places).clamp_min(UNDERFLOW).log() * share).sum()
            if gradients is not None:
                softmax.scatter_add_(1, places, softmax.new_full((1, 1), -1.0).expand_as(places))
                gradients.add(block, softmax.mul_(share))
        ctx.save_for_backward(*(gradients.values if gradients else ()))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(x * grad for x in ctx.saved_tensors), None, None, None, None


class _SampledKl(torch.autograd.Function):
    """As above; the gradient by the other's scores is T (softmax(other / T) - softmax(target / T)) / m."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        rows: Tensor,
        bias: Tensor,
        target_states: Tensor,
        target_rows: Tensor,
        target_bias: Tensor,
        temperature: float,
        with_gradient: bool,
    ) -> Tensor:
        total = states.new_zeros(())
        scores = _Product.of(states / temperature, rows, bias / temperature)
        wanted = _Product.of(target_states / temperature, target_rows, target_bias / temperature)
        gradients = _Gradients(scores) if with_gradient else None
        for block in _blocks(len(states), len(rows)):
            own, theirs = scores.at(block), wanted.at(block)
            gaps = theirs - own
            own_log, their_log = _softmax_(own), _softmax_(theirs)
            total += torch.dot(theirs.flatten(), gaps.flatten()) + (own_log - their_log).sum()
            if gradients is not None:
                gradients.add(block, own.sub_(theirs))
        ctx.save_for_backward(*(gradients.values if gradients else ()))
        share = temperature / max(1, len(states))
        ctx.shares = (share, share * temperature, share)  # the factor held back is states / T
        return total * (share * temperature)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (x * (grad * share) for x, share in zip(ctx.saved_tensors, ctx.shares, strict=True))
        return *scaled, *(None,) * 5


@dataclass(frozen=True, eq=False)
class _Product:
    """Scores with their factors as the matrix products take them."""

    states: Tensor
    rows: Tensor
    bias: Tensor

    @classmethod
    def of(cls, states: Tensor, rows: Tensor, bias: Tensor) -> _Product:
        device = states.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            return cls(states.to(dtype), rows.to(dtype), bias)
        return cls(states, rows, bias)

    def at(self, block: slice) -> Tensor:
        """Scores ``[b, c]`` of a block of queries, in the bias's type."""
        if self.rows.dtype == self.bias.dtype:
            return torch.addmm(self.bias, self.states[block], self.rows.T)
        return (self.states[block] @ self.rows.T).to(self.bias.dtype).add_(self.bias)


class _Gradients:
    """Gradients by states, rows and bias, gathered from blocks of the gradient by scores."""

    def __init__(self, scores: _Product) -> None:
        self._scores = scores
        dtype = scores.bias.dtype
        self.values = (
            torch.empty_like(scores.states, dtype=dtype),
            torch.zeros_like(scores.rows, dtype=dtype),
            torch.zeros_like(scores.bias),
        )

    def add(self, block: slice, by_scores: Tensor) -> None:
        by_states, by_rows, by_bias = self.values
        by_bias += by_scores.sum(0)
        by_scores = by_scores.to(self._scores.rows.dtype)
        by_states[block] = by_scores @ self._scores.rows
        by_rows += by_scores.T @ self._scores.states[block]


def _softmax_(scores: Tensor) -> Tensor:
    """Turn rows of scores ``[b, c]`` into their softmax, in place; returns the log of each row's sum of exponentials, ``[b]``."""
    highest = scores.amax(1)
    torch.softmax(scores, dim=1, out=scores)
    # At its highest score a row's softmax is one over that sum, the highest taken out.
    return highest - scores.amax(1).log()


def _blocks(n_queries: int, n_candidates: int) -> Iterator[slice]:
    size = max(1, BLOCK // max(1, n_candidates))
    for start in range(0, n_queries, size):
        yield slice(start, min(start + size, n_queries))
