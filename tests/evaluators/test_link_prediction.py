"""Filtered link prediction: index, ranks and metrics against pure-Python twins and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpi_bench.errors import EvaluationError
from kpi_bench.evaluators import _rank_metrics
from kpi_bench.evaluators.link_prediction import (
    LinkPredictionIndex,
    Ranks,
    rank_factors,
    rank_scores,
    score_link_prediction,
)

N_ENTITIES, N_RELATIONS = 12, 3


def random_splits(seed, n=40, n_entities=N_ENTITIES):
    rng = np.random.default_rng(seed)
    limits = [n_entities, N_RELATIONS, n_entities]
    train, valid, test = (rng.integers(0, limits, (k, 3)) for k in (n, n // 2, n // 2))
    return train, valid, np.concatenate([test, test[:3]])


def build(splits, split="test", n_entities=N_ENTITIES):
    return LinkPredictionIndex.build(*splits, n_entities, N_RELATIONS, split)


def score_table(index, table):
    """Score rows of the index's queries from a full table ``[direction, relation, entity, answer]``."""
    return table[index.direction, index.relation, index.entity].astype(np.float32)


def evaluate(index, table, **options):
    return score_link_prediction(rank_scores(index, [score_table(index, table)]), index, **options)


def slow_ranks(splits, split, table):
    """(triple, direction) -> (optimistic, pessimistic), by loops over sets."""
    train, valid, test = ({tuple(t) for t in part.tolist()} for part in splits)
    asked, known = (test, train | valid | test) if split == "test" else (valid, train | valid)
    ranks = {}
    for h, r, t in asked:
        for direction, (source, answer) in enumerate([(h, t), (t, h)]):
            rivals = [
                e
                for e in range(table.shape[-1])
                if e != answer and ((h, r, e) if direction == 0 else (e, r, t)) not in known
            ]
            line = table[direction, r, source]
            better = sum(line[e] > line[answer] for e in rivals)
            ranks[(h, r, t), direction] = (
                1 + better,
                1 + better + sum(line[e] == line[answer] for e in rivals),
                len(rivals) + 1,
            )
    return ranks


@pytest.mark.parametrize("split", ["test", "valid"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), levels=st.sampled_from([1, 3, 10**6]))
def test_equals_the_slow_twin(split, seed, levels):
    splits = random_splits(seed)
    rng = np.random.default_rng(seed)
    table = rng.integers(0, levels, (2, N_RELATIONS, N_ENTITIES, N_ENTITIES))
    index = build(splits, split)
    ranks = rank_scores(index, [score_table(index, table)])
    expected = slow_ranks(splits, split, table)
    assert len(expected) == index.positives.nnz
    for i, triple in enumerate(map(tuple, index.triples.tolist())):
        for direction, places in enumerate([index.tail_place, index.head_place]):
            place = places[i]
            found = (ranks.optimistic[place], ranks.pessimistic[place], index.candidates()[place])
            assert found == expected[triple, direction]
    evaluation = score_link_prediction(ranks, index)
    realistic = np.array([(low + high) / 2 for low, high, _ in expected.values()])
    assert evaluation.values["mrr"] == pytest.approx(np.mean(1 / realistic))
    assert evaluation.values["mr"] == pytest.approx(realistic.mean())
    assert evaluation.values["hits@3"] == pytest.approx(np.mean(realistic <= 3))
    means = [realistic.mean() - 1, np.mean([(c + 1) / 2 - 1 for _, _, c in expected.values()])]
    if means[1]:
        assert evaluation.values["amri"] == pytest.approx(1 - means[0] / means[1])
    pessimistic = score_link_prediction(ranks, index, ties="pessimistic")
    assert pessimistic.values["mrr"] == evaluation.values["mrr_pessimistic"]
    assert pessimistic.values["mrr"] <= evaluation.values["mrr"] <= evaluation.values["mrr_optimistic"]


def test_queries_are_distinct_sorted_and_deduplicated():
    train = np.array([[0, 0, 1], [0, 0, 2], [5, 1, 2]])
    valid = np.array([[0, 0, 3]])
    test = np.array([[0, 0, 4], [0, 0, 5], [0, 0, 4]])
    index = build((train, valid, test))
    assert list(zip(index.direction, index.relation, index.entity, strict=True)) == [
        (0, 0, 0),
        (1, 0, 4),
        (1, 0, 5),
    ]
    assert index.positives.row(0).tolist() == [4, 5]
    assert index.filters.row(0).tolist() == [1, 2, 3, 4, 5]
    assert build((train, valid, test), "valid").filters.row(0).tolist() == [1, 2, 3]
    assert index.n_duplicates == 1
    assert index.rows.tolist() == [0, 1]
    assert index.relation_frequency.tolist() == [2, 1, 0]
    assert index.entity_frequency[[0, 1, 2, 5]].tolist() == [2, 1, 2, 1]


