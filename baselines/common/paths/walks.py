"""Random walks without revisits over a path graph, the same for any backend, number of workers and division into pieces."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.common.paths import _walk_torch
from baselines.common.paths.graph import PathGraph
from baselines.common.paths.random_numbers import keys
from kpi_bench.errors import SubmissionError
from kpi_bench.evaluators.ranking import numba_available

Backend = Literal["auto", "numba", "torch"]
Ints = NDArray[np.int64]
Paths = NDArray[np.int32]
PIECE = 1 << 14


class Drawer:
    """What draws paths in pieces: its backend, device and worker threads.

    Raises:
        SubmissionError: an unknown backend, numba asked for but absent or off the CPU, or no worker.
    """

    def __init__(self, *, backend: Backend = "auto", device: str = "cpu", workers: int = 1) -> None:
        if workers < 1:
            raise SubmissionError(f"walks need at least one worker; got {workers}")
        self.workers, self.device = workers, torch.device(device)
        self.compiled = _compiled(backend, self.device)

    def empty(self, n: int, hops: int) -> Tensor:
        """Rows of -1, int32 ``[n, 2 * hops + 1]``."""
        return torch.full((n, 2 * hops + 1), -1, dtype=torch.int32, device=self.device)

    def in_pieces(
        self,
        values: NDArray[np.integer[Any]],
        hops: int,
        seed: int,
        first: int,
        work: Callable[[Tensor, Tensor, Tensor], None],
    ) -> Paths:
        """Rows of -1 that ``work`` (values of a piece, their streams, their rows) fills, for all pieces of ``[n, ...]`` values by the workers.

        ``work`` gets the values as int64.
        """
        rows = self.empty(len(values), hops)
        given = torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)).to(self.device)

        def run(start: int) -> None:
            part = slice(start, start + PIECE)
            numbers = torch.arange(first + start, first + start + len(given[part]), device=self.device)
            work(given[part], keys(seed, numbers), rows[part])

        with ThreadPoolExecutor(self.workers) as pool:
            list(pool.map(run, range(0, len(values), PIECE)))
        return rows.cpu().numpy()

    def held(self, *arrays: NDArray[Any]) -> tuple[Any, ...]:
        """Arrays as the kernels take them."""
        if self.compiled:
            return arrays
        return tuple(torch.from_numpy(array).to(self.device) for array in arrays)

    def bits(self, streams: Tensor) -> Any:
        """int64 streams as the kernels take them."""
        return streams.numpy().view(np.uint64) if self.compiled else streams


class Walker(Drawer):
    """Draws paths: int32 rows ``[2 * hops + 1]`` of node, relation, node, ..., node; -1 from where a walk ends early.

    Each step takes an edge to a node that is not on the walk yet, drawn among all such edges with equal weight (``uniform``) or with
    the number of edges of the node it leads to (``degree``; a node without any is never entered). A walk ends where no such edge is left.
    ``workers`` threads share the pieces of a call.

    Raises:
        SubmissionError: as :class:`Drawer`, an unknown weighting, or a node whose edges weigh 2**31 or more together.
    """

    def __init__(
        self,
        graph: PathGraph,
        *,
        weighting: str = "uniform",
        backend: Backend = "auto",
        device: str = "cpu",
        workers: int = 1,
    ) -> None:
        super().__init__(backend=backend, device=device, workers=workers)
        self.graph = graph
        edges = (graph.neighbours, graph.relations, _cumulative(graph, weighting))
        if self.compiled:
            self._graph = (graph.indptr, self.kernels().packed(graph.indptr, *edges))
        else:
            self._graph = self.held(graph.indptr, *edges)
        self._walk = self.kernels().walk

    def walk(self, starts: Ints, hops: int, *, seed: int, first: int = 0) -> Paths:
        """Paths from int64 ``[n]`` nodes, int32 ``[n, 2 * hops + 1]``; row i is walk number ``first + i`` of the seed, whatever else is drawn.

        Raises:
            SubmissionError: ``hops`` is below 1 or a start node is out of range.
        """
        check_request(starts, self.graph.n_nodes, hops, 1, "start node")

        def piece(nodes: Tensor, streams: Tensor, rows: Tensor) -> None:
            rows[:, 0] = nodes
            self.extend(rows, streams, hops)

        return self.in_pieces(starts, hops, seed, first, piece)

    def extend(self, rows: Tensor, streams: Tensor, hops: int) -> None:
        """Take the first ``hops`` steps of rows that hold their start nodes and -1, in place."""
        self._walk(*self._graph, self.bits(streams), rows.numpy() if self.compiled else rows, hops)

    def kernels(self) -> Any:
        """The module of the backend's kernels."""
        if not self.compiled:
            return _walk_torch
        from baselines.common.paths import _walk_kernels

        return _walk_kernels


def check_request(values: NDArray[np.integer[Any]], limit: int, hops: int, least: int, what: str) -> None:
    """Refuse a request for paths that cannot be drawn."""
    if hops < least:
        raise SubmissionError(f"these paths need at least {least} hops; got {hops}")
    if len(values) and (values.min() < 0 or values.max() >= limit):
        raise SubmissionError(f"each {what} must be in 0..{limit - 1}; found {values.min()}..{values.max()}")


def _compiled(backend: str, device: torch.device) -> bool:
    if backend not in ("auto", "numba", "torch"):
        raise SubmissionError(f"unknown walk backend {backend!r}; use auto, numba or torch")
    if backend == "numba" and device.type != "cpu":
        raise SubmissionError(f"numba walks on the CPU only, not on {device}; use the torch backend")
    if backend == "numba" and not numba_available():
        raise SubmissionError(
            "the numba backend needs numba: pip install 'kpi-bench[fast]', or use the torch backend"
        )
    return backend == "numba" or (backend == "auto" and device.type == "cpu" and numba_available())


def _cumulative(graph: PathGraph, weighting: str) -> Ints:
    """Sums of the edges' weights before each edge, int64 ``[n_edges + 1]``; empty where all weigh 1."""
    if weighting not in ("uniform", "degree"):
        raise SubmissionError(f"unknown weighting {weighting!r} of walks; use uniform or degree")
    degrees = graph.degrees()
    sums = np.zeros(0, dtype=np.int64)
    totals = degrees
    if weighting == "degree":
        sums = np.zeros(graph.n_edges + 1, dtype=np.int64)
        np.cumsum(degrees[graph.neighbours], out=sums[1:])
        totals = np.diff(sums[graph.indptr])
    if len(totals) and totals.max() >= 1 << 31:
        raise SubmissionError(
            f"the edges of node {int(totals.argmax())} weigh {totals.max()} together, and walks draw below 2**31; use uniform weighting or a part of the graph"
        )
    return sums
