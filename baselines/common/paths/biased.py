"""Biased continuation of paths: away from where they began, and across linked entities (RSN; Guo, Sun and Hu, ICML 2019)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from baselines.common.paths import _biased_torch
from baselines.common.paths._biased_torch import SCALE
from baselines.common.paths.graph import PathGraph
from baselines.common.paths.walks import Backend, Drawer, Ints, Paths, check_request
from kpi_bench.errors import SubmissionError

MOST = 1 << 27
"""Edges of a node, from which on sums of weights are beyond 2**47."""


class BiasedWalker(Drawer):
    """Draws on from given first hops: each later step takes an edge to a node that is not on the path yet.

    An edge (relation, node) weighs mu_d * mu_c: mu_d is ``depth`` where the path's first node has no such edge in ``graph``, else
    1 - ``depth``; mu_c is ``crossing`` where the node is one of ``bridges`` bool ``[n_nodes]``, else 1 - ``crossing``. Weights are rounded to
    2**-20 of the largest. RSN's published code leaves mu_d out of the first step after the given hop; here it counts in all.

    Raises:
        SubmissionError: as :class:`Drawer`, ``depth`` or ``crossing`` not between 0 and 1, bridges of another length, or a node of 2**27 edges.
    """

    def __init__(
        self,
        graph: PathGraph,
        *,
        depth: float,
        crossing: float,
        bridges: NDArray[np.bool_],
        backend: Backend = "auto",
        device: str = "cpu",
        workers: int = 1,
    ) -> None:
        super().__init__(backend=backend, device=device, workers=workers)
        if bridges.shape != (graph.n_nodes,):
            raise SubmissionError(
                f"bridges must be one flag for each of {graph.n_nodes} nodes; got shape {bridges.shape}"
            )
        if graph.n_edges and graph.degrees().max() >= MOST:
            raise SubmissionError(f"biased walks need nodes of fewer than {MOST} edges; cap the graph")
        self.graph = graph
        weights, flags = _weights(depth, crossing), np.ascontiguousarray(bridges, dtype=np.bool_)
        if self.compiled:
            codes = self.kernels().coded(graph.relations, graph.neighbours)
            marks = self.kernels().marked(graph.indptr, codes)
            self._graph: tuple[Any, ...] = (graph.indptr, codes, marks, flags, weights)
        else:
            edges = self.held(graph.indptr, graph.neighbours, graph.relations, graph.edge_keys)
            self._graph = (*edges, graph.n_relations, *self.held(flags, weights))
        self._extend = self.kernels().extend

    def extend(self, edges: NDArray[np.integer[Any]], hops: int, *, seed: int, first: int = 0) -> Paths:
        """Paths int32 ``[n, 2 * hops + 1]`` that begin with ``edges`` ``[n, 3]`` (node, relation, node); -1 from where one ends early.

        Row i is walk number ``first + i`` of the seed, whatever else is drawn. The given hops need not be edges of the graph: they may
        come from one that is not capped.

        Raises:
            SubmissionError: edges of another shape, ``hops`` is below 1 or a node is out of range.
        """
        if edges.ndim != 2 or edges.shape[1] != 3:
            raise SubmissionError(f"first hops must be rows (node, relation, node); got shape {edges.shape}")
        check_request(edges[:, 0::2], self.graph.n_nodes, hops, 1, "node of a first hop")

        def piece(given: Tensor, streams: Tensor, rows: Tensor) -> None:
            rows[:, :3] = given
            self._extend(*self._graph, self.bits(streams), rows.numpy() if self.compiled else rows, hops)

        return self.in_pieces(edges, hops, seed, first, piece)

    def kernels(self) -> Any:
        """The module of the backend's kernels."""
        if not self.compiled:
            return _biased_torch
        from baselines.common.paths import _biased_kernels

        return _biased_kernels


def _weights(depth: float, crossing: float) -> Ints:
    """Whole weights int64 ``[2, 2]``, the largest SCALE: of edges that the first node lacks or has, to nodes that are no bridge or one."""
    for name, value in (("depth", depth), ("crossing", crossing)):
        if not 0 < value < 1:
            raise SubmissionError(
                f"{name} of biased walks must be between 0 and 1, neither included; got {value}"
            )
    exact = np.outer([depth, 1 - depth], [1 - crossing, crossing])
    whole: Ints = np.round(SCALE * exact / exact.max()).astype(np.int64)
    return whole.clip(min=1)