def test_best_and_worst_case():
    splits = random_splits(1)
    index = build(splits)
    truth = np.zeros((2, N_RELATIONS, N_ENTITIES, N_ENTITIES))
    truth[index.direction[index.positives.row_ids()], index.relation[index.positives.row_ids()],
          index.entity[index.positives.row_ids()], index.positives.indices] = 1  # fmt: skip
    best, worst = evaluate(index, truth), evaluate(index, -truth)
    for name in ("mrr", "mr", "amri", "hits@1", "macro_mrr", "head/mrr", "tail/hits@10"):
        assert best.values[name] == 1.0
    assert worst.values["amri"] == pytest.approx(-1)
    assert worst.values["mr"] == pytest.approx(index.candidates().mean())


def test_constant_scorer_is_at_chance_and_its_tie_gap_shows():
    index = build(random_splits(2))
    constant = evaluate(index, np.zeros((2, N_RELATIONS, N_ENTITIES, N_ENTITIES)))
    for side in ("", "tail/", "head/"):
        assert constant.values[f"{side}mr"] == pytest.approx(constant.chance[f"{side}mr"])
        assert constant.values[f"{side}amri"] == pytest.approx(0)
    assert constant.values["mrr_optimistic"] == 1
    assert constant.counts["n_tied"] == constant.counts["n_ranks"]


def test_chance_is_the_mean_over_random_scores():
    index = build(random_splits(3, n_entities=8), n_entities=8)
    rng = np.random.default_rng(0)
    rounds = [evaluate(index, rng.random((2, N_RELATIONS, 8, 8))) for _ in range(400)]
    for name, expected in rounds[0].chance.items():
        values = np.array([r.values[name] for r in rounds])
        assert values.mean() == pytest.approx(expected, abs=5 * values.std() / 20 + 1e-12)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 49)), min_size=1, max_size=20), st.data())
def test_metrics_improve_when_a_rank_improves(pairs, data):
    candidates = np.array([max(rank, c) for rank, c in pairs])
    ranks = np.array([rank for rank, _ in pairs], dtype=float)
    at = data.draw(st.integers(0, len(ranks) - 1))
    better = ranks.copy()
    better[at] = max(1, better[at] - data.draw(st.integers(1, 49)))
    before, after = (
        _rank_metrics.rank_metrics(ranks, candidates),
        _rank_metrics.rank_metrics(better, candidates),
    )
    assert after["mr"] <= before["mr"]
    assert all(after[name] >= before[name] for name in before if name != "mr")


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_renumbering_entities_and_shuffling_rows_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    splits = random_splits(seed)
    table = rng.random((2, N_RELATIONS, N_ENTITIES, N_ENTITIES)).round(1)
    new = rng.permutation(N_ENTITIES)
    moved = []
    for part in splits:
        part = rng.permutation(part).copy()
        part[:, [0, 2]] = new[part[:, [0, 2]]]
        moved.append(part)
    back = np.argsort(new)
    left = evaluate(build(splits), table)
    right = evaluate(build(moved), table[:, :, back][..., back])
    assert right.values == pytest.approx(left.values)
    assert right.chance == pytest.approx(left.chance)
    assert {k: pytest.approx(v) for k, v in right.slices.items()} == left.slices


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_factors_and_dense_blocks_agree(bias, backend):
    splits = random_splits(5, n=200)
    index = build(splits)
    rng = np.random.default_rng(5)
    queries = rng.integers(-2, 3, (index.n_queries, 4)).astype(np.float32)
    entities = rng.integers(-2, 3, (N_ENTITIES, 4)).astype(np.float32)
    offset = rng.integers(-2, 3, N_ENTITIES).astype(np.float32) if bias else None
    scores = queries @ entities.T + (0 if offset is None else offset)
    dense = rank_scores(index, (scores[i : i + 7] for i in range(0, len(scores), 7)), backend=backend)
    factors = rank_factors(index, queries, entities, offset, backend=backend)
    np.testing.assert_array_equal(dense.optimistic, factors.optimistic)
    np.testing.assert_array_equal(dense.pessimistic, factors.pessimistic)


