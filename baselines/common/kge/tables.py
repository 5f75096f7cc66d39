"""Scores without gradients, with the candidates' side of a model's score worked out once.

The score of a distance model is a monotone function of a matrix product once squared norms join the vectors as extra coordinates:

- flat:     -|q - t|^2 = [q, 1] . [2t, -|t|^2] - |q|^2
- Poincaré: -(4/c) arsinh^2(sqrt w), w = c |q - y|^2 / ((1 - c|q|^2)(1 - c|y|^2)) = c [q, |q|^2, 1] / (1 - c|q|^2) . [-2y, 1, |y|^2] / (1 - c|y|^2)
- bilinear: [q] . [t]

so all entities of a block of queries are one product and a few operations in place.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from baselines.common.kge.bilinear import Bilinear
from baselines.common.kge.euclidean import Euclidean
from baselines.common.kge.geometry import SMALLEST, arsinh_root_, exp0
from baselines.common.kge.hyperbolic import Hyperbolic, fold_points, fold_queries
from baselines.common.kge.models import Candidates, KgeModel, Query

CACHE_ENTRIES = 1 << 19
"""Scores of a block on a CPU (2 MB of float32): its passes stay in the second-level cache or near it."""
DEVICE_ENTRIES = 1 << 26
"""Scores of a block on a GPU, where few large kernels are faster."""
PRODUCT_PER_ANSWER = 40
"""A gathered row of own candidates costs about as much as 40 entries of the product over all (measured on a CPU, 64-d)."""


class CandidateTable:
    """The candidates ``ids`` int64 ``[n]`` of a model (None: all entities), as they are when this is made."""

    @torch.no_grad()
    def __init__(self, model: KgeModel, ids: Tensor | None = None) -> None:
        self._model = model
        self._candidates = model.candidates(ids)
        self._curvature: Tensor | None = None
        self._rows = self._fold(model, self._candidates.vectors)

    def __len__(self) -> int:
        return len(self._candidates.vectors)

    def all(self, query: Query) -> Tensor:
        """Scores of all candidates, ``[b, n]``."""
        if self._rows is None:
            return self._model.scores(query, self._candidates)
        return self._finish(self._queries(query) @ self._rows.T, query, self._candidates.bias)

    def at(self, query: Query, positions: Tensor) -> Tensor:
        """Scores of own candidates, at ``positions`` int64 ``[b, k]`` of the table: ``[b, k]``."""
        bias = self._candidates.bias
        own = None if bias is None else bias[positions]
        if self._rows is None:
            return self._model.scores(query, Candidates(self._candidates.vectors[positions], own))
        queries = self._queries(query)
        if len(self) <= PRODUCT_PER_ANSWER * positions.shape[1]:
            parts = [
                (queries[rows] @ self._rows.T).gather(1, positions[rows])
                for rows in self.blocks(len(queries))
            ]
            products = torch.cat(parts)
        else:
            products = torch.bmm(functional.embedding(positions, self._rows), queries[:, :, None]).squeeze(-1)
        return self._finish(products, query, own)

    def blocks(self, n: int) -> list[slice]:
        """Row ranges of ``n`` queries whose scores of all candidates fit the cache."""
        entries = CACHE_ENTRIES if self._candidates.vectors.device.type == "cpu" else DEVICE_ENTRIES
        size = max(1, entries // max(len(self), 1))
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def _fold(self, model: KgeModel, vectors: Tensor) -> Tensor | None:
        """The candidates' factor ``[n, width]`` of the product, or None for a model whose curvature depends on the query."""
        if isinstance(model, Bilinear):
            return vectors.detach()
        if isinstance(model, Euclidean):
            return torch.cat([2 * vectors, -_square(vectors)], dim=1)
        if isinstance(model, Hyperbolic) and len(model.curvatures) == 1:
            self._curvature = c = functional.softplus(model.curvatures)
            return fold_points(exp0(vectors, c), c)
        return None

    def _queries(self, query: Query) -> Tensor:
        """The queries' factor of the product, ``[b, width]``."""
        vectors = query.vectors
        if isinstance(self._model, Bilinear):
            return vectors
        if self._curvature is None:
            return torch.cat([vectors, torch.ones_like(vectors[:, :1])], dim=1)
        return fold_queries(vectors, self._curvature)

    def _finish(self, products: Tensor, query: Query, bias: Tensor | None) -> Tensor:
        """Scores from products, in place; ``bias`` of the candidates."""
        shift = None if query.bias is None else query.bias[:, None]
        if self._curvature is not None:
            _, reach = arsinh_root_(products.clamp_min_(SMALLEST))
            products = reach.square_().mul_(-4 / self._curvature)
        elif isinstance(self._model, Euclidean):
            square = _square(query.vectors)
            shift = -square if shift is None else shift - square
        if shift is not None:
            products.add_(shift)
        return products if bias is None else products.add_(bias)


def _square(vectors: Tensor) -> Tensor:
    return vectors.square().sum(-1, keepdim=True)
