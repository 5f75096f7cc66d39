"""TransE (Bordes et al., 2013) and DistMult (arXiv 1412.6575) as one form: score(q, t) = <query(h, r), t> + bias(t), up to what is
constant for a query. All candidates of all queries are then one matrix product; no tensor has a batch x entities x dim shape."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from kpi_bench.errors import SubmissionError


class KgeModel(nn.Module):
    """Entity ``[E, dim]`` and relation ``[2 R, dim]`` tables: relation r + R is the reciprocal of r, so heads are answered as tails."""

    def __init__(self, n_entities: int, n_relations: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.n_relations = n_relations
        self.entities = nn.Parameter(torch.randn(n_entities, dim, generator=generator) * dim**-0.5)
        self.relations = nn.Parameter(self._initial_relations(2 * n_relations, dim, generator))

    def _initial_relations(self, n: int, dim: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, dim, generator=generator) * dim**-0.5

    def queries(self, heads: Tensor, relations: Tensor) -> Tensor:
        """Query vectors ``[b, dim]`` of (head, relation, ?), ids int64 ``[b]``."""
        raise NotImplementedError

    def scores(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Scores ``[b, n]`` of query vectors against candidate entity vectors ``[n, dim]``; higher is more plausible."""
        raise NotImplementedError

    def pair_scores(self, queries: Tensor, targets: Tensor) -> Tensor:
        """Scores ``[b]`` of each query against its own target vector ``[b, dim]``."""
        raise NotImplementedError


class DistMult(KgeModel):
    """<h, r, t>."""

    def _initial_relations(self, n: int, dim: int, generator: torch.Generator) -> Tensor:
        # Around one: a product of three small numbers would start with vanishing gradients.
        return 1 + 0.1 * torch.randn(n, dim, generator=generator)

    def queries(self, heads: Tensor, relations: Tensor) -> Tensor:
        return functional.embedding(heads, self.entities) * functional.embedding(relations, self.relations)

    def scores(self, queries: Tensor, candidates: Tensor) -> Tensor:
        return queries @ candidates.T

    def pair_scores(self, queries: Tensor, targets: Tensor) -> Tensor:
        return (queries * targets).sum(-1)


class TransE(KgeModel):
    """-||h + r - t||^2: the squared L2 norm, whose expansion is a matrix product."""

    def queries(self, heads: Tensor, relations: Tensor) -> Tensor:
        return functional.embedding(heads, self.entities) + functional.embedding(relations, self.relations)

    def scores(self, queries: Tensor, candidates: Tensor) -> Tensor:
        norms = candidates.square().sum(-1) + queries.square().sum(-1, keepdim=True)
        return 2 * (queries @ candidates.T) - norms

    def pair_scores(self, queries: Tensor, targets: Tensor) -> Tensor:
        return -(queries - targets).square().sum(-1)


MODELS: Mapping[str, type[KgeModel]] = {"distmult": DistMult, "transe": TransE}


def create_model(
    name: str, n_entities: int, n_relations: int, dim: int, generator: torch.Generator
) -> KgeModel:
    """A model by name, freshly initialised."""
    if name not in MODELS:
        raise SubmissionError(f"unknown KGE model {name!r}; use one of {', '.join(MODELS)}")
    return MODELS[name](n_entities, n_relations, dim, generator)
