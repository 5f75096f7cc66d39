"""Ways to draw walks: ours, packages, and plain walks over CSR arrays.

Names that begin with ``own`` are kpi-bench. Walks run over a generated graph and over ml-100k's. ``dgl-walk`` and ``igraph-walk`` are the
packages: they return nodes alone, and may visit a node again, which ours may not. ``numpy-walk`` returns relations too and may visit a
node again, ``numpy-walk-once`` may not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from baselines.common.paths.graph import PathGraph
from baselines.common.paths.interactions import TaskGraph
from baselines.common.paths.user_paths import UserPaths
from baselines.common.paths.walks import Backend, Walker
from benchmarks.workloads import ROOT
from kpi_bench import RecommendationTask
from kpi_bench._dgl import import_dgl
from kpi_bench.suites.suite import open_suite

SUITE = "KPI_BENCH_ML_100K"
"""The variable that names the folder of the built suite; the benchmark sets it where it is unset."""

Ints = NDArray[np.int64]
Rows = NDArray[np.integer[Any]]
Draw = Callable[[int], Rows]

# --- Graphs -----------------------------------------------------------------------------------------------------------------------------

N_NODES, N_EDGES, STEPS = 200_000, 1_000_000, 10
HOPS = 3


@cache
def skewed_graph() -> PathGraph:
    """200,000 nodes and 1M random triples of 20 relations, both ways; a few tails are in most triples: the largest degree is 17,000."""
    rng = np.random.default_rng(0)
    tails = (N_NODES * rng.random(N_EDGES) ** 3).astype(np.int64)
    edges = np.stack([rng.integers(0, N_NODES, N_EDGES), rng.integers(0, 20, N_EDGES), tails], axis=1)
    heads, relations, tails = np.ascontiguousarray(np.unique(edges, axis=0).T)
    return PathGraph.of_edges(heads, relations, tails, n_nodes=N_NODES, n_forward=20)


@cache
def starts() -> Ints:
    """200,000 random nodes that have an edge."""
    return np.random.default_rng(1).choice(np.flatnonzero(skewed_graph().degrees()), 200_000)


def ml_100k_raw() -> Path | None:
    """The folder of the recipe's raw files: below KPI_BENCH_DATA or ../shared/data; None where there is none."""
    folder = Path(os.environ.get("KPI_BENCH_DATA", ROOT.parent / "shared" / "data"))
    found = sorted(folder.rglob("ml-100k/ml-100k.inter")) if folder.is_dir() else []
    return found[0].parents[1] if found else None


@cache
def ml_100k() -> tuple[RecommendationTask, TaskGraph]:
    """The suite's only task, and its graph: the KG and the train interactions, all both ways."""
    suite = open_suite(Path(os.environ[SUITE]))
    task = suite.task(suite.task_names()[0])
    assert isinstance(task, RecommendationTask)
    return task, TaskGraph.of_task(task, suite.graph(task.spec.kg), collaborative=True)


# --- Walks ------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Walks:
    """``make()`` gives what draws the first ``n`` walks: rows of nodes, or of nodes with the relations between them."""

    n: int
    make: Callable[[], Draw]
    revisits: bool = False


@cache
def own_walks(weighting: str, backend: Backend) -> Draw:
    walker = Walker(skewed_graph(), weighting=weighting, backend=backend)
    return lambda n: walker.walk(starts()[:n], STEPS, seed=0)


@cache
def dgl_walks() -> Draw:
    dgl, g = import_dgl(), skewed_graph()
    heads = np.repeat(np.arange(g.n_nodes), g.degrees())
    pairs = torch.from_numpy(heads), torch.from_numpy(g.neighbours.astype(np.int64))
    graph = dgl.graph(pairs, num_nodes=g.n_nodes).formats(["csr"])
    graph.create_formats_()
    nodes = torch.from_numpy(starts())
    return lambda n: dgl.sampling.random_walk(graph, nodes[:n], length=STEPS)[0].numpy()


@cache
def numpy_walks() -> Draw:
    """Nodes and relations as ours; any edge may be taken."""
    g, rng = skewed_graph(), np.random.default_rng(0)
    degrees = g.degrees()

    def draw(n: int) -> Rows:
        rows = np.empty((2 * STEPS + 1, n), dtype=np.int32)
        rows[0] = starts()[:n]
        for column in range(0, 2 * STEPS, 2):
            edges = g.indptr[rows[column]] + (rng.random(n) * degrees[rows[column]]).astype(np.int64)
            rows[column + 1], rows[column + 2] = g.relations[edges], g.neighbours[edges]
        return rows.T

    return draw


