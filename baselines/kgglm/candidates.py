"""Candidates of a decoding step as ragged rows: which edges a hop may take, the best of each row, draws, and top-k lists."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.common.paths.graph import PathGraph

Flags = NDArray[np.bool_]

_LOW_BITS = 0xFFFFFFFF
_NOTHING = int(np.float32(-np.inf).view(np.int32)) ^ 0x7FFFFFFF
_NO_KEY = _NOTHING << 32


@dataclass(frozen=True, eq=False)
class HopEdges:
    """The edges that one hop may take: groups of node v are ``indptr[v]:indptr[v + 1]``, group g has the edges ``first[g]:first[g + 1]``.

    int64 ``indptr [n_nodes + 1]``, ``relations [n_groups]`` ascending within a node, ``first [n_groups + 1]``; int32 ``lone [n_groups]``, the
    neighbour of a group's only edge or -1; int32 ``neighbours`` and ``places [n_edges]``, the numbers of neighbours in their relation's range.
    """

    indptr: Tensor
    relations: Tensor
    first: Tensor
    lone: Tensor
    neighbours: Tensor
    places: Tensor

    @classmethod
    def of_graph(cls, graph: PathGraph, kept: Flags) -> HopEdges:
        """Those edges of ``graph`` that bool ``kept [n_edges]`` marks."""
        heads = np.repeat(np.arange(graph.n_nodes), graph.degrees())[kept]
        relations, neighbours = graph.relations[kept], graph.neighbours[kept]
        first = np.flatnonzero(np.diff(heads * graph.n_relations + relations, prepend=-1))
        ends = np.append(first, len(heads))
        indptr = np.zeros(graph.n_nodes + 1, dtype=np.int64)
        np.cumsum(np.bincount(heads[first], minlength=graph.n_nodes), out=indptr[1:])
        lone = np.where(np.diff(ends) == 1, neighbours[first], np.int32(-1))
        arrays = (
            indptr,
            relations[first].astype(np.int64),
            ends,
            lone,
            neighbours,
            graph.ranges.places[kept],
        )
        return cls(*(torch.from_numpy(array) for array in arrays))

    def to(self, device: torch.device) -> HopEdges:
        return HopEdges(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def edges_towards(graph: PathGraph, ends: Flags, hops: int) -> list[Flags]:
    """For each of ``hops`` hops, which edges ``[n_edges]`` may be taken so that the last hop can reach a node in ``ends [n_nodes]``.

    An edge to a node from which every way on leads straight back is left out: most entities of a KG have one edge, and a beam that
    enters one is lost. No path that visits a node once loses an edge.
    """
    heads = np.repeat(np.arange(graph.n_nodes), graph.degrees())
    tails = graph.neighbours
    moves = heads != tails
    kept = [moves & ends[tails]]
    for _ in range(hops - 1):
        lowest, highest = np.full(graph.n_nodes, graph.n_nodes), np.full(graph.n_nodes, -1)
        np.minimum.at(lowest, heads[kept[-1]], tails[kept[-1]])
        np.maximum.at(highest, heads[kept[-1]], tails[kept[-1]])
        back = (lowest[tails] == heads) & (highest[tails] == heads)
        kept.append(moves & (highest[tails] >= 0) & ~back)
    return kept[::-1]


def bounds(counts: Tensor) -> Tensor:
    """Where rows of ``counts`` int64 ``[n]`` entries begin and end, int64 ``[n + 1]``."""
    out = counts.new_zeros(len(counts) + 1)
    torch.cumsum(counts, 0, out=out[1:])
    return out


def expand(starts: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Row and element of all elements ``starts[i], starts[i] + 1, ...`` (``counts[i]`` of them) of rows i, int64 ``[sum of counts]`` each."""
    rows = torch.repeat_interleave(counts)
    shift = starts - bounds(counts)[:-1]
    return rows, torch.arange(len(rows), device=rows.device) + shift[rows]


