"""Recommendation by decoding: paths from a user through the graph to new items, scored by the language model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from baselines.common.paths.graph import PathGraph
from baselines.common.paths.random_numbers import GOLDEN, keys, mix, signed
from baselines.kgglm.candidates import HopEdges, best, bounds, draw, edges_towards, expand, rank_items
from baselines.kgglm.model import PathLM
from baselines.kgglm.partial import Lanes, Partial, ends_of_users, keep_rows
from kpi_bench import Csr
from kpi_bench.errors import SubmissionError

Ints = NDArray[np.int64]

CELLS = 1 << 21
"""Scores held at a time: of a block of rows against a relation's nodes, and of the candidates of a step."""

CACHE_BYTES = 1 << 25
"""Keys and values of the partial paths decoded at a time."""


@dataclass(frozen=True)
class Decoding:
    """Paths of ``hops`` hops from ``beams`` partial paths a user.

    ``mode``: "beam" keeps the best partial paths after each relation and each node, "sample" draws that many lanes; a path found by
    several counts once. ``rank_by``: an item's score is that of its best "path", or of all paths found to the "item" together.
    """

    hops: int = 3
    beams: int = 20
    mode: str = "beam"
    rank_by: str = "path"

    def __post_init__(self) -> None:
        if self.hops < 1 or self.beams < 1:
            raise SubmissionError(
                f"decoding needs hops >= 1 and beams >= 1; got {self.hops} and {self.beams}"
            )
        if self.mode not in ("beam", "sample"):
            raise SubmissionError(f"unknown decoding mode {self.mode!r}; use beam or sample")
        if self.rank_by not in ("path", "item"):
            raise SubmissionError(f"unknown rank_by {self.rank_by!r}; use path or item")


@dataclass(frozen=True, eq=False)
class Decoded:
    """Lists of ``b`` users, best first, with the best path of each item.

    ``items`` int64 ``[b, k]`` (-1: none), ``scores`` float32 ``[b, k]`` (-inf), ``paths`` int32 ``[b, k, 2 * hops + 1]`` (-1), ``log_probs`` float32 ``[b, k]`` of the paths (-inf).
    """

    items: Ints
    scores: NDArray[np.float32]
    paths: NDArray[np.int32]
    log_probs: NDArray[np.float32]

    @classmethod
    def empty(cls, n_users: int, k: int, hops: int) -> Decoded:
        none = np.full((n_users, k), -np.inf, dtype=np.float32)
        paths = np.full((n_users, k, 2 * hops + 1), -1, dtype=np.int32)
        return cls(np.full((n_users, k), -1, dtype=np.int64), none, paths, none.copy())


