"""Capped graphs: which edges of hubs stay, against a plain restatement and the law of an even draw."""

from __future__ import annotations

from collections import Counter
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from walk_factory import Triple, graph_of, random_graph

from baselines.common.paths.graph import PathGraph
from kpi_bench.errors import SubmissionError


def edges_of(graph: PathGraph) -> list[Triple]:
    heads = np.repeat(np.arange(graph.n_nodes), graph.degrees())
    return list(zip(heads.tolist(), graph.relations.tolist(), graph.neighbours.tolist(), strict=True))


def turned(edge: Triple, n_forward: int) -> Triple:
    head, relation, tail = edge
    return tail, (relation + n_forward) % (2 * n_forward), head


@settings(max_examples=80, deadline=None)
@given(
    n_nodes=st.integers(1, 12),
    n_edges=st.integers(0, 150),
    seed=st.integers(0, 1 << 64),
    limit=st.integers(1, 20),
    data=st.data(),
)
def test_hubs_are_thinned_and_nothing_else(
    n_nodes: int, n_edges: int, seed: int, limit: int, data: st.DataObject
) -> None:
    keep = data.draw(st.integers(1, limit))
    graph = random_graph(n_nodes, n_edges, seed % 1000)
    capped = graph.capped(limit, keep, seed=seed)
    before, after = edges_of(graph), edges_of(capped)
    assert (capped.n_nodes, capped.n_forward) == (graph.n_nodes, graph.n_forward)
    assert [a.dtype for a in (capped.indptr, capped.neighbours, capped.relations)] == [
        np.int64,
        np.int32,
        np.int32,
    ]
    assert after == [edge for edge in before if edge in set(after)], "in the order they were"
    assert {turned(edge, graph.n_forward) for edge in after} == set(after), "both ways or not at all"
    hubs = {v for v, degree in enumerate(graph.degrees().tolist()) if degree > limit}
    assert {edge for edge in before if not {edge[0], edge[2]} & hubs} <= set(after)
    for hub in hubs:
        own = [edge for edge in before if edge[0] == hub]
        left = int(capped.degrees()[hub])
        assert left <= keep
        if not {tail for _, _, tail in own} & hubs:  # no self-loop either
            assert left == keep
    np.testing.assert_array_equal(capped.indptr, graph.capped(limit, keep, seed=seed).indptr)


def test_each_set_of_edges_of_a_hub_comes_as_often() -> None:
    """A hub of 6 edges, two of them parallel, keeps 2: 15 sets."""
    graph = graph_of([(0, 0, 1), (0, 1, 1), (0, 0, 2), (3, 0, 0), (4, 1, 0), (0, 1, 5)], 6, n_forward=2)
    kept = Counter(
        tuple(edge for edge in edges_of(graph.capped(5, 2, seed=seed)) if edge[0] == 0)
        for seed in range(6_000)
    )
    assert len(kept) == comb(6, 2)
    assert stats.chisquare(list(kept.values())).pvalue > 1e-4


def test_hubs_keep_the_edges_between_them() -> None:
    """0 and 1 are joined by 100 relations and by nothing else: both keep the same 10."""
    graph = graph_of([(0, r, 1) for r in range(100)], 2, n_forward=100)
    assert graph.capped(99, 10, seed=0).degrees().tolist() == [10, 10]


def test_edges_that_run_one_way_into_a_hub_are_thinned_with_it() -> None:
    """Half of the hub's 1,000 two-way edges stay, and about half of the 1,000 that only lead to it."""
    triples = [(0, 0, v) for v in range(1, 1_001)] + [(v, 1, 0) for v in range(1_001, 2_001)]
    capped = graph_of(triples, 2_001, n_forward=2, one_way=1).capped(999, 500, seed=1)
    assert capped.degrees()[0] == 500
    assert stats.binomtest(int(capped.degrees()[1_001:].sum()), 1_000, 0.5).pvalue > 1e-4


def test_graphs_without_hubs_stay_as_they_are() -> None:
    graph = random_graph(20, 60)
    most = int(graph.degrees().max())
    assert graph.capped(most, 1, seed=0) is graph
    assert graph.capped(most - 1, 1, seed=0).n_edges < graph.n_edges
    assert graph_of([], 3).capped(1, 1, seed=0).n_edges == 0


@pytest.mark.parametrize(("limit", "keep"), [(0, 0), (5, 0), (5, 6), (5, -1)])
def test_a_cap_that_keeps_nothing_or_more_than_its_limit_is_refused(limit: int, keep: int) -> None:
    with pytest.raises(SubmissionError, match=f"got limit {limit} and keep {keep}"):
        random_graph(5, 10).capped(limit, keep, seed=0)
