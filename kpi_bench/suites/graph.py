"""Knowledge graphs as columns, with adjacency built once and on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from kpi_bench._dgl import import_dgl
from kpi_bench._sorted import edges_in_order
from kpi_bench.errors import SuiteError


@dataclass(frozen=True)
class Adjacency:
    """Edges grouped by one end: row ``e`` holds the relation and the other end of each edge of entity ``e``.

    ``indptr`` int64 ``[n_entities + 1]``; ``neighbours`` and ``relations`` int32 ``[n_triples]``, sorted within a row by (relation, neighbour).
    """

    indptr: NDArray[np.int64]
    neighbours: NDArray[np.int32]
    relations: NDArray[np.int32]

    def edges(self, entity: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Relations and neighbours of one entity (views)."""
        row = slice(self.indptr[entity], self.indptr[entity + 1])
        return self.relations[row], self.neighbours[row]

    def degrees(self) -> NDArray[np.int64]:
        """Number of edges of each entity, int64 ``[n_entities]``."""
        return np.diff(self.indptr)


@dataclass(frozen=True, eq=False)
class KnowledgeGraph:
    """One KG of a suite: distinct triples, entity and relation tables.

    ``heads``, ``relations``, ``tails`` are int64 ``[n_triples]``; ids are dense. ``entities`` has the columns
    entity, key, name, text, domain, kind; ``relation_table`` has relation, key, name; ``links`` (alignment with other KGs)
    has entity, other_kg, other_entity, rule, and is None where the suite has none.
    """

    name: str
    heads: NDArray[np.int64]
    relations: NDArray[np.int64]
    tails: NDArray[np.int64]
    entities: pa.Table
    relation_table: pa.Table
    links: pa.Table | None = None

    @property
    def n_triples(self) -> int:
        return len(self.heads)

    @property
    def n_entities(self) -> int:
        return int(self.entities.num_rows)

    @property
    def n_relations(self) -> int:
        return int(self.relation_table.num_rows)

    @cached_property
    def out_edges(self) -> Adjacency:
        """Edges by head: (relation, tail) of each head."""
        return _adjacency(self.heads, self.relations, self.tails, self.n_entities)

    @cached_property
    def in_edges(self) -> Adjacency:
        """Edges by tail: (relation, head) of each tail."""
        return _adjacency(self.tails, self.relations, self.heads, self.n_entities)

    def triples(self) -> NDArray[np.int64]:
        """All triples as a new int64 ``[n_triples, 3]`` array of (head, relation, tail)."""
        return np.stack([self.heads, self.relations, self.tails], axis=1)

    def entity_text(self, entities: ArrayLike | None = None) -> list[str]:
        """Text of the given entities (all when None): name and text where known, else ``<domain> <kind> <key>``."""
        table = (
            self.entities
            if entities is None
            else self.entities.take(pa.array(np.asarray(entities, dtype=np.int64)))
        )
        columns = [table.column(name).to_pylist() for name in ("name", "text", "domain", "kind", "key")]
        return [_text(*row) for row in zip(*columns, strict=True)]

    def entity_keys(self) -> list[str]:
        """Key of each entity in the source, in id order."""
        keys: list[str] = self.entities.column("key").to_pylist()
        return keys

    def domains(self) -> Sequence[str]:
        """Distinct domains, sorted."""
        return sorted(set(self.entities.column("domain").to_pylist()))

    def to_dgl(self, *, inverse: bool = False) -> Any:
        """A DGL graph with ``edata['relation']``; with ``inverse`` each edge also runs backwards as relation + n_relations.

        Raises:
            KpiBenchError: DGL is not available here; :attr:`out_edges` and :attr:`in_edges` hold the same structure.
        """
        import torch

        dgl = import_dgl()
        source, target, relation = (
            torch.tensor(column) for column in (self.heads, self.tails, self.relations)
        )
        if inverse:
            source, target = torch.cat([source, target]), torch.cat([target, source])
            relation = torch.cat([relation, relation + self.n_relations])
        graph = dgl.graph((source, target), num_nodes=self.n_entities)
        graph.edata["relation"] = relation
        return graph


def _text(name: str | None, text: str | None, domain: str, kind: str, key: str) -> str:
    known = [part for part in (name, text) if part]
    return ": ".join(known) if known else f"{domain} {kind} {key}"


def _adjacency(
    rows: NDArray[np.int64], relations: NDArray[np.int64], columns: NDArray[np.int64], n_entities: int
) -> Adjacency:
    if n_entities > np.iinfo(np.int32).max:
        raise SuiteError(
            f"a graph of {n_entities} entities is beyond int32 adjacency; split it into several KGs"
        )
    # Beyond them an edge's number below would be another edge's.
    for ids in (rows, columns):
        if len(ids) and (ids.min() < 0 or ids.max() >= n_entities):
            raise SuiteError(f"a graph of {n_entities} entities has ids outside 0..{n_entities - 1}")
    if len(relations) and relations.min() < 0:
        raise SuiteError("a graph has relation ids below 0")
    indptr = np.zeros(n_entities + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=n_entities), out=indptr[1:])
    n_relations = int(relations.max(initial=-1)) + 1
    return Adjacency(indptr, *edges_in_order(rows, relations, columns, n_entities, n_relations))
