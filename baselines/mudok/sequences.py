"""Items with their attributes as packed sequences: one token for the item, one for each of its first triples, no pads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kpi_bench import KnowledgeGraph
from kpi_bench.errors import SubmissionError


@dataclass(frozen=True, eq=False)
class Packed:
    """Sequences one after the other, the shortest first.

    ``tokens`` int64 ``[n_tokens]`` are entities, a sequence's own first; ``relations`` int64 ``[n_tokens]`` are 0 there and relation + 1
    elsewhere. Sequence s stands for row ``order[s]`` of the request. ``groups`` are (length, count) runs: the tokens of a run can be
    viewed as ``[count, length]``.
    """

    tokens: NDArray[np.int64]
    relations: NDArray[np.int64]
    order: NDArray[np.int64]
    groups: tuple[tuple[int, int], ...]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence, int64."""
        lengths: NDArray[np.int64] = np.repeat(*np.array(self.groups).T)
        return lengths

    def part(self, rows: slice) -> Packed:
        """Some of the sequences."""
        lengths = self.lengths
        chosen = np.zeros(len(lengths), dtype=np.bool_)
        chosen[rows] = True
        tokens = np.repeat(chosen, lengths)
        return Packed(
            self.tokens[tokens], self.relations[tokens], self.order[chosen], _groups(lengths[chosen])
        )


@dataclass(frozen=True, eq=False)
class Sequences:
    """Attributes of each entity: row e of the sparse rows ``starts`` int64 ``[n_entities + 1]`` holds ``tails`` and plain
    ``relations``, int32 ``[n]``, of its first triples in the KG's order."""

    starts: NDArray[np.int64]
    tails: NDArray[np.int32]
    relations: NDArray[np.int32]
    n_relations: int

    @classmethod
    def of_graph(cls, kg: KnowledgeGraph, slots: int) -> Sequences:
        """The first ``slots`` - 1 triples of each head.

        Raises:
            SubmissionError: the KG has more entities than int32 can number.
        """
        if kg.n_entities > np.iinfo(np.int32).max:
            raise SubmissionError(
                f"KG {kg.name} has {kg.n_entities} entities; MuDoK's sequences hold 2**31 - 1"
            )
        by_head = np.argsort(kg.heads, kind="stable")
        counts = np.bincount(kg.heads, minlength=kg.n_entities)
        first = np.cumsum(counts) - counts
        kept = by_head[np.arange(len(by_head)) - np.repeat(first, counts) < slots - 1]
        return cls(
            _starts(np.minimum(counts, slots - 1)),
            kg.tails[kept].astype(np.int32),
            kg.relations[kept].astype(np.int32),
            kg.n_relations,
        )

    @classmethod
    def joined(cls, parts: Sequence[Sequences]) -> Sequences:
        """The union of several KGs: ids of entities and relations are shifted by the sizes of the parts before.

        Raises:
            SubmissionError: there are no parts, or too many entities for int32.
        """
        if not parts:
            raise SubmissionError("no KG to join; the suite must have at least one")
        entities = np.cumsum([0] + [len(part.starts) - 1 for part in parts])
        relations = np.cumsum([0] + [part.n_relations for part in parts])
        if entities[-1] > np.iinfo(np.int32).max:
            raise SubmissionError(
                f"the KGs have {entities[-1]} entities together; MuDoK's sequences hold 2**31 - 1"
            )
        lengths = np.concatenate([np.diff(part.starts) for part in parts])
        shifted = list(zip(parts, entities.tolist(), relations.tolist(), strict=False))
        return cls(
            _starts(lengths),
            np.concatenate([part.tails + np.int32(entity) for part, entity, _ in shifted]),
            np.concatenate([part.relations + np.int32(relation) for part, _, relation in shifted]),
            int(relations[-1]),
        )

    @property
    def n_entities(self) -> int:
        return len(self.starts) - 1

    @property
    def heads(self) -> NDArray[np.int64]:
        """Entities with a triple, int64, in id order."""
        return np.flatnonzero(np.diff(self.starts))

    def lengths(self, entities: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of each entity's sequence, int64: 1 and its attributes."""
        return 1 + self.starts[entities + 1] - self.starts[entities]

    def pack(self, entities: NDArray[np.int64], *, rng: np.random.Generator | None = None) -> Packed:
        """The sequences of ``entities`` int64 ``[b]``, sorted stably by length.

        With ``rng`` a random triple of each sequence changes places with the one in slot 1. Nothing else tells the slots' order:
        there are no position embeddings.
        """
        lengths = self.lengths(entities)
        order = np.argsort(lengths, kind="stable")
        lengths, items = lengths[order], entities[order]
        ends = np.cumsum(lengths)
        n_tokens = int(ends[-1]) if len(ends) else 0
        slot = np.arange(n_tokens) - np.repeat(ends - lengths, lengths)
        source = np.repeat(self.starts[items], lengths) + slot - 1
        if rng is not None:
            long = np.flatnonzero(lengths > 2)
            drawn = rng.integers(1, lengths[long])
            first = ends[long] - lengths[long]
            source[first + drawn] = self.starts[items[long]]
            source[first + 1] = self.starts[items[long]] + drawn - 1
        is_item = slot == 0
        tokens = np.repeat(items, lengths)
        relations = np.zeros(n_tokens, dtype=np.int64)
        tokens[~is_item] = self.tails[source[~is_item]]
        relations[~is_item] = self.relations[source[~is_item]] + np.int64(1)
        return Packed(tokens, relations, order.astype(np.int64), _groups(lengths))


def _groups(lengths: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """(length, count) of sorted lengths."""
    sizes, counts = np.unique(lengths, return_counts=True)
    return tuple(zip(sizes.tolist(), counts.tolist(), strict=True))


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