class PathDecoder:
    """Finds items for users by paths user, ``first_relation``, item, relation, node, ..., item that visit no node twice."""

    def __init__(
        self,
        model: PathLM,
        graph: PathGraph,
        items: Ints,
        first_user: int,
        first_relation: int,
        config: Decoding,
    ) -> None:
        """``items`` int64 ``[n_items]`` is the node of each item; user u is node ``first_user + u``.

        Raises:
            SubmissionError: the model has other nodes or ranges than the graph, two items share a node, or paths are too long for the model.
        """
        ranges = graph.ranges
        if len(model.nodes) != graph.n_nodes or not np.array_equal(
            model.range_nodes.cpu().numpy(), ranges.nodes
        ):
            raise SubmissionError(
                "the model is of another graph; build it with the ranges of the graph to decode on"
            )
        if len(np.unique(items)) != len(items):
            raise SubmissionError("two items have the same node; a path that ends there would name either")
        if 2 * config.hops > model.positions:
            raise SubmissionError(
                f"paths of {config.hops} hops do not fit {model.positions} positions; raise `positions`"
            )
        self.model, self.config = model, config
        self._first_user, self._first_relation, self._n_items = first_user, first_relation, len(items)
        item_of = np.full(graph.n_nodes, -1, dtype=np.int64)
        item_of[items] = np.arange(len(items))
        allowed = edges_towards(graph, item_of >= 0, config.hops)
        allowed[0] = allowed[0] & (graph.relations == first_relation)
        self._hops = [HopEdges.of_graph(graph, kept).to(model.device) for kept in allowed]
        self._item_of = torch.from_numpy(item_of).to(model.device)

    def to(self, device: str) -> PathDecoder:
        """Moves the model and the graph."""
        self.model.to(device)
        self._hops = [hop.to(self.model.device) for hop in self._hops]
        self._item_of = self._item_of.to(device)
        return self

    @torch.inference_mode()
    def decode(self, users: Ints, exclude: Csr, k: int, tie_order: Ints, seed: int) -> Decoded:
        """Top-k lists of ``users`` int64 ``[b]``, never an item in their row of ``exclude``; by score, then ``tie_order`` int64 ``[n_items]``.

        Items that no path found are not listed: lists may be short, and are empty for users without an edge. ``seed`` is used by
        sampling only; with it a user's list is the same whoever else is asked.
        """
        out = Decoded.empty(len(users), k, self.config.hops)
        training = self.model.training
        self.model.eval()
        order = torch.from_numpy(tie_order).to(self.model.device)
        block = max(1, self._rows() // self.config.beams)
        for start in range(0, len(users), block):
            part = self._start(start, users[start : start + block], seed)
            if part is not None:
                self._search(part, 0, exclude, order, out)
        self.model.train(training)
        return out

    def _rows(self) -> int:
        """Partial paths at a time."""
        per_token = 2 * 4 * len(self.model.body.gpt2.h) * self.model.nodes.shape[1]
        return CACHE_BYTES // (per_token * 2 * self.config.hops)

    def _start(self, first: int, users: Ints, seed: int) -> Partial | None:
        """The path (user, first relation) of each user that has one; None where no user has."""
        config, device, edges = self.config, self.model.device, self._hops[0]
        nodes = torch.tensor(users, device=device) + self._first_user
        rows = (edges.indptr[nodes + 1] > edges.indptr[nodes]).nonzero()[:, 0]
        if len(rows) == 0:
            return None
        nodes = nodes[rows]
        paths = torch.stack([nodes, torch.full_like(nodes, self._first_relation)], dim=1)
        cache = DynamicCache()
        states = self.model.hidden(paths, cache)
        scores = self.model.relation_scores(states[:, 0])[:, self._first_relation]
        lanes = None
        if config.mode == "sample":
            row = torch.arange(len(rows), device=device).repeat_interleave(config.beams)
            uniform = uniform_numbers(seed, nodes - self._first_user, config.beams, 2 * config.hops - 1)
            lanes = Lanes(rows[row], row, uniform.flatten(0, 1))
        return Partial(
            first, len(users), rows, paths, scores, states[:, 1], edges.indptr[nodes], cache, lanes
        )

    def _search(self, part: Partial, hop: int, exclude: Csr, order: Tensor, out: Decoded) -> None:
        """Takes hop number ``hop`` and those after it, and writes the users' lists to ``out``."""
        edges = self._hops[hop]
        starts = edges.first[part.groups]
        counts = edges.first[part.groups + 1] - starts
        ends = bounds(counts)
        of_users = ends_of_users(part, ends)
        widest = int(of_users.diff().max())
        last = hop == self.config.hops - 1
        if part.n_users > 1 and part.n_users * max(widest, self._n_items if last else 0) > CELLS:
            for half in part.split():
                self._search(half, hop, exclude, order, out)
            return
        scores = self._node_scores(part, edges, starts, counts, ends)
        if last:
            self._finish(part, starts, ends, scores, exclude, order, out)
            return
        chosen, lanes = self._choose(part, scores, ends, 2 * hop)
        if len(chosen) == 0:
            return
        rows = torch.searchsorted(ends, chosen, right=True) - 1
        nodes = edges.neighbours[starts[rows] + chosen - ends[rows]].long()
        part = self._extended(part, rows, nodes, scores[chosen], lanes)
        edges = self._hops[hop + 1]
        starts = edges.indptr[nodes]
        rows, groups = expand(starts, edges.indptr[nodes + 1] - starts)
        relations = edges.relations[groups]
        scores = part.scores[rows] + self.model.relation_scores(part.states)[rows, relations]
        # A relation whose only edge leads back is closed.
        scores[(part.paths[rows, 0::2] == edges.lone[groups, None]).any(1)] = -torch.inf
        ends = bounds(torch.bincount(rows, minlength=len(part.users)))
        chosen, lanes = self._choose(part, scores, ends, 2 * hop + 1)
        if len(chosen) == 0:
            return
        part = self._extended(part, rows[chosen], relations[chosen], scores[chosen], lanes)
        self._search(replace(part, groups=groups[chosen]), hop + 1, exclude, order, out)

    def _node_scores(
        self, part: Partial, edges: HopEdges, starts: Tensor, counts: Tensor, ends: Tensor
    ) -> Tensor:
        """Log-probabilities of all paths that the groups of ``part`` open, row by row, float32 ``[sum of counts]``; -inf where a node comes again."""
        model, relations = self.model, edges.relations[part.groups]
        scores = part.scores.new_empty(int(ends[-1]))
        order, groups = model.by_range(relations)
        over_all = None if model.softmax == "range" else model.node_normalisers(part.states, relations)
        for rows, (_, members) in zip(torch.split(order, [n for n, _ in groups]), groups, strict=True):
            table = model.nodes[members].T
            for own in torch.split(rows, max(1, CELLS // len(members))):
                logits = part.states[own] @ table
                normaliser = logits.logsumexp(1) if over_all is None else over_all[own]
                _close(logits, members, part.paths[own, 0::2])
                lane, edge = expand(starts[own], counts[own])
                places = lane * len(members) + edges.places[edge]
                target = edge + (ends[own] - starts[own])[lane]
                scores[target] = logits.view(-1)[places] + (part.scores[own] - normaliser)[lane]
        return scores

    def _choose(self, part: Partial, scores: Tensor, ends: Tensor, step: int) -> tuple[Tensor, Lanes | None]:
        """Positions, ascending, of the candidates that go on, and the lanes on them."""
        lanes = part.lanes
        if lanes is None:
            return best(scores, ends_of_users(part, ends), self.config.beams), None
        drawn = draw(scores, ends, lanes.rows, lanes.uniform[:, step])
        alive = drawn >= 0
        chosen, rows = torch.unique(drawn[alive], return_inverse=True)
        return chosen, Lanes(lanes.users[alive], rows, lanes.uniform[alive])

    def _extended(
        self, part: Partial, rows: Tensor, tokens: Tensor, scores: Tensor, lanes: Lanes | None
    ) -> Partial:
        """Rows of ``part`` with one more token each."""
        keep_rows(part.cache, rows)
        states = self.model.hidden(tokens[:, None], part.cache)[:, 0]
        paths = torch.cat([part.paths[rows], tokens[:, None]], dim=1)
        return replace(part, users=part.users[rows], paths=paths, scores=scores, states=states, lanes=lanes)

    def _finish(
        self,
        part: Partial,
        starts: Tensor,
        ends: Tensor,
        scores: Tensor,
        exclude: Csr,
        order: Tensor,
        out: Decoded,
    ) -> None:
        """Ranks the items that the last hop reaches."""
        edges, n_items = self._hops[-1], self._n_items
        rows, edge = expand(starts, ends.diff())
        nodes = edges.neighbours[edge]
        items, users = self._item_of[nodes], part.users[rows]
        barred = torch.zeros(part.n_users * n_items, dtype=torch.bool, device=scores.device)
        seen = exclude.select(np.arange(part.first, part.first + part.n_users))
        barred[torch.from_numpy(seen.row_ids() * n_items + seen.indices).to(scores.device)] = True
        scores.masked_fill_(barred[users * n_items + items], -torch.inf)
        if part.lanes is not None:
            chosen, _ = self._choose(part, scores, ends, 2 * self.config.hops - 2)
            rows, nodes, items = rows[chosen], nodes[chosen], items[chosen]
            users, scores = users[chosen], scores[chosen]
        k, add = out.items.shape[1], self.config.rank_by == "item"
        listed, listed_scores, number = rank_items(scores, users, items, part.n_users, k, order, add=add)
        into = slice(part.first, part.first + part.n_users)
        out.items[into], out.scores[into] = listed.cpu().numpy(), listed_scores.cpu().numpy()
        found = number >= 0
        number, found_host = number[found], found.cpu().numpy()
        paths = torch.cat([part.paths[rows[number]], nodes[number, None]], dim=1)
        out.paths[into][found_host] = paths.cpu().numpy()
        out.log_probs[into][found_host] = scores[number].cpu().numpy()


def uniform_numbers(seed: int, users: Tensor, lanes: int, steps: int) -> Tensor:
    """A number in [0, 1) for each step of each lane of ``users`` int64 ``[b]``, float64 ``[b, lanes, steps]``: a function of the seed,
    the user, the lane and the step alone."""
    counters = torch.arange(1, lanes * steps + 1, device=users.device).view(lanes, steps)
    bits = mix(keys(seed, users)[:, None, None] + counters * signed(GOLDEN))
    # A double has 53 bits: the highest ones, without the sign that the shift repeats.
    return ((bits >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def _close(logits: Tensor, members: Tensor, visited: Tensor) -> None:
    """Sets scores ``[m, n]`` of nodes ``members [n]`` to -inf where the row of ``visited [m, t]`` holds them."""
    place = torch.searchsorted(members, visited).clamp_max(len(members) - 1)
    row, at = (members[place] == visited).nonzero(as_tuple=True)
    logits[row, place[row, at]] = -torch.inf
