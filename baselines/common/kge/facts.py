"""Training facts: triples in both directions, in shuffled batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def with_reciprocals(triples: NDArray[np.int64], n_relations: int) -> Tensor:
    """Each (h, r, t) and its reciprocal (t, r + R, h), int64 ``[2 n, 3]``, the reciprocals behind."""
    forward = torch.from_numpy(np.ascontiguousarray(triples))
    heads, relations, tails = forward.unbind(1)
    return torch.cat([forward, torch.stack([tails, relations + n_relations, heads], dim=1)])


def batches(facts: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Facts in random order, ``size`` at a time, int64 ``[<= size, 3]``."""
    order = torch.randperm(len(facts), generator=generator, device=facts.device)
    return (facts[rows] for rows in order.split(size))


class GroupedFacts:
    """Facts grouped by query (h, r): a batch has ``size`` distinct queries with all their answers, so that each query is scored
    once an epoch and not once an answer. A batch averages over its facts, whose number varies: in a large one each weighs a little less.
    """

    def __init__(self, facts: Tensor) -> None:
        heads, relations, _ = facts.unbind(1)
        key = heads * (int(relations.max()) + 1) + relations
        self._facts = facts[torch.argsort(key, stable=True)]
        _, counts = torch.unique(key, return_counts=True)
        self._counts = counts
        self._starts = counts.cumsum(0) - counts

    def __len__(self) -> int:
        """Number of distinct queries."""
        return len(self._counts)

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Facts int64 ``[m, 3]`` in which those of one query are adjacent."""
        order = torch.randperm(len(self), generator=generator, device=self._counts.device)
        for queries in order.split(size):
            counts = self._counts[queries]
            first = (self._starts[queries] - (counts.cumsum(0) - counts)).repeat_interleave(counts)
            yield self._facts[first + torch.arange(len(first), device=first.device)]
