"""DistMult (arXiv 1412.6575) and ComplEx (arXiv 1606.06357): the score is an inner product."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.common.kge.models import KgeModel, Query, inner_products

SMALL = 1e-12


class Bilinear(KgeModel):
    """score = <q(h, r), t>, linear in each of the three, so relations can be predicted by a matrix product too."""

    def translate(self, heads: Tensor, relations: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.compose(heads, self.rows(self.relations, relations)), None

    def compose(self, heads: Tensor, relations: Tensor) -> Tensor:
        """Query vectors from head and relation vectors, ``[b, dim]``."""
        raise NotImplementedError

    def relation_query(self, heads: Tensor, tails: Tensor) -> Tensor:
        """Vectors ``[b, dim]`` whose inner products with ``relations`` score (h, ?, t), from head and tail vectors ``[b, dim]``."""
        raise NotImplementedError

    def similarity(self, query: Query, candidates: Tensor) -> Tensor:
        return inner_products(query.vectors, candidates)


class DistMult(Bilinear):
    """<h, r, t>."""

    def own_std(self) -> float:
        return float(self.dim**-0.5)

    def initial_relations(self, n: int, std: float, generator: torch.Generator) -> Tensor:
        # Around one: a product of three small numbers would start with vanishing gradients.
        return 1 + 0.1 * torch.randn(n, self.dim, generator=generator)

    def compose(self, heads: Tensor, relations: Tensor) -> Tensor:
        return heads * relations

    def relation_query(self, heads: Tensor, tails: Tensor) -> Tensor:
        return heads * tails


class ComplEx(Bilinear):
    """Re(sum h r conj(t)) with ``dim`` reals an entity, stored as [real parts | imaginary parts]; ``dim`` is even."""

    def compose(self, heads: Tensor, relations: Tensor) -> Tensor:
        h_re, h_im = heads.chunk(2, dim=-1)
        r_re, r_im = relations.chunk(2, dim=-1)
        return torch.cat([h_re * r_re - h_im * r_im, h_re * r_im + h_im * r_re], dim=-1)

    def relation_query(self, heads: Tensor, tails: Tensor) -> Tensor:
        h_re, h_im = heads.chunk(2, dim=-1)
        t_re, t_im = tails.chunk(2, dim=-1)
        return torch.cat([h_re * t_re + h_im * t_im, h_re * t_im - h_im * t_re], dim=-1)

    def moduli(self, rows: Tensor) -> Tensor:
        re, im = rows.chunk(2, dim=-1)
        # The root has no gradient at zero, where pruning puts whole coordinates.
        return (re.square() + im.square() + SMALL).sqrt()
