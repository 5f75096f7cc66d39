"""The two query modules of PKGM."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.common.device import counts


class PkgmModel(nn.Module):
    """Entities ``[E, d]``, relations ``[R, d]``, and one matrix a relation, ``[R, d, d]``; no norm is constrained.

    Scores are distances: lower is more plausible. All start from normal numbers of variance 1 / d, so that h, r and M_r h have
    length one.
    """

    def __init__(self, n_entities: int, n_relations: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.n_entities, self.n_relations, self.dim = n_entities, n_relations, dim

        def table(*shape: int) -> nn.Parameter:
            return nn.Parameter(dim**-0.5 * torch.randn(*shape, generator=generator))

        self.entities = table(n_entities, dim)
        self.relations = table(n_relations, dim)
        self.matrices = table(n_relations, dim, dim)

    def triple_scores(self, heads: Tensor, relations: Tensor, tails: Tensor) -> Tensor:
        """f_T = |h + r - t|_1 of ids int64 ``[b]``, ``[b]``: does the triple hold?"""
        translated = self._entities(heads) + functional.embedding(relations, self.relations)
        return (translated - self._entities(tails)).abs().sum(1)

    def relation_scores(self, heads: Tensor, relations: Tensor) -> Tensor:
        """f_R = |M_r h - r|_1 of ids int64 ``[b]``, ``[b]``: does the entity have the relation?"""
        asked = grouped_product(self.matrices, relations, self._entities(heads))
        return (asked - functional.embedding(relations, self.relations)).abs().sum(1)

    def forward(self, triples: Tensor) -> Tensor:
        """f = f_T + f_R of triples int64 ``[b, 3]``, ``[b]``."""
        heads, relations, tails = triples.unbind(1)
        return self.triple_scores(heads, relations, tails) + self.relation_scores(heads, relations)

    def _entities(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self.entities)


def grouped_product(matrices: Tensor, groups: Tensor, vectors: Tensor) -> Tensor:
    """``matrices[groups[i]] @ vectors[i]`` of each row: ``[n, d, d]``, int64 ``[b]``, ``[b, d]`` -> ``[b, d]``.

    Rows are sorted by group, and each group is one matrix product: gathering a matrix a row would make a ``[b, d, d]`` tensor,
    and takes 37 times as long at 8,192 rows.
    """
    order = torch.argsort(groups)
    sizes = counts(groups, len(matrices)).tolist()  # a GPU is waited for: once a step
    parts = torch.split(vectors.index_select(0, order), sizes)
    products = [part @ matrix.T for part, matrix in zip(parts, matrices.unbind(), strict=True)]
    return torch.empty_like(vectors).index_copy(0, order, torch.cat(products))
