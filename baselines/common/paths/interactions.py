"""Users, items and the KG around them as one graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from baselines.common.paths.graph import PathGraph
from kpi_bench import KnowledgeGraph, Paths, RecommendationTask
from kpi_bench.evaluators.explanations import ENTITY, INTERACTION, ITEM, USER

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TaskGraph:
    """Nodes are the KG's entities that an item can reach, then items that the KG does not have, then users.

    ``entities`` int64 are the KG ids of the first nodes; ``items`` int64 ``[n_items]`` is the node of each item; user u is node
    ``first_user + u``. Relations: those of the KG, then ``interacted`` (user to item), then all of them backwards.
    """

    graph: PathGraph
    entities: Ints
    items: Ints
    first_user: int
    interacted: int

    @classmethod
    def of_task(cls, task: RecommendationTask, kg: KnowledgeGraph, *, collaborative: bool) -> TaskGraph:
        """The KG and the train interactions, and no others; with ``collaborative`` walks may go back from an item to its users."""
        linked = np.flatnonzero(task.item_entity >= 0)
        # Two items of one entity would be one place: the later ones stay outside of the KG.
        own_entities, first = np.unique(task.item_entity[linked], return_index=True)
        entities = _reachable(kg, own_entities)
        local = np.full(kg.n_entities, -1, dtype=np.int64)
        local[entities] = np.arange(len(entities))
        items = np.full(task.n_items, -1, dtype=np.int64)
        items[linked[first]] = local[own_entities]
        alone = np.flatnonzero(items < 0)
        items[alone] = len(entities) + np.arange(len(alone))
        first_user = len(entities) + len(alone)

        inside = local[kg.heads] >= 0
        train = task.train_matrix
        graph = PathGraph.of_edges(
            np.concatenate([local[kg.heads[inside]], first_user + train.row_ids()]),
            np.concatenate([kg.relations[inside], np.full(train.nnz, kg.n_relations)]),
            np.concatenate([local[kg.tails[inside]], items[train.indices]]),
            n_nodes=first_user + task.n_users,
            n_forward=kg.n_relations + 1,
            one_way=None if collaborative else kg.n_relations,
        )
        return cls(graph, entities, items, first_user, kg.n_relations)

    def kinds(self) -> Ints:
        """Kind of each node as in :class:`kpi_bench.Paths`, int64 ``[n_nodes]``."""
        kinds = np.full(self.graph.n_nodes, ENTITY, dtype=np.int64)
        kinds[self.items] = ITEM
        kinds[self.first_user :] = USER
        return kinds

    def explanations(
        self, users: Ints, items: Ints, paths: NDArray[np.int32], log_probs: NDArray[np.float32]
    ) -> Paths:
        """Paths ``[n, 2 * hops + 1]`` over nodes and relations of this graph in the ids of the suite."""
        ids = np.concatenate([self.entities, np.full(self.graph.n_nodes - len(self.entities), -1)])
        ids[self.items] = np.arange(len(self.items))
        ids[self.first_user :] = np.arange(self.graph.n_nodes - self.first_user)
        nodes, relations = paths[:, 0::2], paths[:, 1::2].astype(np.int64)
        inverse = relations >= self.graph.n_forward
        forward = relations - np.where(inverse, self.graph.n_forward, 0)
        return Paths(
            users=users,
            items=items,
            nodes=ids[nodes],
            kinds=self.kinds()[nodes].astype(np.int8),
            relations=np.where(forward == self.interacted, INTERACTION, forward),
            inverse=inverse,
            log_probs=log_probs,
        )


def _reachable(kg: KnowledgeGraph, starts: Ints) -> Ints:
    """Entities in the same connected parts of the KG as ``starts``, ascending."""
    shape = (kg.n_entities, kg.n_entities)
    links = coo_array((np.ones(kg.n_triples, dtype=np.int8), (kg.heads, kg.tails)), shape=shape)
    _, part = connected_components(links, directed=False)
    return np.flatnonzero(np.isin(part, part[starts]))
