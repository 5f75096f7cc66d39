"""The linked subgraph of a student: local entities and triples, and a sample of what the union graph adds around them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.common.paths.graph import PathGraph
from baselines.common.paths.random_numbers import keys
from baselines.jplr.union import UnionGraph, triple_keys
from kpi_bench.errors import SubmissionError

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LinkedGraph:
    """Nodes ``0..n_local - 1`` are the local entities ``local`` int64 ``[n_local]`` (ids of their KG), those behind are source-only.

    ``origin`` int64 ``[n_nodes]`` and ``relation_origin`` int64 ``[n_relations]`` are the union ids of nodes and forward relations. The
    local KG's relations keep their ids; of the others those that occur stand behind. ``triples`` int64 ``[m, 3]``, distinct: the first
    ``n_own`` are the local ones, the others were brought. ``bridges`` bool ``[n_nodes]`` marks the local nodes that brought triples touch.
    ``union_relations`` counts the union's forward relations.
    """

    local: Ints
    origin: Ints
    relation_origin: Ints
    triples: Ints
    n_own: int
    bridges: Flags
    union_relations: int

    @property
    def n_local(self) -> int:
        return len(self.local)

    @property
    def n_nodes(self) -> int:
        return len(self.origin)

    @property
    def n_relations(self) -> int:
        """Forward relations."""
        return len(self.relation_origin)

    @cached_property
    def graph(self) -> PathGraph:
        """All triples, both ways."""
        return PathGraph.of_edges(*self.triples.T, n_nodes=self.n_nodes, n_forward=self.n_relations)

    @cached_property
    def to_union(self) -> PathMap:
        """Turns paths of :attr:`graph` into paths of union ids, as the teacher reads them."""
        both = (self.relation_origin, self.relation_origin + self.union_relations)
        return PathMap(*(torch.from_numpy(np.append(ids, -1)) for ids in (self.origin, np.concatenate(both))))


@dataclass(frozen=True, eq=False)
class PathMap:
    """New ids of nodes int64 ``[n_nodes + 1]`` and of relations of both directions int64 ``[2 * n_relations + 1]``; the last, which -1 selects, is -1."""

    nodes: Tensor
    relations: Tensor

    def __call__(self, paths: Tensor) -> Tensor:
        """int64 paths ``[..., width]`` (node, relation, node, ...) in the new ids, on the map's device; -1 stays -1."""
        mapped = torch.empty_like(paths)
        mapped[..., ::2] = self.nodes[paths[..., ::2]]
        mapped[..., 1::2] = self.relations[paths[..., 1::2]]
        return mapped

    def to(self, device: torch.device) -> PathMap:
        return PathMap(self.nodes.to(device), self.relations.to(device))


def linked_graph(
    union: UnionGraph,
    kg: str,
    local: Ints,
    own_triples: Ints,
    *,
    withheld: Ints,
    hops: int,
    per_entity: int,
    seed: int,
) -> LinkedGraph:
    """The graph that a student of KG ``kg`` is trained on: ``own_triples`` int64 ``[m, 3]`` among ``local`` int64 ``[n]`` (the KG's ids), and what is brought.

    An entity of another KG that is linked to a local one is merged with it (with the lowest of several); triples of the union's KGs that
    become equal are one, and those that become loops are left out. In each of ``hops`` rounds every entity that came last (at first the
    local ones) brings up to ``per_entity`` triples of the union that touch it and are not there yet, drawn without replacement by lots that
    depend on ``seed`` and the union alone. Nothing is brought that ``union.triples`` (so, of this KG, its own triples) does not hold, nor
    any of ``withheld`` int64 ``[k, 3]``, triples of the KG that training must not see.

    Raises:
        SubmissionError: no such KG, ids out of range, repeated local entities or triples, an own triple that leaves the local entities, or a negative size.
    """
    entities, relations = union.entities_of(kg), union.relations_of(kg)
    _check(local, own_triples, len(entities), len(relations), hops, per_entity)
    home = local + entities.start
    offsets = np.array([entities.start, relations.start, entities.start])
    own = own_triples + offsets
    pool, numbers = _merged(union, home)
    barred = np.concatenate([own, withheld + offsets])
    fresh = ~np.isin(_keys(pool, union), _keys(barred, union))
    brought = _brought(pool[fresh], numbers[fresh], home, union.n_entities, hops, per_entity, seed)
    triples = np.concatenate([own, brought])

    beyond = np.setdiff1d(triples[:, ::2], home)
    origin = np.concatenate([home, beyond])
    others = np.setdiff1d(triples[:, 1], relations)
    relation_origin = np.concatenate([np.asarray(relations, dtype=np.int64), others])
    node_of, relation_of = _inverse(origin, union.n_entities), _inverse(relation_origin, union.n_relations)
    numbered = np.stack([node_of[triples[:, 0]], relation_of[triples[:, 1]], node_of[triples[:, 2]]], axis=1)
    bridges = np.zeros(len(origin), dtype=np.bool_)
    bridges[numbered[len(own) :, ::2]] = True
    bridges[len(local) :] = False
    return LinkedGraph(local, origin, relation_origin, numbered, len(own), bridges, union.n_relations)


