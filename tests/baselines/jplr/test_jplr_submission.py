"""JPLR through the protocol: what each variant trains, reads and answers with, what is stored and what is shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from baseline_factory import check_head_answers, link_task, suite_context
from jplr_factory import HEADS, Reports, exported, params, pretrained
from numpy.typing import NDArray
from safetensors.torch import load_file

from baselines.common.config import read_config as typed
from baselines.common.distill.teachers import fingerprint
from baselines.jplr.config import JplrConfig
from baselines.jplr.submission import Jplr
from baselines.jplr.teacher import load_teacher
from baselines.jplr.union import UnionGraph
from kpi_bench import (
    ClassificationTask,
    Csr,
    LinkPredictionQueries,
    RecommendationQueries,
    RecommendationTask,
    Suite,
    TaskKind,
)
from kpi_bench.errors import SubmissionError


@pytest.mark.parametrize("config", [None, "scratch", "own", "teacher", "no-link", "name-links"])
def test_every_kind_of_task_is_answered(config: str | None, tiny_suite: Suite, tmp_path: Path) -> None:
    submission = pretrained(suite_context(tiny_suite, tmp_path), tmp_path / "state", config)
    check_head_answers(submission, tiny_suite, suite_context(tiny_suite, tmp_path))
    task, ctx = link_task(tiny_suite), suite_context(tiny_suite, tmp_path)
    submission.adapt(task, ctx)
    test = task.test
    ahead, back = (
        np.concatenate(list(submission.predict(task, LinkPredictionQueries(ends, test.relations, ways), ctx)))
        for ends, ways in (
            (test.heads, np.zeros(len(test), np.int64)),
            (test.tails, np.ones(len(test), np.int64)),
        )
    )
    for scores in (ahead, back):
        assert scores.shape == (len(test), task.n_entities)
        assert scores.dtype == np.float32
        assert np.isfinite(scores).all()
    assert not np.array_equal(ahead, back)
    none = np.zeros(0, np.int64)
    of_users = RecommendationQueries(none, Csr.empty(0, 1), 5, none)
    with pytest.raises(SubmissionError, match="a path model cannot answer RecommendationQueries"):
        submission.predict(task, of_users, ctx)


def test_it_is_pretrained_for_every_kind_of_task() -> None:
    # The KGs that a link-prediction task is not about are not in its train split.
    assert Jplr.pretrains({TaskKind.LINK_PREDICTION})
    assert Jplr.pretrains({TaskKind.RECOMMENDATION})


@pytest.mark.parametrize(
    ("config", "files"),
    [
        (None, ["joint"]),
        ("own", ["library", "shop"]),
        ("scratch", []),
        ("unlinked", ["joint"]),
        ("teacher", ["joint"]),
    ],
)
def test_teachers_are_of_all_kgs_of_each_or_none(
    config: str | None, files: list[str], tiny_suite: Suite, tmp_path: Path
) -> None:
    notes: dict[str, Any] = {}
    ctx = suite_context(tiny_suite, tmp_path, notes=notes)
    pretrained(ctx, tmp_path / "state", config)
    assert sorted(file.name for file in (tmp_path / "state").iterdir()) == [f"{f}.safetensors" for f in files]
    sizes = {name: kg.n_entities for name, kg in ctx.graphs.items()}
    for name in files:
        expected = sum(sizes.values()) if name == "joint" else sizes[name]
        assert notes[f"{name}: entities"] == expected
        assert len(load_file(tmp_path / "state" / f"{name}.safetensors")["entities"]) == expected
    assert bool(notes) == bool(files)


def test_the_table_covers_every_item_of_a_task(tiny_suite: Suite, tmp_path: Path) -> None:
    ctx = suite_context(tiny_suite, tmp_path)
    submission = pretrained(ctx, tmp_path / "state")
    for name in HEADS:
        task = tiny_suite.task(name)
        notes: dict[str, Any] = {}
        submission.adapt(task, suite_context(tiny_suite, tmp_path, notes=notes))
        shipped = exported(submission, tmp_path / name)
        entities, vectors = shipped["entities.entities"], shipped["entities.vectors"]
        assert entities.dtype == torch.int64
        assert vectors.dtype == torch.float32
        assert vectors.shape == (len(entities), 4)
        assert notes["entities_with_vectors"] == len(entities) == len(set(entities.tolist()))
        if isinstance(task, RecommendationTask):
            items = task.item_entity[task.item_entity >= 0]
        else:  # entities that test alone names, too
            assert isinstance(task, ClassificationTask)
            items = np.concatenate([task.train.entities, task.valid.entities, task.test.entities])
        assert set(items.tolist()) <= set(entities.tolist())
        assert bool(vectors.any(1).all())
        assert bool(torch.isfinite(vectors).all())


def test_plugs_give_the_rows_of_the_table(tiny_suite: Suite, tmp_path: Path) -> None:
    ctx = suite_context(tiny_suite, tmp_path)
    submission = pretrained(ctx, tmp_path / "state")
    music, games = tiny_suite.task("shop_music"), tiny_suite.task("shop_games_qa")
    assert isinstance(music, RecommendationTask)
    assert isinstance(games, ClassificationTask)
    vectors, known = submission._vectors(music, ctx)
    plug = submission.item_plug(music, ctx)
    in_kg = music.item_entity >= 0
    assert not in_kg.all()
    assert np.array_equal(plug.known()[:, 0].numpy() > 0, in_kg & known[music.item_entity])
    # Standardised by the plug: differences of rows keep their proportions.
    given, wanted = plug()[in_kg].numpy(), vectors[music.item_entity[in_kg]]
    scale = np.linalg.norm(given[1] - given[0]) / np.linalg.norm(wanted[1] - wanted[0])
    np.testing.assert_allclose(given - given[0], scale * (wanted - wanted[0]), rtol=1e-3, atol=1e-4)
    of_entities, known = submission.text_plug(games, ctx), submission._vectors(games, ctx)[1]
    assert np.array_equal(of_entities.known()[:, 0].numpy() > 0, known)
    domains = ctx.graphs["shop"].entities.column("domain").to_pylist()
    assert {domains[e] for e in np.flatnonzero(known)} == {"games"}


def tables(suite: Suite, tmp_path: Path, name: str, seed: int, config: str | None = None) -> torch.Tensor:
    folder = tmp_path / f"{name}-{seed}-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    submission = pretrained(suite_context(suite, folder, seed), folder / "state", config)
    submission.adapt(suite.task(name), suite_context(suite, folder, seed))
    return exported(submission, folder / "export")["entities.vectors"]


@pytest.mark.parametrize("config", [None, "teacher"])
def test_a_seed_fixes_the_table(config: str | None, tiny_suite: Suite, tmp_path: Path) -> None:
    first = tables(tiny_suite, tmp_path, "shop_games_qa", 3, config)
    torch.manual_seed(99)
    assert torch.equal(first, tables(tiny_suite, tmp_path, "shop_games_qa", 3, config))
    other = tables(tiny_suite, tmp_path, "shop_games_qa", 4, config)
    assert first.shape != other.shape or not torch.allclose(first, other, atol=1e-3)


@pytest.mark.parametrize("config", [None, "own", "scratch", "teacher"])
def test_a_seed_fixes_the_answers(config: str | None, tiny_suite: Suite, tmp_path: Path) -> None:
    submission = pretrained(suite_context(tiny_suite, tmp_path), tmp_path / "state", config)
    submission._teachers = {}
    with_graphs = {name: tiny_suite.graph(name) for name in tiny_suite.graph_names()}

    def scores(seed: int) -> NDArray[np.float32]:
        task, ctx = link_task(tiny_suite), Reports().context(tmp_path, seed, **with_graphs)
        submission.adapt(task, ctx)
        queries = LinkPredictionQueries(task.test.heads, task.test.relations, np.zeros(8, np.int64))
        return np.concatenate(list(submission.predict(task, queries, ctx)))

    assert np.array_equal(scores(3), scores(3))
    # A teacher that answers is the same for all seeds of adapt.
    assert np.array_equal(scores(3), scores(4)) == (config == "teacher")


def test_teachers_stay_what_was_pretrained(tiny_suite: Suite, tmp_path: Path) -> None:
    ctx = suite_context(tiny_suite, tmp_path)
    submission = Jplr(params("own"))
    submission.pretrain(ctx.graphs, ctx)
    before = {name: fingerprint(t.model) for name, t in submission._teachers.items()}
    for name in tiny_suite.task_names():
        submission.adapt(tiny_suite.task(name), ctx)
    assert {name: fingerprint(t.model) for name, t in submission._teachers.items()} == before
    (tmp_path / "state").mkdir()
    submission.save_pretrained(tmp_path / "state")
    for name, graph in ctx.graphs.items():
        union = UnionGraph.of({name: graph}, np.zeros((0, 2), np.int64))
        config = typed(JplrConfig, params("own"), "jplr_")
        loaded = load_teacher(union, config, tmp_path / "state" / f"{name}.safetensors")
        assert fingerprint(loaded) == before[name]


def test_a_fresh_instance_and_the_one_that_pretrained_agree(tiny_suite: Suite, tmp_path: Path) -> None:
    ctx = suite_context(tiny_suite, tmp_path)
    first = Jplr(params())
    first.pretrain(ctx.graphs, ctx)
    (tmp_path / "state").mkdir()
    first.save_pretrained(tmp_path / "state")
    second = Jplr(params())
    second.load_pretrained(tmp_path / "state")
    for name in ("shop_music", "library_review"):
        tables = []
        for i, submission in enumerate((first, second)):
            submission.adapt(tiny_suite.task(name), ctx)
            tables.append(exported(submission, tmp_path / f"{name}{i}")["entities.vectors"])
        assert torch.equal(*tables)


def test_missing_and_foreign_teachers_are_refused(tiny_suite: Suite, tmp_path: Path) -> None:
    ctx = suite_context(tiny_suite, tmp_path)
    pretrained(ctx, tmp_path / "state")
    task = link_task(tiny_suite)
    with pytest.raises(SubmissionError, match="Jplr has no teacher 'joint': nothing was pre-trained"):
        Jplr(params()).adapt(task, ctx)
    for settings in (
        {"teacher": "own"},
        {"teacher_hidden": 16},
        {"teacher_layers": 2},
        {"encoder": "rnn"},
        {"hops": 3},
    ):
        other = Jplr(params(**settings))
        other.load_pretrained(tmp_path / "state")
        with pytest.raises(SubmissionError, match=r"(?s)holds no teacher with these.*pre-train again"):
            other.adapt(task, ctx)
    without = Jplr(params("scratch"))
    without.adapt(task, ctx)  # needs none
