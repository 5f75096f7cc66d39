"""Partial paths of a block of users while they are decoded."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


@dataclass(frozen=True, eq=False)
class Lanes:
    """Sampling lanes: the user and partial path of each, int64 ``[n]``, and its uniform numbers float64 ``[n, steps]``."""

    users: Tensor
    rows: Tensor
    uniform: Tensor


@dataclass(frozen=True, eq=False)
class Partial:
    """Partial paths of users ``first .. first + n_users - 1``, in order of users and, within one, of the graph.

    ``users`` int64 ``[n]`` counted from ``first``, ``paths`` int64 ``[n, t]``, ``scores`` float32 ``[n]`` (log-probability so far), ``states [n, d]`` after
    the last token, ``groups`` int64 ``[n]`` of edges that the last token, a relation, opens.
    """

    first: int
    n_users: int
    users: Tensor
    paths: Tensor
    scores: Tensor
    states: Tensor
    groups: Tensor
    cache: DynamicCache
    lanes: Lanes | None = None

    def split(self) -> tuple[Partial, Partial]:
        """The first half of the users, and the others."""
        middle = self.n_users // 2
        row = int(torch.searchsorted(self.users, middle))
        return self._part(0, middle, slice(0, row)), self._part(
            middle, self.n_users, slice(row, len(self.users))
        )

    def _part(self, start: int, end: int, rows: slice) -> Partial:
        cache = copy.deepcopy(self.cache)
        keep_rows(cache, torch.arange(rows.start, rows.stop, device=self.users.device))
        lanes = self.lanes
        if lanes is not None:
            inside = (lanes.users >= start) & (lanes.users < end)
            lanes = Lanes(lanes.users[inside] - start, lanes.rows[inside] - rows.start, lanes.uniform[inside])
        return Partial(
            self.first + start,
            end - start,
            self.users[rows] - start,
            self.paths[rows],
            self.scores[rows],
            self.states[rows],
            self.groups[rows],
            cache,
            lanes,
        )


def ends_of_users(part: Partial, ends: Tensor) -> Tensor:
    """Where the candidates of each user begin and end, given where those of each row do."""
    rows = torch.arange(part.n_users + 1, device=ends.device)
    return ends[torch.searchsorted(part.users, rows)]


def keep_rows(cache: Any, rows: Tensor) -> None:
    """Keeps the given rows of a cache, in their order."""
    cache.reorder_cache(rows)
