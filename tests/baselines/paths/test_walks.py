"""Walks: their laws by enumeration, their steps against the graph, and the two backends against each other."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from walk_factory import BACKENDS, assert_follows, assert_sound, graph_of, random_graph

from baselines.common.paths import _walk_torch, walks
from baselines.common.paths.graph import PathGraph
from baselines.common.paths.walks import Walker
from kpi_bench._dgl import dgl_available, import_dgl
from kpi_bench.errors import SubmissionError
from kpi_bench.evaluators.ranking import numba_available

WEIGHTINGS = ["uniform", "degree"]


def exact(graph: PathGraph, start: int, hops: int, weighting: str) -> dict[tuple[int, ...], float]:
    """Probability of every walk from a node, by following all edges."""
    degrees = graph.degrees()
    law = {(start,) + (-1,) * (2 * hops): 1.0}
    for step in range(hops):
        grown: dict[tuple[int, ...], float] = {}
        for path, chance in law.items():
            at = path[2 * step]
            edges = [] if at < 0 else range(graph.indptr[at], graph.indptr[at + 1])
            edges = [e for e in edges if graph.neighbours[e] not in path[0::2]]
            weights = [int(degrees[graph.neighbours[e]]) if weighting == "degree" else 1 for e in edges]
            if sum(weights) == 0:
                grown[path] = grown.get(path, 0.0) + chance
                continue
            for e, weight in zip(edges, weights, strict=True):
                if weight:
                    taken = (int(graph.relations[e]), int(graph.neighbours[e]))
                    after = path[: 2 * step + 1] + taken + path[2 * step + 3 :]
                    grown[after] = grown.get(after, 0.0) + chance * weight / sum(weights)
        law = grown
    return law


DENSE = [(h, r, t) for h in range(4) for t in range(4) for r in range(2) if (h * 3 + r + t) % 4]
PARALLEL = [(0, r, 1) for r in range(9)] + [(0, 0, 2), (1, 0, 3), (1, 1, 4), (2, 0, 1), (0, 0, 0)]
LAWS = {
    "dense": (DENSE, 4),
    "star": ([(0, 0, leaf) for leaf in range(1, 7)], 7),
    "parallel edges, self-loop": (PARALLEL, 5),  # from 1 most edges lead back to 0: the exact draw decides
    "line": ([(0, 0, 1), (1, 0, 2)], 3),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("case", LAWS)
def test_paths_come_with_their_exact_probabilities(case: str, weighting: Any, backend: Any) -> None:
    triples, n_nodes = LAWS[case]
    graph = graph_of(triples, n_nodes, n_forward=9)
    walker = Walker(graph, weighting=weighting, backend=backend)
    for start in range(n_nodes):
        paths = walker.walk(np.full(8_000, start), 3, seed=11 + start)
        assert_follows(paths, exact(graph, start, 3, weighting))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("weighting", "share"), [("uniform", 2 / 3), ("degree", 4 / 7)])
def test_the_draw_among_what_is_left_follows_the_law(weighting: Any, share: float, backend: Any) -> None:
    """Nearly all edges of node 1 lead back to the start; else two lead to node 2 (of 2 edges), one to node 3 (of 3 edges)."""
    back = [(1, r, 0) for r in range(96)]
    graph = graph_of([*back, (1, 0, 2), (1, 1, 2), (1, 0, 3), (3, 0, 4), (3, 1, 4)], 5, n_forward=96)
    n = 30_000
    ends = Walker(graph, weighting=weighting, backend=backend).walk(np.zeros(n, np.int64), 2, seed=3)[:, 4]
    assert set(ends.tolist()) == {2, 3}
    assert stats.binomtest(int((ends == 2).sum()), n, share).pvalue > 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("one_way", [None, 1])
def test_walks_are_sound_on_a_skewed_graph(one_way: int | None, weighting: Any, backend: Any) -> None:
    graph = random_graph(400, 900, one_way=one_way)
    assert (graph.degrees() == 0).any(), "the case must hold isolated nodes"
    starts = np.random.default_rng(1).integers(0, 400, 3_000)
    paths = Walker(graph, weighting=weighting, backend=backend).walk(starts, 12, seed=2)
    assert_sound(graph, paths, starts)
    assert (paths[graph.degrees()[starts] == 0, 1:] == -1).all()
    ended = (paths[:, -1] < 0) & (paths[:, 2] >= 0)
    assert ended.any(), "the case must hold dead ends"
    for path in paths[ended]:
        nodes = path[0::2][path[0::2] >= 0]
        last = nodes[-1]
        onward = set(graph.neighbours[graph.indptr[last] : graph.indptr[last + 1]].tolist()) - set(
            nodes.tolist()
        )
        if weighting == "degree":
            onward = {node for node in onward if graph.degrees()[node]}
        assert not onward


@pytest.mark.skipif(not numba_available(), reason="numba is not installed")
@settings(max_examples=60, deadline=None)
@given(
    n_nodes=st.integers(1, 12),
    n_edges=st.integers(0, 60),
    one_way=st.sampled_from([None, 0]),
    seed=st.integers(0, 1 << 64),
    first=st.integers(0, 1 << 40),
    hops=st.integers(1, 6),
    weighting=st.sampled_from(WEIGHTINGS),
)
def test_backends_agree_bit_for_bit(
    n_nodes: int, n_edges: int, one_way: int | None, seed: int, first: int, hops: int, weighting: Any
) -> None:
    graph = random_graph(n_nodes, n_edges, seed % 1000, one_way)
    starts = np.random.default_rng(seed).integers(0, n_nodes, 150)
    found = [
        Walker(graph, weighting=weighting, backend=backend).walk(starts, hops, seed=seed, first=first)
        for backend in ("numba", "torch")
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert found[0].dtype == np.int32
    assert_sound(graph, found[0], starts)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_pieces_and_workers_do_not_change_paths(
    weighting: Any, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = random_graph(50, 300)
    starts = np.random.default_rng(0).integers(0, 50, 1_000)
    whole = Walker(graph, weighting=weighting, backend=backend).walk(starts, 5, seed=4, first=10)
    monkeypatch.setattr(walks, "PIECE", 77)
    monkeypatch.setattr(_walk_torch, "CELLS", 100)
    walker = Walker(graph, weighting=weighting, backend=backend, workers=3)
    np.testing.assert_array_equal(walker.walk(starts, 5, seed=4, first=10), whole)
    cuts = [0, 1, 64, 65, 500, 1_000]
    pieces = [walker.walk(starts[a:b], 5, seed=4, first=10 + a) for a, b in pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    longer = walker.walk(starts, 7, seed=4, first=10)
    np.testing.assert_array_equal(longer[:, :11], whole)
    assert (walker.walk(starts, 5, seed=5, first=10) != whole).any()
    assert (walker.walk(starts, 5, seed=4, first=11) != whole).any()


@pytest.mark.skipif(not dgl_available(), reason="DGL has no build for this Python")
def test_first_steps_come_as_often_as_those_of_dgl() -> None:
    """Two samples of the same law: DGL walks with revisits, which a first step without self-loops cannot make."""
    rng = np.random.default_rng(0)
    pairs = {(int(h), 0, int(t)) for h, t in rng.integers(0, 12, (40, 2)) if h != t}
    graph = graph_of(sorted(pairs), 12)
    starts = np.repeat(np.flatnonzero(graph.degrees()), 5_000)
    ours = Walker(graph).walk(starts, 1, seed=1)[:, 2]
    dgl = import_dgl()
    dgl.seed(1)
    heads = np.repeat(np.arange(12), graph.degrees())
    view = dgl.graph((heads, graph.neighbours.astype(np.int64)), num_nodes=12)
    theirs = dgl.sampling.random_walk(view, starts, length=1)[0][:, 1].numpy()
    tables = [np.bincount(starts * 12 + found, minlength=144) for found in (ours, theirs)]
    seen = tables[0] + tables[1] > 0
    assert stats.chi2_contingency(np.stack(tables)[:, seen]).pvalue > 1e-4


@pytest.mark.skipif(not numba_available(), reason="numba is not installed")
@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.one_of(st.integers(0, 3), st.just(0), st.integers(0, 1 << 24)), max_size=100), max_size=6
    )
)
def test_the_guide_names_the_place_of_the_least_bits_of_each_slot(rows: list[list[int]]) -> None:
    """In whole numbers of any size; rows without weight lead behind their end."""
    from baselines.common.paths._walk_kernels import GUIDE, UPTO, packed

    weights = [weight for row in rows for weight in row]
    indptr = np.cumsum([0, *map(len, rows)])
    numbers = np.arange(len(weights), dtype=np.int32)
    edges = packed(indptr, numbers, numbers + 7, np.cumsum([0, *weights]))
    np.testing.assert_array_equal(edges[:, :2], np.stack([numbers, numbers + 7], axis=1))
    for row, low, high in zip(rows, indptr[:-1], indptr[1:], strict=True):
        sums = np.cumsum(row, dtype=np.int64)
        np.testing.assert_array_equal(edges[low:high, UPTO], sums)
        goals = [(-(-(i << 32) // len(row)) * int(sums[-1])) >> 32 for i in range(len(row))]
        np.testing.assert_array_equal(edges[low:high, GUIDE], np.searchsorted(sums, goals, side="right"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_walks_and_no_edges(backend: Any) -> None:
    graph = graph_of([], 3)
    for weighting in ("uniform", "degree"):
        walker = Walker(graph, weighting=weighting, backend=backend)
        assert walker.walk(np.zeros(0, np.int64), 2, seed=0).shape == (0, 5)
        assert walker.walk(np.array([2, 0]), 2, seed=0).tolist() == [[2, -1, -1, -1, -1], [0, -1, -1, -1, -1]]


def test_what_cannot_be_walked_is_refused() -> None:
    graph = graph_of([(0, 0, 1)], 2)
    walker = Walker(graph)
    with pytest.raises(SubmissionError, match="at least 1 hops; got 0"):
        walker.walk(np.zeros(1, np.int64), 0, seed=0)
    for start in (-1, 2):
        with pytest.raises(SubmissionError, match=r"start node must be in 0\.\.1"):
            walker.walk(np.array([0, start]), 1, seed=0)
    for keywords, message in (
        ({"weighting": "pagerank"}, "unknown weighting"),
        ({"backend": "dgl"}, "unknown walk backend"),
        ({"backend": "numba", "device": "cuda"}, "on the CPU only"),
        ({"workers": 0}, "at least one worker"),
    ):
        with pytest.raises(SubmissionError, match=message):
            Walker(graph, **keywords)


def test_weights_beyond_the_random_numbers_are_refused() -> None:
    """Node 0 has 50,000 edges to node 1, which has as many: 2.5e9 together."""
    n = 50_000
    zeros = np.zeros(n, np.int64)
    graph = PathGraph.of_edges(zeros, np.arange(n), zeros + 1, n_nodes=2, n_forward=n)
    with pytest.raises(SubmissionError, match="weigh 2500000000 together"):
        Walker(graph, weighting="degree")
    assert Walker(graph).walk(np.array([0]), 2, seed=0)[0, 2:].tolist() == [1, -1, -1]
