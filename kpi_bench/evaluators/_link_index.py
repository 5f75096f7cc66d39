"""The distinct queries of a link prediction split, their answers and what to filter: built once a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kpi_bench._csr import Csr
from kpi_bench._sorted import distinct
from kpi_bench.errors import EvaluationError

Ints = NDArray[np.int64]
Split = Literal["test", "valid"]

TAIL, HEAD = 0, 1


@dataclass(frozen=True)
class LinkPredictionIndex:
    """Queries to answer, ``Q`` of them, sorted by (direction, relation, entity); each occurs once.

    ``entity`` and ``relation`` int64 ``[Q]``, ``direction`` int8 ``[Q]`` (0 = predict tail, 1 = predict head).
    ``positives`` and ``filters`` are Csr ``[Q, n_entities]``: true answers in the split, and in every split filtered.
    ``triples`` int64 ``[n, 3]`` are the distinct triples of the split, ``rows`` their first row in it;
    ``tail_place`` and ``head_place`` int64 ``[n]`` say where in ``positives.indices`` their two ranks stand.
    ``entity_frequency`` and ``relation_frequency`` count distinct train triples.
    """

    n_entities: int
    n_relations: int
    split: Split
    entity: Ints
    relation: Ints
    direction: NDArray[np.int8]
    positives: Csr
    filters: Csr
    triples: Ints
    rows: Ints
    n_duplicates: int
    tail_place: Ints
    head_place: Ints
    entity_frequency: Ints
    relation_frequency: Ints

    @property
    def n_queries(self) -> int:
        return len(self.entity)

    def candidates(self) -> Ints:
        """For each positive: how many entities it is ranked among, itself included, int64 ``[nnz]``."""
        return (self.n_entities - self.filters.lengths() + 1)[self.positives.row_ids()]

    @classmethod
    def build(
        cls, train: Ints, valid: Ints, test: Ints, n_entities: int, n_relations: int, split: Split = "test"
    ) -> LinkPredictionIndex:
        """Index triples (head, relation, tail), int64 ``[n, 3]`` each.

        The filter is train + valid + test at test, train + valid at validation (docs/evaluation.md). Triples
        that occur twice in the split count once. Raises EvaluationError for ids out of range or an unknown split.
        """
        if split not in ("test", "valid"):
            raise EvaluationError(f"split must be one of test, valid; got {split!r}")
        for name, triples in (("train", train), ("valid", valid), ("test", test)):
            _check_triples(name, triples, n_entities, n_relations)
        if n_entities**2 * n_relations >= 2**63:
            raise EvaluationError(
                f"{n_entities} entities and {n_relations} relations do not fit 64-bit triple keys"
            )
        asked, known = (test, [train, valid, test]) if split == "test" else (valid, [train, valid])
        keys, rows = np.unique(_pack(asked, n_entities), return_index=True)
        facts = asked[rows]
        queries, places = np.unique(
            np.concatenate([_query_keys(facts, side, n_entities, n_relations) for side in (TAIL, HEAD)]),
            return_inverse=True,
        )
        tail_query, head_query = np.split(places, 2)
        answers = np.concatenate([facts[:, 2], facts[:, 0]])
        positives = Csr.from_pairs(places, answers, (len(queries), n_entities))
        cells = positives.row_ids() * n_entities + positives.indices
        group, entity = np.divmod(queries, n_entities)
        direction, relation = np.divmod(group, n_relations)
        train_keys = distinct(_pack(train, n_entities))
        ends, train_relation = _unpack(train_keys, n_entities)
        return cls(
            n_entities=n_entities,
            n_relations=n_relations,
            split=split,
            entity=entity,
            relation=relation,
            direction=direction.astype(np.int8),
            positives=positives,
            filters=_filters(queries, known, n_entities, n_relations),
            triples=facts,
            rows=rows.astype(np.int64),
            n_duplicates=len(asked) - len(keys),
            tail_place=np.searchsorted(cells, tail_query * n_entities + facts[:, 2]),
            head_place=np.searchsorted(cells, head_query * n_entities + facts[:, 0]),
            entity_frequency=np.bincount(ends, minlength=n_entities),
            relation_frequency=np.bincount(train_relation, minlength=n_relations),
        )


def _filters(queries: Ints, known: list[Ints], n_entities: int, n_relations: int) -> Csr:
    """Known answers of each query, over the given splits."""
    lines, answers = [], []
    for triples in known:
        for side, answer in ((TAIL, 2), (HEAD, 0)):
            keys = _query_keys(triples, side, n_entities, n_relations)
            at = np.minimum(np.searchsorted(queries, keys), max(len(queries) - 1, 0))
            asked = queries[at] == keys if len(queries) else np.zeros(len(keys), dtype=bool)
            lines.append(at[asked])
            answers.append(triples[asked, answer])
    return Csr.from_pairs(np.concatenate(lines), np.concatenate(answers), (len(queries), n_entities))


def _query_keys(triples: Ints, side: int, n_entities: int, n_relations: int) -> Ints:
    """One int64 for (direction, relation, entity)."""
    known_end = triples[:, 0] if side == TAIL else triples[:, 2]
    return (side * n_relations + triples[:, 1]) * n_entities + known_end


def _pack(triples: Ints, n_entities: int) -> Ints:
    """One int64 for a triple, in the order (relation, head, tail)."""
    return (triples[:, 1] * n_entities + triples[:, 0]) * n_entities + triples[:, 2]


def _unpack(keys: Ints, n_entities: int) -> tuple[Ints, Ints]:
    """Both ends of packed triples, one after the other, and their relations."""
    rest, tails = np.divmod(keys, n_entities)
    relations, heads = np.divmod(rest, n_entities)
    return np.concatenate([heads, tails]), relations


def _check_triples(name: str, triples: Ints, n_entities: int, n_relations: int) -> None:
    if triples.ndim != 2 or triples.shape[1] != 3 or not np.issubdtype(triples.dtype, np.integer):
        raise EvaluationError(
            f"{name} triples must be int64 [n, 3], got {triples.dtype} {list(triples.shape)}"
        )
    wrong = ((triples < 0) | (triples >= [n_entities, n_relations, n_entities])).any(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise EvaluationError(
            f"{np.count_nonzero(wrong)} {name} triples have ids outside {n_entities} entities and"
            f" {n_relations} relations; the first is row {row}: {triples[row].tolist()}"
        )