def test_memory_mapped_scores(tmp_path):
    index = build(random_splits(6))
    shape = (index.n_queries, N_ENTITIES)
    scores = np.random.default_rng(6).random(shape).astype(np.float32)
    scores.tofile(tmp_path / "scores")
    mapped = np.memmap(tmp_path / "scores", np.float32, "r", shape=shape)
    ranks = rank_scores(index, (mapped[i : i + 5] for i in range(0, len(mapped), 5)))
    np.testing.assert_array_equal(ranks.realistic, rank_scores(index, [scores]).realistic)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_refused(value):
    index = build(random_splits(7))
    scores = np.zeros((index.n_queries, N_ENTITIES), np.float32)
    scores[4, 3] = value
    with pytest.raises(EvaluationError, match=r"1 scores .* row 4, column 3"):
        rank_scores(index, [scores])


def test_wrong_input_is_refused():
    train, valid, test = random_splits(8)
    with pytest.raises(EvaluationError, match=r"1 test triples .*row 2: \[12, 0, 0\]"):
        build((train, valid, np.vstack([test[:2], [[12, 0, 0]]])))
    with pytest.raises(EvaluationError, match="split must be one of"):
        build((train, valid, test), "train")
    with pytest.raises(EvaluationError, match="int64"):
        build((train, valid, test.astype(float)))
    index = build((train, valid, test))
    with pytest.raises(EvaluationError, match="expected"):
        score_link_prediction(Ranks(np.ones(1, np.int64), np.ones(1, np.int64)), index)
    ones = np.ones(index.positives.nnz, np.int64)
    with pytest.raises(EvaluationError, match="ties must be one of"):
        score_link_prediction(Ranks(ones, ones), index, ties="random")


def test_one_triple_one_entity_and_no_triples():
    loop = np.array([[0, 0, 0]])
    index = LinkPredictionIndex.build(loop[:0], loop[:0], loop, 1, 1)
    evaluation = score_link_prediction(rank_scores(index, [np.zeros((2, 1), np.float32)]), index)
    assert evaluation.values["mrr"] == 1
    assert evaluation.values["amri"] == 0
    empty = LinkPredictionIndex.build(loop, loop[:0], loop[:0], 1, 1)
    evaluation = score_link_prediction(rank_scores(empty, []), empty)
    assert evaluation.values == {}
    assert evaluation.counts["n_queries"] == 0


def test_per_query_scores_are_aligned_and_average_to_the_values():
    index = build(random_splits(9))
    table = np.random.default_rng(9).random((2, N_RELATIONS, N_ENTITIES, N_ENTITIES))
    evaluation = evaluate(index, table)
    for name, scores in evaluation.per_query.items():
        assert scores.shape == evaluation.queries.shape
        assert scores.mean() == pytest.approx(evaluation.values[name])
    groups = [v for k, v in evaluation.slices.items() if k.startswith("entity_frequency")]
    total = sum(g["n_queries"] for g in groups)
    assert total == evaluation.counts["n_ranks"]
    assert sum(g["n_queries"] * g.get("mrr", 0) for g in groups) / total == pytest.approx(
        evaluation.values["mrr"]
    )


def test_macro_is_the_mean_over_relations():
    index = build(random_splits(10))
    table = np.random.default_rng(10).random((2, N_RELATIONS, N_ENTITIES, N_ENTITIES))
    evaluation = evaluate(index, table)
    means = [
        evaluation.per_query["mrr"][index.triples[:, 1] == r].mean() for r in np.unique(index.triples[:, 1])
    ]
    assert evaluation.values["macro_mrr"] == pytest.approx(np.mean(means))


def test_metrics_equal_pykeen():
    metrics = pytest.importorskip("pykeen.metrics.ranking")
    rng = np.random.default_rng(11)
    candidates = rng.integers(1, 60, 200)
    ranks = (1 + rng.random(200) * (candidates - 1)).round()
    found = _rank_metrics.rank_metrics(ranks, candidates)
    assert found["mrr"] == pytest.approx(metrics.InverseHarmonicMeanRank()(ranks))
    assert found["mr"] == pytest.approx(metrics.ArithmeticMeanRank()(ranks))
    assert found["hits@3"] == pytest.approx(metrics.HitsAtK(3)(ranks))
    assert found["amri"] == pytest.approx(
        metrics.AdjustedArithmeticMeanRankIndex()(ranks, num_candidates=candidates)
    )
    expected = metrics.InverseHarmonicMeanRank().expected_value(candidates)
    assert _rank_metrics.chance_metrics(candidates)["mrr"] == pytest.approx(expected)
