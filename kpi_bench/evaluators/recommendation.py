"""Full-ranking recommendation: from ranked lists, or from ranks of the test items, to an Evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kpi_bench._csr import Csr
from kpi_bench._sorted import distinct, positions
from kpi_bench.errors import EvaluationError
from kpi_bench.evaluators._recommendation_metrics import (
    MISSED,
    PerUser,
    chance_metrics,
    gini,
    metrics_from_ranks,
)
from kpi_bench.evaluators.evaluation import Evaluation

Ints = NDArray[np.int64]
Floats = NDArray[np.floating]
Protocol = Literal["full", "mudok"]

KS = (5, 10, 20, 50, 100)
BEYOND_ACCURACY_K = 20


def score_recommendation(
    users: Ints,
    items: Ints,
    ranks: Ints,
    scores: Floats,
    *,
    positives: Csr,
    query_users: Ints,
    train: Csr,
    n_items: int,
    tie_order: Ints,
    ks: Sequence[int] = KS,
    exclude: Csr | None = None,
    protocol: Protocol = "full",
) -> Evaluation:
    """Score ranked lists in long format: ``users``, ``items``, ``ranks`` (from 1) int64 and ``scores``, all ``[n]``.

    ``positives`` (test), ``train`` and ``exclude`` are over all users; ``query_users`` are those asked for. A query user
    without predictions scores 0 and is counted in ``n_missing``; a list shorter than the largest k counts in ``n_short``;
    rows of users not asked for are ignored and counted. Equal scores within a list are put in ``tie_order``, so that item
    order cannot leak. With ``exclude`` a returned masked item is refused, and chance is over the items that remain.
    Raises EvaluationError for NaN or inf, ids out of range, an item twice in a list, ranks that are not 1..K or that
    contradict the scores. Rules: docs/evaluation.md.
    """
    _check_sizes(positives, train, exclude, n_items, len(tie_order))
    queries = _queries(query_users, positives)
    wanted = np.zeros(positives.n_rows, dtype=bool)
    wanted[queries] = True
    users, items = np.asarray(users, dtype=np.int64), np.asarray(items, dtype=np.int64)
    _check_ids("user", users, positives.n_rows)
    _check_ids("item", items, n_items)
    if not np.isfinite(scores).all():
        wrong = np.flatnonzero(~np.isfinite(scores))
        raise EvaluationError(f"{len(wrong)} scores are NaN or infinite; the first is in row {wrong[0]}")
    kept = wanted[users]
    n_ignored = len(kept) - int(np.count_nonzero(kept))
    if n_ignored:
        users, items, ranks, scores = users[kept], items[kept], ranks[kept], scores[kept]
    users, items, ranks = in_order(users, items, ranks, scores, tie_order)
    _check_lists(users, items, n_items, exclude)
    target = positives.select(queries)
    found = ranks_in_lists(
        queries[target.row_ids()] * n_items + target.indices, users * n_items + items, ranks
    )
    evaluation = score_ranks(
        found,
        positives=positives,
        query_users=queries,
        train=train,
        ks=ks,
        exclude=exclude,
        protocol=protocol,
    )
    lists = np.bincount(users, minlength=positives.n_rows)[queries]
    counts = evaluation.counts | {
        "n_missing": int(np.count_nonzero(lists == 0)),
        "n_short": int(np.count_nonzero((lists > 0) & (lists < max(ks)))),
        "n_ignored_rows": n_ignored,
    }
    novel = _novelty(users, items, ranks, queries, train, ks)
    # In front: the last columns order the queries of a bootstrap, and intervals of published metrics must stay what they are.
    per_query = novel | evaluation.per_query
    beyond = _beyond_accuracy(items, ranks, n_items, ks) | _means(novel) if len(queries) else {}
    values = evaluation.values | beyond
    return Evaluation(values, per_query, evaluation.queries, counts, evaluation.slices, evaluation.chance)


def score_ranks(
    ranks: Ints,
    *,
    positives: Csr,
    query_users: Ints,
    train: Csr,
    ks: Sequence[int] = KS,
    exclude: Csr | None = None,
    protocol: Protocol = "full",
) -> Evaluation:
    """Score the ranks (from 1) of the test items, int64, in the order of ``positives.select(query_users)``.

    What ``ranking.rank_positives_from_factors`` returns for the same users fits. Users without test items are left out
    and counted in ``n_excluded``. Slices: ``cold_items`` (positives without a train interaction, and only the users who
    have some) and ``activity_low/mid/high`` (thirds of the query users by number of train items).
    """
    if protocol not in ("full", "mudok"):
        raise EvaluationError(f"protocol must be one of full, mudok; got {protocol!r}")
    if not ks or min(ks) < 1:
        raise EvaluationError(f"ks must be positive, got {list(ks)}")
    mrr_sum = protocol == "mudok"
    queries = _queries(query_users, positives)
    target = positives.select(queries)
    if len(ranks) != target.nnz or (target.nnz and ranks.min() < 1):
        raise EvaluationError(f"expected {target.nnz} ranks from 1, got {len(ranks)}")
    lengths = target.lengths()
    per_user = metrics_from_ranks(ranks, lengths, ks, mrr_sum=mrr_sum)
    values = _means(per_user)
    n_masked = 0 if exclude is None else exclude.lengths()[queries]
    candidates = np.full(len(queries), positives.n_columns, dtype=np.int64) - n_masked
    counts = {
        "n_queries": len(queries),
        "n_excluded": positives.n_rows - len(queries),
        "n_positives": target.nnz,
    }
    slices = _activity_slices(per_user, train.lengths()[queries])
    cold = np.bincount(train.indices, minlength=positives.n_columns)[target.indices] == 0
    slices |= _cold_slice(ranks[cold], target.row_ids()[cold], ks)
    return Evaluation(
        values, per_user, queries, counts, slices, chance_metrics(lengths, candidates, ks, mrr_sum=mrr_sum)
    )


def _queries(query_users: Ints, positives: Csr) -> Ints:
    """Query users that have test items, ascending and distinct."""
    queries = distinct(np.asarray(query_users, dtype=np.int64))
    _check_ids("query user", queries, positives.n_rows)
    return queries[positives.lengths()[queries] > 0]


def _means(per_user: PerUser) -> dict[str, float]:
    return {name: float(scores.mean()) for name, scores in per_user.items() if len(scores)}


def _activity_slices(per_user: PerUser, activity: Ints) -> dict[str, dict[str, float]]:
    """Thirds by number of train items; users of equal activity stay together, so renumbering users changes nothing."""
    if not len(activity):
        return {}
    low, high = np.quantile(activity, [1 / 3, 2 / 3], method="inverted_cdf")
    groups = {
        "activity_low": activity <= low,
        "activity_mid": (activity > low) & (activity <= high),
        "activity_high": activity > high,
    }
    return {
        name: {"n_queries": float(np.count_nonzero(members))}
        | _means({metric: scores[members] for metric, scores in per_user.items()})
        for name, members in groups.items()
    }


def _cold_slice(ranks: Ints, rows: Ints, ks: Sequence[int]) -> dict[str, dict[str, float]]:
    """Recall and ndcg of the cold positives alone, over the users who have any."""
    _, lengths = np.unique(rows, return_counts=True)
    per_user = metrics_from_ranks(ranks, lengths, ks)
    restricted = {name: scores for name, scores in per_user.items() if name.startswith(("recall", "ndcg"))}
    return {"cold_items": {"n_queries": float(len(lengths))} | _means(restricted)}


def _beyond_accuracy(items: Ints, ranks: Ints, n_items: int, ks: Sequence[int]) -> dict[str, float]:
    """Share of the catalogue that is recommended at all, and how unevenly, in the first 20 of each list."""
    k = BEYOND_ACCURACY_K
    if k not in ks:
        return {}
    shown = np.bincount(items[ranks <= k], minlength=n_items)
    covered = {f"coverage@{k}": float(np.count_nonzero(shown)) / n_items}
    return covered | {f"gini@{k}": gini(shown)} if shown.any() else covered


def _novelty(users: Ints, items: Ints, ranks: Ints, queries: Ints, train: Csr, ks: Sequence[int]) -> PerUser:
    """Mean surprise in bits of the first 20 of each query user's list, 0 without a list: -log2 of the share of train users who have the
    item, one added to both counts so that items without train users have a finite value (Zhou et al. 2010, doi:10.1073/pnas.1000488107)."""
    k = BEYOND_ACCURACY_K
    if k not in ks:
        return {}
    bits = -np.log2((np.bincount(train.indices, minlength=train.n_columns) + 1) / (train.n_rows + 1))
    shown = ranks <= k
    owner = users[shown]
    total = np.bincount(owner, weights=bits[items[shown]], minlength=train.n_rows)[queries]
    listed = np.bincount(owner, minlength=train.n_rows)[queries]
    return {f"novelty@{k}": total / np.maximum(listed, 1)}


def in_order(
    users: Ints, items: Ints, ranks: Ints, scores: Floats, tie_order: Ints
) -> tuple[Ints, Ints, Ints]:
    """Lists as they are scored: users, items and ranks by (user, rank) with equal scores in ``tie_order``.

    Ranks are checked, then numbered anew. Raises EvaluationError: ranks are not 1..K, or contradict the scores.
    """
    ranks = np.asarray(ranks, dtype=np.int64)
    same_user = users[1:] == users[:-1]
    if not ((users[1:] > users[:-1]) | (same_user & (ranks[1:] > ranks[:-1]))).all():
        by_rank = np.lexsort((ranks, users))
        users, items, ranks, scores = users[by_rank], items[by_rank], ranks[by_rank], scores[by_rank]
        same_user = users[1:] == users[:-1]
    starts = np.flatnonzero(np.concatenate([[True], ~same_user])) if len(users) else np.zeros(0, np.int64)
    lengths = np.diff(np.append(starts, len(users)))
    expected = np.arange(1, len(users) + 1) - np.repeat(starts, lengths)
    _refuse("ranks are not 1..K without gaps or repeats", ranks != expected, users)
    rises = np.concatenate([[False], same_user & (scores[1:] > scores[:-1])])[: len(users)]
    _refuse("scores rise as the rank falls", rises, users)
    places = tie_order[items]
    if (same_user & (scores[1:] == scores[:-1]) & (places[1:] < places[:-1])).any():
        items = items[np.lexsort((places, -scores, users))]
    return users, items, expected


def _check_lists(users: Ints, items: Ints, n_items: int, exclude: Csr | None) -> None:
    pairs = np.sort(users * n_items + items)
    again = pairs[1:][pairs[1:] == pairs[:-1]]
    _refuse("items are twice in a list", np.ones(len(again), dtype=bool), again // n_items)
    if exclude is not None:
        masked = exclude.row_ids() * n_items + exclude.indices
        # Both are ascending and distinct: the fewer are looked up in the others.
        fewer, more = sorted((pairs, masked), key=len)
        _refuse("items are masked for their user", positions(more, fewer) >= 0, fewer // n_items)


def ranks_in_lists(wanted: Ints, listed: Ints, ranks: Ints) -> Ints:
    """Rank of each wanted (user, item) key among the listed ones, the largest int64 for those that are not there; int64 each.

    Listed keys are distinct. :func:`score_ranks` and ``metrics_from_ranks`` take such ranks.
    """
    order = np.argsort(listed)
    places = positions(listed[order], wanted)
    found = np.full(len(wanted), MISSED, dtype=np.int64)
    hit = places >= 0
    found[hit] = ranks[order[places[hit]]]
    return found


def _refuse(what: str, wrong: NDArray[np.bool_], users: Ints) -> None:
    if wrong.any():
        raise EvaluationError(f"{np.count_nonzero(wrong)} {what}; first for user {users[np.argmax(wrong)]}")


def _check_ids(what: str, ids: Ints, limit: int) -> None:
    wrong = np.flatnonzero((ids < 0) | (ids >= limit))
    if len(wrong):
        raise EvaluationError(
            f"{len(wrong)} {what} ids are outside 0..{limit - 1}; the first is {ids[wrong[0]]}"
        )


def _check_sizes(positives: Csr, train: Csr, exclude: Csr | None, n_items: int, n_order: int) -> None:
    shape = (positives.n_rows, n_items)
    for name, matrix in (("positives", positives), ("train", train), ("exclude", exclude)):
        if matrix is not None and (matrix.n_rows, matrix.n_columns) != shape:
            raise EvaluationError(
                f"{name} is {matrix.n_rows} x {matrix.n_columns}, expected {shape[0]} x {shape[1]}"
            )
    if n_order != n_items:
        raise EvaluationError(f"tie_order has {n_order} entries, expected {n_items}")
