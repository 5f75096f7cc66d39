"""Training pairs in batches, with uniform negatives, without Python work for each row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kpi_bench import Csr


@dataclass(frozen=True)
class PairBatch:
    """``users`` and ``positives`` int64 ``[b]``, ``negatives`` int64 ``[b, n]``."""

    users: Tensor
    positives: Tensor
    negatives: Tensor


class NegativeSampler:
    """Draws items that a user has not interacted with, uniformly and without rejection.

    Row u of the matrix holds the sorted positives p_0 < p_1 < ...; p_k - k negatives lie below p_k. The r-th negative is
    therefore r plus the number of k with p_k - k <= r, which one ``searchsorted`` over all rows' (row, p_k - k) finds.
    """

    def __init__(self, matrix: Csr, device: torch.device) -> None:
        self._n_items = matrix.n_columns
        lengths = torch.from_numpy(matrix.lengths())
        row = torch.from_numpy(matrix.row_ids())
        start = torch.from_numpy(matrix.indptr)
        below = torch.from_numpy(matrix.indices.astype("int64")) - (torch.arange(matrix.nnz) - start[row])
        self._keys = (row * (self._n_items + 1) + below).to(device)
        self._start = start[:-1].to(device)
        self._free = (self._n_items - lengths).to(device)

    def has_negatives(self, users: Tensor) -> Tensor:
        """False for users who have interacted with every item, bool ``[b]``."""
        return self._free[users] > 0

    def sample(self, users: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """``n`` negatives for each user (with replacement), int64 ``[b, n]``; every user must have one."""
        free = self._free[users][:, None]
        draw = torch.rand((len(users), n), generator=generator, device=users.device, dtype=torch.float64)
        rank = torch.minimum((draw * free).long(), free - 1)
        found = torch.searchsorted(self._keys, users[:, None] * (self._n_items + 1) + rank, right=True)
        return rank + found - self._start[users][:, None]


class PairSampler:
    """Shuffled batches of the matrix's pairs; each call of :meth:`epoch` is one pass with fresh negatives."""

    def __init__(
        self,
        matrix: Csr,
        *,
        batch_size: int,
        negatives: int,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self._negatives = NegativeSampler(matrix, device)
        users = torch.from_numpy(matrix.row_ids()).to(device)
        items = torch.from_numpy(matrix.indices.astype("int64")).to(device)
        usable = self._negatives.has_negatives(users)
        self._users, self._items = users[usable], items[usable]
        self._batch_size, self._n, self._generator = batch_size, negatives, generator

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self._users) // self._batch_size)

    def epoch(self) -> Iterator[PairBatch]:
        """One pass over all pairs."""
        order = torch.randperm(len(self._users), generator=self._generator, device=self._users.device)
        for rows in order.split(self._batch_size):
            users = self._users[rows]
            yield PairBatch(users, self._items[rows], self._negatives.sample(users, self._n, self._generator))
