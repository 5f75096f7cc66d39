"""Rank-based metrics of link prediction and their closed-form expectation under random scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

HITS = (1, 3, 10)


def per_rank_metrics(ranks: NDArray[np.number]) -> dict[str, Floats]:
    """The metrics that are means over ranks: reciprocal rank, rank, Hits@1/3/10 (rank <= k), float64 ``[n]`` each."""
    exact = ranks.astype(np.float64)
    return {"mrr": 1.0 / exact, "mr": exact} | {f"hits@{k}": (exact <= k).astype(np.float64) for k in HITS}


def rank_metrics(ranks: NDArray[np.number], candidates: Ints) -> dict[str, float]:
    """MRR, MR, AMRI and Hits@1/3/10 of ranks from 1 among ``candidates`` (int64 ``[n]``); empty for no ranks.

    AMRI = 1 - (MR - 1) / (E[MR] - 1): 1 is perfect, 0 is chance, -1 is always last (Berrendorf et al. 2020). Where every
    query has a single candidate nothing can be told from the ranks, and AMRI is 0.
    """
    if not len(ranks):
        return {}
    values = {name: float(scores.mean()) for name, scores in per_rank_metrics(ranks).items()}
    spread = float((candidates - 1).mean()) / 2
    values["amri"] = 1.0 - (values["mr"] - 1.0) / spread if spread > 0 else 0.0
    return values


def chance_metrics(candidates: Ints) -> dict[str, float]:
    """Expectation of ``rank_metrics`` when each rank is uniform on 1..candidates; empty for no ranks."""
    if not len(candidates):
        return {}
    distinct, times = np.unique(candidates, return_counts=True)
    weights = times / times.sum()
    harmonic = np.cumsum(1.0 / np.arange(1, distinct[-1] + 1))
    values = {
        "mrr": float(weights @ (harmonic[distinct - 1] / distinct)),
        "mr": float(weights @ ((distinct + 1) / 2)),
        "amri": 0.0,
    }
    return values | {f"hits@{k}": float(weights @ (np.minimum(k, distinct) / distinct)) for k in HITS}
