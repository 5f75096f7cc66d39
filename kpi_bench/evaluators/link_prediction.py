"""Filtered link prediction in both directions: ranks of the true answers, and their Evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from kpi_bench.errors import EvaluationError
from kpi_bench.evaluators._link_index import HEAD, TAIL, LinkPredictionIndex
from kpi_bench.evaluators._rank_metrics import chance_metrics, per_rank_metrics, rank_metrics
from kpi_bench.evaluators.evaluation import Evaluation
from kpi_bench.evaluators.ranking import (
    Backend,
    TieCounts,
    count_ties_from_factors,
    count_ties_from_scores,
)

__all__ = [
    "HEAD",
    "TAIL",
    "LinkPredictionIndex",
    "Ranks",
    "rank_factors",
    "rank_scores",
    "score_link_prediction",
]

Ints = NDArray[np.int64]
T = TypeVar("T")
Ties = Literal["realistic", "optimistic", "pessimistic"]

FREQUENCY_EDGES = (1, 10, 100, 1000)
"""Long-tail groups by train frequency: 0, 1-9, 10-99, 100-999, 1000 and more; fixed, so that datasets compare."""


@dataclass(frozen=True)
class Ranks:
    """Ranks from 1 of every positive, in the order of ``index.positives``: int64 ``[nnz]`` each.

    They differ only where other candidates have exactly the same score.
    """

    optimistic: Ints
    pessimistic: Ints

    @property
    def realistic(self) -> NDArray[np.float64]:
        """1 + greater + equal / 2, kept as a half-integer, float64 ``[nnz]``."""
        return (self.optimistic + self.pessimistic) / 2

    def by(self, ties: Ties) -> NDArray[np.number]:
        """The ranks of a named tie protocol."""
        if ties not in ("realistic", "optimistic", "pessimistic"):
            raise EvaluationError(f"ties must be one of realistic, optimistic, pessimistic; got {ties!r}")
        return {"realistic": self.realistic, "optimistic": self.optimistic, "pessimistic": self.pessimistic}[
            ties
        ]


def rank_scores(
    index: LinkPredictionIndex, blocks: Iterable[NDArray[np.float32]], *, backend: Backend = "auto"
) -> Ranks:
    """Rank from dense score rows: float32 blocks ``[any, n_entities]`` covering the index's queries in order.

    A memory map can be handed over as ``(scores[i : i + 256] for i in range(0, len(scores), 256))``. Raises
    EvaluationError for NaN, inf, a wrong shape or dtype, missing or surplus rows.
    """
    return _ranks(count_ties_from_scores(blocks, index.positives, index.filters, backend=backend))


def rank_factors(
    index: LinkPredictionIndex,
    query_vectors: NDArray[np.float32],
    entity_vectors: NDArray[np.float32],
    bias: NDArray[np.float32] | None = None,
    *,
    backend: Backend = "auto",
    device: str = "cpu",
) -> Ranks:
    """Rank a scorer of GEMM form: ``query_vectors [Q, d] @ entity_vectors [E, d].T + bias [E]``, all float32.

    Row i of ``query_vectors`` answers query i of the index. Raises EvaluationError for NaN, inf or wrong shapes.
    """
    counts = count_ties_from_factors(
        query_vectors,
        entity_vectors,
        index.positives,
        index.filters,
        bias=bias,
        backend=backend,
        device=device,
    )
    return _ranks(counts)


def score_link_prediction(
    ranks: Ranks, index: LinkPredictionIndex, *, ties: Ties = "realistic"
) -> Evaluation:
    """MRR, MR, AMRI, Hits@1/3/10 over both directions (pooled), each direction, relations and frequency groups.

    Names: ``mrr`` pooled, ``tail/mrr`` and ``head/mrr`` by predicted side, ``mrr_optimistic`` and ``mrr_pessimistic``
    beside, ``macro_mrr`` = mean over relations of the relation's pooled value. ``ties`` names the ranks behind every
    unmarked metric; papers' protocol is ``pessimistic``. Per-query scores are per distinct triple of the split (a
    triple's two ranks are not independent), and ``queries`` holds its first row there. Slices group by the train
    frequency of the relation and of the entity to be predicted. Rules: docs/evaluation.md.
    """
    chosen = ranks.by(ties)
    if len(chosen) != index.positives.nnz:
        raise EvaluationError(f"expected {index.positives.nnz} ranks, got {len(chosen)}")
    candidates = index.candidates()
    everything = np.arange(len(chosen))
    sides = {"": everything, "tail/": index.tail_place, "head/": index.head_place}
    values: dict[str, float] = {}
    chance: dict[str, float] = {}
    for prefix, places in sides.items():
        values |= _named(prefix, rank_metrics(chosen[places], candidates[places]))
        chance |= _named(prefix, chance_metrics(candidates[places]))
    for bound in ("optimistic", "pessimistic"):
        metrics = rank_metrics(ranks.by(bound), candidates)
        values |= {f"{name}_{bound}": value for name, value in metrics.items()}
    values |= _named("macro_", _macro(chosen, index))
    tail, head = per_rank_metrics(chosen[index.tail_place]), per_rank_metrics(chosen[index.head_place])
    per_query = (
        {name: (tail[name] + head[name]) / 2 for name in tail} | _named("tail/", tail) | _named("head/", head)
    )
    counts = {
        "n_queries": len(index.triples),
        "n_distinct_queries": index.n_queries,
        "n_ranks": index.positives.nnz,
        "n_duplicates": index.n_duplicates,
        "n_tied": int(np.count_nonzero(ranks.optimistic != ranks.pessimistic)),
    }
    return Evaluation(values, per_query, index.rows, counts, _slices(chosen, candidates, index), chance)


def _ranks(counts: TieCounts) -> Ranks:
    optimistic = 1 + counts.greater
    return Ranks(optimistic, optimistic + counts.equal)


def _named(prefix: str, metrics: dict[str, T]) -> dict[str, T]:
    return {prefix + name: value for name, value in metrics.items()}


def _macro(ranks: NDArray[np.number], index: LinkPredictionIndex) -> dict[str, float]:
    """Mean over the relations that occur of the mean over their ranks, both directions pooled."""
    relation = index.relation[index.positives.row_ids()]
    times = np.bincount(relation, minlength=index.n_relations)
    present = times > 0
    if not present.any():
        return {}
    return {
        name: float((np.bincount(relation, scores, index.n_relations)[present] / times[present]).mean())
        for name, scores in per_rank_metrics(ranks).items()
    }


def _slices(
    ranks: NDArray[np.number], candidates: Ints, index: LinkPredictionIndex
) -> dict[str, dict[str, float]]:
    """Metrics by train frequency of the relation and of the entity to be predicted; n_queries counts ranks."""
    relation = index.relation[index.positives.row_ids()]
    frequencies = {
        "relation_frequency": index.relation_frequency[relation],
        "entity_frequency": index.entity_frequency[index.positives.indices],
    }
    slices = {}
    for name, frequency in frequencies.items():
        group = np.searchsorted(FREQUENCY_EDGES, frequency, side="right")
        for g, label in enumerate(_frequency_labels()):
            members = group == g
            metrics = rank_metrics(ranks[members], candidates[members])
            slices[f"{name}/{label}"] = {"n_queries": float(np.count_nonzero(members))} | metrics
    return slices


def _frequency_labels() -> list[str]:
    pairs = pairwise(FREQUENCY_EDGES)
    return ["0", *(f"{low}-{high - 1}" for low, high in pairs), f"{FREQUENCY_EDGES[-1]}+"]
