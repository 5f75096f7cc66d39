"""The paths of an epoch: every triple, both ways, as a first hop, and later hops over a graph whose hubs are thinned out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from baselines.common.paths.biased import BiasedWalker
from baselines.common.paths.epochs import pieces
from baselines.common.paths.graph import PathGraph
from baselines.common.paths.random_numbers import stream
from baselines.jplr.config import JplrConfig
from kpi_bench import Context

Paths = NDArray[np.int32]


class TriplePaths:
    """Draws paths int32 ``[n, 2 * hops + 1]`` that begin with ``triples`` int64 ``[m, 3]``, forward and then backward; -1 behind a dead end.

    Path i of an epoch depends on the run's seed, the epoch and i alone.
    """

    def __init__(
        self,
        graph: PathGraph,
        triples: NDArray[np.int64],
        bridges: NDArray[np.bool_],
        config: JplrConfig,
        ctx: Context,
    ) -> None:
        back = triples[:, ::-1] + np.array([0, graph.n_forward, 0])
        self._first = np.concatenate([triples, back]).astype(np.int32)
        self._graph, self._bridges, self._config, self._ctx = graph, bridges, config, ctx

    def __call__(self, epoch: int) -> Iterator[Paths]:
        """The paths of an epoch (from 0) in blocks."""
        config, seed = self._config, self._ctx.seed
        graph = self._graph.capped(config.hub_limit, config.hub_keep, seed=stream(f"hubs {epoch}", seed))
        walker = BiasedWalker(
            graph,
            depth=config.depth,
            crossing=config.crossing,
            bridges=self._bridges,
            device=self._ctx.device,
        )
        if len(self._first) == 0:
            yield np.empty((0, 2 * config.hops + 1), dtype=np.int32)
        for first, block in pieces(np.arange(len(self._first)), 1):
            yield walker.extend(
                self._first[block],
                config.hops,
                seed=stream("later hops", seed),
                first=epoch * len(self._first) + first,
            )
