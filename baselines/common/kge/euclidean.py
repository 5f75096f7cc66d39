"""Distance models of flat space: TransE (Bordes et al., 2013), DistE, and RotE and RefE (Chami et al. 2020, in MulDE's form)."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.common.kge.geometry import reflect, rotate
from baselines.common.kge.models import KgeModel, Query, inner_products, squared_norms


class Euclidean(KgeModel):
    """score = -|q - t|^2, whose expansion is a matrix product."""

    def similarity(self, query: Query, candidates: Tensor) -> Tensor:
        qq, tt = squared_norms(query.vectors, candidates)
        return 2 * inner_products(query.vectors, candidates) - qq - tt


class TransE(Euclidean):
    """q = h + r."""

    def own_std(self) -> float:
        return float(self.dim**-0.5)

    def translate(self, heads: Tensor, relations: Tensor) -> tuple[Tensor, Tensor | None]:
        return heads + self.rows(self.relations, relations), None


class DistE(Euclidean):
    """q = h * r."""

    def translate(self, heads: Tensor, relations: Tensor) -> tuple[Tensor, Tensor | None]:
        return heads * self.rows(self.relations, relations), None


class RefE(Euclidean):
    """q = Ref_r(h) + r. A relation is [translation | angles], ``2 dim`` wide."""

    def initial_relations(self, n: int, std: float, generator: torch.Generator) -> Tensor:
        return torch.cat(
            [std * torch.randn(n, self.dim, generator=generator), angles(n, self.dim, generator)], 1
        )

    def translate(self, heads: Tensor, relations: Tensor) -> tuple[Tensor, Tensor | None]:
        shift, turn = self.rows(self.relations, relations).chunk(2, dim=-1)
        return reflect(turn, heads) + shift, None


class RotE(Euclidean):
    """q = Rot_r(h + r') + r. A relation is [r' | r | angles], ``3 dim`` wide."""

    def initial_relations(self, n: int, std: float, generator: torch.Generator) -> Tensor:
        return torch.cat(
            [std * torch.randn(n, 2 * self.dim, generator=generator), angles(n, self.dim, generator)], 1
        )

    def translate(self, heads: Tensor, relations: Tensor) -> tuple[Tensor, Tensor | None]:
        before, after, turn = self.rows(self.relations, relations).chunk(3, dim=-1)
        return rotate(turn, heads + before) + after, None


def angles(n: int, width: int, generator: torch.Generator) -> Tensor:
    """Initial directions of rotations and reflections, uniform in [-1, 1]: ``[n, width]``."""
    return 2 * torch.rand(n, width, generator=generator) - 1
