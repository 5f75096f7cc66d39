"""Recommendation scoring against a pure-Python twin, closed forms and ranx."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpi_bench._csr import Csr
from kpi_bench.errors import EvaluationError
from kpi_bench.evaluators import ranking
from kpi_bench.evaluators._recommendation_metrics import MISSED, chance_metrics, gini, metrics_from_ranks
from kpi_bench.evaluators.recommendation import _check_lists, score_ranks, score_recommendation

KS = (1, 3, 5, 20)


class Case:
    """Random train and test interactions, and ranked lists of an integer-valued scorer."""

    def __init__(self, seed, n_users=9, n_items=25, levels=6, length=20):
        self.rng = np.random.default_rng(seed)
        kind = self.rng.random((n_users, n_items))
        kind[: n_users // 4] = np.where(
            kind[: n_users // 4] < 0.15, 0.5, kind[: n_users // 4]
        )  # without test items
        kind[:, 0] = np.where(kind[:, 0] > 0.7, 0.5, kind[:, 0])  # a cold item
        self.shape = kind.shape
        self.positives = Csr.from_pairs(*np.nonzero(kind < 0.15), kind.shape)
        self.train = Csr.from_pairs(*np.nonzero(kind > 0.7), kind.shape)
        self.order = ranking.tie_order(n_items, seed)
        self.scores = self.rng.integers(0, levels, kind.shape).astype(np.float32)
        self.query_users = np.flatnonzero(self.positives.lengths())
        self.top = ranking.top_k_from_scores(self.scores, self.train, length, self.order)

    def rows(self):
        """Long format of the lists of all users."""
        user, place = np.nonzero(self.top.items >= 0)
        return user, self.top.items[user, place], place + 1, self.top.scores[user, place]

    def score(self, rows=None, **options):
        settings = {
            "positives": self.positives,
            "query_users": self.query_users,
            "train": self.train,
            "n_items": self.shape[1],
            "tie_order": self.order,
            "ks": KS,
            "exclude": self.train,
        }
        return score_recommendation(*(self.rows() if rows is None else rows), **(settings | options))


def slow_metrics(ranked, wanted, k):
    """Metrics of one user from a list of items and a set of test items."""
    hits = [r for r, item in enumerate(ranked[:k], start=1) if item in wanted]
    ideal = sum(1 / math.log2(r + 1) for r in range(1, min(k, len(wanted)) + 1))
    return {
        f"recall@{k}": len(hits) / len(wanted),
        f"ndcg@{k}": sum(1 / math.log2(r + 1) for r in hits) / ideal,
        f"mrr@{k}": 1 / hits[0] if hits else 0.0,
        f"hit@{k}": float(bool(hits)),
        f"precision@{k}": len(hits) / k,
        f"mrr_sum@{k}": sum(1 / r for r in hits),
    }


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), levels=st.sampled_from([1, 4, 10**6]), length=st.integers(1, 25))
def test_equals_the_slow_twin_by_both_routes(seed, levels, length):
    case = Case(seed, levels=levels, length=length)
    evaluation = case.score(protocol="mudok")
    for u, user in enumerate(case.query_users):
        wanted = set(case.positives.row(user).tolist())
        candidates = [i for i in range(case.shape[1]) if i not in set(case.train.row(user).tolist())]
        ranked = sorted(candidates, key=lambda i: (-case.scores[user, i], case.order[i]))[:length]
        for k in KS:
            for name, value in slow_metrics(ranked, wanted, k).items():
                assert evaluation.per_query[name][u] == pytest.approx(value)
        owners = [
            sum(item in case.train.row(other) for other in range(case.shape[0])) for item in ranked[:20]
        ]
        bits = [-math.log2((n + 1) / (case.shape[0] + 1)) for n in owners]
        assert evaluation.per_query["novelty@20"][u] == pytest.approx(sum(bits) / max(len(bits), 1))
    for name, scores in evaluation.per_query.items():
        assert evaluation.values[name] == pytest.approx(scores.mean())
    if length == 25 and len(case.query_users):
        factors = (case.scores, np.eye(case.shape[1], dtype=np.float32))
        ranks = ranking.rank_positives_from_factors(
            *factors, case.positives, case.train, case.order, user_ids=case.query_users
        )
        again = score_ranks(
            ranks, positives=case.positives, query_users=case.query_users, train=case.train, ks=KS,
            exclude=case.train, protocol="mudok",
        )  # fmt: skip
        assert {
            n: v for n, v in evaluation.values.items() if not n.startswith(("gini", "coverage", "novelty"))
        } == again.values
        assert again.chance == evaluation.chance
        assert again.slices == evaluation.slices


def test_mrr_sum_only_in_the_mudok_protocol():
    case = Case(1)
    assert not any("mrr_sum" in name for name in case.score().values)
    assert "mrr_sum@5" in case.score(protocol="mudok").values
    with pytest.raises(EvaluationError, match="protocol must be one of"):
        case.score(protocol="sslrec")


def test_best_and_worst_case():
    lengths = np.array([1, 4, 30])
    best = metrics_from_ranks(np.concatenate([np.arange(1, n + 1) for n in lengths]), lengths, KS)
    for k in KS:
        for name in ("ndcg", "mrr", "hit"):
            assert best[f"{name}@{k}"].tolist() == pytest.approx([1, 1, 1])
        assert best[f"recall@{k}"].tolist() == pytest.approx(np.minimum(k, lengths) / lengths)
    worst = metrics_from_ranks(np.full(35, MISSED), lengths, KS)
    assert all((scores == 0).all() for scores in worst.values())


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True), st.data())
def test_metrics_improve_when_a_rank_improves(ranks, data):
    before = np.array(ranks)
    free = sorted(set(range(1, max(ranks) + 1)) - set(ranks))
    at = data.draw(st.integers(0, len(ranks) - 1))
    better = [r for r in free if r < before[at]]
    after = before.copy()
    if better:
        after[at] = data.draw(st.sampled_from(better))
    lengths = np.array([len(ranks)])
    left, right = metrics_from_ranks(before, lengths, KS), metrics_from_ranks(after, lengths, KS)
    assert all(right[name][0] >= left[name][0] for name in left)


def test_chance_is_the_mean_over_random_orders():
    rng = np.random.default_rng(0)
    lengths, candidates = np.array([1, 3, 3, 6]), np.array([10, 3, 40, 22])
    rounds = []
    for _ in range(4000):
        ranks = np.concatenate([rng.permutation(c)[:n] + 1 for n, c in zip(lengths, candidates, strict=True)])
        scores = metrics_from_ranks(ranks, lengths, KS, mrr_sum=True)
        rounds.append([values.mean() for values in scores.values()])
    rounds = np.array(rounds)
    expected = chance_metrics(lengths, candidates, KS, mrr_sum=True)
    assert list(expected) == list(scores)
    error = 5 * rounds.std(axis=0) / np.sqrt(len(rounds)) + 1e-12
    assert (np.abs(rounds.mean(axis=0) - list(expected.values())) < error).all()


def test_constant_scorer_is_at_chance():
    rounds = []
    for seed in range(150):
        case = Case(seed % 3, levels=1)
        case.order = ranking.tie_order(case.shape[1], f"order {seed}")
        case.top = ranking.top_k_from_scores(case.scores, case.train, 25, case.order)
        evaluation = case.score()
        rounds.append([evaluation.values["ndcg@5"] - evaluation.chance["ndcg@5"]])
    assert abs(np.mean(rounds)) < 5 * np.std(rounds) / np.sqrt(len(rounds))


def test_order_within_equal_scores_cannot_leak():
    case = Case(4, levels=2)
    user, item, rank, score = case.rows()
    test_first = ~np.isin(
        user * case.shape[1] + item, case.positives.row_ids() * case.shape[1] + case.positives.indices
    )
    cheat = np.lexsort((test_first, -score, user))
    assert case.score((user, item[cheat], rank, score)).values == case.score().values


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_renumbering_users_and_items_and_shuffling_rows_changes_nothing(seed):
    case = Case(seed)
    rng = np.random.default_rng(seed)
    user_map, item_map = (rng.permutation(n) for n in case.shape)

    def move(matrix):
        return Csr.from_pairs(user_map[matrix.row_ids()], item_map[matrix.indices], case.shape)

    user, item, rank, score = case.rows()
    mix = rng.permutation(len(user))
    order = np.empty_like(case.order)
    order[item_map] = case.order
    left = case.score()
    right = case.score(
        (user_map[user][mix], item_map[item][mix], rank[mix], score[mix]),
        positives=move(case.positives), train=move(case.train), exclude=move(case.train), tie_order=order,
        query_users=rng.permutation(user_map[case.query_users]),
    )  # fmt: skip
    assert right.values == pytest.approx(left.values)
    assert right.chance == pytest.approx(left.chance)
    assert right.counts == left.counts
    assert {k: pytest.approx(v) for k, v in right.slices.items()} == left.slices
    back = np.argsort(right.queries)
    by_old = dict(zip(user_map[left.queries], left.per_query["ndcg@5"], strict=True))
    assert [by_old[u] for u in right.queries[back]] == pytest.approx(right.per_query["ndcg@5"][back].tolist())


def test_missing_short_unasked_and_empty_users_are_counted():
    case = Case(5, n_users=40, n_items=60)
    user, item, rank, score = case.rows()
    gone, short = case.query_users[:2]
    kept = (user != gone) & ((user != short) | (rank <= 3))
    evaluation = case.score((user[kept], item[kept], rank[kept], score[kept]))
    full = case.score()
    n_unasked = int(np.count_nonzero(~np.isin(user, case.query_users)))
    assert evaluation.counts["n_missing"] == full.counts["n_missing"] + 1
    assert evaluation.counts["n_short"] == 1
    assert full.counts["n_short"] == 0
    assert evaluation.counts["n_ignored_rows"] == n_unasked > 0
    assert evaluation.counts["n_excluded"] == 40 - len(case.query_users) > 0
    assert evaluation.counts["n_queries"] == len(case.query_users)
    assert all(scores[0] == 0 for scores in evaluation.per_query.values())
    assert evaluation.per_query["recall@3"][1] == full.per_query["recall@3"][1]
    np.testing.assert_array_equal(
        case.score(query_users=np.arange(40)).per_query["ndcg@5"], full.per_query["ndcg@5"]
    )


def test_nobody_to_score_and_no_predictions():
    case = Case(6)
    nothing = (*(np.zeros(0, np.int64) for _ in range(3)), np.zeros(0))
    silent = case.score(nothing)
    assert silent.values["ndcg@20"] == 0
    assert silent.counts["n_missing"] == len(case.query_users)
    assert silent.values["coverage@20"] == 0
    assert "gini@20" not in silent.values
    empty = case.score(nothing, positives=Csr.empty(*case.shape), query_users=np.arange(3))
    assert empty.values == {}
    assert empty.chance == {}
    assert empty.counts["n_excluded"] == case.shape[0]


def test_one_user_one_item():
    one = Csr.from_pairs([0], [0], (1, 1))
    evaluation = score_recommendation(
        np.array([0]), np.array([0]), np.array([1]), np.array([0.5]),
        positives=one, query_users=np.array([0]), train=Csr.empty(1, 1), n_items=1, tie_order=np.array([0]),
    )  # fmt: skip
    assert evaluation.values["ndcg@20"] == evaluation.chance["ndcg@20"] == 1
    assert evaluation.values["precision@5"] == 0.2
    assert evaluation.values["coverage@20"] == 1
    assert evaluation.values["gini@20"] == pytest.approx(0)
    assert evaluation.slices["cold_items"]["recall@5"] == 1


def broken(case, **changes):
    rows = dict(zip(("user", "item", "rank", "score"), (part.copy() for part in case.rows()), strict=True))
    for name, change in changes.items():
        rows[name] = change(rows[name])
    return tuple(rows.values())


def put(at, value):
    def change(array):
        array = array.astype(float) if isinstance(value, float) else array
        array[at] = value
        return array

    return change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": put(7, float("nan"))}, "1 scores are NaN or infinite; the first is in row 7"),
        ({"score": put(0, float("inf"))}, "1 scores are NaN or infinite; the first is in row 0"),
        ({"score": put(-1, 1e6)}, "1 scores rise as the rank falls; first for user 8"),
        ({"item": put(2, 99)}, r"1 item ids are outside 0\.\.24; the first is 99"),
        ({"user": put(2, -1)}, "1 user ids are outside"),
        ({"rank": put(-1, 77)}, "1 ranks are not 1..K without gaps or repeats; first for user 8"),
        ({"rank": put(-1, 1)}, "ranks are not 1..K"),
    ],
)
def test_broken_predictions_are_refused(changes, message):
    case = Case(7, levels=10**6)
    assert case.query_users[-1] == 8
    with pytest.raises(EvaluationError, match=message):
        case.score(broken(case, **changes))


def test_repeated_and_masked_items_are_refused():
    case = Case(8)
    user, item, rank, score = case.rows()
    last = np.flatnonzero(user == case.query_users[0])[-2:]
    twice = item.copy()
    twice[last[1]] = twice[last[0]]
    with pytest.raises(
        EvaluationError, match=f"1 items are twice in a list; first for user {case.query_users[0]}"
    ):
        case.score((user, twice, rank, score))
    masked = item.copy()
    masked[last[1]] = case.train.row(case.query_users[0])[0]
    with pytest.raises(EvaluationError, match="1 items are masked for their user"):
        case.score((user, masked, rank, score))
    assert case.score((user, masked, rank, score), exclude=None).counts["n_queries"] == len(case.query_users)
    with pytest.raises(EvaluationError, match="tie_order has 3 entries"):
        case.score(tie_order=np.arange(3))
    with pytest.raises(EvaluationError, match="train is 1 x 1"):
        case.score(train=Csr.empty(1, 1))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_masked_items_are_found_whether_they_or_the_lists_are_fewer(share):
    rng = np.random.default_rng(int(100 * share))
    listed, masked = rng.random((40, 30)) < 0.3, rng.random((40, 30)) < share
    users, items = np.nonzero(listed)
    shuffled = rng.permutation(len(users))
    both = np.nonzero(listed & masked)[0]
    with pytest.raises(
        EvaluationError, match=f"^{len(both)} items are masked for their user; first for user {both[0]}$"
    ):
        _check_lists(users[shuffled], items[shuffled], 30, Csr.from_pairs(*np.nonzero(masked), masked.shape))
    apart = masked & ~listed
    _check_lists(users, items, 30, Csr.from_pairs(*np.nonzero(apart), apart.shape))


def test_slices():
    case = Case(9, n_users=60)
    evaluation = case.score()
    thirds = [evaluation.slices[f"activity_{name}"] for name in ("low", "mid", "high")]
    n = sum(part["n_queries"] for part in thirds)
    assert n == evaluation.counts["n_queries"]
    pooled = sum(part["n_queries"] * part.get("ndcg@5", 0) for part in thirds) / n
    assert pooled == pytest.approx(evaluation.values["ndcg@5"])
    cold = np.flatnonzero(np.bincount(case.train.indices, minlength=case.shape[1]) == 0)
    owners = case.positives.row_ids()[np.isin(case.positives.indices, cold)]
    assert evaluation.slices["cold_items"]["n_queries"] == len(set(owners.tolist())) > 0
    only_cold = Csr.from_pairs(
        owners, case.positives.indices[np.isin(case.positives.indices, cold)], case.shape
    )
    restricted = case.score(positives=only_cold)
    for name in ("recall@5", "ndcg@20"):
        assert evaluation.slices["cold_items"][name] == pytest.approx(restricted.values[name])


def test_coverage_and_gini():
    case = Case(10)
    user, item, rank, _ = case.rows()
    shown = item[np.isin(user, case.query_users) & (rank <= 20)]
    counts = np.bincount(shown, minlength=case.shape[1])
    evaluation = case.score()
    assert evaluation.values["coverage@20"] == np.count_nonzero(counts) / case.shape[1]
    pairwise = np.abs(counts[:, None] - counts).sum() / (2 * len(counts) * counts.sum())
    assert evaluation.values["gini@20"] == pytest.approx(pairwise)
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(0.75)


def test_equals_ranx():
    ranx = pytest.importorskip("ranx")
    case = Case(11, levels=10**6)
    user, item, _, score = case.rows()
    relevant = {str(u): {str(i): 1 for i in case.positives.row(u)} for u in case.query_users}
    run = {
        str(u): {str(i): float(s) for i, s in zip(item[user == u], score[user == u], strict=True)}
        for u in case.query_users
    }
    names = ["recall@5", "ndcg@5", "mrr@5", "precision@5", "hit_rate@5"]
    found = ranx.evaluate(ranx.Qrels(relevant), ranx.Run(run), names)
    values = case.score().values
    for name, value in found.items():
        assert values[name.replace("hit_rate", "hit")] == pytest.approx(value)
