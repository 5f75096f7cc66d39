"""Scores of ranked lists at 10, also as KGGLM's official code computes nDCG: ``python benchmarks/kgglm_scores.py SUITE TASK FILE...``

The official nDCG (mirkomarras/kgglm) is normalised by the best order of the hits that were *returned*, so that a single hit at rank 1 is
perfect, and leaves out users without a list. It has a name of its own here, ``ndcg_of_retrieved@10``, and is on no board.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kpi_bench import RecommendationTask
from kpi_bench.evaluators.ranking import tie_order
from kpi_bench.evaluators.recommendation import score_recommendation
from kpi_bench.suites.load import load_suite

K = 10
NAMES = ("ndcg@10", "mrr@10", "recall@10", "hit@10", "precision@10")


def ndcg_of_retrieved(hits: NDArray[np.bool_]) -> float:
    """Mean over users with a list of DCG over the DCG of the same hits put first; ``hits`` bool ``[n_users, k]``; 0 without a hit."""
    gain = 1 / np.log2(np.arange(2, hits.shape[1] + 2))
    ideal = np.cumsum(np.append(0, gain))[hits.sum(1)]
    return float(np.divide(hits @ gain, ideal, out=np.zeros(len(hits)), where=ideal > 0).mean())


def scores(task: RecommendationTask, lists: pd.DataFrame) -> dict[str, float]:
    """Metrics of lists with the columns user, rank, item, score: over all test users, but for the official nDCG."""
    lists = lists[lists["rank"] <= K]
    users = np.unique(task.test.users) if task.test else np.empty(0, np.int64)
    evaluation = score_recommendation(
        *(lists[name].to_numpy() for name in ("user", "item", "rank", "score")),
        positives=task.matrix("test"),
        query_users=users,
        train=task.train_matrix,
        n_items=task.n_items,
        ks=(K,),
        tie_order=tie_order(task.n_items, task.spec.name),
        exclude=task.matrix(*task.spec.mask),
    )
    test = set(zip(task.test.users.tolist(), task.test.items.tolist(), strict=True)) if task.test else set()
    rows, row = np.unique(lists["user"], return_inverse=True)
    hits = np.zeros((len(rows), K), dtype=np.bool_)
    found = [pair in test for pair in zip(lists["user"].tolist(), lists["item"].tolist(), strict=True)]
    hits[row, lists["rank"].to_numpy() - 1] = found
    return {
        **{name: evaluation.values[name] for name in NAMES},
        "ndcg_of_retrieved@10": ndcg_of_retrieved(hits),
        "items_a_user": len(lists) / len(users),
        "users_without_a_list": float(len(users) - len(rows)),
        "coverage@10": lists["item"].nunique() / task.n_items,
    }


def main() -> None:
    suite, name, *files = sys.argv[1:]
    task = load_suite(suite).task(name)
    if not isinstance(task, RecommendationTask) or not files:
        sys.exit(__doc__)
    each = [scores(task, pd.read_parquet(Path(file))) for file in files]
    print(json.dumps({key: float(np.mean([one[key] for one in each])) for key in each[0]}, indent=1))


if __name__ == "__main__":
    main()
