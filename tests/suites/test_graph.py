from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpi_bench._dgl import dgl_available
from kpi_bench.errors import SuiteError
from kpi_bench.suites.graph import Adjacency, KnowledgeGraph
from kpi_bench.suites.suite import Suite

TRIPLES = st.sets(st.tuples(st.integers(0, 6), st.integers(0, 2), st.integers(0, 6)), max_size=40)


def make_graph(
    triples: list[tuple[int, int, int]], n_entities: int = 7, n_relations: int = 3
) -> KnowledgeGraph:
    columns = np.array(triples, dtype=np.int64).reshape(-1, 3)
    entities = pa.table(
        {
            "entity": list(range(n_entities)),
            "key": [f"k{e}" for e in range(n_entities)],
            "name": pa.array([f"name {e}" if e % 2 else None for e in range(n_entities)], pa.string()),
            "text": pa.array([f"text {e}" if e % 3 == 0 else None for e in range(n_entities)], pa.string()),
            "domain": ["b" if e else "a" for e in range(n_entities)],
            "kind": ["item"] * n_entities,
        }
    )
    relations = pa.table(
        {"relation": list(range(n_relations)), "key": ["r"] * n_relations, "name": ["r"] * n_relations}
    )
    return KnowledgeGraph("g", columns[:, 0], columns[:, 1], columns[:, 2], entities, relations)


def brute_force(triples: set[tuple[int, int, int]], end: int) -> dict[int, list[tuple[int, int]]]:
    rows: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for triple in triples:
        rows[triple[end]].append((triple[1], triple[2 - end]))
    return {entity: sorted(edges) for entity, edges in rows.items()}


def as_dict(adjacency: Adjacency) -> dict[int, list[tuple[int, int]]]:
    rows = {}
    for entity in range(len(adjacency.indptr) - 1):
        relations, neighbours = adjacency.edges(entity)
        if len(relations):
            rows[entity] = list(zip(relations.tolist(), neighbours.tolist(), strict=True))
    return rows


@given(TRIPLES)
def test_adjacency_equals_brute_force_in_both_directions(triples: set[tuple[int, int, int]]) -> None:
    graph = make_graph(list(triples))
    assert as_dict(graph.out_edges) == brute_force(triples, 0)
    assert as_dict(graph.in_edges) == brute_force(triples, 2)
    assert graph.out_edges.degrees().sum() == graph.in_edges.degrees().sum() == len(triples)
    assert {tuple(row) for row in graph.triples().tolist()} == triples


@pytest.mark.parametrize("wrong", [(7, 0, 1), (1, 0, 7), (-1, 0, 1), (1, 0, -1)])
def test_an_edge_of_no_entity_is_refused(wrong: tuple[int, int, int]) -> None:
    graph = make_graph([(0, 0, 1), wrong])
    for edges in ("out_edges", "in_edges"):
        with pytest.raises(SuiteError, match=r"7 entities has ids outside 0\.\.6"):
            getattr(graph, edges)
    with pytest.raises(SuiteError, match="relation ids below 0"):
        _ = make_graph([(0, -1, 1)]).out_edges


def test_adjacency_types(tiny_suite: Suite) -> None:
    adjacency = tiny_suite.graph("shop").out_edges
    assert (adjacency.indptr.dtype, adjacency.neighbours.dtype, adjacency.relations.dtype) == (
        np.int64,
        np.int32,
        np.int32,
    )


def test_entity_text_falls_back_on_domain_kind_and_key() -> None:
    graph = make_graph([(0, 0, 1)])
    assert graph.entity_text([0, 1, 2, 3]) == ["text 0", "name 1", "b item k2", "name 3: text 3"]
    assert graph.entity_text([3, 3, 1]) == ["name 3: text 3", "name 3: text 3", "name 1"]
    assert len(graph.entity_text()) == graph.n_entities
    assert graph.entity_text([]) == []
    assert graph.domains() == ["a", "b"]
    assert graph.entity_keys()[6] == "k6"


@pytest.mark.skipif(not dgl_available(), reason="DGL has no build for this Python")
@pytest.mark.parametrize("inverse", [False, True])
def test_dgl_view_holds_the_same_edges(tiny_suite: Suite, inverse: bool) -> None:
    graph = tiny_suite.graph("shop")
    view = graph.to_dgl(inverse=inverse)
    source, target = (end.tolist() for end in view.edges())
    found = sorted(zip(source, view.edata["relation"].tolist(), target, strict=True))
    expected = [tuple(row) for row in graph.triples().tolist()]
    if inverse:
        expected += [(tail, relation + graph.n_relations, head) for head, relation, tail in expected]
    assert found == sorted(expected)
    assert view.num_nodes() == graph.n_entities


def test_dgl_view_leaves_the_graph_alone(tiny_suite: Suite) -> None:
    if not dgl_available():
        pytest.skip("DGL has no build for this Python")
    graph = tiny_suite.graph("library")
    before = graph.heads.copy()
    graph.to_dgl().edata["relation"][:] = -1
    assert np.array_equal(graph.heads, before)
    assert graph.relations.min() >= 0