@cache
def numpy_walks_once() -> Draw:
    """As :func:`numpy_walks`, but a step to a node of the walk is drawn again; the walk ends where four draws come to one."""
    g, rng = skewed_graph(), np.random.default_rng(0)
    degrees = g.degrees()

    def draw(n: int) -> Rows:
        rows = np.full((2 * STEPS + 1, n), -1, dtype=np.int32)
        rows[0] = starts()[:n]
        for column in range(0, 2 * STEPS, 2):
            pending = np.flatnonzero(rows[column] >= 0)
            for _ in range(4):
                at = rows[column, pending]
                edges = g.indptr[at] + (rng.random(len(at)) * degrees[at]).astype(np.int64)
                fresh = (rows[0 : column + 1 : 2, pending] != g.neighbours[edges]).all(axis=0)
                taken, edges, pending = pending[fresh], edges[fresh], pending[~fresh]
                rows[column + 1, taken], rows[column + 2, taken] = g.relations[edges], g.neighbours[edges]
        return rows.T

    return draw


@cache
def igraph_walks() -> Draw:
    import igraph  # type: ignore[import-not-found]

    graph = igraph.Graph(N_NODES, edges_once())
    return lambda n: np.array([graph.random_walk(v, STEPS) for v in starts()[:n].tolist()])


def edges_once() -> Ints:
    """Pairs of nodes int64 ``[n, 2]`` that an edge joins, in one direction."""
    g = skewed_graph()
    forward = g.relations < g.n_forward
    heads = np.repeat(np.arange(g.n_nodes), g.degrees())
    return np.stack([heads[forward], g.neighbours[forward].astype(np.int64)], axis=1)


@cache
def own_kg_walks(backend: Backend) -> Draw:
    """From each entity in turn, as in pre-training."""
    graph = ml_100k()[1]
    walker = Walker(graph.graph, backend=backend)
    return lambda n: walker.walk(np.arange(n) % len(graph.entities), HOPS, seed=0)


@cache
def own_user_paths(backend: Backend) -> Draw:
    """From each user in turn to an item of the user's train items, as in fine-tuning."""
    task, graph = ml_100k()
    sampler = UserPaths(graph.graph, task.train_matrix, graph.items, graph.first_user, backend=backend)
    return lambda n: sampler.sample(np.arange(n) % task.n_users, HOPS, seed=0)


WALKS: dict[str, Walks] = {
    "own-walk": Walks(200_000, partial(own_walks, "uniform", "numba")),
    "own-walk-torch": Walks(200_000, partial(own_walks, "uniform", "torch")),
    "own-walk-degree": Walks(200_000, partial(own_walks, "degree", "numba")),
    "own-walk-degree-torch": Walks(200_000, partial(own_walks, "degree", "torch")),
    "numpy-walk": Walks(200_000, numpy_walks, revisits=True),
    "numpy-walk-once": Walks(200_000, numpy_walks_once),
    "dgl-walk": Walks(200_000, dgl_walks, revisits=True),
    "igraph-walk": Walks(5_000, igraph_walks, revisits=True),
}
ML_100K_WALKS: dict[str, Walks] = {
    "own-kg-walk": Walks(200_000, partial(own_kg_walks, "numba")),
    "own-kg-walk-torch": Walks(200_000, partial(own_kg_walks, "torch")),
    "own-user-path": Walks(200_000, partial(own_user_paths, "numba")),
    "own-user-path-torch": Walks(200_000, partial(own_user_paths, "torch")),
}


def complete(walks: Walks) -> float:
    """Draw, and return the share of walks that have their full length."""
    return float((walks.make()(walks.n)[:, -1] >= 0).mean())


def check_walks(walks: Walks, graph: PathGraph, width: int, n: int = 20_000) -> None:
    """All steps of the first walks are edges of the graph, and no node comes twice unless it may; rows of ``width`` hold relations too.

    Raises:
        AssertionError: they are not, or do.
    """
    rows = walks.make()(min(n, walks.n)).astype(np.int64)
    if rows.shape[1] == width:
        check_paths(rows, graph, walks.revisits)
        return
    heads = np.repeat(np.arange(graph.n_nodes), graph.degrees())
    joined = np.unique(heads * graph.n_nodes + graph.neighbours)
    steps = rows[:, :-1] * graph.n_nodes + rows[:, 1:]
    assert rows.shape[1] == width // 2 + 1
    assert rows.min() >= 0
    assert np.isin(steps, joined).all()


def check_paths(rows: Ints, graph: PathGraph, revisits: bool = False) -> None:
    """Paths ``[n, 2 * hops + 1]`` that may end early run over edges of the graph and, unless ``revisits``, visit no node twice.

    Raises:
        AssertionError: they do not, or do.
    """
    nodes = rows[:, 0::2]
    taken = rows[:, 2::2] >= 0
    edges = (column[taken] for column in (rows[:, :-2:2], rows[:, 1::2], rows[:, 2::2]))
    assert graph.has_edges(*edges).all()
    assert (rows[:, 1::2] >= 0)[taken].all()
    assert (taken[:, 1:] <= taken[:, :-1]).all()
    for i in range(1, 1 if revisits else nodes.shape[1]):
        assert ((nodes[:, :i] != nodes[:, i : i + 1]) | (nodes[:, i : i + 1] < 0)).all()


CONTENDERS: dict[str, Callable[[], float]] = {
    name: partial(complete, walks) for name, walks in (WALKS | ML_100K_WALKS).items()
}
