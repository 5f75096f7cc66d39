"""A causal language model of paths: a GPT-2 body over node and relation tables that are input and output at once."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache

from baselines.common.device import counts
from baselines.common.paths.body import BodyShape, GptBody
from baselines.common.paths.graph import Ranges
from baselines.common.paths.losses import normalisers, softmax_sum
from kpi_bench.errors import SubmissionError

SOFTMAXES = ("range", "type", "full")

_INIT_STD = 0.02
_RELATION = 3


class PathLM(nn.Module):
    """p(relation | path so far) and p(node | path so far, relation), for paths node, relation, node, ..., node.

    The input of a token is its row of ``nodes [n_nodes, d]`` or ``relations [n_relations, d]`` plus that of its type in ``types [4, d]``
    (entity, item, user, relation); a token's score is its row times the last hidden state. ``softmax`` says among what a token is
    chosen: a relation among all relations; a node among those that the relation leads to (``range``) or among all nodes (``type``);
    either among all nodes and relations (``full``, as the paper). There are no special tokens.

    Raises:
        SubmissionError: an unknown softmax, or sizes that do not fit.
    """

    range_indptr: Tensor
    range_nodes: Tensor
    range_keys: Tensor
    kinds: Tensor

    def __init__(
        self,
        ranges: Ranges,
        kinds: NDArray[np.int64],
        n_relations: int,
        shape: BodyShape,
        *,
        softmax: str,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if softmax not in SOFTMAXES:
            raise SubmissionError(f"unknown softmax {softmax!r}; use one of {', '.join(SOFTMAXES)}")
        if shape.hidden % shape.heads:
            raise SubmissionError(f"hidden = {shape.hidden} is no multiple of heads = {shape.heads}")
        if len(ranges.indptr) != n_relations + 1:
            raise SubmissionError(
                f"ranges of {len(ranges.indptr) - 1} relations given for {n_relations} relations"
            )
        self.softmax, self.positions = softmax, shape.positions
        self.nodes = nn.Parameter(_normal((len(kinds), shape.hidden), _INIT_STD, generator))
        self.relations = nn.Parameter(_normal((n_relations, shape.hidden), _INIT_STD, generator))
        self.types = nn.Parameter(_normal((4, shape.hidden), _INIT_STD, generator))
        self.body = GptBody(shape, generator)
        self._bounds: list[int] = ranges.indptr.tolist()
        owner = np.repeat(np.arange(n_relations), np.diff(ranges.indptr))
        for name, values in (
            ("kinds", kinds),
            ("range_indptr", ranges.indptr),
            ("range_nodes", ranges.nodes),
            ("range_keys", owner * len(kinds) + ranges.nodes),
        ):
            self.register_buffer(
                name, torch.from_numpy(np.ascontiguousarray(values, np.int64)), persistent=False
            )

    @property
    def device(self) -> torch.device:
        return self.nodes.device

    def range_of(self, relation: int) -> Tensor:
        """The nodes that a relation leads to, ascending int64."""
        return self.range_nodes[self._bounds[relation] : self._bounds[relation + 1]]

    def by_range(self, relations: Tensor) -> tuple[Tensor, list[tuple[int, Tensor]]]:
        """Order ``[m]`` that puts equal ones of int64 ``[m]`` together, and of each how many there are and the nodes that it leads to."""
        sizes = counts(relations, len(self.relations)).tolist()
        return relations.argsort(stable=True), [
            (count, self.range_of(r)) for r, count in enumerate(sizes) if count
        ]

    def hidden(self, paths: Tensor, cache: DynamicCache | None = None) -> Tensor:
        """Last hidden states float32 ``[b, t, d]`` of tokens int64 ``[b, t]``; with a cache, of those after what it holds (it grows).

        Entries -1 stand to the right of all that is read.

        Raises:
            SubmissionError: the path is longer than the model's positions.
        """
        first = 0 if cache is None else int(cache.get_seq_length())
        if first + paths.shape[1] > self.positions:
            raise SubmissionError(
                f"a path of {first + paths.shape[1]} tokens does not fit {self.positions} positions; raise `positions`"
            )
        with torch.autocast("cuda", torch.bfloat16, enabled=self.training and self.device.type == "cuda"):
            states: Tensor = self.body(self._inputs(paths, first), cache)
        return states.to(self.nodes.dtype)

    def loss(self, paths: Tensor) -> Tensor:
        """Mean cross-entropy of the tokens after the first of int64 ``[b, 2 h + 1]`` that are not -1; 0 where all are.

        Raises:
            SubmissionError: a step leads to a node that its relation does not lead to (``range`` only).
        """
        states = self.hidden(paths[:, :-1])
        of_relation, relation, _ = self._steps(states, paths, 1)
        of_node, node, places = self._steps(states, paths, 2)
        count = max(1, len(relation) + len(node))
        if self.softmax == "full":
            queries = torch.cat([of_node, of_relation])
            columns = torch.cat([node, relation + len(self.nodes)])
            return softmax_sum(queries, self.nodes, [(len(queries), None)], columns, self.relations) / count
        by_relations = softmax_sum(of_relation, self.relations, [(len(relation), None)], relation)
        if self.softmax == "type":
            by_nodes = softmax_sum(of_node, self.nodes, [(len(node), None)], node)
        else:
            through = self._through(paths, places)
            order, groups = self.by_range(through)
            columns = self._columns(through, node)[order]
            by_nodes = softmax_sum(of_node.index_select(0, order), self.nodes, groups, columns)
        return (by_relations + by_nodes) / count

    @torch.no_grad()
    def log_probs(self, paths: Tensor, *, batch: int = 1024) -> Tensor:
        """The model's own log-probability of each token after the first, float32 ``[n, 2 h]`` for int64 ``[n, 2 h + 1]``; 0 where it is -1.

        -inf where a relation does not lead to the node (``range``). Dropout is off.
        """
        training = self.training
        self.eval()
        out = self.nodes.new_zeros(len(paths), paths.shape[1] - 1)
        for start in range(0, len(paths), batch):
            self._score(paths[start : start + batch].to(self.device), out[start : start + batch])
        self.train(training)
        return out

    @torch.no_grad()
    def relation_scores(self, states: Tensor) -> Tensor:
        """Log-probabilities of all relations ``[m, n_relations]`` after nodes with hidden states ``[m, d]``."""
        scores = states @ self.relations.T
        if self.softmax == "full":
            return scores - self._over_all(states)[:, None]
        return scores.log_softmax(1)

    @torch.no_grad()
    @torch.no_grad()
    def node_normalisers(self, states: Tensor, relations: Tensor) -> Tensor:
        """What a node's score ``states [m, d] * nodes[node]`` must lose to be its log-probability after ``relations`` int64 ``[m]``: ``[m]``.

        The scores must be of a node in the relation's range.
        """
        if self.softmax != "range":
            return self._over_all(states)
        order, groups = self.by_range(relations)
        out = torch.empty_like(states[:, 0])
        out[order] = normalisers(states.index_select(0, order), self.nodes, groups)
        return out

    def _inputs(self, paths: Tensor, first: int) -> Tensor:
        """Inputs of the body ``[b, t, d]``; place ``first`` of a path is the first column. Zeros where -1."""
        known = paths.clamp_min(0)
        inputs = self.nodes.new_empty(*paths.shape, self.nodes.shape[1])
        of_nodes, of_relations = slice(first % 2, None, 2), slice(1 - first % 2, None, 2)
        ids = known[:, of_nodes]
        inputs[:, of_nodes] = functional.embedding(ids, self.nodes) + functional.embedding(
            self.kinds[ids], self.types
        )
        inputs[:, of_relations] = (
            functional.embedding(known[:, of_relations], self.relations) + self.types[_RELATION]
        )
        return inputs * (paths >= 0)[..., None]

    def _steps(self, states: Tensor, paths: Tensor, place: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``[m, d]`` and targets ``[m]`` of the tokens at ``place``, ``place + 2``, ... that are there, row by row, and their
        numbers ``[m]`` among all of these."""
        targets = paths[:, place::2]
        known = (targets >= 0).flatten().nonzero()[:, 0]
        # index_select and not a mask: its gradient is an addition of rows and not a sort.
        queries = states[:, place - 1 :: 2].flatten(0, 1).index_select(0, known)
        return queries, targets.flatten().index_select(0, known), known

    def _through(self, paths: Tensor, places: Tensor) -> Tensor:
        """The relation before each node of :meth:`_steps`, ``[m]``."""
        return paths[:, 1::2].flatten().index_select(0, places)

    def _columns(self, relations: Tensor, nodes: Tensor) -> Tensor:
        """Numbers ``[m]`` of nodes within the ranges of relations."""
        columns, found = self._find(relations, nodes)
        if not bool(found.all()):
            at = int((~found).nonzero()[0])
            raise SubmissionError(
                f"a path goes through relation {int(relations[at])} to node {int(nodes[at])}, where it never leads; "
                "build the model with the ranges of the graph that paths are walked on"
            )
        return columns

    def _find(self, relations: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
        if len(self.range_keys) == 0:
            return torch.zeros_like(nodes), torch.zeros_like(nodes, dtype=torch.bool)
        wanted = relations * len(self.nodes) + nodes
        places = torch.searchsorted(self.range_keys, wanted).clamp_max(len(self.range_keys) - 1)
        return places - self.range_indptr[relations], self.range_keys[places] == wanted

    def _over_all(self, states: Tensor) -> Tensor:
        extra = self.relations if self.softmax == "full" else None
        return normalisers(states, self.nodes, [(len(states), None)], extra)

    def _score(self, paths: Tensor, out: Tensor) -> None:
        states = self.hidden(paths[:, :-1])
        of_relation, relation, _ = self._steps(states, paths, 1)
        of_node, node, places = self._steps(states, paths, 2)
        own = self.relation_scores(of_relation).gather(1, relation[:, None])[:, 0]
        out[:, 0::2].masked_scatter_(paths[:, 1::2] >= 0, own)
        through = self._through(paths, places)
        own = (of_node * self.nodes[node]).sum(1) - self.node_normalisers(of_node, through)
        if self.softmax == "range":
            own = own.masked_fill(~self._find(through, node)[1], -math.inf)
        out[:, 1::2].masked_scatter_(paths[:, 2::2] >= 0, own)


def _normal(size: tuple[int, int], std: float, generator: torch.Generator) -> Tensor:
    return torch.empty(size).normal_(std=std, generator=generator)
