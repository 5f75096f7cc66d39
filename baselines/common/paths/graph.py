"""The graph that paths run over: directed edges with their relation, each edge also backwards."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from baselines.common.paths import random_numbers
from kpi_bench import KnowledgeGraph
from kpi_bench._sorted import edges_in_order
from kpi_bench.errors import SubmissionError

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PathGraph:
    """Edges of node v are ``indptr[v]:indptr[v + 1]``, sorted by (relation, neighbour); several relations may join two nodes.

    ``indptr`` int64 ``[n_nodes + 1]``; ``neighbours`` and ``relations`` int32 ``[n_edges]``. Relation ``r`` of the ``n_forward`` given ones
    runs backwards as ``r + n_forward``.
    """

    indptr: Ints
    neighbours: NDArray[np.int32]
    relations: NDArray[np.int32]
    n_forward: int

    @classmethod
    def of_edges(
        cls,
        heads: Ints,
        relations: Ints,
        tails: Ints,
        *,
        n_nodes: int,
        n_forward: int,
        one_way: int | None = None,
    ) -> PathGraph:
        """From int64 ``[n]`` columns of distinct edges. Each also runs from tail to head, but for those of relation ``one_way``.

        Raises:
            SubmissionError: a node or relation is out of range, or there are more nodes than int32 can number.
        """
        _check(np.concatenate([heads, tails]), n_nodes, "node")
        _check(relations, n_forward, "relation")
        if max(n_nodes, 2 * n_forward) > np.iinfo(np.int32).max:
            raise SubmissionError(f"a path graph of {n_nodes} nodes is beyond int32; walk over a part of it")
        back = np.flatnonzero(relations != (-1 if one_way is None else one_way))
        heads, tails = np.concatenate([heads, tails[back]]), np.concatenate([tails, heads[back]])
        relations = np.concatenate([relations, relations[back] + n_forward])
        indptr = np.zeros(n_nodes + 1, dtype=np.int64)
        np.cumsum(np.bincount(heads, minlength=n_nodes), out=indptr[1:])
        return cls(indptr, *edges_in_order(heads, relations, tails, n_nodes, 2 * n_forward), n_forward)

    @classmethod
    def of_kg(cls, kg: KnowledgeGraph) -> PathGraph:
        """All triples of a KG, both ways; nodes are its entities."""
        return cls.of_edges(kg.heads, kg.relations, kg.tails, n_nodes=kg.n_entities, n_forward=kg.n_relations)

    @property
    def n_nodes(self) -> int:
        return len(self.indptr) - 1

    @property
    def n_edges(self) -> int:
        return len(self.neighbours)

    @property
    def n_relations(self) -> int:
        """Relations of both directions."""
        return 2 * self.n_forward

    def degrees(self) -> Ints:
        """Number of edges of each node, int64 ``[n_nodes]``."""
        return np.diff(self.indptr)

    def has_edges(self, heads: Ints, relations: Ints, tails: Ints) -> NDArray[np.bool_]:
        """Which of the given edges exist, bool ``[n]``; ids out of range are no edges."""
        keys = self.edge_keys
        known = (heads >= 0) & (heads < self.n_nodes) & (tails >= 0) & (tails < self.n_nodes)
        known &= (relations >= 0) & (relations < self.n_relations)
        wanted = np.where(known, self._key(heads, relations, tails), -1)
        if len(keys) == 0:
            return np.zeros(len(wanted), dtype=np.bool_)
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found: NDArray[np.bool_] = keys[place] == wanted
        return found

    def capped(self, limit: int, keep: int, *, seed: int) -> PathGraph:
        """The graph with hubs thinned: a node of more than ``limit`` edges keeps ``keep`` of them, drawn evenly.

        An edge has one random number, a function of the seed and of its head, relation and tail, which serves both directions and
        both ends: a hub keeps the edges of its smallest numbers, and what one end drops is gone in both directions. So a hub keeps
        fewer than ``keep`` only next to other hubs, or by one for a self-loop, which counts twice.

        Raises:
            SubmissionError: not ``1 <= keep <= limit``.
        """
        if not 1 <= keep <= limit:
            raise SubmissionError(
                f"a capped graph keeps 1..limit edges of a hub; got limit {limit} and keep {keep}"
            )
        hubs = self.degrees() > limit
        if not hubs.any():
            return self
        heads = self._heads
        touching = np.flatnonzero(hubs[heads] | hubs[self.neighbours])
        heads, tails = heads[touching], self.neighbours[touching].astype(np.int64)
        numbers = self._edge_numbers(heads, self.relations[touching].astype(np.int64), tails, seed)
        own = np.flatnonzero(hubs[heads])  # by head, as all edges
        ranked = numbers[own][np.lexsort((numbers[own], heads[own]))]
        degrees = self.degrees()[hubs]
        least_dropped = np.zeros(self.n_nodes, dtype=np.int64)
        least_dropped[hubs] = ranked[np.cumsum(degrees) - degrees + keep]
        dropped = hubs[heads] & (numbers >= least_dropped[heads])
        dropped |= hubs[tails] & (numbers >= least_dropped[tails])
        kept = np.ones(self.n_edges, dtype=np.bool_)
        kept[touching[dropped]] = False
        indptr = np.concatenate([[0], np.cumsum(kept)])[self.indptr]
        return PathGraph(indptr, self.neighbours[kept], self.relations[kept], self.n_forward)

    @cached_property
    def ranges(self) -> Ranges:
        """The nodes that each relation leads to."""
        keys, places = np.unique(
            self.relations.astype(np.int64) * self.n_nodes + self.neighbours, return_inverse=True
        )
        relation, node = np.divmod(keys, max(self.n_nodes, 1))
        indptr = np.zeros(self.n_relations + 1, dtype=np.int64)
        np.cumsum(np.bincount(relation, minlength=self.n_relations), out=indptr[1:])
        return Ranges(indptr, node, (places - indptr[self.relations]).astype(np.int32))

    @cached_property
    def edge_keys(self) -> Ints:
        """(head * n_relations + relation) * n_nodes + tail of each edge: ascending, int64 ``[n_edges]``."""
        return self._key(self._heads, self.relations.astype(np.int64), self.neighbours.astype(np.int64))

    @property
    def _heads(self) -> Ints:
        return np.repeat(np.arange(self.n_nodes, dtype=np.int64), self.degrees())

    def _key(self, heads: Ints, relations: Ints, tails: Ints) -> Ints:
        return (heads * self.n_relations + relations) * self.n_nodes + tails

    def _edge_numbers(self, heads: Ints, relations: Ints, tails: Ints, seed: int) -> Ints:
        """A random int64 for each edge, the same for both of its directions and for no other edge."""
        back = relations >= self.n_forward
        forward = self._key(
            np.where(back, tails, heads),
            np.where(back, relations - self.n_forward, relations),
            np.where(back, heads, tails),
        )
        numbers: Ints = random_numbers.keys(seed, torch.from_numpy(forward)).numpy()
        return numbers


@dataclass(frozen=True, eq=False)
class Ranges:
    """Relation r leads to ``nodes[indptr[r]:indptr[r + 1]]``, ascending; edge e leads to number ``places[e]`` of its relation's nodes.

    ``indptr`` int64 ``[n_relations + 1]``, ``nodes`` int64, ``places`` int32 ``[n_edges]``.
    """

    indptr: Ints
    nodes: Ints
    places: NDArray[np.int32]


def _check(ids: Ints, limit: int, what: str) -> None:
    if len(ids) and (ids.min() < 0 or ids.max() >= limit):
        raise SubmissionError(
            f"a path graph's {what} ids must be in 0..{limit - 1}; found {ids.min()}..{ids.max()}"
        )
