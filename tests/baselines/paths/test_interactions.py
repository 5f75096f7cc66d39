"""Users, items and the KG as one graph: whose edges are in it, which node is what, and the way back to the ids of a suite."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from baselines.common.paths.interactions import TaskGraph
from kpi_bench import Interactions, KnowledgeGraph, RecommendationTask, Suite, TaskKind, TaskSpec
from kpi_bench.evaluators.explanations import ENTITY, ITEM, USER

WATCHED = 2
"""The KG has relations 0 and 1; the interaction is the next."""


def kg(triples: list[tuple[int, int, int]], n_entities: int) -> KnowledgeGraph:
    heads, relations, tails = np.array(triples, dtype=np.int64).reshape(-1, 3).T
    entities = pa.table({"entity": np.arange(n_entities), "key": [f"e{i}" for i in range(n_entities)]})
    return KnowledgeGraph(
        "films", heads, relations, tails, entities, pa.table({"relation": [0, 1], "key": ["a", "b"]})
    )


def task(
    item_entity: list[int], train: list[tuple[int, int]], valid: list[tuple[int, int]]
) -> RecommendationTask:
    spec = TaskSpec("t", TaskKind.RECOMMENDATION, "films", "d", "", "", "ndcg@20", ks=(20,), n_users=3)
    splits = [np.array(pairs, dtype=np.int64).reshape(-1, 2).T for pairs in (train, valid)]
    return RecommendationTask(
        spec, 3, np.array(item_entity, dtype=np.int64), *(Interactions(*split) for split in splits)
    )


TRIPLES = [(0, 0, 2), (1, 0, 2), (1, 1, 3), (5, 0, 6)]
ITEMS = [0, 1, -1, 1]  # item 2 is not in the KG; items 1 and 3 are one entity


@pytest.fixture
def graph() -> TaskGraph:
    return TaskGraph.of_task(
        task(ITEMS, [(0, 0), (0, 1), (1, 3), (2, 2)], [(0, 2)]), kg(TRIPLES, 7), collaborative=False
    )


def test_entities_out_of_reach_of_items_are_left_out(graph: TaskGraph) -> None:
    assert graph.entities.tolist() == [0, 1, 2, 3]  # 4 has no edge, 5 and 6 are a part of their own


def test_each_item_is_a_node_of_its_own(graph: TaskGraph) -> None:
    assert graph.items[:2].tolist() == [0, 1]
    assert len(set(graph.items.tolist())) == 4
    assert graph.first_user == 4 + 2
    assert graph.graph.n_nodes == 6 + 3
    kinds = graph.kinds()
    assert kinds.tolist() == [ITEM, ITEM, ENTITY, ENTITY, ITEM, ITEM, USER, USER, USER]


def edges(graph: TaskGraph) -> set[tuple[int, int, int]]:
    heads = np.repeat(np.arange(graph.graph.n_nodes), graph.graph.degrees())
    return set(
        zip(heads.tolist(), graph.graph.relations.tolist(), graph.graph.neighbours.tolist(), strict=True)
    )


def test_edges_are_the_kg_both_ways_and_train_alone(graph: TaskGraph) -> None:
    forward = {(h, r, t) for h, r, t in TRIPLES if h != 5}
    backward = {(t, r + 3, h) for h, r, t in forward}
    third, fourth = (int(graph.items[i]) for i in (2, 3))
    watched = {(6, WATCHED, 0), (6, WATCHED, 1), (7, WATCHED, fourth), (8, WATCHED, third)}
    assert edges(graph) == forward | backward | watched  # the valid pair (0, 2) is not there


def test_collaborative_walks_may_go_back_to_users() -> None:
    both = TaskGraph.of_task(task(ITEMS, [(0, 0)], []), kg(TRIPLES, 7), collaborative=True)
    assert (0, WATCHED + 3, both.first_user) in edges(both)


def test_paths_are_told_in_the_ids_of_the_suite(graph: TaskGraph) -> None:
    # user 0 watched item 0, which has entity 2, which (backwards) item 1 has too
    path = np.array([[6, WATCHED, 0, 0, 2, 3, 1]], dtype=np.int32)
    told = graph.explanations(np.array([0]), np.array([1]), path, np.array([-1.5], dtype=np.float32))
    assert told.kinds.tolist() == [[USER, ITEM, ENTITY, ITEM]]
    assert told.nodes.tolist() == [[0, 0, 2, 1]]
    assert told.relations.tolist() == [[-1, 0, 0]]
    assert told.inverse.tolist() == [[False, False, True]]


def test_a_kg_without_links_leaves_users_and_items() -> None:
    alone = TaskGraph.of_task(task([-1, -1], [(0, 0), (1, 1)], []), kg(TRIPLES, 7), collaborative=True)
    assert len(alone.entities) == 0
    assert alone.graph.n_nodes == 5
    assert alone.graph.n_edges == 4


def test_the_tiny_suite(tiny_suite: Suite) -> None:
    for name in tiny_suite.task_names():
        given = tiny_suite.task(name)
        if isinstance(given, RecommendationTask):
            graph = TaskGraph.of_task(given, tiny_suite.graph(given.spec.kg), collaborative=False)
            rows = given.train_matrix.row_ids()
            items = graph.items[given.train_matrix.indices]
            watched = np.full(len(rows), graph.interacted)
            assert graph.graph.has_edges(graph.first_user + rows, watched, items).all()
