"""Recommendation metrics from the ranks of the positives, and what a random order would get.

Both routes to a score, ranked lists and factors, end here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
PerUser = dict[str, Floats]

MISSED = np.iinfo(np.int64).max
"""Rank of a positive that is in no list."""


def metrics_from_ranks(ranks: Ints, lengths: Ints, ks: Sequence[int], *, mrr_sum: bool = False) -> PerUser:
    """Score each user from the ranks of its positives.

    ``ranks`` int64 ``[sum(lengths)]`` holds ranks from 1 (``MISSED`` for none) user after user; ``lengths`` int64 ``[U]``
    is the number of positives of each user, at least 1. Returns metric name -> float64 ``[U]``:
    recall = hits / n, ndcg with IDCG over min(k, n) and log2, mrr = 1 / rank of the first hit, hit, precision = hits / k,
    and on demand ``mrr_sum`` = sum of 1 / rank over all hits, which can exceed 1 (docs/evaluation.md).
    """
    starts = np.cumsum(lengths) - lengths
    inverse = 1.0 / ranks
    gain = 1.0 / np.log2(ranks + 1.0)
    ideal = np.cumsum(1.0 / np.log2(np.arange(2, max(ks) + 2)))
    first = np.minimum.reduceat(ranks, starts) if len(lengths) else np.zeros(0, np.int64)
    scores: PerUser = {}
    for k in ks:
        inside = ranks <= k
        hits = _sum_by_user(inside.astype(np.float64), starts)
        scores[f"recall@{k}"] = hits / lengths
        scores[f"ndcg@{k}"] = (
            _sum_by_user(np.where(inside, gain, 0.0), starts) / ideal[np.minimum(k, lengths) - 1]
        )
        scores[f"mrr@{k}"] = np.where(first <= k, 1.0 / first, 0.0)
        scores[f"hit@{k}"] = (first <= k).astype(np.float64)
        scores[f"precision@{k}"] = hits / k
        if mrr_sum:
            scores[f"mrr_sum@{k}"] = _sum_by_user(np.where(inside, inverse, 0.0), starts)
    return scores


def chance_metrics(
    lengths: Ints, candidates: Ints, ks: Sequence[int], *, mrr_sum: bool = False
) -> dict[str, float]:
    """Expected mean of each metric when the order of each user's ``candidates`` (int64 ``[U]``) is uniformly random.

    P(no hit in the first r) is hypergeometric; everything else follows from it and from P(a positive is at rank r) = 1/c.
    """
    if not len(lengths):
        return {}
    pairs, users = np.unique(np.stack([lengths, candidates], axis=1), axis=0, return_counts=True)
    weights = users / users.sum()
    n, c = pairs[:, :1].astype(np.float64), pairs[:, 1:].astype(np.float64)
    top = max(ks)
    ranks = np.arange(1, top + 1, dtype=np.float64)
    exists = ranks <= c
    survives = np.where(exists, np.clip(c - n - ranks + 1, 0, None) / np.maximum(c - ranks + 1, 1), 1.0)
    no_hit = np.cumprod(survives, axis=1)
    first_hit = np.concatenate([np.ones((len(pairs), 1)), no_hit[:, :-1]], axis=1) - no_hit
    gain = np.cumsum(exists / np.log2(ranks + 1), axis=1)
    harmonic = np.cumsum(exists / ranks, axis=1)
    reciprocal = np.cumsum(first_hit / ranks, axis=1)
    ideal = np.cumsum(1.0 / np.log2(np.arange(2, top + 2)))
    values: dict[str, float] = {}
    for k in ks:
        seen = np.minimum(k, c[:, 0])
        at = ideal[np.minimum(k, pairs[:, 0]) - 1]
        values[f"recall@{k}"] = float(weights @ (seen / c[:, 0]))
        values[f"ndcg@{k}"] = float(weights @ (n[:, 0] / c[:, 0] * gain[:, k - 1] / at))
        values[f"mrr@{k}"] = float(weights @ reciprocal[:, k - 1])
        values[f"hit@{k}"] = float(weights @ (1 - no_hit[:, k - 1]))
        values[f"precision@{k}"] = float(weights @ (n[:, 0] * seen / c[:, 0])) / k
        if mrr_sum:
            values[f"mrr_sum@{k}"] = float(weights @ (n[:, 0] / c[:, 0] * harmonic[:, k - 1]))
    return values


def gini(counts: Ints) -> float:
    """Gini coefficient of how often each item is recommended, int64 ``[n_items]``: 0 = evenly, (n-1)/n = one item."""
    n = len(counts)
    ordered = np.sort(counts).astype(np.float64)
    return float(2 * (np.arange(1, n + 1) @ ordered) / (n * ordered.sum()) - (n + 1) / n)


def _sum_by_user(values: Floats, starts: Ints) -> Floats:
    return np.add.reduceat(values, starts) if len(starts) else np.zeros(0)
