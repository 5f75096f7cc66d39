"""Tasks of the tiny suite, one of each kind, and Ray clusters."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kpi_bench.harness.executors.ray import RayExecutor
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


@pytest.fixture(scope="module")
def short_folder() -> Iterator[Path]:
    """Paths of sockets may have 107 bytes: pytest's own folders are too long for Ray."""
    folder = Path(tempfile.mkdtemp(prefix="kb"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def here(short_folder: Path) -> Iterator[RayExecutor]:
    """A cluster of this machine alone."""
    with RayExecutor(temp_dir=short_folder) as executor:
        yield executor


@pytest.fixture
def cluster() -> Iterator[Any]:
    """One of two nodes with one CPU each, to be joined by its address. Not beside ``here``: a process has one cluster at a time."""
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="kb")
    size = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(
        initialize_head=True, head_node_args=size | {"temp_dir": folder, "include_dashboard": False}
    )
    cluster.add_node(**size)
    yield cluster
    cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
