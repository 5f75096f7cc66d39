"""kpi-mini has the shape it promises, and the signal that was planted in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kpi_bench.suites.graph import KnowledgeGraph
from kpi_bench.suites.official import OFFICIAL_DIGESTS
from kpi_bench.suites.recipes import build_suite
from kpi_bench.suites.suite import Suite, open_suite
from kpi_bench.suites.task import ClassificationTask, Examples, RecommendationTask
from kpi_bench.suites.verify import verify_suite

RECOMMENDATION = ("amazon_music", "douban_book", "douban_movie")
CLASSIFICATION = ("amazon_games_qa", "amazon_movie_review", "douban_music_review")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    folder = tmp_path_factory.mktemp("mini") / "suite"
    build_suite("kpi-mini", None, folder)
    return open_suite(folder)


def recommendation(suite: Suite, name: str) -> tuple[RecommendationTask, KnowledgeGraph]:
    task = suite.task(name)
    assert isinstance(task, RecommendationTask)
    return task, suite.graph(task.spec.kg)


def classification(suite: Suite, name: str) -> tuple[ClassificationTask, KnowledgeGraph]:
    task = suite.task(name)
    assert isinstance(task, ClassificationTask)
    return task, suite.graph(task.spec.kg)


def test_the_suite_is_valid_small_and_pinned(suite: Suite) -> None:
    verify_suite(suite.folder, suite.manifest)
    assert suite.manifest.digest == OFFICIAL_DIGESTS["kpi-mini@1.0.0"]
    assert suite.task_names() == [*RECOMMENDATION, *CLASSIFICATION]
    assert sum(path.stat().st_size for path in suite.folder.rglob("*.*") if path.is_file()) < 2**20


def test_two_builds_are_the_same_bytes(suite: Suite, tmp_path: Path) -> None:
    assert build_suite("kpi-mini", None, tmp_path / "again") == suite.manifest


@pytest.mark.parametrize("name", ["amazon", "douban"])
def test_graphs_are_stars_over_domains_with_shared_attributes(suite: Suite, name: str) -> None:
    graph = suite.graph(name)
    assert 2500 <= graph.n_entities <= 4000
    assert not set(graph.heads) & set(graph.tails)
    kinds = np.array(graph.entities.column("kind").to_pylist())
    domains = np.array(graph.entities.column("domain").to_pylist())
    assert set(kinds[graph.heads]) == {"item"}
    assert set(np.flatnonzero(kinds == "item")) == set(graph.heads)
    assert set(domains) == {*suite.manifest.kgs[suite.graph_names().index(name)].domains, "shared"}
    shared = np.flatnonzero(domains == "shared")
    reached = {entity: set(domains[graph.heads[graph.tails == entity]]) for entity in shared}
    assert np.mean([len(found) for found in reached.values()]) > 2
    popularity = np.sort(np.bincount(graph.tails)[np.unique(graph.tails)])[::-1]
    assert popularity[: len(popularity) // 10].sum() > 0.3 * popularity.sum()


def test_functional_relations_have_one_tail(suite: Suite) -> None:
    graph = suite.graph("amazon")
    for key in ("salesrank", "brand"):
        relation = graph.relation_table.column("key").to_pylist().index(key)
        assert np.bincount(graph.heads[graph.relations == relation]).max() == 1


@pytest.mark.parametrize("name", RECOMMENDATION)
def test_splits_and_cold_items(suite: Suite, name: str) -> None:
    task, _ = recommendation(suite, name)
    assert task.test is not None
    assert 600 <= task.n_users <= 900
    assert 500 <= task.n_items <= 800
    for split in (task.train, task.valid, task.test):
        assert set(split.users) == set(range(task.n_users))
    cold = ~np.isin(task.test.items, task.train.items)
    assert 0.05 <= cold.mean() <= 0.09
    assert (task.item_entity >= 0).all()


@pytest.mark.parametrize("name", RECOMMENDATION)
def test_attributes_tell_taste(suite: Suite, name: str) -> None:
    """A profile of train attributes beats popularity, adds to item-kNN, and finds cold items far above chance."""
    task, graph = recommendation(suite, name)
    train = dense(task, "train")
    attributes = item_attributes(task, graph)
    popularity = np.tile(train.sum(axis=0), (task.n_users, 1))
    content = unit(train @ attributes) @ attributes.T
    neighbours = train @ (unit(train.T) @ unit(train.T).T)
    both = standard(neighbours) + standard(content)
    results = {
        key: ndcg(task, scores)
        for key, scores in {
            "popularity": popularity,
            "content": content,
            "neighbours": neighbours,
            "both": both,
        }.items()
    }
    assert results["content"] > 1.5 * results["popularity"]
    assert results["both"] > 1.05 * results["neighbours"]
    assert cold_auc(task, content) > 0.65
    assert cold_auc(task, neighbours) == pytest.approx(0.5)


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_examples_are_balanced_and_leak_a_little(suite: Suite, name: str) -> None:
    task, _ = classification(suite, name)
    assert task.test is not None
    for split, size in zip((task.train, task.valid, task.test), (1600, 200, 400), strict=True):
        counts = np.bincount(split.labels, minlength=task.n_classes)
        assert set(counts) == {size // task.n_classes}
    assert 0.03 <= np.isin(task.test.texts, task.train.texts + task.valid.texts).mean() <= 0.15
    assert 0.05 <= (~np.isin(task.test.entities, task.train.entities)).mean() <= 0.25


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_text_and_attributes_both_tell_the_label(suite: Suite, name: str) -> None:
    task, graph = classification(suite, name)
    assert task.test is not None
    words = sorted({word for text in task.train.texts for word in text.split()})
    column = {word: number for number, word in enumerate(words)}

    def texts(split: Examples) -> NDArray[np.float64]:
        counts = np.zeros((len(split), len(words)))
        for row, text in enumerate(split.texts):
            counts[row, [column[word] for word in text.split() if word in column]] = 1.0
        return counts

    def attributes(split: Examples) -> NDArray[np.float64]:
        counts = np.zeros((len(split), graph.n_entities))
        for row, entity in enumerate(split.entities):
            counts[row, graph.out_edges.edges(entity)[1]] = 1.0
        return counts[:, np.unique(graph.tails)]

    def accuracy(*features: str) -> NDArray[np.bool_]:
        makers = {"text": texts, "kg": attributes}
        train, test = (
            np.hstack([makers[key](split) for key in features]) for split in (task.train, task.test)
        )
        return ridge(train, task.train.labels, test, task.n_classes) == task.test.labels

    text, kg, both = accuracy("text"), accuracy("kg"), accuracy("text", "kg")
    chance = 1 / task.n_classes
    assert text.mean() > 1.2 * chance
    assert kg.mean() > 1.2 * chance
    assert both.mean() > text.mean() + 0.06
    cold = ~np.isin(task.test.entities, task.train.entities)
    assert both[cold].mean() > 1.5 * chance


def dense(task: RecommendationTask, *splits: str) -> NDArray[np.float64]:
    matrix = task.matrix(*splits)
    values = np.zeros((task.n_users, task.n_items))
    values[matrix.row_ids(), matrix.indices] = 1.0
    return values


def item_attributes(task: RecommendationTask, graph: KnowledgeGraph) -> NDArray[np.float64]:
    """Items x attributes, weighted by rarity, rows of length 1."""
    values = np.zeros((task.n_items, graph.n_entities))
    for item, entity in enumerate(task.item_entity):
        values[item, graph.out_edges.edges(entity)[1]] = 1.0
    values = values[:, values.any(axis=0)]
    return unit(values * np.log(task.n_items / values.sum(axis=0)))


def unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def standard(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return (values - values.mean(axis=1, keepdims=True)) / values.std(axis=1, keepdims=True)


def ndcg(task: RecommendationTask, scores: NDArray[np.float64], k: int = 20) -> float:
    scores = np.where(dense(task, "train", "valid") > 0, -np.inf, scores)
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    truth = dense(task, "test")
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discount)[np.minimum(truth.sum(axis=1), k).astype(int) - 1]
    return float(np.mean((np.take_along_axis(truth, top, axis=1) * discount).sum(axis=1) / ideal))


def cold_auc(task: RecommendationTask, scores: NDArray[np.float64]) -> float:
    """How high a cold test item stands among all cold items of its user; 0.5 is chance."""
    assert task.test is not None
    cold = np.flatnonzero(dense(task, "train").sum(axis=0) == 0)
    places = []
    for user, item in zip(task.test.users, task.test.items, strict=True):
        if item in cold:
            others = scores[user, cold[cold != item]]
            places.append(np.mean(others < scores[user, item]) + 0.5 * np.mean(others == scores[user, item]))
    return float(np.mean(places))


def ridge(
    train: NDArray[np.float64], labels: NDArray[np.int64], test: NDArray[np.float64], n_classes: int
) -> NDArray[np.int64]:
    mean = train.mean(axis=0)
    targets = np.eye(n_classes)[labels]
    gram = (train - mean).T @ (train - mean) + 20.0 * np.eye(train.shape[1])
    weights = np.linalg.solve(gram, (train - mean).T @ (targets - targets.mean(axis=0)))
    return ((test - mean) @ weights).argmax(axis=1)
