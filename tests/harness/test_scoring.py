"""Scores of prediction files against plain loops over the same files."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from kpi_bench.errors import EvaluationError, PredictionError, SuiteError
from kpi_bench.evaluators.ranking import top_k_from_scores
from kpi_bench.harness.predictions import MUDOK, MUDOK_MASK, OFFICIAL, write_predictions
from kpi_bench.harness.protocol import ClassificationQueries, LinkPredictionQueries, TopK
from kpi_bench.harness.scoring import (
    ClassificationScorer,
    LinkPredictionScorer,
    RecommendationScorer,
    kept_files,
    make_scorer,
)
from kpi_bench.harness.withhold import query_frame, recommendation_queries
from kpi_bench.harness.withhold import test_users as users_with_tests
from kpi_bench.suites.task import ClassificationTask, Interactions, LinkPredictionTask, RecommendationTask


def items_of(split: Interactions | None, user: int) -> set[int]:
    assert split is not None
    return set(split.items[split.users == user].tolist())


def recommend(task: RecommendationTask, prefix: Path, variant: str, mask: tuple[str, ...]) -> None:
    """Write top lists of distinct random scores."""
    queries = recommendation_queries(task, users_with_tests(task), mask)
    scores = np.random.default_rng(5).random((task.n_users, task.n_items), dtype=np.float32)[queries.users]
    best = top_k_from_scores(scores, queries.exclude, queries.k, queries.tie_order)
    write_predictions(prefix, variant, task, queries, TopK(best.items, best.scores))


def by_hand(task: RecommendationTask, path: Path, ks: tuple[int, ...]) -> dict[str, float]:
    """Means over users with test items, from one loop a user."""
    frame = pd.read_parquet(path)
    totals: dict[str, list[float]] = {}
    for user in sorted(set(task.test.users.tolist())) if task.test else []:
        wanted = items_of(task.test, user)
        ranked = frame[frame["user"] == user].sort_values("rank")["item"].tolist()
        for k in ks:
            hits = [rank for rank, item in enumerate(ranked[:k], 1) if item in wanted]
            ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(wanted)) + 1))
            values = {
                f"recall@{k}": len(hits) / len(wanted),
                f"precision@{k}": len(hits) / k,
                f"hit@{k}": float(bool(hits)),
                f"mrr@{k}": 1 / hits[0] if hits else 0.0,
                f"mrr_sum@{k}": sum(1 / rank for rank in hits),
                f"ndcg@{k}": sum(1 / math.log2(rank + 1) for rank in hits) / ideal,
            }
            for name, value in values.items():
                totals.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in totals.items()}


def test_recommendation_and_its_variant(music: RecommendationTask, tmp_path: Path) -> None:
    prefix = tmp_path / "seed0"
    recommend(music, prefix, OFFICIAL, music.spec.mask)
    recommend(music, prefix, MUDOK, MUDOK_MASK)
    scores = make_scorer(music).score(prefix)
    official = by_hand(music, tmp_path / "seed0.parquet", music.spec.ks)
    unmasked = by_hand(music, tmp_path / "seed0.mudok.parquet", music.spec.ks)
    assert not any("mrr_sum" in name for name in scores.official.values)
    for name, value in scores.official.values.items():
        if name in official:
            assert value == pytest.approx(official[name], abs=1e-12), name
    mudok = scores.variants["mudok"].values
    assert {name for name in unmasked if name not in mudok} == set()
    for name, value in unmasked.items():
        assert mudok[name] == pytest.approx(value, abs=1e-12), name
    assert mudok["ndcg@20"] != scores.official.values["ndcg@20"]
    assert (scores.labels, scores.predicted) == (None, None)


def test_predictions_without_the_variant_are_scored_without_it(
    music: RecommendationTask, tmp_path: Path
) -> None:
    recommend(music, tmp_path / "seed0", OFFICIAL, music.spec.mask)
    assert make_scorer(music).score(tmp_path / "seed0").variants == {}


def test_the_variant_may_return_what_the_official_protocol_masks(
    music: RecommendationTask, tmp_path: Path
) -> None:
    prefix = tmp_path / "seed0"
    recommend(music, prefix, OFFICIAL, MUDOK_MASK)
    with pytest.raises(PredictionError, match="item is excluded for the user"):
        make_scorer(music).score(prefix)


def classify(
    task: ClassificationTask, prefix: Path, keep: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    assert task.test is not None
    test = task.test
    scores = np.random.default_rng(3).random((len(test), task.n_classes))
    queries = ClassificationQueries(test.examples, test.entities, test.texts)
    path = write_predictions(prefix, OFFICIAL, task, queries, scores)
    if keep is not None:
        pd.read_parquet(path)[keep].to_parquet(path, index=False)
    return scores


def accuracy(truth: NDArray[np.int64], guess: NDArray[np.int64]) -> float:
    return sum(int(a == b) for a, b in zip(truth, guess, strict=True)) / len(truth)


def macro_f1(truth: NDArray[np.int64], guess: NDArray[np.int64], n_classes: int) -> float:
    scores = []
    for label in range(n_classes):
        hits = sum(int(a == b == label) for a, b in zip(truth, guess, strict=True))
        calls = int((guess == label).sum()) + int((truth == label).sum())
        scores.append(2 * hits / calls if calls else 0.0)
    return sum(scores) / n_classes


def test_classification_and_its_variants(review: ClassificationTask, tmp_path: Path) -> None:
    assert review.test is not None
    guess = classify(review, tmp_path / "seed0").argmax(axis=1)
    scored = make_scorer(review).score(tmp_path / "seed0")
    test = review.test
    seen = set(review.train.texts) | set(review.valid.texts)
    subsets = {
        "dedup": np.array([text not in seen for text in test.texts]),
        "cold": np.array([entity not in set(review.train.entities.tolist()) for entity in test.entities]),
    }
    assert subsets["dedup"].sum() == len(test) - 2
    assert subsets["cold"].any()
    evaluations = {"official": scored.official, **scored.variants}
    for name, rows in {"official": np.ones(len(test), dtype=bool), **subsets}.items():
        values = evaluations[name].values
        truth = test.labels[rows]
        assert values["accuracy"] == pytest.approx(accuracy(truth, guess[rows])), name
        assert values["macro_f1"] == pytest.approx(macro_f1(truth, guess[rows], 5)), name
        assert values["mae"] == pytest.approx(float(np.abs(truth - guess[rows]).mean())), name
        assert evaluations[name].counts["n_queries"] == rows.sum()
    np.testing.assert_array_equal(scored.labels, test.labels)
    np.testing.assert_array_equal(scored.predicted, guess)


def test_a_missing_example_is_wrong_and_counted(review: ClassificationTask, tmp_path: Path) -> None:
    assert review.test is not None
    keep = np.arange(len(review.test)) >= 10
    guess = classify(review, tmp_path / "seed0", keep).argmax(axis=1)
    scored = make_scorer(review).score(tmp_path / "seed0")
    assert scored.official.counts["n_missing"] == 10
    assert scored.predicted is not None
    assert scored.predicted[:10].tolist() == [-1] * 10
    right = int((guess == review.test.labels)[10:].sum())
    assert scored.official.values["accuracy"] == pytest.approx(right / len(review.test))


def test_a_variant_without_rows_is_left_out(review: ClassificationTask) -> None:
    assert review.test is not None
    repeated = dataclasses.replace(review.train, texts=[*review.train.texts[:-30], *review.test.texts])
    scorer = make_scorer(dataclasses.replace(review, train=repeated))
    assert isinstance(scorer, ClassificationScorer)
    assert set(scorer.subsets) == {"cold"}


def complete(
    task: LinkPredictionTask, prefix: Path, levels: int
) -> tuple[LinkPredictionQueries, NDArray[np.float32]]:
    """Write random score rows; few levels make ties."""
    frame = query_frame(task)
    queries = LinkPredictionQueries(*(frame[name].to_numpy() for name in ("entity", "relation", "direction")))
    scores = np.random.default_rng(7).integers(0, levels, (len(queries), task.n_entities)).astype(np.float32)
    write_predictions(prefix, OFFICIAL, task, queries, [scores])
    return queries, scores


@pytest.mark.parametrize("levels", [3, 10_000])
def test_link_prediction(links: LinkPredictionTask, tmp_path: Path, levels: int) -> None:
    queries, scores = complete(links, tmp_path / "seed0", levels)
    assert links.test is not None
    known = {
        tuple(triple) for split in (links.train, links.valid, links.test) for triple in split.array().tolist()
    }
    row = {
        key: i
        for i, key in enumerate(zip(queries.entities, queries.relations, queries.directions, strict=True))
    }
    ranks = []
    for head, relation, tail in {tuple(t) for t in links.test.array().tolist()}:
        for direction, asked, answer in ((0, head, tail), (1, tail, head)):
            values = scores[row[asked, relation, direction]]
            others = [
                e
                for e in range(links.n_entities)
                if e != answer
                and ((head, relation, e) if direction == 0 else (e, relation, tail)) not in known
            ]
            greater = sum(int(values[e] > values[answer]) for e in others)
            equal = sum(int(values[e] == values[answer]) for e in others)
            ranks.append(1 + greater + equal / 2)
    values = make_scorer(links).score(tmp_path / "seed0").official.values
    assert values["mrr"] == pytest.approx(sum(1 / rank for rank in ranks) / len(ranks))
    assert values["mr"] == pytest.approx(sum(ranks) / len(ranks))
    for k in (1, 3, 10):
        assert values[f"hits@{k}"] == pytest.approx(sum(rank <= k for rank in ranks) / len(ranks))


def test_ranks_are_kept_and_give_the_same_scores_without_the_rows(
    links: LinkPredictionTask, tmp_path: Path
) -> None:
    prefix = tmp_path / "seed0"
    complete(links, prefix, 50)
    first = make_scorer(links).score(prefix)
    assert [path.name for path in tmp_path.iterdir()] == ["seed0.ranks.parquet"]
    assert kept_files(links, prefix) == [tmp_path / "seed0.ranks.parquet"]
    second = make_scorer(links).score(prefix)
    assert first.official.values == second.official.values
    np.testing.assert_array_equal(first.official.per_query["mrr"], second.official.per_query["mrr"])


def test_rows_are_left_alone_on_demand_and_newer_rows_replace_old_ranks(
    links: LinkPredictionTask, tmp_path: Path
) -> None:
    prefix = tmp_path / "seed0"
    complete(links, prefix, 50)
    scorer = make_scorer(links, rows="keep")
    first = scorer.score(prefix).official.values
    assert (tmp_path / "seed0.npy").is_file()
    complete(links, prefix, 2)
    assert scorer.score(prefix).official.values["mrr"] != first["mrr"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(
    links: LinkPredictionTask, tmp_path: Path, value: float
) -> None:
    _, scores = complete(links, tmp_path / "seed0", 50)
    scores[3, 4] = value
    np.save(tmp_path / "seed0.npy", scores)
    with pytest.raises(EvaluationError, match="NaN or inf"):
        make_scorer(links).score(tmp_path / "seed0")
    assert not (tmp_path / "seed0.ranks.parquet").exists()


def test_no_scorer_without_labels(
    music: RecommendationTask, review: ClassificationTask, links: LinkPredictionTask
) -> None:
    with pytest.raises(EvaluationError, match="library_review: the test labels are withheld"):
        ClassificationScorer(dataclasses.replace(review, test=None))
    with pytest.raises(EvaluationError, match="library_links: the test triples are withheld"):
        LinkPredictionScorer(dataclasses.replace(links, test=None))
    with pytest.raises(SuiteError, match="shop_music: the test split is withheld"):
        RecommendationScorer(dataclasses.replace(music, test=None))


def test_files_that_are_kept(music: RecommendationTask, review: ClassificationTask) -> None:
    prefix = Path("p/seed0")
    assert kept_files(music, prefix) == [Path("p/seed0.parquet"), Path("p/seed0.mudok.parquet")]
    assert kept_files(review, prefix) == [Path("p/seed0.parquet")]
