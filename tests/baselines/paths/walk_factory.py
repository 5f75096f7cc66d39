"""What the tests of plain and of biased walks share."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from baselines.common.paths.graph import PathGraph
from kpi_bench.evaluators.ranking import numba_available

BACKENDS = [
    pytest.param("numba", marks=pytest.mark.skipif(not numba_available(), reason="numba is not installed")),
    "torch",
]
Triple = tuple[int, int, int]
Paths = NDArray[np.int32]


def graph_of(
    triples: list[Triple], n_nodes: int, *, n_forward: int = 1, one_way: int | None = None
) -> PathGraph:
    table = np.array(triples, dtype=np.int64).reshape(-1, 3).T
    return PathGraph.of_edges(*table.copy(), n_nodes=n_nodes, n_forward=n_forward, one_way=one_way)


def random_graph(n_nodes: int, n_edges: int, seed: int = 0, one_way: int | None = None) -> PathGraph:
    """Skewed, with self-loops, several relations between two nodes and isolated nodes."""
    rng = np.random.default_rng(seed)
    heads, relations = rng.integers(0, n_nodes, n_edges), rng.integers(0, 3, n_edges)
    tails = (n_nodes * rng.random(n_edges) ** 3).astype(np.int64)
    triples = sorted(set(zip(heads.tolist(), relations.tolist(), tails.tolist(), strict=True)))
    return graph_of(triples, n_nodes, n_forward=3, one_way=one_way)


def assert_follows(paths: Paths, law: dict[tuple[int, ...], float]) -> None:
    """Chi-square of whole paths; those that are expected fewer than 5 times count as one."""
    counts = Counter(tuple(path) for path in paths.tolist())
    assert counts.keys() <= law.keys()
    often = [path for path, chance in law.items() if chance * len(paths) >= 5]
    observed = [counts[path] for path in often]
    expected = [law[path] * len(paths) for path in often]
    rest = len(paths) - sum(expected)
    if rest > 1:
        observed, expected = [*observed, len(paths) - sum(observed)], [*expected, rest]
    scale = len(paths) / sum(expected)
    if len(observed) > 1:
        assert stats.chisquare(observed, [e * scale for e in expected]).pvalue > 1e-4


def assert_sound(graph: PathGraph, paths: Paths, starts: NDArray[np.int64]) -> None:
    """Start nodes, edges, no node twice, and -1 behind the end only where no edge leads off the walk."""
    np.testing.assert_array_equal(paths[:, 0], starts)
    for step in range(paths.shape[1] // 2):
        edge = paths[:, 2 * step : 2 * step + 3].astype(np.int64)
        there = edge[:, 2] >= 0
        assert graph.has_edges(*edge[there].T).all()
        assert (edge[~there, 1:] == -1).all()
        assert (paths[~there, 2 * step + 1 :] == -1).all()
    for nodes in paths[:, 0::2]:
        real = nodes[nodes >= 0]
        assert len(np.unique(real)) == len(real)
