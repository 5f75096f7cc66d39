"""Losses of a batch of queries: against all entities in closed form, against samples, as yes-or-no questions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from baselines.common.kge.bilinear import Bilinear

UNDERFLOW = 1e-37


def full_softmax(queries: Tensor, table: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Mean cross-entropy of targets over all candidates of scores ``queries [b, d] @ table [n, d].T``.

    Target i is candidate ``columns[i]`` of query ``rows[i]``, int64 ``[m]`` each: a query with many answers is scored once. The
    softmax stays in the one ``[b, n]`` buffer of the scores and the gradient is made of two matrix products: autograd would keep two
    more such buffers.
    """
    return _FullSoftmax.apply(queries, table, rows, columns)  # type: ignore[no-any-return, no-untyped-call]


def relation_loss(form: Bilinear, head: Tensor, tail: Tensor, table: Tensor, relations: Tensor) -> Tensor:
    """Mean cross-entropy of each fact's relation over all of ``table [2 R, dim]``, reciprocals included (arXiv 2110.02834).

    ``head`` and ``tail`` are rows ``[b, dim]``, ``relations`` int64 ``[b]``.
    """
    queries = form.relation_query(head, tail)
    return full_softmax(queries, table, torch.arange(len(relations), device=relations.device), relations)


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, table: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        scores = queries @ table.T
        torch.softmax(scores, dim=1, out=scores)
        # Probabilities below float32 do not change a gradient; only the reported loss is cut there.
        loss = -scores[rows, columns].clamp_min(UNDERFLOW).log().mean()
        ctx.save_for_backward(queries, table, rows, columns, scores)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        queries, table, rows, columns, softmax = ctx.saved_tensors
        share = grad / len(columns)
        of_row = queries.new_zeros(len(queries)).index_add_(0, rows, share.expand(len(rows)))[:, None]
        by_queries = by_table = None
        if ctx.needs_input_grad[0]:
            by_queries = (softmax @ table).mul_(of_row)
            by_queries.index_add_(0, rows, table[columns] * share, alpha=-1)
        if ctx.needs_input_grad[1]:
            by_table = softmax.T @ (queries * of_row)
            by_table.index_add_(0, columns, queries[rows] * share, alpha=-1)
        return by_queries, by_table, None, None


def sampled_softmax(own: Tensor, others: Tensor, collisions: Tensor, n_entities: int) -> Tensor:
    """Mean cross-entropy of the true tail (``own [b]``) over itself and n sampled candidates (``others [b, n]``) that stand for all.

    ``collisions`` bool ``[b, n]``: the sampled candidate is the true tail, and is taken out. The log of how many entities a
    sample stands for is added to its score, so that the softmax estimates the one over all entities.
    """
    others = others + math.log(n_entities / others.shape[1])
    others = others.masked_fill(collisions, -torch.inf)
    return (torch.logaddexp(own, torch.logsumexp(others, dim=1)) - own).mean()


def binary(own: Tensor, others: Tensor, stand_for: int) -> Tensor:
    """Mean over ``[b, 1 + stand_for]`` questions of the binary cross-entropy: yes for ``own [b]``, no for ``others [b, n]``.

    n need not be ``stand_for``: the others then weigh as much as ``stand_for`` of them (negatives shared by a batch).
    """
    yes = functional.softplus(-own).mean()
    no = functional.softplus(others).mean()
    return (yes + stand_for * no) / (1 + stand_for)
