"""A model of paths: entity and relation tables, an encoder, and scores of the entity that follows a relation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from baselines.common.paths.body import BodyShape
from baselines.common.top_k import row_blocks
from baselines.jplr.encoder import create_encoder
from kpi_bench.errors import SubmissionError

_INIT_STD = 0.02


class Steps(NamedTuple):
    """The relation places whose next entity is there: their ``states [m, d]``, those entities ``targets`` int64 ``[m]``, which hop
    of its path each is, ``hops`` int64 ``[m]`` (0: the first), and its number ``places`` int64 ``[m]`` among all hops. Row by row of the paths."""

    states: Tensor
    targets: Tensor
    hops: Tensor
    places: Tensor


class PathModel(nn.Module):
    """p(entity | path so far, relation) for paths entity, relation, entity, ...: ``softmax(h . E + b)``, the entity table being input and
    output at once.

    Nodes 0..n-1 are ``entities [n, d]`` with ``bias [n]``; behind them come those of ``borrowed`` (a student's source-only nodes);
    ``relations [n_relations, d]`` holds both directions, ``types [2, d]`` what entities and relations add. Tables are N(0, 0.02), as
    GPT-2's; biases 0.

    Raises:
        SubmissionError: an unknown encoder, or sizes that do not fit.
    """

    def __init__(
        self,
        n_entities: int,
        n_relations: int,
        shape: BodyShape,
        *,
        encoder: str = "transformer",
        generator: torch.Generator,
        borrowed: Tensor | None = None,
    ) -> None:
        super().__init__()
        # What models of other graphs have too is drawn first: with one seed they start from the same encoder.
        self.encoder = create_encoder(encoder, shape, generator)
        self.types = nn.Parameter(_normal(2, shape.hidden, generator))
        self.entities = nn.Parameter(_normal(n_entities, shape.hidden, generator))
        self.relations = nn.Parameter(_normal(n_relations, shape.hidden, generator))
        self.bias = nn.Parameter(torch.zeros(n_entities))
        self.borrowed = None if borrowed is None else BorrowedRows(borrowed, shape.hidden, generator)

    @property
    def device(self) -> torch.device:
        return self.entities.device

    @property
    def n_nodes(self) -> int:
        """Own entities and borrowed nodes."""
        return len(self.entities) + (0 if self.borrowed is None else len(self.borrowed.bias))

    def rows(self, ids: Tensor) -> Tensor:
        """Rows ``[k, d]`` of nodes int64 ``[k]``: what is read and what is scored against."""
        if self.borrowed is None:
            return functional.embedding(ids, self.entities)
        own, others, places = self._split(ids)
        parts = [functional.embedding(own, self.entities), self.borrowed(others)]
        # index_select and not a masked assignment: its gradient is an addition of rows.
        return torch.cat(parts).index_select(0, places)

    def candidates(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Rows ``[c, d]`` and biases ``[c]`` of nodes int64 ``[c]``."""
        if self.borrowed is None:
            return self.rows(ids), self.bias.index_select(0, ids)
        return self.rows(ids), torch.cat([self.bias, self.borrowed.bias]).index_select(0, ids)

    def hidden(self, paths: Tensor) -> Tensor:
        """Last hidden states float32 ``[b, t, d]`` of tokens int64 ``[b, t]``; -1 stands to the right of all that is read.

        Raises:
            SubmissionError: the path is longer than the encoder's positions.
        """
        known = paths >= 0
        states: Tensor = self.encoder(self._inputs(paths, known), known)
        return states.to(self.entities.dtype)

    def queries(self, paths: Tensor) -> Steps:
        """What a batch of paths int64 ``[b, 2 h + 1]`` teaches: :func:`steps` of the states of all tokens but the last."""
        return steps(self.hidden(paths[:, :-1]), paths)

    def score_all(
        self, entities: NDArray[np.int64], relations: NDArray[np.int64], *, among: slice = slice(None)
    ) -> Iterator[NDArray[np.float32]]:
        """Scores of own entities (those of ``among``) as what follows each entity and relation int64 ``[n]``: blocks of float32
        ``[rows, n_own]``, in order, without dropout. Relations of the upper half run backwards.
        """
        prompts = torch.from_numpy(np.stack([entities, relations], axis=1))
        for block in row_blocks(len(prompts), len(self.entities[among])):
            yield self._scores_after(prompts[block].to(self.device), among).cpu().numpy()

    def served(self) -> dict[str, Tensor]:
        """The tensors that serving needs (contiguous, on the CPU): all but those of borrowed nodes."""
        return {
            name: value.detach().cpu().contiguous()
            for name, value in self.state_dict().items()
            if not name.startswith("borrowed.")
        }

    @torch.no_grad()
    def _scores_after(self, prompts: Tensor, among: slice) -> Tensor:
        training = self.training
        self.eval()
        states = self.hidden(prompts)[:, -1]
        self.train(training)
        return torch.addmm(self.bias[among], states, self.entities[among].T).float()

    def _inputs(self, paths: Tensor, known: Tensor) -> Tensor:
        """Inputs of the encoder ``[b, t, d]``; zeros where -1."""
        ids = paths.clamp_min(0)
        inputs = self.entities.new_empty(*paths.shape, self.entities.shape[1])
        of_entities = ids[:, 0::2]
        inputs[:, 0::2] = self.rows(of_entities.flatten()).view(*of_entities.shape, -1) + self.types[0]
        inputs[:, 1::2] = functional.embedding(ids[:, 1::2], self.relations) + self.types[1]
        return inputs * known[..., None]

    def _split(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Own nodes, numbers of borrowed ones, and where each of ``ids`` is in the two put together."""
        n = len(self.entities)
        is_own = ids < n
        before = is_own.cumsum(0)
        at = torch.arange(len(ids), device=ids.device)
        places = torch.where(is_own, before - 1, before[-1:] + at - before)
        return ids[is_own], ids[~is_own] - n, places


class BorrowedRows(nn.Module):
    """Nodes whose rows are a frozen table of a teacher seen through a trained linear map: ``table [s, d_T] @ project.T``, with biases."""

    table: Tensor

    def __init__(self, table: Tensor, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        if table.ndim != 2:
            raise SubmissionError(f"borrowed rows must be [nodes, dimensions]; got {list(table.shape)}")
        self.register_buffer("table", table.detach().clone(), persistent=False)
        self.project = nn.Parameter(torch.empty(hidden, table.shape[1]))
        self.bias = nn.Parameter(torch.zeros(len(table)))
        # Orthogonal, so that a coordinate starts with about the size it has at the teacher's.
        nn.init.orthogonal_(self.project, generator=generator)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows ``[k, hidden]`` of int64 ``[k]``."""
        return self.table.index_select(0, ids) @ self.project.T


def steps(states: Tensor, paths: Tensor) -> Steps:
    """The steps of paths int64 ``[b, 2 h + 1]`` that are there, from states ``[b, 2 h or more, d]`` of their tokens."""
    targets = paths[:, 2::2]
    known = (targets >= 0).flatten().nonzero()[:, 0]
    # index_select and not a mask: its gradient is an addition of rows and not a sort.
    at_relations = states[:, 1 : paths.shape[1] - 1 : 2].flatten(0, 1)
    hops = targets.shape[1]
    return Steps(
        at_relations.index_select(0, known),
        targets.flatten().index_select(0, known),
        known % max(1, hops),
        known,
    )


def _normal(n: int, d: int, generator: torch.Generator) -> Tensor:
    return torch.empty(n, d).normal_(std=_INIT_STD, generator=generator)
