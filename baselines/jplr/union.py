"""Several KGs as one graph: entities and relations side by side, joined by copies of the linked entities' triples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from baselines.common.paths.graph import PathGraph
from kpi_bench import Csr, KnowledgeGraph, align_by_name, links_between
from kpi_bench.errors import SubmissionError

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class UnionGraph:
    """KGs in one space of ids: entity e of KG k is ``first_entity[k] + e``, relation r is ``first_relation[k] + r``.

    ``triples`` int64 ``[m, 3]`` are the KGs' own, in the order of the KGs. ``links`` int64 ``[k, 2]`` are distinct pairs of entities of
    different KGs, the earlier KG's first, ascending. ``bridges`` bool ``[n_entities]`` marks entities with a link.
    ``n_relations`` counts one direction.
    """

    names: tuple[str, ...]
    first_entity: dict[str, int]
    first_relation: dict[str, int]
    n_entities: int
    n_relations: int
    triples: Ints
    links: Ints
    bridges: NDArray[np.bool_]

    @classmethod
    def of(cls, graphs: Mapping[str, KnowledgeGraph], links: Ints) -> UnionGraph:
        """All triples of the KGs, joined over ``links`` int64 ``[k, 2]``, pairs of union ids in any order (see :func:`given_links`).

        Raises:
            SubmissionError: there is no KG, or a link joins unknown entities or two of the same KG.
        """
        if not graphs:
            raise SubmissionError("a union graph needs at least one KG; this suite has none")
        entity, n_entities = _offsets({name: kg.n_entities for name, kg in graphs.items()})
        relation, n_relations = _offsets({name: kg.n_relations for name, kg in graphs.items()})
        triples = np.concatenate(
            [
                _shifted((kg.heads, entity[name]), (kg.relations, relation[name]), (kg.tails, entity[name]))
                for name, kg in graphs.items()
            ]
        )
        links = _ordered(links, np.array(list(entity.values())), n_entities)
        bridges = np.zeros(n_entities, dtype=np.bool_)
        bridges[links] = True
        return cls(tuple(graphs), entity, relation, n_entities, n_relations, triples, links, bridges)

    def entities_of(self, name: str) -> range:
        """Union ids of a KG's entities.

        Raises:
            SubmissionError: no KG has this name.
        """
        return self._span(name, self.first_entity, self.n_entities)

    def relations_of(self, name: str) -> range:
        """Union ids of a KG's relations, forward.

        Raises:
            SubmissionError: no KG has this name.
        """
        return self._span(name, self.first_relation, self.n_relations)

    @cached_property
    def swapped(self) -> Ints:
        """Each triple that touches a linked entity, with the other entity of the link in its place, one end at a time (RSN: Guo, Sun and
        Hu, ICML 2019), int64 ``[s, 3]``; distinct, ascending. As its relation and its ends are of two KGs, none is among
        ``triples`` and none is a loop."""
        return _swapped(self.triples, self.links, self.n_entities, self.n_relations)

    @cached_property
    def graph(self) -> PathGraph:
        """Triples and swapped triples, both ways."""
        edges = np.concatenate([self.triples, self.swapped])
        return PathGraph.of_edges(*edges.T, n_nodes=self.n_entities, n_forward=self.n_relations)

    def _span(self, name: str, first: dict[str, int], total: int) -> range:
        if name not in first:
            raise SubmissionError(f"the union graph has no KG {name!r}; its KGs are {', '.join(self.names)}")
        ends = [*first.values(), total]
        return range(first[name], ends[self.names.index(name) + 1])


def given_links(graphs: Mapping[str, KnowledgeGraph]) -> Ints:
    """The links that the suite states between these KGs, from either side, as union ids int64 ``[k, 2]``; those to other KGs are left out."""
    return _links(graphs, links_between)


def name_links(graphs: Mapping[str, KnowledgeGraph]) -> Ints:
    """Links between all pairs of the KGs by equal names (:func:`kpi_bench.align_by_name`), as union ids int64 ``[k, 2]``."""
    return _links(graphs, align_by_name)


def triple_keys(triples: Ints, n_entities: int, n_relations: int) -> Ints:
    """One number a triple, int64 ``[m]``, ascending by (head, relation, tail)."""
    return (triples[:, 0] * n_relations + triples[:, 1]) * n_entities + triples[:, 2]


def _links(
    graphs: Mapping[str, KnowledgeGraph], find: Callable[[KnowledgeGraph, KnowledgeGraph], pd.DataFrame]
) -> Ints:
    """What ``find`` says (columns entity and other_entity) of each two of the KGs, as union ids."""
    first, _ = _offsets({name: kg.n_entities for name, kg in graphs.items()})
    found = [np.zeros((0, 2), dtype=np.int64)]
    for (name, kg), (other, other_kg) in combinations(graphs.items(), 2):
        rows = find(kg, other_kg)
        found.append(_shifted((rows["entity"], first[name]), (rows["other_entity"], first[other])))
    return np.concatenate(found)


def _offsets(counts: dict[str, int]) -> tuple[dict[str, int], int]:
    """Where each KG's ids begin, and how many there are."""
    ends = np.cumsum(list(counts.values())).tolist()
    return dict(zip(counts, [0, *ends], strict=False)), ends[-1] if ends else 0


def _shifted(*columns: tuple[ArrayLike, int]) -> Ints:
    """Columns of ids as rows, each column from where its ids begin in the union."""
    return np.stack([np.asarray(ids, dtype=np.int64) + first for ids, first in columns], axis=1)


def _ordered(links: Ints, starts: Ints, n_entities: int) -> Ints:
    """Distinct links, the lower id (the earlier KG) first, ascending."""
    if len(links) and (links.min() < 0 or links.max() >= n_entities):
        raise SubmissionError(
            f"links must join entities 0..{n_entities - 1} of the union graph; found {links.min()}..{links.max()}"
        )
    kg = np.searchsorted(starts, links, side="right")
    same = np.flatnonzero(kg[:, 0] == kg[:, 1])
    if len(same):
        raise SubmissionError(
            f"{len(same)} links join two entities of one KG, first {links[same[0]].tolist()} (union ids); "
            "links are between KGs, so leave these out"
        )
    low, high = np.divmod(np.unique(links.min(1) * n_entities + links.max(1)), n_entities)
    return np.stack([low, high], axis=1)


def _swapped(triples: Ints, links: Ints, n_entities: int, n_relations: int) -> Ints:
    """Triples with one end replaced by an entity that it is linked to, for each end and each of its links."""
    both = np.concatenate([links, links[:, ::-1]])
    partners = Csr.from_pairs(both[:, 0], both[:, 1], (n_entities, n_entities))
    copies = []
    for end in (0, 2):
        chosen = partners.select(triples[:, end])
        copy = triples[chosen.row_ids()]
        copy[:, end] = chosen.indices
        copies.append(copy)
    all_copies = np.concatenate(copies)
    _, first = np.unique(triple_keys(all_copies, n_entities, n_relations), return_index=True)
    return all_copies[first]
