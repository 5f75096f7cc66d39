"""Biased walks: their law by enumeration, and the two backends against each other."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from walk_factory import BACKENDS, Paths, assert_follows, assert_sound, graph_of, random_graph

from baselines.common.paths import _biased_torch, walks
from baselines.common.paths.biased import BiasedWalker
from baselines.common.paths.graph import PathGraph
from kpi_bench.errors import SubmissionError
from kpi_bench.evaluators.ranking import numba_available

needs_numba = pytest.mark.skipif(not numba_available(), reason="numba is not installed")
Hop = tuple[int, int, int]
BIASES = [(0.7, 0.5), (0.3, 0.9), (0.95, 0.1)]


def flags(n_nodes: int, *bridges: int) -> NDArray[np.bool_]:
    return np.isin(np.arange(n_nodes), bridges)


def hops_of(graph: PathGraph) -> NDArray[np.int32]:
    """All edges as first hops."""
    heads = np.repeat(np.arange(graph.n_nodes, dtype=np.int32), graph.degrees())
    return np.stack([heads, graph.relations, graph.neighbours], axis=1)


def exact(
    graph: PathGraph, hop: Hop, hops: int, depth: float, crossing: float, bridges: NDArray[np.bool_]
) -> dict[tuple[int, ...], float]:
    """Probability of every path that begins with a hop, from mu_d * mu_c of all edges of each node."""
    edges = [
        [
            (int(graph.relations[e]), int(graph.neighbours[e]))
            for e in range(graph.indptr[v], graph.indptr[v + 1])
        ]
        for v in range(graph.n_nodes)
    ]
    law = {hop + (-1,) * (2 * hops - 2): 1.0}
    for step in range(1, hops):
        grown: dict[tuple[int, ...], float] = {}
        for path, chance in law.items():
            weights: dict[Hop | tuple[int, int], float] = {}
            for relation, node in edges[path[2 * step]] if path[2 * step] >= 0 else []:
                if node not in path[0::2]:
                    mu_d = 1 - depth if (relation, node) in edges[hop[0]] else depth
                    weights[relation, node] = mu_d * (crossing if bridges[node] else 1 - crossing)
            if not weights:
                grown[path] = chance
            for taken, weight in weights.items():
                after = path[: 2 * step + 1] + taken + path[2 * step + 3 :]
                grown[after] = chance * weight / sum(weights.values())
        law = grown
    return law


DENSE = [(h, r, t) for h in range(5) for t in range(5) for r in range(2) if (h * 3 + r + t) % 4]
LAWS = {
    "dense": (DENSE, 5, (0, 3), [(0, 0, 1), (2, 1, 2), (4, 3, 0)]),
    "no hop of the graph": ([(1, 0, 2), (1, 1, 2), (1, 0, 3), (0, 1, 2), (3, 0, 4)], 5, (3,), [(0, 8, 1)]),
    "a line and its end": ([(0, 0, 1), (1, 0, 2), (2, 0, 3)], 4, (2,), [(0, 0, 1), (2, 0, 3)]),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("depth", "crossing"), BIASES)
@pytest.mark.parametrize("case", LAWS)
def test_paths_come_with_their_exact_probabilities(
    case: str, depth: float, crossing: float, backend: Any
) -> None:
    triples, n_nodes, linked, first_hops = LAWS[case]
    graph, bridges = graph_of(triples, n_nodes, n_forward=9), flags(n_nodes, *linked)
    walker = BiasedWalker(graph, depth=depth, crossing=crossing, bridges=bridges, backend=backend)
    for seed, hop in enumerate(first_hops):
        paths = walker.extend(np.tile(np.array(hop, np.int32), (8_000, 1)), 4, seed=seed)
        assert_follows(paths, exact(graph, hop, 4, depth, crossing, bridges))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_draw_among_what_is_left_follows_the_law(backend: Any) -> None:
    """From 1 all edges but 6 of 246 lead back to 0, so that the exact draw decides for most; 3 and 5 are bridges, and 0 has two of the edges."""
    onward = [(1, 0, 2), (1, 1, 2), (1, 0, 3), (1, 0, 4), (1, 2, 4), (1, 3, 5)]
    back = [(1, r, 0) for r in range(240)]
    graph = graph_of([*back, *onward, (0, 1, 2), (0, 3, 5)], 6, n_forward=240)
    bridges, hops = flags(6, 3, 5), np.tile(np.array([0, 300, 1], np.int32), (40_000, 1))
    paths = BiasedWalker(graph, depth=0.8, crossing=0.3, bridges=bridges, backend=backend).extend(
        hops, 2, seed=4
    )
    assert_follows(paths, exact(graph, (0, 300, 1), 2, 0.8, 0.3, bridges))


@pytest.mark.parametrize("backend", BACKENDS)
def test_rare_edges_of_extreme_bias_keep_their_share(backend: Any) -> None:
    """One bridge among 40 leaves, at a weight of 1/49 of theirs, or of 999 times theirs: few draws are rejected, or nearly all."""
    graph = graph_of([(1, 0, leaf) for leaf in range(2, 42)], 42)
    hops, bridges = np.tile(np.array([0, 0, 1], np.int32), (40_000, 1)), flags(42, 7)
    for crossing in (0.02, 0.999):
        walker = BiasedWalker(graph, depth=0.5, crossing=crossing, bridges=bridges, backend=backend)
        arrived = int((walker.extend(hops, 2, seed=5)[:, 4] == 7).sum())
        odds = crossing / (1 - crossing)
        assert stats.binomtest(arrived, len(hops), odds / (odds + 39)).pvalue > 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
def test_walks_are_sound_and_end_only_at_dead_ends(backend: Any) -> None:
    graph = random_graph(400, 900)
    first = hops_of(graph)
    bridges = np.random.default_rng(0).random(400) < 0.3
    walker = BiasedWalker(graph, depth=0.7, crossing=0.6, bridges=bridges, backend=backend)
    paths = walker.extend(first, 8, seed=2)
    np.testing.assert_array_equal(paths[:, :3], first)
    straight = first[:, 0] != first[:, 2]  # a first hop may be a self-loop: its node comes twice
    assert_sound(graph, paths[straight], first[straight, 0])
    ended = paths[(paths[:, -1] < 0)]
    assert len(ended), "the case must hold dead ends"
    for path in ended:
        nodes = path[0::2][path[0::2] >= 0]
        onward = graph.neighbours[graph.indptr[nodes[-1]] : graph.indptr[nodes[-1] + 1]]
        assert np.isin(onward, nodes).all()


@needs_numba
@settings(max_examples=60, deadline=None)
@given(
    n_nodes=st.integers(1, 12),
    n_edges=st.integers(0, 90),
    seed=st.integers(0, 1 << 64),
    first=st.integers(0, 1 << 40),
    hops=st.integers(1, 6),
    depth=st.floats(0.001, 0.999),
    crossing=st.floats(0.001, 0.999),
    linked=st.integers(0, (1 << 12) - 1),
)
def test_backends_agree_bit_for_bit(
    n_nodes: int, n_edges: int, seed: int, first: int, hops: int, depth: float, crossing: float, linked: int
) -> None:
    graph = random_graph(n_nodes, n_edges, seed % 1000)
    given_hops = np.random.default_rng(seed).integers(0, n_nodes, (150, 3)).astype(np.int32)
    bridges = (linked >> np.arange(n_nodes)) % 2 == 1

    def paths(backend: Any) -> Paths:
        walker = BiasedWalker(graph, depth=depth, crossing=crossing, bridges=bridges, backend=backend)
        return walker.extend(given_hops, hops, seed=seed, first=first)

    found = paths("numba")
    np.testing.assert_array_equal(found, paths("torch"))
    assert (found.dtype, found.shape) == (np.int32, (150, 2 * hops + 1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_pieces_and_workers_do_not_change_paths(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = random_graph(50, 300)
    hops = np.tile(hops_of(graph), (2, 1))[:1_000]
    assert len(hops) == 1_000
    biases: Any = {"depth": 0.6, "crossing": 0.8, "bridges": flags(50, 1, 2, 3, 5, 8, 13)}
    whole = BiasedWalker(graph, **biases, backend=backend).extend(hops, 5, seed=4, first=10)
    monkeypatch.setattr(walks, "PIECE", 77)
    monkeypatch.setattr(_biased_torch, "CELLS", 100)
    walker = BiasedWalker(graph, **biases, backend=backend, workers=3)
    np.testing.assert_array_equal(walker.extend(hops, 5, seed=4, first=10), whole)
    cuts = [0, 1, 64, 65, 500, 1_000]
    pieces = [walker.extend(hops[a:b], 5, seed=4, first=10 + a) for a, b in pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    np.testing.assert_array_equal(walker.extend(hops, 7, seed=4, first=10)[:, :11], whole)
    np.testing.assert_array_equal(walker.extend(hops, 1, seed=4), hops)
    assert (walker.extend(hops, 5, seed=5, first=10) != whole).any()
    assert (walker.extend(hops, 5, seed=4, first=11) != whole).any()


@given(bits=st.integers(0, (1 << 30) - 1), total=st.integers(0, (1 << 47) - 1))
def test_a_share_is_exact_beyond_64_bits(bits: int, total: int) -> None:
    arrays = np.array([bits]), np.array([total])
    assert int(_biased_torch.share(*arrays)[0]) == Fraction(bits * total, 1 << 30).__floor__()


@needs_numba
@settings(max_examples=30, deadline=None)
@given(n_nodes=st.integers(1, 9), n_edges=st.integers(0, 200), seed=st.integers(0, 1000))
def test_edges_are_found_through_their_marks(n_nodes: int, n_edges: int, seed: int) -> None:
    from baselines.common.paths._biased_kernels import coded, is_edge, marked

    graph = random_graph(n_nodes, n_edges, seed)
    codes = coded(graph.relations, graph.neighbours)
    marks = marked(graph.indptr, codes)
    known = set(map(tuple, hops_of(graph).tolist()))
    for head in range(n_nodes):
        for relation in range(graph.n_relations):
            for node in range(n_nodes):
                found = is_edge(graph.indptr, codes, marks, head, (relation << 32) | node)
                assert found == ((head, relation, node) in known)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_walks_and_no_edges(backend: Any) -> None:
    walker = BiasedWalker(graph_of([], 3), depth=0.5, crossing=0.5, bridges=flags(3), backend=backend)
    assert walker.extend(np.zeros((0, 3), np.int32), 2, seed=0).shape == (0, 5)
    assert walker.extend(np.array([[2, 7, 0]], np.int32), 2, seed=0).tolist() == [[2, 7, 0, -1, -1]]


def test_what_cannot_be_walked_is_refused() -> None:
    graph, good = graph_of([(0, 0, 1)], 2), {"depth": 0.7, "crossing": 0.5, "bridges": flags(2)}
    walker = BiasedWalker(graph, **good)  # type: ignore[arg-type]
    hop = np.array([[0, 0, 1]], np.int32)
    with pytest.raises(SubmissionError, match="at least 1 hops; got 0"):
        walker.extend(hop, 0, seed=0)
    for node in ([2, 0, 1], [0, 0, -1]):
        with pytest.raises(SubmissionError, match=r"node of a first hop must be in 0\.\.1"):
            walker.extend(np.array([node], np.int32), 2, seed=0)
    with pytest.raises(SubmissionError, match=r"rows \(node, relation, node\)"):
        walker.extend(hop[:, :2], 2, seed=0)
    for keywords, message in (
        ({"depth": 0.0}, "depth of biased walks must be between 0 and 1"),
        ({"crossing": 1.0}, "crossing of biased walks must be between 0 and 1"),
        ({"depth": float("nan")}, "depth of biased walks must be between 0 and 1"),
        ({"bridges": flags(3)}, "one flag for each of 2 nodes"),
        ({"backend": "dgl"}, "unknown walk backend"),
        ({"workers": 0}, "at least one worker"),
    ):
        with pytest.raises(SubmissionError, match=message):
            BiasedWalker(graph, **{**good, **keywords})  # type: ignore[arg-type]
