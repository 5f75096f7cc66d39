"""A task's part of its KG: what the student is trained for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from baselines.common.paths.random_numbers import below, keys, stream
from kpi_bench import ClassificationTask, KnowledgeGraph, LinkPredictionTask, RecommendationTask

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LocalGraph:
    """``entities`` int64 ``[n]``, ascending, and the triples among them to learn from and to stop on, int64 ``[m, 3]`` in ids of the KG."""

    kg: str
    entities: Ints
    train: Ints
    valid: Ints

    @classmethod
    def of_links(cls, task: LinkPredictionTask) -> LocalGraph:
        """All entities of the KG, and the task's own splits."""
        return cls(task.spec.kg, np.arange(task.n_entities), task.train.array(), task.valid.array())

    @classmethod
    def of_items(
        cls,
        task: RecommendationTask | ClassificationTask,
        kg: KnowledgeGraph,
        held_out: NDArray[np.bool_],
    ) -> LocalGraph:
        """The task's items with all their triples, and what these lead to; those ``held_out`` (bool ``[n_triples]``) are there to stop on.

        Items are all entities of the domain and kind of those that the task's train and valid splits name: a task does not
        tell whom its test is about.
        """
        items = np.isin(_kinds(kg), _kinds(kg)[_named(task)])
        mine = items[kg.heads] | items[kg.tails]
        entities = np.unique(np.concatenate([np.flatnonzero(items), kg.heads[mine], kg.tails[mine]]))
        return cls(kg.name, entities, kg.triples()[mine & ~held_out], kg.triples()[mine & held_out])

    def places(self, triples: Ints) -> Ints:
        """Triples with their ends numbered by place in ``entities``, ``[m, 3]``."""
        placed = triples.copy()
        placed[:, [0, 2]] = np.searchsorted(self.entities, triples[:, [0, 2]])
        return placed


def held_out(kg: KnowledgeGraph, share: float, seed: int) -> NDArray[np.bool_]:
    """Which triples of a KG are kept from training, bool ``[n_triples]``: each by a lot of its own, so about ``share`` of them; the one of
    the highest lot of each entity never is, so that no entity loses all of its triples."""
    lots = below(keys(stream("held out", seed), torch.arange(kg.n_triples)), 0, torch.tensor(1 << 30)).numpy()
    highest = np.full(kg.n_entities, -1, dtype=np.int64)
    for ends in (kg.heads, kg.tails):
        np.maximum.at(highest, ends, lots)
    chosen: NDArray[np.bool_] = lots < share * (1 << 30)
    chosen &= (lots != highest[kg.heads]) & (lots != highest[kg.tails])
    return chosen


def without(kg: KnowledgeGraph, triples: NDArray[np.bool_]) -> KnowledgeGraph:
    """The KG without the triples marked, bool ``[n_triples]``."""
    return replace(kg, heads=kg.heads[~triples], relations=kg.relations[~triples], tails=kg.tails[~triples])


def _named(task: RecommendationTask | ClassificationTask) -> Ints:
    if isinstance(task, RecommendationTask):
        return np.unique(task.item_entity[task.item_entity >= 0])
    return np.union1d(task.train.entities, task.valid.entities)


def _kinds(kg: KnowledgeGraph) -> NDArray[np.int64]:
    """A number for each entity that stands for its domain and kind."""
    domains = kg.entities.column("domain").to_pandas().factorize()[0]
    kinds, names = kg.entities.column("kind").to_pandas().factorize()
    numbers: NDArray[np.int64] = domains * len(names) + kinds
    return numbers
