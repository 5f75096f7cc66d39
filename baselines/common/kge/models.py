"""Knowledge graph embeddings as one form: a query vector for (head, relation), a vector for each candidate tail, and a score
that needs only their inner product and norms. All candidates of all queries are then one matrix product; no tensor has a
batch x entities x dim shape.

The families are in :mod:`.bilinear`, :mod:`.euclidean` and :mod:`.hyperbolic`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.common.shards import Shard, ShardedRows


@dataclass(frozen=True)
class Query:
    """Queries (h, r, ?): ``vectors [b, dim]``, the heads' ``bias [b]`` or None, and the curvature ``[b or 1, 1]`` of hyperbolic models."""

    vectors: Tensor
    bias: Tensor | None = None
    curvature: Tensor | None = None


@dataclass(frozen=True)
class Candidates:
    """Possible tails: ``vectors [n, dim]`` and ``bias [n]`` shared by all queries, or ``[b, k, dim]`` and ``[b, k]``, own ones of each query."""

    vectors: Tensor
    bias: Tensor | None = None


class KgeModel(nn.Module):
    """Entity ``[E, dim]`` and relation ``[2 R, width]`` tables: relation r + R is the reciprocal of r, so heads are answered as tails.

    ``bias`` adds learned b_h[h] + b_t[t] to every score. ``init_std`` is the deviation of the initial tables (0: the model's own);
    angles and DistMult's relations do not follow it.
    With ``sparse_rows`` lookups give sparse gradients, so that a step touches only the rows of its batch. With ``shard`` this process
    holds only its rows of what is of entities; candidates are then its own.
    """

    def __init__(
        self,
        n_entities: int,
        n_relations: int,
        dim: int,
        generator: torch.Generator,
        *,
        bias: bool = False,
        init_std: float = 0.0,
        sparse_rows: bool = False,
        shard: Shard | None = None,
    ) -> None:
        super().__init__()
        self.n_entities, self.n_relations, self.dim = n_entities, n_relations, dim
        self.sparse_rows = sparse_rows
        std = init_std or self.own_std()
        self.head_bias = self.tail_bias = None
        if shard is None:
            self.entities = nn.Parameter(std * torch.randn(n_entities, dim, generator=generator))
        else:
            self.entities = ShardedRows.of(shard.normal(dim, generator).mul_(std), shard)
        self.relations = nn.Parameter(self.initial_relations(2 * n_relations, std, generator))
        if bias:
            self.head_bias, self.tail_bias = self._bias(), self._bias()

    def own_std(self) -> float:
        """The deviation of the initial tables where none is asked for."""
        return 1e-3

    def initial_relations(self, n: int, std: float, generator: torch.Generator) -> Tensor:
        """The initial relation table ``[n, width]``."""
        return std * torch.randn(n, self.dim, generator=generator)

    def _bias(self) -> nn.Parameter:
        zeros = torch.zeros(len(self.entities), 1)
        if isinstance(self.entities, ShardedRows):
            return ShardedRows.of(zeros, self.entities.shard)
        return nn.Parameter(zeros)

    def rows(self, table: Tensor, ids: Tensor) -> Tensor:
        """Rows of a table, whoever holds them; the gradient is sparse when ``sparse_rows``."""
        if isinstance(table, ShardedRows):
            return table.lookup(ids)
        return functional.embedding(ids, table, sparse=self.sparse_rows)

    def rows_of(self, *ids: Tensor) -> tuple[Tensor, ...]:
        """The entities' rows of each of some int64 ``[n]`` in one look-up: the gradient of each look-up is as large as the table."""
        return self.rows(self.entities, torch.cat(ids)).split([len(some) for some in ids])

    def query(self, heads: Tensor, relations: Tensor, rows: Tensor | None = None) -> Query:
        """Queries (head, relation, ?), ids int64 ``[b]``; ``rows`` are the heads' ``[b, dim]``, where they have been looked up."""
        head_bias = None if self.head_bias is None else self.rows(self.head_bias, heads).squeeze(-1)
        if rows is None:
            rows = self.rows(self.entities, heads)
        vectors, curvature = self.translate(rows, relations)
        return Query(vectors, head_bias, curvature)

    def translate(self, heads: Tensor, relations: Tensor) -> tuple[Tensor, Tensor | None]:
        """Query vectors ``[b, dim]`` of head vectors ``[b, dim]`` and relation ids, and the curvature where there is one."""
        raise NotImplementedError

    def candidates(self, ids: Tensor | None = None, rows: Tensor | None = None) -> Candidates:
        """Candidate tails: all entities (of a shard: its own), or those of ``ids`` int64 ``[n]`` or ``[b, k]``; ``rows`` are theirs, where
        they have been looked up."""
        if ids is None:
            bias = None if self.tail_bias is None else self.tail_bias.squeeze(-1)
            return Candidates(self.entities, bias)
        bias = None if self.tail_bias is None else self.rows(self.tail_bias, ids).squeeze(-1)
        return Candidates(self.rows(self.entities, ids) if rows is None else rows, bias)

    def scores(self, query: Query, candidates: Candidates) -> Tensor:
        """Scores ``[b, n]`` (or ``[b, k]`` of own candidates); higher is more plausible."""
        scores = self.similarity(query, candidates.vectors)
        if query.bias is not None:
            scores = scores + query.bias[:, None]
        if candidates.bias is not None:
            scores = scores + candidates.bias
        return scores

    def similarity(self, query: Query, candidates: Tensor) -> Tensor:
        """Scores without biases, ``[b, n]`` or ``[b, k]``."""
        raise NotImplementedError

    def forward(self, heads: Tensor, relations: Tensor, tails: Tensor | None = None) -> Tensor:
        """Scores of (heads, relations) against ``tails``: None (all entities), int64 ``[n]`` (shared) or ``[b, k]`` (own)."""
        return self.scores(self.query(heads, relations), self.candidates(tails))

    def moduli(self, rows: Tensor) -> Tensor:
        """Absolute value of each coordinate, ``[b, coordinates]``: what N3 and DURA weigh."""
        return rows.abs()


def inner_products(query: Tensor, candidates: Tensor) -> Tensor:
    """``[b, dim]`` with shared ``[n, dim]`` -> ``[b, n]``; with own ``[b, k, dim]`` -> ``[b, k]``."""
    if candidates.dim() == 2:
        return query @ candidates.T
    return torch.bmm(candidates, query[:, :, None]).squeeze(-1)


def squared_norms(query: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """|q|^2 as ``[b, 1]`` and |y|^2 as ``[n]`` or ``[b, k]``: both broadcast to the shape of the scores."""
    return query.square().sum(-1, keepdim=True), candidates.square().sum(-1)
