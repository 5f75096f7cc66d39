from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from suite_factory import N_BOOKS, N_GAMES, N_MUSIC, N_USERS

from kpi_bench.suites.stats import ClassificationStats, LinkPredictionStats, RecommendationStats, suite_stats
from kpi_bench.suites.suite import Suite


def test_graphs(tiny_suite: Suite) -> None:
    shop, library = suite_stats(tiny_suite).graphs
    assert (shop.entities, shop.relations, shop.domains, shop.isolated) == (
        N_MUSIC - 1 + N_GAMES + 12,
        4,
        2,
        0,
    )
    assert shop.triples == tiny_suite.graph("shop").n_triples
    assert shop.named == pytest.approx((N_MUSIC - 1 + 7) / shop.entities)
    assert library.named == 1.0
    graph = tiny_suite.graph("shop")
    degrees = graph.out_edges.degrees() + graph.in_edges.degrees()
    assert (shop.median_degree, shop.max_degree) == (np.median(degrees), degrees.max())


def test_tasks(tiny_suite: Suite) -> None:
    music, games, review, links = suite_stats(tiny_suite).tasks
    assert isinstance(music, RecommendationStats)
    assert (music.users, music.items, music.kg_coverage) == (N_USERS, N_MUSIC, (N_MUSIC - 1) / N_MUSIC)
    assert music.density == pytest.approx((music.train + music.valid + 80) / (N_USERS * N_MUSIC))
    assert isinstance(games, ClassificationStats)
    assert (games.train, games.valid, games.test, games.entities, games.kg_coverage) == (
        64,
        16,
        20,
        N_GAMES,
        1.0,
    )
    assert isinstance(review, ClassificationStats)
    assert (review.classes, len(review.balance)) == (5, 5)
    assert sum(review.balance) == pytest.approx(1)
    assert isinstance(links, LinkPredictionStats)
    assert (links.train, links.valid, links.test, links.relations) == (58, 6, 8, 3)
    assert N_BOOKS <= links.entities <= N_BOOKS + 10


def test_tables_are_text_and_json(tiny_suite: Suite) -> None:
    stats = suite_stats(tiny_suite)
    tables = stats.tables()
    assert list(tables) == ["graphs", "recommendation", "classification", "link_prediction"]
    assert [row["task"] for row in tables["classification"]] == ["shop_games_qa", "library_review"]
    found = json.loads(json.dumps(stats.to_json(), allow_nan=False))
    assert (found["suite"], found["version"], found["recommendation"][0]["items"]) == (
        "tiny",
        "0.0.1",
        N_MUSIC,
    )
    text = stats.render()
    assert text.startswith("graphs\n")
    assert "link prediction\n" in text
    assert text.count("shop_music") == 1


def test_withheld_test_is_none(tiny_suite: Suite) -> None:
    manifest = dataclasses.replace(tiny_suite.manifest, withheld=True)
    stats = suite_stats(Suite(manifest, tiny_suite.folder, "withheld"))
    assert [task.test for task in stats.tasks] == [None] * 4
    full = suite_stats(tiny_suite)
    assert stats.graphs == full.graphs
    assert "withheld" in stats.render()
    assert stats.tasks[0].train == full.tasks[0].train
