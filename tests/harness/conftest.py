"""Tasks of the tiny suite, one of each kind."""

from __future__ import annotations

import pytest

from kpi_bench.suites.suite import Suite
from kpi_bench.suites.task import ClassificationTask, LinkPredictionTask, RecommendationTask


@pytest.fixture
def music(tiny_suite: Suite) -> RecommendationTask:
    task = tiny_suite.task("shop_music")
    assert isinstance(task, RecommendationTask)
    return task


@pytest.fixture
def qa(tiny_suite: Suite) -> ClassificationTask:
    task = tiny_suite.task("shop_games_qa")
    assert isinstance(task, ClassificationTask)
    return task


@pytest.fixture
def review(tiny_suite: Suite) -> ClassificationTask:
    task = tiny_suite.task("library_review")
    assert isinstance(task, ClassificationTask)
    return task


@pytest.fixture
def links(tiny_suite: Suite) -> LinkPredictionTask:
    task = tiny_suite.task("library_links")
    assert isinstance(task, LinkPredictionTask)
    return task