def best(scores: Tensor, ends: Tensor, k: int) -> Tensor:
    """Positions, ascending, of the ``k`` best of each row ``ends[i]:ends[i + 1]`` of float32 ``scores [n]``; of equals the first.

    Those of score -inf are none.
    """
    counts = ends.diff()
    width = int(counts.max()) if len(counts) else 0
    if width <= k:
        return (scores > -torch.inf).nonzero()[:, 0]
    inside = torch.arange(width, device=scores.device) < counts[:, None]
    keys = torch.full(inside.shape, _NO_KEY, device=scores.device)
    keys.masked_scatter_(inside, _encode(scores, torch.arange(len(scores), device=scores.device)))
    _, positions = _decode(keys.topk(k, dim=1, sorted=False).values.flatten())
    return positions[positions >= 0].sort().values


def draw(scores: Tensor, ends: Tensor, rows: Tensor, uniform: Tensor) -> Tensor:
    """For each of ``rows`` int64 ``[m]`` a position drawn from the softmax of its ``scores[ends[row]:ends[row + 1]]``, int64 ``[m]``; -1: all are -inf.

    ``uniform`` float64 ``[m]`` in [0, 1) decides.
    """
    counts = ends.diff()
    owners = torch.repeat_interleave(counts)
    highest = scores.new_full((len(counts),), -torch.inf).scatter_reduce_(0, owners, scores, "amax")
    weights = (scores - highest.clamp_min(torch.finfo(scores.dtype).min)[owners]).double().exp()
    total = torch.cat([weights.new_zeros(1), weights.cumsum(0)])
    low, high = total[ends[rows]], total[ends[rows + 1]]
    # Rounding must not carry a draw over the end of its row.
    wanted = torch.minimum(low + uniform * (high - low), torch.nextafter(high, low))
    return torch.where(high > low, torch.searchsorted(total[1:].contiguous(), wanted, right=True), -1)


def rank_items(
    scores: Tensor, users: Tensor, items: Tensor, n_users: int, k: int, order: Tensor, *, add: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Lists of distinct items from paths with float32 ``scores [n]`` of users and to items int64 ``[n]``.

    An item's score is its best path's, with ``add`` that of all its paths together (log of the summed probabilities). Returns items int64
    (-1: none), scores float32 (-inf) and the best path's number int64 (-1), each ``[n_users, k]``: by score, then ``order`` int64 ``[n_items]``.
    Of an item's equal paths the first counts.
    """
    n_items = len(order)
    cells = users * n_items + items
    keys = torch.full((n_users * n_items,), _NO_KEY, device=scores.device)
    keys.scatter_reduce_(0, cells, _encode(scores, torch.arange(len(scores), device=scores.device)), "amax")
    score, path = _decode(keys)
    if add:
        highest = score.view(n_users, n_items).amax(1).clamp_min(torch.finfo(scores.dtype).min).double()
        mass = torch.zeros(len(score), dtype=torch.float64, device=scores.device)
        mass.index_add_(0, cells, (scores.double() - highest[users]).exp_())
        score = (mass.view(n_users, n_items).log_() + highest[:, None]).float()
    table = _encode(score.view(n_users, n_items), order)
    listed, place = _decode(table.topk(min(k, n_items), dim=1).values)
    of_place = torch.empty_like(order)
    of_place[order] = torch.arange(n_items, device=order.device)
    missing = place < 0
    found = of_place[place.clamp_min(0)]
    number = path.view(n_users, n_items).gather(1, found).masked_fill(missing, -1)
    fill = (0, k - place.shape[1])
    pad = torch.nn.functional.pad
    return (
        pad(found.masked_fill(missing, -1), fill, value=-1),
        pad(listed, fill, value=-torch.inf),
        pad(number, fill, value=-1),
    )


def _encode(scores: Tensor, columns: Tensor) -> Tensor:
    """int64 keys of float32 scores and columns below 2**32: a larger key is a higher score, or an equal one in a lower column.

    As ``kpi_bench.evaluators._keys``, on any device; -inf is a score like others here.
    """
    bits = (scores + 0.0).view(torch.int32)
    monotone = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    return (monotone << 32) | (_LOW_BITS - columns)


def _decode(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Scores float32 and columns int64 of keys; the column is -1 where the score is -inf."""
    monotone = (keys >> 32).int()
    scores = torch.where(monotone < 0, monotone ^ 0x7FFFFFFF, monotone).view(torch.float32)
    return scores, (_LOW_BITS - (keys & _LOW_BITS)).masked_fill_(scores == -torch.inf, -1)
