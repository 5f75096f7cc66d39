"""Paths that lead each user to an item of that user, as KGGLM trains on (RecSys 2024, doi 10.1145/3640457.3691703)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.common.paths.graph import PathGraph
from baselines.common.paths.random_numbers import mix
from baselines.common.paths.walks import Backend, Ints, Paths, Walker, check_request
from kpi_bench import Csr
from kpi_bench.errors import SubmissionError

IntArray = NDArray[np.integer]


class UserPaths:
    """Draws paths from users to their positives: as those of :class:`Walker`, but the last edge leads to an item of the user's.

    User u is node ``first_user + u``, item i is node ``nodes[i]``; ``positives`` is users x items. A path that cannot end so is
    drawn again as a whole, with its walk's stream mixed with the number of the try.

    Raises:
        SubmissionError: users or items outside of the graph, and as :class:`Walker`.
    """

    def __init__(
        self,
        graph: PathGraph,
        positives: Csr,
        nodes: Ints,
        first_user: int,
        *,
        weighting: str = "uniform",
        backend: Backend = "auto",
        device: str = "cpu",
        workers: int = 1,
    ) -> None:
        if first_user < 0 or first_user + positives.n_rows > graph.n_nodes:
            raise SubmissionError(
                f"{positives.n_rows} users from node {first_user} on do not fit a graph of {graph.n_nodes} nodes"
            )
        if len(nodes) != positives.n_columns:
            raise SubmissionError(f"{positives.n_columns} items need as many nodes; got {len(nodes)}")
        check_request(nodes, graph.n_nodes, 1, 1, "item's node")
        self._walker = Walker(graph, weighting=weighting, backend=backend, device=device, workers=workers)
        self._first_user = first_user
        wanted = Csr.from_pairs(
            positives.row_ids(), nodes[positives.indices], (positives.n_rows, graph.n_nodes)
        )
        self._has_positives = torch.from_numpy(wanted.lengths() > 0).to(self._walker.device)
        indptr, ends, relations = _edges_into(graph, wanted.indices)
        lists: tuple[IntArray, IntArray] = (ends.view(np.uint32), wanted.indices.view(np.uint32))
        if not self._walker.compiled:
            lists = (
                _row_keys(indptr, ends, graph.n_nodes),
                _row_keys(wanted.indptr, wanted.indices, graph.n_nodes),
            )
        self._lists = self._walker.held(indptr, lists[0], relations, wanted.indptr, lists[1])

    def sample(self, users: Ints, hops: int, *, seed: int, first: int = 0, tries: int = 16) -> Paths:
        """Paths of int64 ``[n]`` users, int32 ``[n, 2 * hops + 1]``; rows of -1 where none was found. Row i is path ``first + i`` of the seed.

        Raises:
            SubmissionError: ``hops`` is below 2, ``tries`` is below 1 or a user is out of range.
        """
        check_request(users, len(self._has_positives), hops, 2, "user")
        if tries < 1:
            raise SubmissionError(f"paths to a user's items need at least one try; got {tries}")

        def piece(users: Tensor, streams: Tensor, rows: Tensor) -> None:
            pending = self._has_positives[users].nonzero().squeeze(1)
            for number in range(tries):
                if len(pending) == 0:
                    break
                drawn = self._draw(users[pending], mix(streams[pending] ^ number), hops)
                arrived = drawn[:, -1] >= 0
                rows[pending[arrived]] = drawn[arrived]
                pending = pending[~arrived]

        return self._walker.in_pieces(users, hops, seed, first, piece)

    def _draw(self, users: Tensor, streams: Tensor, hops: int) -> Tensor:
        """One try for each user; the last node is -1 where it failed."""
        walker = self._walker
        rows = walker.empty(len(users), hops)
        rows[:, 0] = users + self._first_user
        walker.extend(rows, streams, hops - 1)
        finish = walker.kernels().finish
        if walker.compiled:
            finish(*self._lists, users.numpy(), walker.bits(streams), rows.numpy(), hops)
        else:
            finish(*self._lists, users, streams, rows, hops)
        return rows


def _edges_into(graph: PathGraph, targets: IntArray) -> tuple[Ints, NDArray[np.int32], NDArray[np.int32]]:
    """The graph's edges into some nodes, by (head, tail, relation): int64 ``[n_nodes + 1]`` places, tails and relations."""
    wanted = np.zeros(graph.n_nodes, dtype=np.bool_)
    wanted[targets] = True
    edges = np.flatnonzero(wanted[graph.neighbours])
    heads = np.searchsorted(graph.indptr, edges, side="right") - 1
    edges = edges[np.lexsort((graph.neighbours[edges], heads))]  # stable: relations stay ascending
    indptr = np.zeros(graph.n_nodes + 1, dtype=np.int64)
    np.cumsum(np.bincount(heads, minlength=graph.n_nodes), out=indptr[1:])
    return indptr, graph.neighbours[edges], graph.relations[edges]


def _row_keys(indptr: Ints, nodes: IntArray, n_nodes: int) -> Ints:
    """row * n_nodes + node of each entry: ascending over all rows, int64."""
    return np.repeat(np.arange(len(indptr) - 1, dtype=np.int64), np.diff(indptr)) * n_nodes + nodes
