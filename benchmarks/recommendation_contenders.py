"""Ways to score a full ranking of 20,000 items for 10,000 users: Recall, nDCG, MRR, Hit and Precision at 5..100.

``ranx`` and ``recbole`` are the packages themselves (RecBole's Collector and Evaluator, fed as its trainer feeds them;
``np.float``, which it needs, is put back). ``sslrec_form`` restates in our own words how SSLRec ships scipy mask rows through a
DataLoader and tests hits in Python; its MRR is the sum over all hits. Each contender returns nDCG@20, except
the two top-100 ones, which return the mean score of the lists.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits
from torch.utils.data import DataLoader, Dataset

from benchmarks.workloads import KS, RecommendationWorkload, recommendation_workload
from kpi_bench._csr import Csr
from kpi_bench.evaluators.ranking import Backend, rank_positives_from_factors, top_k_from_factors
from kpi_bench.evaluators.recommendation import score_ranks, score_recommendation

BATCH = 512


def own_ranks(backend: Backend) -> float:
    """kpi-bench's shortest way: ranks of the test items, then metrics."""
    w = recommendation_workload()
    ranks = rank_positives_from_factors(w.users, w.items, w.positives, w.masked, w.order, backend=backend)
    everyone = np.arange(len(w.users))
    evaluation = score_ranks(
        ranks, positives=w.positives, query_users=everyone, train=w.masked, exclude=w.masked, ks=KS
    )
    return evaluation.values["ndcg@20"]


def own_numba() -> float:
    return own_ranks("numba")


def own_torch() -> float:
    return own_ranks("torch")


def own_lists() -> float:
    """kpi-bench from factors through top-100 lists in long format: what a submission's predictions go through."""
    w = recommendation_workload()
    top = top_k_from_factors(w.users, w.items, w.masked, 100, w.order)
    everyone = np.arange(len(w.users))
    evaluation = score_recommendation(
        np.repeat(everyone, 100), top.items.ravel(), np.tile(np.arange(1, 101), len(everyone)), top.scores.ravel(),
        positives=w.positives, query_users=everyone, train=w.masked, exclude=w.masked, n_items=len(w.items),
        tie_order=w.order, ks=KS,
    )  # fmt: skip
    return evaluation.values["ndcg@20"]


def bare_gemm() -> float:
    """Nothing but the products, one BLAS thread, in blocks that stay in cache: the floor."""
    w = recommendation_workload()
    buffer = np.empty((128, len(w.items)), np.float32)
    with threadpool_limits(1, user_api="blas"):
        for first in range(0, len(w.users), 128):
            part = w.users[first : first + 128]
            np.matmul(part, w.items.T, out=buffer[: len(part)])
    return float("nan")


def top_100(backend: Backend) -> float:
    w = recommendation_workload()
    return float(top_k_from_factors(w.users, w.items, w.masked, 100, w.order, backend=backend).scores.mean())


def top_100_numba() -> float:
    return top_100("numba")


def top_100_torch() -> float:
    return top_100("torch")


def top_100_topk() -> float:
    """torch.topk of masked scores, 512 users at a time."""
    values = [torch.topk(scores, 100).values for _, scores in _masked_batches(recommendation_workload())]
    return float(torch.cat(values).mean())


def _masked_batches(w: RecommendationWorkload) -> Iterator[tuple[slice, torch.Tensor]]:
    users, items = torch.from_numpy(w.users), torch.from_numpy(w.items)
    for first in range(0, len(users), BATCH):
        part = slice(first, min(first + BATCH, len(users)))
        scores = users[part] @ items.T
        rows, columns = _entries(w.masked, part)
        scores[rows, columns] = -np.inf
        yield part, scores


