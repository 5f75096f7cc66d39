"""The path graph against sets of triples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.common.paths.graph import PathGraph
from kpi_bench.errors import SubmissionError
from kpi_bench.suites.suite import Suite

Triple = tuple[int, int, int]


def columns(triples: list[Triple]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = np.array(triples, dtype=np.int64).reshape(-1, 3)
    return table[:, 0].copy(), table[:, 1].copy(), table[:, 2].copy()


@st.composite
def cases(draw: st.DrawFn) -> tuple[PathGraph, list[Triple]]:
    """A graph and the edges that it must have, sorted."""
    n_nodes, n_forward = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    node, relation = st.integers(0, n_nodes - 1), st.integers(0, n_forward - 1)
    triples = draw(st.lists(st.tuples(node, relation, node), unique=True, max_size=30))
    one_way = draw(st.none() | relation)
    graph = PathGraph.of_edges(*columns(triples), n_nodes=n_nodes, n_forward=n_forward, one_way=one_way)
    back = [(t, r + n_forward, h) for h, r, t in triples if r != one_way]
    return graph, sorted(triples + back)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_edges_are_the_triples_both_ways_in_order(case: tuple[PathGraph, list[Triple]]) -> None:
    graph, edges = case
    heads = np.repeat(np.arange(graph.n_nodes), graph.degrees())
    assert (
        list(zip(heads.tolist(), graph.relations.tolist(), graph.neighbours.tolist(), strict=True)) == edges
    )
    assert [a.dtype for a in (graph.neighbours, graph.relations, graph.indptr)] == [
        np.int32,
        np.int32,
        np.int64,
    ]
    assert (graph.n_edges, graph.n_relations) == (len(edges), 2 * graph.n_forward)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_has_edges_of_all_possible_ones_and_of_ids_out_of_range(case: tuple[PathGraph, list[Triple]]) -> None:
    graph, edges = case
    nodes, relations = range(-2, graph.n_nodes + 2), range(-2, graph.n_relations + 2)
    asked = [(h, r, t) for h in nodes for r in relations for t in nodes]
    known = set(edges)
    assert graph.has_edges(*columns(asked)).tolist() == [edge in known for edge in asked]


@settings(max_examples=60, deadline=None)
@given(cases())
def test_ranges_are_the_nodes_that_relations_lead_to(case: tuple[PathGraph, list[Triple]]) -> None:
    graph, edges = case
    ranges = graph.ranges
    for relation in range(graph.n_relations):
        nodes = ranges.nodes[ranges.indptr[relation] : ranges.indptr[relation + 1]].tolist()
        assert nodes == sorted({t for _, r, t in edges if r == relation})
    for place, (_, relation, tail) in enumerate(edges):
        assert ranges.nodes[ranges.indptr[relation] + ranges.places[place]] == tail


def test_a_graph_without_edges() -> None:
    graph = PathGraph.of_edges(*columns([]), n_nodes=3, n_forward=2)
    assert graph.degrees().tolist() == [0, 0, 0]
    assert graph.has_edges(*columns([(0, 0, 0), (-1, 0, 5)])).tolist() == [False, False]
    assert graph.ranges.indptr.tolist() == [0, 0, 0, 0, 0]


def test_of_kg_runs_both_ways(tiny_suite: Suite) -> None:
    kg = tiny_suite.graph("library")
    graph = PathGraph.of_kg(kg)
    assert (graph.n_nodes, graph.n_edges) == (kg.n_entities, 2 * kg.n_triples)
    assert graph.has_edges(kg.heads, kg.relations, kg.tails).all()
    assert graph.has_edges(kg.tails, kg.relations + kg.n_relations, kg.heads).all()


@pytest.mark.parametrize("edge", [(3, 0, 0), (0, 0, 3), (-1, 0, 0), (0, 2, 0), (0, -1, 0)])
def test_ids_out_of_range_are_refused(edge: Triple) -> None:
    with pytest.raises(SubmissionError, match=r"ids must be in 0\.\."):
        PathGraph.of_edges(*columns([edge]), n_nodes=3, n_forward=2)
