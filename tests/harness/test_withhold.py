"""The copy that a submission sees, and the queries in place of the labels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from kpi_bench.errors import SuiteError
from kpi_bench.evaluators.link_prediction import LinkPredictionIndex
from kpi_bench.harness.predictions import MUDOK_MASK
from kpi_bench.harness.protocol import (
    ClassificationQueries,
    LinkPredictionQueries,
    RecommendationQueries,
)
from kpi_bench.harness.withhold import file_states, query_frame, read_queries, withheld_copy
from kpi_bench.harness.withhold import test_users as users_with_tests
from kpi_bench.suites.suite import Suite, open_suite
from kpi_bench.suites.task import ClassificationTask, LinkPredictionTask, RecommendationTask


@pytest.fixture
def copy(tiny_suite: Suite, tmp_path: Path) -> Suite:
    return open_suite(withheld_copy(tiny_suite, tmp_path / "withheld"))


def test_the_copy_has_everything_but_the_test_splits(tiny_suite: Suite, copy: Suite) -> None:
    assert copy.manifest.withheld
    hidden = {f"tasks/{name}/test.parquet" for name in tiny_suite.task_names()}
    assert set(copy.manifest.files) == set(tiny_suite.manifest.files) - hidden
    queries = {f"tasks/{name}/queries.parquet" for name in tiny_suite.task_names()}
    assert set(file_states(copy.folder)) == set(copy.manifest.files) | queries | {"suite.json"}
    for path in copy.manifest.files:
        assert (copy.folder / path).read_bytes() == (tiny_suite.folder / path).read_bytes()
        assert not (copy.folder / path).is_symlink()
        assert (copy.folder / path).stat().st_ino != (tiny_suite.folder / path).stat().st_ino


def test_tasks_of_the_copy_have_no_test_split(tiny_suite: Suite, copy: Suite) -> None:
    assert copy.graph_names() == tiny_suite.graph_names()
    for name in copy.task_names():
        task = copy.task(name)
        assert task.test is None
        assert len(task.train) == len(tiny_suite.task(name).train)
        with pytest.raises(SuiteError, match="is withheld here"):
            query_frame(task)
    music = copy.task("shop_music")
    assert isinstance(music, RecommendationTask)
    with pytest.raises(SuiteError, match="test split is withheld"):
        music.matrix("test")


def test_users_with_tests_are_asked_about_once_and_their_known_items_excluded(
    tiny_suite: Suite, copy: Suite
) -> None:
    task, blind = tiny_suite.task("shop_music"), copy.task("shop_music")
    assert isinstance(task, RecommendationTask)
    assert task.test is not None
    queries = read_queries(copy.folder, blind)
    assert isinstance(queries, RecommendationQueries)
    assert queries.users.tolist() == sorted(set(task.test.users.tolist()))
    np.testing.assert_array_equal(queries.users, users_with_tests(task))
    assert queries.k == 20
    assert sorted(queries.tie_order.tolist()) == list(range(task.n_items))
    for i, user in enumerate(queries.users):
        known = {int(item) for split in (task.train, task.valid) for item in split.items[split.users == user]}
        assert set(queries.exclude.row(i).tolist()) == known


def test_the_variant_excludes_train_only(tiny_suite: Suite, copy: Suite) -> None:
    task = tiny_suite.task("shop_music")
    assert isinstance(task, RecommendationTask)
    official = read_queries(copy.folder, copy.task("shop_music"))
    queries = read_queries(copy.folder, copy.task("shop_music"), mask=MUDOK_MASK)
    assert isinstance(queries, RecommendationQueries)
    assert isinstance(official, RecommendationQueries)
    for i, user in enumerate(queries.users):
        assert set(queries.exclude.row(i).tolist()) == set(
            task.train.items[task.train.users == user].tolist()
        )
    assert queries.exclude.nnz < official.exclude.nnz


def test_classification_queries_are_the_test_rows_in_order(tiny_suite: Suite, copy: Suite) -> None:
    for name in ("shop_games_qa", "library_review"):
        task = tiny_suite.task(name)
        assert isinstance(task, ClassificationTask)
        assert task.test is not None
        queries = read_queries(copy.folder, copy.task(name))
        assert isinstance(queries, ClassificationQueries)
        np.testing.assert_array_equal(queries.examples, task.test.examples)
        np.testing.assert_array_equal(queries.entities, task.test.entities)
        assert queries.texts == task.test.texts


def test_link_queries_stand_in_the_order_of_the_ranking_index(tiny_suite: Suite, copy: Suite) -> None:
    task = tiny_suite.task("library_links")
    assert isinstance(task, LinkPredictionTask)
    assert task.test is not None
    queries = read_queries(copy.folder, copy.task("library_links"))
    assert isinstance(queries, LinkPredictionQueries)
    index = LinkPredictionIndex.build(
        task.train.array(),
        task.valid.array(),
        task.test.array(),
        task.n_entities,
        task.n_relations,
        split="test",
    )
    np.testing.assert_array_equal(queries.entities, index.entity)
    np.testing.assert_array_equal(queries.relations, index.relation)
    np.testing.assert_array_equal(queries.directions, index.direction)
    wanted = {(h, r, 0) for h, r, _ in task.test.array().tolist()}
    wanted |= {(t, r, 1) for _, r, t in task.test.array().tolist()}
    found = list(zip(queries.entities, queries.relations, queries.directions, strict=True))
    assert len(found) == len(set(found)) == len(wanted)
    assert set(found) == wanted


def test_a_copy_is_made_once(tiny_suite: Suite, tmp_path: Path) -> None:
    first = withheld_copy(tiny_suite, tmp_path)
    states = file_states(first)
    assert withheld_copy(tiny_suite, tmp_path) == first
    assert file_states(first) == states


@pytest.mark.parametrize("damage", ["changed", "added", "removed", "queries", "manifest", "garbage"])
def test_a_damaged_copy_is_made_anew(tiny_suite: Suite, tmp_path: Path, damage: str) -> None:
    folder = withheld_copy(tiny_suite, tmp_path)
    good = {path: (folder / path).read_bytes() for path in file_states(folder)}
    tasks = folder / "tasks"
    if damage == "changed":
        (tasks / "shop_music/train.parquet").write_bytes(good["tasks/shop_music/valid.parquet"])
    elif damage == "added":
        (folder / "labels.txt").write_text("1")
    elif damage == "removed":
        (tasks / "library_links/train.parquet").unlink()
    elif damage == "queries":
        (tasks / "shop_games_qa/queries.parquet").write_bytes(good["tasks/library_review/queries.parquet"])
    elif damage == "garbage":
        (tasks / "shop_games_qa/queries.parquet").write_bytes(b"")
    else:
        (folder / "suite.json").write_text("{}")
    assert withheld_copy(tiny_suite, tmp_path) == folder
    assert {path: (folder / path).read_bytes() for path in file_states(folder)} == good


def test_file_states_notice_a_write_that_restores_size_and_time(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    before = file_states(tmp_path)
    status = (tmp_path / "a").stat()
    (tmp_path / "a").write_text("two")
    os.utime(tmp_path / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file_states(tmp_path) != before
