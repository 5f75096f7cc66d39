"""Ways to compute the filtered MRR of FB15k-237 test, both directions, from the same ComplEx weights.

``pykeen`` is the package itself. ``metasd_form`` and ``plain_torch`` are restatements in our own words of the loop that
MetaSD inherits from KBC and of what one writes first in torch; they are not anybody's code. LibKGE is not on the package
index and is left out. Each contender returns the MRR.
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.workloads import kge_workload
from kpi_bench.evaluators.link_prediction import (
    HEAD,
    LinkPredictionIndex,
    rank_factors,
    score_link_prediction,
)
from kpi_bench.evaluators.ranking import Backend

PYKEEN_TRIPLES = 256
"""PyKEEN is timed on this many test triples; the full set would take minutes."""
BATCH = 500


def build_index() -> LinkPredictionIndex:
    """Index of the test split, as a run builds it once."""
    w = kge_workload()
    return LinkPredictionIndex.build(w.train, w.valid, w.test, len(w.entities), len(w.relations))


def query_vectors(index: LinkPredictionIndex) -> np.ndarray:
    """The ComplEx vector of each distinct query."""
    w = kge_workload()
    heads = index.direction == HEAD
    vectors = np.empty((index.n_queries, w.entities.shape[1] * 2), np.float32)
    vectors[~heads] = w.tail_vectors(index.entity[~heads], index.relation[~heads])
    vectors[heads] = w.head_vectors(index.entity[heads], index.relation[heads])
    return vectors


def own(backend: Backend) -> float:
    """kpi-bench from triples to metrics: index, query vectors, ranks, evaluation."""
    index = build_index()
    ranks = rank_factors(index, query_vectors(index), kge_workload().table, backend=backend)
    return score_link_prediction(ranks, index).values["mrr"]


def own_numba() -> float:
    return own("numba")


def own_torch() -> float:
    return own("torch")


@cache
def _gemm_operands() -> tuple[np.ndarray, np.ndarray]:
    return query_vectors(build_index()), kge_workload().table


def bare_gemm() -> float:
    """Nothing but the products of the distinct queries, one BLAS thread, in blocks that stay in cache: the floor."""
    vectors, table = _gemm_operands()
    size = 256
    buffer = np.empty((size, len(table)), np.float32)
    with threadpool_limits(1, user_api="blas"):
        for first in range(0, len(vectors), size):
            part = vectors[first : first + size]
            np.matmul(part, table.T, out=buffer[: len(part)])
    return float("nan")


def _known_answers() -> dict[tuple[int, int, int], list[int]]:
    """(direction, entity, relation) -> known answers in any split, as the peers keep them."""
    w = kge_workload()
    known = defaultdict(list)
    for head, relation, tail in np.concatenate([w.train, w.valid, w.test]).tolist():
        known[0, head, relation].append(tail)
        known[1, tail, relation].append(head)
    return known


_known = cache(_known_answers)


def _scored_batches() -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(direction, queries [B, 2], targets [B], scores [B, E]) over all triples in both directions, 500 at a time."""
    w = kge_workload()
    table = torch.from_numpy(w.table)
    for direction in (0, 1):
        given, answer = (0, 2) if direction == 0 else (2, 0)
        make = w.tail_vectors if direction == 0 else w.head_vectors
        for first in range(0, len(w.test), BATCH):
            batch = w.test[first : first + BATCH]
            vectors = torch.from_numpy(make(batch[:, given], batch[:, 1]))
            yield (
                direction,
                torch.from_numpy(batch[:, [given, 1]]),
                torch.from_numpy(batch[:, answer]),
                vectors @ table.T,
            )


def metasd_form() -> float:
    """The loop form of MetaSD and KBC: filtered scores set to -1e6 query by query, comparison summed as float."""
    known, reciprocal, n = _known(), 0.0, 0
    for direction, queries, targets, scores in _scored_batches():
        target_scores = scores.gather(1, targets[:, None])
        for i, (entity, relation) in enumerate(queries):
            out = [*known[direction, entity.item(), relation.item()], targets[i].item()]
            scores[i, torch.LongTensor(out)] = -1e6
        ranks = 1 + torch.sum((scores >= target_scores).float(), dim=1)
        reciprocal += float((1 / ranks.double()).sum())
        n += len(ranks)
    return reciprocal / n


@cache
def _csr_known() -> LinkPredictionIndex:
    return build_index()


def plain_torch() -> float:
    """Straightforward torch: known answers masked to -inf by index arrays from a CSR, then (S > t).sum(1)."""
    index, w = _csr_known(), kge_workload()
    keys = (index.direction * np.int64(len(w.relations)) + index.relation) * len(w.entities) + index.entity
    reciprocal, n = 0.0, 0
    for direction, queries, targets, scores in _scored_batches():
        entity, relation = queries.numpy().T
        lines = np.searchsorted(keys, (direction * len(w.relations) + relation) * len(w.entities) + entity)
        known = index.filters.select(lines)
        rows = torch.arange(len(scores))
        target_scores = scores[rows, targets]
        scores[torch.from_numpy(known.row_ids()), torch.from_numpy(known.indices).long()] = -np.inf
        ranks = 1 + (scores > target_scores[:, None]).sum(1)
        reciprocal += float((1 / ranks.double()).sum())
        n += len(ranks)
    return reciprocal / n


@cache
def _pykeen_model():  # the types are PyKEEN's, which need not be installed
    models, triples = importlib.import_module("pykeen.models"), importlib.import_module("pykeen.triples")
    w = kge_workload()
    factory = triples.CoreTriplesFactory(
        torch.from_numpy(w.train), num_entities=len(w.entities), num_relations=len(w.relations)
    )
    model = models.ComplEx(triples_factory=factory, embedding_dim=w.entities.shape[1], random_seed=0)
    with torch.no_grad():
        for part, weights in (
            (model.entity_representations, w.entities),
            (model.relation_representations, w.relations),
        ):
            parameter = next(part[0].parameters())
            parameter.copy_(torch.view_as_real(torch.from_numpy(weights)).reshape(parameter.shape))
    return model.eval()


def pykeen() -> float:
    """PyKEEN's RankBasedEvaluator, batches of 256, on the first ``PYKEEN_TRIPLES`` test triples."""
    evaluation = importlib.import_module("pykeen.evaluation")
    w = kge_workload()
    results = evaluation.RankBasedEvaluator().evaluate(
        _pykeen_model(),
        torch.from_numpy(w.test[:PYKEEN_TRIPLES]),
        batch_size=256,
        use_tqdm=False,
        additional_filter_triples=[torch.from_numpy(part) for part in (w.train, w.valid, w.test)],
    )
    return results.get_metric("both.realistic.inverse_harmonic_mean_rank")


def own_on_pykeen_subset() -> float:
    """kpi-bench's MRR of PyKEEN's subset, to check that both compute the same."""
    w, index = kge_workload(), build_index()
    ranks = rank_factors(index, query_vectors(index), w.table).realistic
    place = {row: i for i, row in enumerate(index.rows.tolist())}
    some = [place[row] for row in range(PYKEEN_TRIPLES)]
    return float(np.mean(1 / np.concatenate([ranks[index.tail_place[some]], ranks[index.head_place[some]]])))


CONTENDERS: dict[str, Callable[[], float]] = {
    "bare-gemm": bare_gemm,
    "own-numba": own_numba,
    "own-torch": own_torch,
    "plain-torch": plain_torch,
    "metasd-form": metasd_form,
    "pykeen": pykeen,
}
