"""A KG numbered as KPI numbers it: entities by first appearance over triples, head before tail."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kpi_bench.suites.task import KgSpec
from kpi_bench.suites.writer import KgFrames

ITEM = "item"


class KgBuilder:
    """Collects triples in file order. ``relations`` are names in id order; an attribute's kind is the relation it is first met under."""

    def __init__(self, name: str, domains: Sequence[str], relations: Sequence[str]) -> None:
        self.name = name
        self.domains = tuple(domains)
        self.relations = tuple(relations)
        self.ids: dict[str, int] = {}
        self.rows: dict[int, int] = {}
        self._kinds: list[str] = []
        self._domains: list[int] = []
        self._names: dict[int, str] = {}
        self._texts: dict[int, str] = {}
        self._triples = (array("q"), array("q"), array("q"))

    def add(self, domain: int, head: str, relation: int, tail: str) -> None:
        """Append one triple of an item of ``domain``."""
        head_id = self._entity(head, ITEM, domain)
        tail_id = self._entity(tail, self.relations[relation], domain)
        self.rows.setdefault(head_id, len(self.rows))
        for column, value in zip(self._triples, (head_id, relation, tail_id), strict=True):
            column.append(value)

    def describe(self, key: str, name: str | None, text: str | None) -> None:
        """Name and text of an entity that some triple has; the first description stays."""
        entity = self.ids.get(key)
        if entity is not None and entity not in self._names and entity not in self._texts:
            if name:
                self._names[entity] = name
            if text:
                self._texts[entity] = text

    def text(self, key: str) -> str:
        """Text of an entity, empty where it has none."""
        return self._texts.get(self.ids.get(key, -1), "")

    def entity_rows(self) -> NDArray[np.int64]:
        """``kg_row`` of each entity, its place among heads in order of first appearance; -1 for entities that head no triple."""
        rows = np.full(len(self.ids), -1, dtype=np.int64)
        rows[list(self.rows)] = list(self.rows.values())
        return rows

    def triples(self) -> NDArray[np.int64]:
        """Every triple in file order with its repeats, int64 ``[n, 3]``."""
        return np.stack([np.frombuffer(column, dtype=np.int64) for column in self._triples], axis=1)

    def domain_rows(self) -> list[tuple[int, int]]:
        """First entity id and number of items of each domain, by the domain an item was first met in; (-1, 0) where it has none."""
        heads = np.fromiter(self.rows, dtype=np.int64, count=len(self.rows))
        first_bit = np.array(self._domains, dtype=np.int64)[heads]
        first = np.array([int(bits & -bits).bit_length() - 1 for bits in first_bit])
        own = [heads[first == domain] for domain in range(len(self.domains))]
        return [(int(found.min()), len(found)) if len(found) else (-1, 0) for found in own]

    def frames(self, description: str) -> KgFrames:
        """Tables of the suite format: repeated triples once, in the order of their first appearance."""
        triples = self.triples()
        n_entities, n_relations = len(self.ids), len(self.relations)
        keys = (triples[:, 0] * n_relations + triples[:, 1]) * n_entities + triples[:, 2]
        distinct = triples[np.sort(np.unique(keys, return_index=True)[1])]
        entities = pd.DataFrame(
            {
                "entity": np.arange(n_entities),
                "key": list(self.ids),
                "name": [
                    self._names.get(entity) or (key if kind != ITEM else None)
                    for entity, (key, kind) in enumerate(zip(self.ids, self._kinds, strict=True))
                ],
                "text": [self._texts.get(entity) for entity in range(n_entities)],
                "domain": [self._domain(bits) for bits in self._domains],
                "kind": self._kinds,
            }
        )
        relations = pd.DataFrame(
            {
                "relation": np.arange(n_relations),
                "key": self.relations,
                "name": [name.replace("_", " ") for name in self.relations],
            }
        )
        return KgFrames(
            spec=KgSpec(self.name, description, self.domains),
            triples=pd.DataFrame(distinct, columns=["head", "relation", "tail"]),
            entities=entities,
            relations=relations,
        )

    def _entity(self, key: str, kind: str, domain: int) -> int:
        entity = self.ids.setdefault(key, len(self.ids))
        if entity == len(self._kinds):
            self._kinds.append(kind)
            self._domains.append(0)
        self._domains[entity] |= 1 << domain
        return entity

    def _domain(self, bits: int) -> str:
        return self.domains[bits.bit_length() - 1] if bits & (bits - 1) == 0 else "shared"
