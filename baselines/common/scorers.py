"""What ranks items once a model is trained: inner products of two tables, or two tables and a decoder that is no inner product."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.common.top_k import rank_by_scores, row_blocks
from kpi_bench import Csr, RecommendationQueries, TopK
from kpi_bench.evaluators.ranking import (
    rank_positives_from_factors,
    rank_positives_from_scores,
    top_k_from_factors,
)

Ints = NDArray[np.int64]

_PAIRS = 1 << 14
"""User-item pairs decoded at a time on a CPU: with a few dozen float32 each they stay in its cache."""
_DEVICE_PAIRS = 1 << 21


class Scorer(Protocol):
    """A trained recommender's scores of all items for any user, float32. Memory is O(block x items) whatever the number of users."""

    def ranks(self, users: Ints, positives: Csr, exclude: Csr, order: Ints) -> Ints:
        """Rank from 1 of each positive, int64 ``[nnz]``; row n of ``positives`` and ``exclude`` belongs to ``users[n]``."""
        ...

    def top_k(self, queries: RecommendationQueries) -> TopK:
        """The lists of all queried users."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """All numbers that scoring reads, by name: what must be shipped to serve."""
        ...

    def to(self, device: str) -> Scorer:
        """The same scorer on a device."""
        ...


def is_finite(scorer: Scorer) -> bool:
    """Whether no number of a scorer is NaN or infinite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in scorer.tensors().values())


@dataclass(frozen=True, eq=False)
class FactorScorer:
    """Inner products of ``users`` ``[U, d]`` and ``items`` ``[I, d]``, float32 without a gradient."""

    users: Tensor
    items: Tensor

    def ranks(self, users: Ints, positives: Csr, exclude: Csr, order: Ints) -> Ints:
        return rank_positives_from_factors(
            self.users.cpu().numpy()[users],
            self.items.cpu().numpy(),
            positives,
            exclude,
            order,
            device=str(self.users.device),
        )

    def top_k(self, queries: RecommendationQueries) -> TopK:
        return top_k_from_factors(
            self.users.cpu().numpy()[queries.users],
            self.items.cpu().numpy(),
            queries.exclude,
            queries.k,
            queries.tie_order,
            device=str(self.users.device),
        )

    def tensors(self) -> Mapping[str, Tensor]:
        return {"users": self.users, "items": self.items}

    def to(self, device: str) -> FactorScorer:
        return FactorScorer(self.users.to(device), self.items.to(device))


@dataclass(frozen=True, eq=False)
class DecoderScorer:
    """``decoder`` makes scores ``[b, n]`` of user rows ``[b, 1, w]`` and item rows ``[n, w]`` of the tables ``users`` and ``items``.

    It may hold ``b * n * w`` numbers on the way: it gets few users at a time.
    """

    users: Tensor
    items: Tensor
    decoder: nn.Module

    def ranks(self, users: Ints, positives: Csr, exclude: Csr, order: Ints) -> Ints:
        blocks = (self._block(users[rows]) for rows in row_blocks(len(users), len(order)))
        return rank_positives_from_scores(blocks, positives, exclude, order)

    def top_k(self, queries: RecommendationQueries) -> TopK:
        return rank_by_scores(queries, self._block)

    def tensors(self) -> Mapping[str, Tensor]:
        return {"users": self.users, "items": self.items, **self.decoder.state_dict(prefix="decoder.")}

    def to(self, device: str) -> DecoderScorer:
        return DecoderScorer(
            self.users.to(device), self.items.to(device), copy.deepcopy(self.decoder).to(device)
        )

    @torch.no_grad()
    def _block(self, users: Ints) -> NDArray[np.float32]:
        """All items' scores, float32 ``[len(users), I]`` on the host."""
        device = self.items.device
        scores = torch.empty(len(users), len(self.items))
        pairs = _PAIRS if device.type == "cpu" else _DEVICE_PAIRS
        for rows in row_blocks(len(users), len(self.items), pairs):
            chosen = self.users[torch.from_numpy(users[rows]).to(device)]
            scores[rows] = self.decoder(chosen[:, None], self.items).cpu()
        block: NDArray[np.float32] = scores.numpy()
        return block
