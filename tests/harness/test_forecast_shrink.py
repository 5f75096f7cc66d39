"""Shrunken suites: valid, whole in kind, and small in every size by about the same share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suite_factory import tiny_suite_frames

from kpi_bench.errors import SuiteError
from kpi_bench.harness.forecast.sampling import (
    bound,
    choose_weighted,
    first_of_each,
    least,
    numbering,
    steepness_for,
    uniform,
)
from kpi_bench.harness.forecast.shrink import graph_share, shrink, task_share
from kpi_bench.harness.withhold import withheld_copy
from kpi_bench.suites.load import load_suite
from kpi_bench.suites.suite import Suite, open_suite
from kpi_bench.suites.task import KgSpec, TaskKind, TaskSpec
from kpi_bench.suites.verify import verify_suite
from kpi_bench.suites.writer import KgFrames, SuiteFrames, TaskFrames, write_suite


@pytest.fixture(scope="module")
def mini() -> Suite:
    return load_suite("kpi-mini", verify=False)


def rows(suite: Suite) -> dict[str, int]:
    return {path: entry.rows for path, entry in suite.manifest.files.items()}


@pytest.mark.parametrize("share", [1 / 16, 1 / 4, 0.9])
def test_a_shrunken_suite_is_a_suite_with_everything_in_it(mini: Suite, tmp_path: Path, share: float) -> None:
    small = shrink(mini, share, tmp_path / "small")
    verify_suite(small.folder, small.manifest)
    assert set(rows(small)) == set(rows(mini))
    assert min(rows(small).values()) > 0
    assert small.task_names() == mini.task_names()
    for name in mini.graph_names():
        assert set(small.graph(name).relations) == set(mini.graph(name).relations)
    for name in mini.task_names():
        few, all_ = small.task(name), mini.task(name)
        if few.spec.kind is TaskKind.CLASSIFICATION:
            assert set(few.train.labels) == set(all_.train.labels)
        else:
            assert set(few.train.users) == set(range(few.n_users))
            assert few.n_items >= 2 * few.spec.k
    withheld_copy(small, tmp_path / "withheld")


def test_every_size_falls_by_about_the_share(mini: Suite, tmp_path: Path) -> None:
    small = shrink(mini, 1 / 4, tmp_path / "small")
    factors = {path: 4 * n / rows(mini)[path] for path, n in rows(small).items() if "relations" not in path}
    assert all(0.6 <= factor <= 1.7 for factor in factors.values()), factors
    for name in mini.task_names():
        assert task_share(small.manifest, mini.manifest, name) == pytest.approx(1 / 4, rel=0.2)
    assert graph_share(small.manifest, mini.manifest) == pytest.approx(1 / 4, rel=0.3)
    assert graph_share(mini.manifest, mini.manifest) == 1.0


def test_what_is_kept_is_a_part_of_the_whole(mini: Suite, tmp_path: Path) -> None:
    """Keys of entities identify them: triples, examples and items of the copy are those of the suite."""
    small = shrink(mini, 1 / 8, tmp_path / "small")
    for name in mini.graph_names():
        facts = [
            {(keys[h], r, keys[t]) for h, r, t in graph.triples().tolist()}
            for graph in (small.graph(name), mini.graph(name))
            for keys in [graph.entity_keys()]
        ]
        assert facts[0] < facts[1]
    for name in mini.task_names():
        few, all_ = small.task(name), mini.task(name)
        keys = [suite.graph(few.spec.kg).entity_keys() for suite in (small, mini)]
        if few.spec.kind is TaskKind.CLASSIFICATION:
            seen = [
                set(zip((key[e] for e in part.entities), part.texts, part.labels.tolist(), strict=True))
                for key, part in zip(keys, (few.train, all_.train), strict=True)
            ]
            assert seen[0] <= seen[1]
        else:
            assert {keys[0][e] for e in few.item_entity if e >= 0} <= {keys[1][e] for e in all_.item_entity}


def test_it_is_the_same_every_time(mini: Suite, tmp_path: Path) -> None:
    digests = {shrink(mini, 1 / 8, tmp_path / str(i)).manifest.digest for i in range(2)}
    assert len(digests) == 1
    assert digests != {shrink(mini, 1 / 4, tmp_path / "other").manifest.digest}


def test_all_kinds_of_tasks_links_times_and_items_out_of_the_kg(tmp_path: Path) -> None:
    write_suite(tmp_path / "suite", tiny_suite_frames())
    suite = open_suite(tmp_path / "suite")
    small = shrink(suite, 1 / 2, tmp_path / "small")
    links, music = small.task("library_links"), small.task("shop_music")
    # The KG of the links is their train split, in the copy as in the suite.
    assert np.array_equal(
        np.unique(links.train.array(), axis=0), np.unique(small.graph("library").triples(), axis=0)
    )
    assert min(len(part) for part in (links.train, links.valid, links.test)) > 0
    assert music.train.times is not None
    assert -1 in shrink(suite, 0.95, tmp_path / "larger").task("shop_music").item_entity


def linked_suite(n: int, seed: int) -> SuiteFrames:
    """Two KGs of ``n`` entities, entity i of one linked to n - 1 - i of the other, and a link-prediction task on the first."""
    rng = np.random.default_rng(seed)
    ids = np.arange(n)

    def kg(name: str, links: pd.DataFrame | None) -> KgFrames:
        triples = np.unique(
            np.stack(
                [rng.integers(0, n, 6 * n), rng.integers(0, 3, 6 * n), rng.integers(0, n, 6 * n)], axis=1
            ),
            axis=0,
        )
        entities = pd.DataFrame(
            {"entity": ids, "key": [f"{name}{i}" for i in ids], "name": None, "text": None}
        )
        return KgFrames(
            KgSpec(name, ""),
            pd.DataFrame(triples, columns=["head", "relation", "tail"]),
            entities.assign(domain="d", kind="k"),
            pd.DataFrame({"relation": range(3), "key": list("abc"), "name": list("abc")}),
            links,
        )

    links = pd.DataFrame({"entity": ids, "other_kg": "left", "other_entity": n - 1 - ids, "rule": "r"})
    left, right = kg("left", None), kg("right", links)
    spec = TaskSpec("links", TaskKind.LINK_PREDICTION, "left", "d", "", "", "mrr")
    held = pd.DataFrame({"head": ids, "relation": 0, "tail": (ids * 7 + 3) % n})
    task = TaskFrames(spec, {"train": left.triples, "valid": held[::2], "test": held[1::2]})
    return SuiteFrames("linked", "1", "", "", (), (left, right), (task,))


def test_linked_entities_stay_or_go_together(tmp_path: Path) -> None:
    write_suite(tmp_path / "suite", linked_suite(400, 0))
    small = shrink(open_suite(tmp_path / "suite"), 1 / 8, tmp_path / "small")
    links = small.graph("right").links.to_pandas()
    left, right = small.graph("left").entity_keys(), small.graph("right").entity_keys()
    assert len(links) >= 0.8 * 400 / 8
    for entity, other in zip(links["entity"], links["other_entity"], strict=True):
        assert int(right[entity].removeprefix("right")) == 399 - int(left[other].removeprefix("left"))


def test_a_suite_that_is_too_small_says_so(tmp_path: Path) -> None:
    frames = tiny_suite_frames()
    music = frames.tasks[0]
    valid = music.splits["valid"].iloc[:1]
    broken = dataclasses.replace(
        music, splits={**music.splits, "valid": valid, "test": music.splits["test"].iloc[:0]}
    )
    write_suite(tmp_path / "suite", dataclasses.replace(frames, tasks=(broken, *frames.tasks[1:])))
    with pytest.raises(SuiteError, match=r"shop_music: 0\.125 of the suite leaves no (valid|test) rows"):
        shrink(open_suite(tmp_path / "suite"), 1 / 8, tmp_path / "small")


# ------------------------------------------------------------------------------------------------------------ sampling


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 200), st.integers(0, 250), st.integers(0, 2**31))
def test_least_keeps_the_least_and_what_it_must(n_rows: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    keys, always = rng.random(n_rows), rng.random(n_rows) < 0.1
    kept = least(keys, n, always)
    assert kept.sum() == min(n_rows, max(n, always.sum()))
    assert not (always & ~kept).any()
    free = kept & ~always
    if free.any() and (~kept).any():
        assert keys[free].max() <= keys[~kept].min()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-3, 3), max_size=60), st.integers(1, 4))
def test_first_of_each_group(groups: list[int], n: int) -> None:
    labels = np.array(groups, dtype=np.int64)
    keys = uniform(np.arange(len(labels)))
    expected = {
        i for label in set(groups) for i in sorted(np.flatnonzero(labels == label), key=lambda i: keys[i])[:n]
    }
    assert set(np.flatnonzero(first_of_each(labels, keys, n))) == expected


def test_uniform_numbers_depend_on_values_alone_and_fill_the_interval() -> None:
    rng = np.random.default_rng(0)
    columns = rng.integers(0, 1000, (3, 20_000))
    numbers = uniform(*columns)
    order = rng.permutation(20_000)
    assert np.array_equal(uniform(*columns[:, order]), numbers[order])
    assert not np.array_equal(uniform(*columns, salt=1), numbers)
    assert not np.array_equal(uniform(columns[1], columns[0], columns[2]), numbers)
    assert np.abs(np.histogram(numbers, 20, (0, 1))[0] - 1000).max() < 160
    assert 0 < numbers.min() < numbers.max() < 1


def test_weights_by_degree() -> None:
    """Of two classes of nodes, those with (degree + 1) ** steepness = 8 are drawn first about 8 times of 9."""
    degrees = np.array([1, 0] * 20_000)
    first = []
    for start in range(0, 40_000, 2):
        draws = uniform(np.arange(start, start + 2))
        first.append(choose_weighted(draws, degrees[:2], 3.0, 1)[0])
    assert np.mean(first) == pytest.approx(8 / 9, abs=0.01)
    chosen = choose_weighted(
        uniform(np.arange(4)), np.array([9, 9, 0, 0]), 5.0, 2, first=np.array([False, False, True, True])
    )
    assert chosen.tolist() == [False, False, True, True]


def test_the_least_steepness_that_is_enough() -> None:
    assert steepness_for(lambda s: int(100 * s), 0) == 0.0
    assert steepness_for(lambda s: int(100 * s), 250) == pytest.approx(2.5, abs=0.01)
    assert steepness_for(lambda s: 0, 250) == 8.0


def test_numbers_of_what_is_kept() -> None:
    assert numbering(np.array([True, False, True, True])).tolist() == [0, -1, 1, 2]
    assert bound(np.array([True] * 8), 2) == 0.25
    assert bound(np.array([True]), 2) == 1.0