def _merged(union: UnionGraph, home: Ints) -> tuple[Ints, Ints]:
    """Distinct triples of the union after merging into the local entities ``home``, and the number in ``union.triples`` of the first of each."""
    is_local = _flags(home, union.n_entities)
    both = np.concatenate([union.links, union.links[:, ::-1]])
    both = both[is_local[both[:, 0]]]
    into = np.full(union.n_entities, union.n_entities)
    np.minimum.at(into, both[:, 1], both[:, 0])
    into = np.where(into < union.n_entities, into, np.arange(union.n_entities))
    pool = union.triples.copy()
    pool[:, ::2] = into[pool[:, ::2]]
    was_loop = union.triples[:, 0] == union.triples[:, 2]
    kept = np.flatnonzero((pool[:, 0] != pool[:, 2]) | was_loop)
    _, first = np.unique(_keys(pool[kept], union), return_index=True)
    numbers = np.sort(kept[first])
    return pool[numbers], numbers


def _brought(
    pool: Ints, numbers: Ints, home: Ints, n_entities: int, hops: int, per_entity: int, seed: int
) -> Ints:
    """The triples of ``pool`` int64 ``[m, 3]`` that the rounds bring, in its order."""
    rows = np.arange(len(pool))
    once = rows[pool[:, 0] != pool[:, 2]]
    rows = np.concatenate([rows, once])
    ends = np.concatenate([pool[:, 0], pool[once, 2]])
    # A number for each end of each triple of the union, so that draws do not depend on what else is local.
    streams = np.concatenate([2 * numbers, 2 * numbers[once] + 1])
    lots = keys(seed, torch.from_numpy(streams)).numpy()
    taken = np.zeros(len(pool), dtype=np.bool_)
    known = _flags(home, n_entities)
    frontier = known
    for _ in range(hops):
        free = np.flatnonzero(frontier[ends] & ~taken[rows])
        drawn = rows[free[_lowest(ends[free], lots[free], per_entity)]]
        taken[drawn] = True
        frontier = _flags(pool[drawn][:, ::2], n_entities) & ~known
        known = known | frontier
    return pool[taken]


def _lowest(groups: Ints, lots: Ints, k: int) -> Ints:
    """Positions of the ``k`` lowest lots of each group."""
    order = np.lexsort((lots, groups))
    ordered = groups[order]
    place = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return order[place < k]


def _keys(triples: Ints, union: UnionGraph) -> Ints:
    return triple_keys(triples, union.n_entities, union.n_relations)


def _flags(ids: Ints, n: int) -> Flags:
    flags = np.zeros(n, dtype=np.bool_)
    flags[ids] = True
    return flags


def _inverse(ids: Ints, n: int) -> Ints:
    """Place of each of ``n`` numbers in the distinct ``ids``; -1: none."""
    places = np.full(n, -1, dtype=np.int64)
    places[ids] = np.arange(len(ids))
    return places


def _check(
    local: Ints, own_triples: Ints, n_entities: int, n_relations: int, hops: int, per_entity: int
) -> None:
    if hops < 0 or per_entity < 1:
        raise SubmissionError(
            f"a linked subgraph needs hops >= 0 and at least one triple per entity; got {hops} and {per_entity}"
        )
    for ids, limit, what in (
        (local, n_entities, "local entities"),
        (own_triples[:, 1], n_relations, "relations"),
    ):
        if len(ids) and (ids.min() < 0 or ids.max() >= limit):
            raise SubmissionError(
                f"{what} must be in 0..{limit - 1} of their KG; found {ids.min()}..{ids.max()}"
            )
    if len(np.unique(local)) < len(local):
        raise SubmissionError(
            f"{len(local) - len(np.unique(local))} local entities are repeated; give each once"
        )
    outside = ~np.isin(own_triples[:, ::2], local).all(1)
    if outside.any():
        raise SubmissionError(
            f"{outside.sum()} own triples leave the local entities, first {own_triples[outside][0].tolist()}; "
            "both ends must be local"
        )
    if len(np.unique(triple_keys(own_triples, n_entities, n_relations))) < len(own_triples):
        raise SubmissionError("own triples are repeated; give each once")
