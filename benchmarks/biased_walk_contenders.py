"""Contenders that draw the second hop of JPLR's paths, and what each draw must fulfil.

``own-...`` are kpi-bench. ``plain-walk`` draws from our distribution one walk at a time, ``rsn-form`` from that which our specification gives for
RSN's published notebook (its first step by the bridges alone, and it may come back); both are restatements in our own words.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from baselines.common.paths.biased import BiasedWalker
from baselines.common.paths.graph import PathGraph
from baselines.common.paths.random_numbers import stream
from baselines.common.paths.walks import Backend
from baselines.jplr.config import JplrConfig
from baselines.jplr.paths import TriplePaths
from benchmarks.workloads import training_workload
from kpi_bench import Context

CONFIG = JplrConfig(batch_size=1024)
HOPS = CONFIG.hops

Ints = NDArray[np.int64]
Paths = NDArray[np.int32]
Draw = Callable[[Paths], Paths]


@cache
def kg_graph() -> PathGraph:
    """FB15k-237 (a generated KG of its sizes without the archive) with its hubs thinned as in the first epoch of seed 0."""
    return whole_graph().capped(CONFIG.hub_limit, CONFIG.hub_keep, seed=stream("hubs 0", 0))


@cache
def whole_graph() -> PathGraph:
    w = training_workload()
    return PathGraph.of_edges(*w.triples.T, n_nodes=w.n_entities, n_forward=w.n_relations)


@cache
def first_hops() -> Paths:
    """All directed triples, int32 ``[544,230, 3]``; linked entities there are none."""
    w = training_workload()
    return np.concatenate([w.triples, w.triples[:, ::-1] + [0, w.n_relations, 0]]).astype(np.int32)


def no_bridges() -> NDArray[np.bool_]:
    return np.zeros(kg_graph().n_nodes, dtype=np.bool_)


@cache
def own_extend(backend: Backend) -> Draw:
    walker = BiasedWalker(
        kg_graph(), depth=CONFIG.depth, crossing=CONFIG.crossing, bridges=no_bridges(), backend=backend
    )
    return lambda first: walker.extend(first, HOPS, seed=stream("later hops", 0))


@cache
def own_epoch() -> Draw:
    """All of an epoch whichever first hops are given: hubs thinned, the walker built, walks drawn in blocks."""
    ctx = Context(0, "cpu", Path(tempfile.gettempdir()), {})
    sample = TriplePaths(whole_graph(), training_workload().triples, no_bridges(), CONFIG, ctx)
    return lambda first: np.concatenate(list(sample(0)))[: len(first)]


@cache
def one_by_one(form: str) -> Draw:
    """A walk at a time: weights of all edges of its last node, then one of them by ``choice``."""
    g, bridges, rng = kg_graph(), no_bridges(), np.random.default_rng(0)
    codes = g.relations.astype(np.int64) * g.n_nodes + g.neighbours
    crossing = np.where(bridges, CONFIG.crossing, 1 - CONFIG.crossing)[g.neighbours]

    def draw(first: Paths) -> Paths:
        rows = np.full((len(first), 2 * HOPS + 1), -1, dtype=np.int32)
        rows[:, :3] = first
        for row in rows:
            for step in range(2, 2 * HOPS, 2):
                head, node = row[0], row[step]
                edges = slice(g.indptr[node], g.indptr[node + 1])
                weights = crossing[edges]
                if form == "plain-walk" or step > 2:
                    held = np.isin(codes[edges], codes[g.indptr[head] : g.indptr[head + 1]])
                    weights = weights * np.where(held, 1 - CONFIG.depth, CONFIG.depth)
                if form == "plain-walk":
                    weights = weights * ~np.isin(g.neighbours[edges], row[0 : step + 1 : 2])
                total = weights.sum()
                if total == 0:
                    break
                edge = g.indptr[node] + rng.choice(len(weights), p=weights / total)
                row[step + 1], row[step + 2] = g.relations[edge], g.neighbours[edge]
        return rows

    return draw


@dataclass(frozen=True)
class Walks:
    """``make()`` gives what draws on from the first hops of ``n`` random rows of :func:`first_hops`, from all of them in order where None."""

    n: int | None
    make: Callable[[], Draw]
    biased: bool = True

    def given(self) -> Paths:
        hops = first_hops()
        return (
            hops
            if self.n is None
            else hops[np.random.default_rng(1).choice(len(hops), self.n, replace=False)]
        )

    def complete(self) -> float:
        """Draw, and return the share of walks that have their full length."""
        return float((self.make()(self.given())[:, -1] >= 0).mean())


WALKS: dict[str, Walks] = {
    "own-extend": Walks(None, partial(own_extend, "numba")),
    "own-extend-torch": Walks(None, partial(own_extend, "torch")),
    "own-epoch": Walks(None, own_epoch),
    "plain-walk": Walks(10_000, partial(one_by_one, "plain-walk")),
    "rsn-form": Walks(10_000, partial(one_by_one, "rsn-form"), biased=False),
}
