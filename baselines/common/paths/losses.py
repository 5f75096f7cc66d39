"""Next-token cross-entropy in closed form, group by group: what a softmax over a large table needs is freed before the next one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from baselines.common.kge.losses import UNDERFLOW

Group: TypeAlias = tuple[int, Tensor | None]
"""(count, members): the next ``count`` queries choose among the rows ``members`` int64 ``[k]`` of the table; None: among all rows."""

BLOCK = 1 << 22
"""Scores held at a time: 16 MB, which glibc serves from its heap (:mod:`baselines.common.allocator`)."""


def softmax_sum(
    queries: Tensor, table: Tensor, groups: Sequence[Group], columns: Tensor, extra: Tensor | None = None
) -> Tensor:
    """Sum of the cross-entropies of targets ``columns`` int64 ``[m]`` among their group's candidates, a scalar.

    Scores are ``queries [m, d] @ candidates.T``; candidates are rows of ``table [n, d]`` and after them those of ``extra [k, d]``.
    ``columns`` counts within a query's candidates. Members of a group are distinct.
    """
    total: Tensor = _SoftmaxSum.apply(queries, table, extra, groups, columns, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return total


def normalisers(
    queries: Tensor, table: Tensor, groups: Sequence[Group], extra: Tensor | None = None
) -> Tensor:
    """Log of the sum of exponentials of the same scores, ``[m]``, without a gradient."""
    with torch.no_grad():
        parts = [
            _scores(queries[rows], candidates, extra).logsumexp(1)
            for rows, candidates, _ in _blocks(table, groups, extra)
        ]
    return torch.cat(parts) if parts else queries.new_zeros(0)


class _SoftmaxSum(torch.autograd.Function):
    """The gradient is made in forward, while a block's softmax is at hand; backward scales it."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        table: Tensor,
        extra: Tensor | None,
        groups: Sequence[Group],
        columns: Tensor,
        with_gradient: bool,
    ) -> Tensor:
        total = queries.new_zeros(())
        by_queries = torch.empty_like(queries) if with_gradient else None
        by_table = torch.zeros_like(table) if with_gradient else None
        by_extra = torch.zeros_like(extra) if with_gradient and extra is not None else None
        for rows, candidates, members in _blocks(table, groups, extra):
            own, n = queries[rows], len(candidates)
            softmax = _scores(own, candidates, extra)
            torch.softmax(softmax, dim=1, out=softmax)
            places = columns[rows, None]
            total -= softmax.gather(1, places).clamp_min(UNDERFLOW).log().sum()
            if by_queries is None or by_table is None:
                continue
            softmax.scatter_add_(1, places, softmax.new_full((1, 1), -1.0).expand_as(places))
            torch.mm(softmax[:, :n], candidates, out=by_queries[rows])
            if members is None:
                by_table.addmm_(softmax[:, :n].T, own)
            else:
                by_table.index_add_(0, members, softmax[:, :n].T @ own)
            if extra is not None and by_extra is not None:
                by_queries[rows].addmm_(softmax[:, n:], extra)
                by_extra.addmm_(softmax[:, n:].T, own)
        ctx.save_for_backward(by_queries, by_table, by_extra)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = (None if x is None else x.mul_(grad) for x in ctx.saved_tensors)
        return *gradients, None, None, None


def _blocks(
    table: Tensor, groups: Sequence[Group], extra: Tensor | None
) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """(queries, candidates in the table, their row numbers), of which the scores fit ``BLOCK``."""
    start = 0
    for count, members in groups:
        if count == 0:
            continue
        candidates = table if members is None else table.index_select(0, members)
        size = max(1, BLOCK // (len(candidates) + (0 if extra is None else len(extra))))
        for first in range(start, start + count, size):
            yield slice(first, min(first + size, start + count)), candidates, members
        start += count


def _scores(queries: Tensor, candidates: Tensor, extra: Tensor | None) -> Tensor:
    if extra is None:
        return queries @ candidates.T
    n = len(candidates)
    scores = queries.new_empty(len(queries), n + len(extra))
    torch.mm(queries, candidates.T, out=scores[:, :n])
    torch.mm(queries, extra.T, out=scores[:, n:])
    return scores
