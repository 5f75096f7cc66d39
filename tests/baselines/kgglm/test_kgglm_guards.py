"""Faults that other implementations of path language models have: a network at build time, V x V structures, no quality to lose."""

from __future__ import annotations

import socket
import tracemalloc
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from baseline_factory import context
from kgglm_factory import planted, small, untrained

from baselines.common.paths.graph import PathGraph
from baselines.common.paths.interactions import TaskGraph
from baselines.common.paths.user_paths import UserPaths
from baselines.common.recommenders.base import RecommenderConfig
from baselines.common.scorers import FactorScorer
from baselines.common.validation import RankingValidation
from baselines.kgglm.candidates import HopEdges, edges_towards
from baselines.kgglm.recommend import PathScorer, fit_path_recommender
from kpi_bench import Csr


def test_no_network_is_needed_to_build_and_run_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def refuse(*address: Any, **_: Any) -> NoReturn:
        asked.append(address)
        raise OSError("no network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    task, kg = planted()
    model = untrained(TaskGraph.of_task(task, kg, collaborative=True), small())
    assert torch.isfinite(model.hidden(torch.zeros(2, 3, dtype=torch.int64))).all()
    assert asked == []


def test_fine_tuning_beats_popularity_and_paths_alone_on_valid(tmp_path: Path) -> None:
    """The KG holds what users like, behind decoys: without training paths lead astray, and popularity says nothing."""
    task, kg = planted(decoys=True)
    config = small(hidden=32, heads=2, paths=20, epochs=4, eval_every=4, beams=30, dropout=0.0, lr=0.01)
    graph = TaskGraph.of_task(task, kg, collaborative=False)
    validation = RankingValidation(task, "ndcg@10")
    counts = np.bincount(task.train.items, minlength=task.n_items)
    popular = FactorScorer(torch.ones(task.n_users, 1), torch.from_numpy(counts).float()[:, None])
    popularity = validation.score(popular)
    paths_alone = validation.score(PathScorer.of(untrained(graph, config), graph, config, seed=0))
    model = untrained(graph, config)
    recommender = RecommenderConfig(valid_metric="ndcg@10")
    fitted = fit_path_recommender(task, graph, model, config, recommender, context(1, tmp_path))
    assert fitted.valid_score > 0.4
    assert max(popularity, paths_alone) < 0.1
    assert fitted.valid_score == validation.score(fitted.scorer)


def n_bytes(held: Any) -> int:
    """Bytes of all arrays and tensors that an object holds."""
    return sum(value.nbytes for value in vars(held).values() if isinstance(value, np.ndarray | torch.Tensor))


def test_graph_structures_are_as_large_as_the_edges() -> None:
    """On 50,000 nodes and 100,000 edges of 500 relations: neither nodes x nodes nor nodes x relations, kept or on the way."""
    n_nodes, n_items, n_users, n_relations = 50_000, 5_000, 10_000, 500
    rng = np.random.default_rng(0)
    first_user = n_nodes - n_users
    edges = np.stack(
        [rng.integers(limit, size=70_000) for limit in (first_user, n_relations - 1, first_user)], axis=1
    )
    user, item = np.divmod(np.unique(rng.integers(n_users * n_items, size=30_000)), n_items)
    watched = np.stack([first_user + user, np.full(len(user), n_relations - 1), item], axis=1)
    heads, relations, tails = np.concatenate([np.unique(edges, axis=0), watched]).T.copy()
    positives = Csr.from_pairs(user, item, (n_users, n_items))
    size = n_nodes + 2 * len(heads)
    tracemalloc.start()
    graph = PathGraph.of_edges(heads, relations, tails, n_nodes=n_nodes, n_forward=n_relations)
    _ = graph.ranges
    hops = [HopEdges.of_graph(graph, kept) for kept in edges_towards(graph, np.arange(n_nodes) < n_items, 3)]
    sampler = UserPaths(graph, positives, np.arange(n_items), first_user)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert graph.n_edges == 2 * len(heads)
    for held in (graph, graph.ranges, *hops):
        assert 0 < n_bytes(held) <= 40 * size
    assert peak <= 400 * size < n_nodes * n_relations * 8
    assert sampler.sample(user[:10], 3, seed=0).shape == (10, 7)
