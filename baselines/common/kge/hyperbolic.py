"""Distance models of the Poincaré ball: RotH, RefH, AttH (Chami et al. 2020), TransH and DistH (MulDE, arXiv 2010.07152).

All tables hold tangent vectors at the origin; TransH means "Trans-hyperbolic", not the hyperplane TransH.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.common.kge.euclidean import angles
from baselines.common.kge.geometry import (
    EDGE,
    TINY,
    exp0,
    mobius_add,
    reflect,
    rotate,
    squared_distance,
)
from baselines.common.kge.models import KgeModel, Query, inner_products


class Hyperbolic(KgeModel):
    """score = -d(q, exp0(t))^2 with a learned curvature c = softplus(c0): one of the model, or one of each relation
    (``relation_curvature``)."""

    def __init__(
        self,
        n_entities: int,
        n_relations: int,
        dim: int,
        generator: torch.Generator,
        *,
        relation_curvature: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(n_entities, n_relations, dim, generator, **options)
        self.curvatures = nn.Parameter(torch.ones(2 * n_relations if relation_curvature else 1, 1))

    def translate(self, heads: Tensor, relations: Tensor) -> tuple[Tensor, Tensor | None]:
        shared = len(self.curvatures) == 1
        c = functional.softplus(self.curvatures if shared else self.curvatures[relations])
        return self.move(heads, self.rows(self.relations, relations), c), c

    def move(self, heads: Tensor, relations: Tensor, c: Tensor) -> Tensor:
        """Query points ``[b, dim]`` of the ball from tangent heads and relation rows."""
        raise NotImplementedError

    def similarity(self, query: Query, candidates: Tensor) -> Tensor:
        c = query.curvature
        assert c is not None
        if len(c) == 1:
            stretch = inner_products(fold_queries(query.vectors, c), fold_points(exp0(candidates, c), c))
            return -squared_distance(stretch, c)
        # exp0 is radial: under another curvature a candidate is only scaled, so its inner products are too.
        norm = candidates.square().sum(-1).clamp_min(TINY).sqrt()
        reach = torch.tanh(c.sqrt() * norm).clamp_max(1 - EDGE)
        inner = inner_products(query.vectors, candidates) * (reach / (c.sqrt() * norm))
        qq = query.vectors.square().sum(-1, keepdim=True)
        gap = qq + reach.square() / c - 2 * inner
        return -squared_distance(c * gap / ((1 - c * qq) * (1 - reach.square())), c)


def fold_queries(queries: Tensor, c: Tensor) -> Tensor:
    """Vectors of width ``dim + 2`` whose inner products with :func:`fold_points` are the stretches w of all pairs of one ball:
    c |q - y|^2 / ((1 - c|q|^2)(1 - c|y|^2)) is bilinear in [q, |q|^2, 1] and [-2y, 1, |y|^2]."""
    qq = queries.square().sum(-1, keepdim=True)
    return torch.cat([queries, qq, torch.ones_like(qq)], dim=-1) * (c / (1 - c * qq))


def fold_points(points: Tensor, c: Tensor) -> Tensor:
    """The other factor, of ``points [..., dim]``."""
    yy = points.square().sum(-1, keepdim=True)
    return torch.cat([-2 * points, torch.ones_like(yy), yy], dim=-1) / (1 - c * yy)


class TransH(Hyperbolic):
    """q = exp0(h) (+) exp0(r)."""

    def move(self, heads: Tensor, relations: Tensor, c: Tensor) -> Tensor:
        return mobius_add(exp0(heads, c), exp0(relations, c), c)


class DistH(Hyperbolic):
    """q = exp0(h) * exp0(r)."""

    def move(self, heads: Tensor, relations: Tensor, c: Tensor) -> Tensor:
        # Two points of a ball of radius over one can have their product outside: scaled by c it stays inside.
        return exp0(heads, c) * exp0(relations, c) * c.sqrt().clamp_max(1.0)


class RefH(Hyperbolic):
    """q = Ref_r(exp0(h)) (+) exp0(r). A relation is [translation | angles], ``2 dim`` wide."""

    def initial_relations(self, n: int, std: float, generator: torch.Generator) -> Tensor:
        return torch.cat(
            [std * torch.randn(n, self.dim, generator=generator), angles(n, self.dim, generator)], 1
        )

    def move(self, heads: Tensor, relations: Tensor, c: Tensor) -> Tensor:
        shift, turn = relations.chunk(2, dim=-1)
        return mobius_add(reflect(turn, exp0(heads, c)), exp0(shift, c), c)


class RotH(Hyperbolic):
    """q = Rot_r(exp0(h) (+) exp0(r')) (+) exp0(r). A relation is [r' | r | angles], ``3 dim`` wide."""

    def initial_relations(self, n: int, std: float, generator: torch.Generator) -> Tensor:
        return torch.cat(
            [std * torch.randn(n, 2 * self.dim, generator=generator), angles(n, self.dim, generator)], 1
        )

    def move(self, heads: Tensor, relations: Tensor, c: Tensor) -> Tensor:
        before, after, turn = relations.chunk(3, dim=-1)
        moved = mobius_add(exp0(heads, c), exp0(before, c), c)
        return mobius_add(rotate(turn, moved), exp0(after, c), c)


class AttH(Hyperbolic):
    """q = exp0(attention mix of Rot_r(h) and Ref_r(h)) (+) exp0(r).

    A relation is [translation | attention context | rotation angles | reflection angles], ``4 dim`` wide.
    """

    def initial_relations(self, n: int, std: float, generator: torch.Generator) -> Tensor:
        return torch.cat(
            [std * torch.randn(n, 2 * self.dim, generator=generator), angles(n, 2 * self.dim, generator)], 1
        )

    def move(self, heads: Tensor, relations: Tensor, c: Tensor) -> Tensor:
        shift, context, turn, mirror = relations.chunk(4, dim=-1)
        moved = torch.stack([reflect(mirror, heads), rotate(turn, heads)], dim=1)
        attention = torch.softmax((context[:, None] * moved).sum(-1, keepdim=True) * self.dim**-0.5, dim=1)
        return mobius_add(exp0((attention * moved).sum(1), c), exp0(shift, c), c)