def _entries(matrix: Csr, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    block = matrix.select(np.arange(part.start, part.stop))
    return torch.from_numpy(block.row_ids()), torch.from_numpy(block.indices).long()


def recbole() -> float:
    """RecBole's Collector and Evaluator, 512 users a batch."""
    vars(np).setdefault("float", float)  # removed from numpy, still used by RecBole 1.2.1
    evaluator = importlib.import_module("recbole.evaluator")
    config = {
        "metrics": ["Recall", "NDCG", "MRR", "Hit", "Precision"],
        "topk": list(KS),
        "metric_decimal_place": 12,
        "eval_args": {"mode": {"valid": "full", "test": "full"}},
        "device": torch.device("cpu"),
    }
    w = recommendation_workload()
    collector, judge = evaluator.Collector(config), evaluator.Evaluator(config)
    for part, scores in _masked_batches(w):
        collector.eval_batch_collect(scores, None, *_entries(w.positives, part))
    return float(judge.evaluate(collector.data_struct)["ndcg@20"])


def ranx() -> float:
    """torch.topk, then the ranx package on dictionaries of strings, which is how it takes runs."""
    package = importlib.import_module("ranx")
    w = recommendation_workload()
    names = [str(item) for item in range(len(w.items))]
    relevant = {str(u): {names[i]: 1 for i in w.positives.row(u)} for u in range(len(w.users))}
    run = {}
    for part, scores in _masked_batches(w):
        top = torch.topk(scores, max(KS))
        for offset, (items, values) in enumerate(zip(top.indices.tolist(), top.values.tolist(), strict=True)):
            run[str(part.start + offset)] = dict(zip([names[i] for i in items], values, strict=True))
    wanted = [f"{metric}@{k}" for metric in ("recall", "ndcg", "mrr", "hit_rate", "precision") for k in KS]
    found = package.evaluate(package.Qrels(relevant), package.Run(run), wanted)
    return float(found["ndcg@20"])


class _DenseMasks(Dataset):
    """A user and a dense float64 row that masks its items, one user at a time."""

    def __init__(self, masked: Csr) -> None:
        ones = np.ones(masked.nnz)
        self.masked = csr_matrix((ones, masked.indices, masked.indptr), (masked.n_rows, masked.n_columns))

    def __len__(self) -> int:
        return self.masked.shape[0]

    def __getitem__(self, user: int) -> tuple[int, np.ndarray]:
        return user, self.masked[user].toarray()[0]


def sslrec_form() -> float:
    """Dense mask rows through a DataLoader, scores * (1 - mask) - 1e8 * mask, hits by Python's ``in`` on lists."""
    w = recommendation_workload()
    users, items = torch.from_numpy(w.users), torch.from_numpy(w.items)
    wanted = [list(w.positives.row(u)) for u in range(len(w.users))]
    discount = 1.0 / np.log2(np.arange(2, max(KS) + 2))
    totals = np.zeros((4, len(KS)))
    for ids, masks in DataLoader(_DenseMasks(w.masked), batch_size=1024):
        dense = masks.long()
        scores = users[ids] @ items.T * (1 - dense) - 1e8 * dense
        lists = torch.topk(scores, max(KS)).indices.numpy()
        truth = [wanted[user] for user in ids.tolist()]
        hits = np.array(
            [np.array([item in truth[u] for item in row], dtype=float) for u, row in enumerate(lists)]
        )
        for column, k in enumerate(KS):
            kept = hits[:, :k]
            found, ideal = kept.sum(1), np.zeros_like(kept)
            for row, answers in enumerate(truth):
                ideal[row, : min(k, len(answers))] = 1
            totals[0, column] += (found / np.array([len(row) for row in truth])).sum()
            totals[1, column] += ((kept * discount[:k]).sum(1) / (ideal * discount[:k]).sum(1)).sum()
            totals[2, column] += (found / k).sum()
            totals[3, column] += (kept / np.arange(1, k + 1)).sum()
    return float(totals[1, KS.index(20)] / len(w.users))


CONTENDERS: dict[str, Callable[[], float]] = {
    "bare-gemm": bare_gemm,
    "own-numba": own_numba,
    "own-torch": own_torch,
    "own-lists": own_lists,
    "recbole": recbole,
    "ranx": ranx,
    "sslrec-form": sslrec_form,
    "top100-own-numba": top_100_numba,
    "top100-own-torch": top_100_torch,
    "top100-torch-topk": top_100_topk,
}
