"""MuDoK through the protocol on the tiny suite: what is saved, shared, counted and shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from baseline_factory import pretrain_and_load
from baseline_factory import suite_context as context
from safetensors.torch import load_file

from baselines.common.recommenders.fit import fit_recommender
from baselines.mudok.sequences import Sequences
from baselines.mudok.submission import MuDoK, entity_texts
from kpi_bench import (
    ClassificationQueries,
    ClassificationTask,
    KnowledgeGraph,
    RecommendationTask,
    Suite,
)
from kpi_bench.errors import SubmissionError
from kpi_bench.harness.config import read_config

FOLDER = Path(__file__).resolve().parents[3] / "submissions" / "mudok"
QUICK = {
    "rec_epochs": 2,
    "rec_dim": 8,
    "text_epochs": 2,
    "text_hashed_dim": 64,
    "mudok_epochs": 2,
    "mudok_batch_size": 16,
    "mudok_hidden": 16,
    "mudok_ffn": 16,
    "mudok_text_dim": 32,
    "mudok_refresh": 1,
}


def params(config: str | None = None, **other: Any) -> dict[str, Any]:
    return {**read_config(FOLDER).resolve_params("tiny", config, {}), **QUICK, **other}


def pretrained(suite: Suite, tmp_path: Path, config: str | None = None, **other: Any) -> MuDoK:
    folder = tmp_path / f"state-{config}"
    return pretrain_and_load(MuDoK, params(config, **other), context(suite, tmp_path), folder)


def games(suite: Suite) -> ClassificationTask:
    task = suite.task("shop_games_qa")
    assert isinstance(task, ClassificationTask)
    return task


def music(suite: Suite) -> RecommendationTask:
    task = suite.task("shop_music")
    assert isinstance(task, RecommendationTask)
    return task


@pytest.mark.parametrize(
    "config", [None, "frozen", "joint", "code", "random-text", "random-codes", "item-keys"]
)
def test_both_kinds_of_task_are_answered(config: str | None, tiny_suite: Suite, tmp_path: Path) -> None:
    submission = pretrained(tiny_suite, tmp_path, config)
    ctx = context(tiny_suite, tmp_path)
    task = games(tiny_suite)
    submission.adapt(task, ctx)
    assert task.test is not None
    queries = ClassificationQueries(task.test.examples, task.test.entities, task.test.texts)
    scores = submission.predict(task, queries, ctx)
    assert isinstance(scores, np.ndarray)
    assert np.allclose(scores.sum(1), 1)
    submission.adapt(music(tiny_suite), ctx)
    sizes = submission.parameters()
    assert sizes["total"] > sizes["trainable"] > 0


def test_a_joint_model_is_one_file_that_knows_all_relations(tiny_suite: Suite, tmp_path: Path) -> None:
    pretrained(tiny_suite, tmp_path)
    pretrained(tiny_suite, tmp_path, "joint")
    single, joint = tmp_path / "state-None", tmp_path / "state-joint"
    assert {path.name for path in single.iterdir()} == {
        "shop.safetensors",
        "library.safetensors",
        "mudok.json",
    }
    (file,) = joint.glob("*.safetensors")
    relations = [tiny_suite.graph(name).n_relations for name in tiny_suite.graph_names()]
    assert load_file(file)["relation_embedding.weight"].shape[0] == 1 + sum(relations)


def test_a_joint_model_encodes_a_kg_as_it_did_in_the_union(tiny_suite: Suite, tmp_path: Path) -> None:
    submission = MuDoK(params("joint"))
    ctx = context(tiny_suite, tmp_path)
    submission.pretrain(dict(ctx.graphs), ctx)
    submission.save_pretrained(tmp_path)
    (model,) = submission._models.values()
    names = list(ctx.graphs)
    last = ctx.graphs[names[-1]]
    shift = sum(ctx.graphs[name].n_entities for name in names[:-1])
    slots = submission.mudok.slots
    union = Sequences.joined([Sequences.of_graph(ctx.graphs[name], slots) for name in names])
    ids = np.arange(last.n_entities)
    submission.load_pretrained(tmp_path)
    own, sequences = submission._encoder(last, ctx)
    torch.testing.assert_close(own.vectors(sequences, ids), model.vectors(union, ids + shift))


def test_only_items_that_training_sees_have_a_code(tiny_suite: Suite, tmp_path: Path) -> None:
    submission = pretrained(tiny_suite, tmp_path)
    ctx = context(tiny_suite, tmp_path)
    plug = submission.item_plug(music(tiny_suite), ctx)
    task = music(tiny_suite)
    seen = np.unique(task.train.items)
    assert len(plug.codes) == (task.item_entity[seen] >= 0).sum() < tiny_suite.graph("shop").n_entities
    text = submission.text_plug(games(tiny_suite), ctx)
    assert len(text.codes) == len(np.unique(games(tiny_suite).train.entities))


def test_the_pretrained_encoder_is_not_changed_by_a_task(tiny_suite: Suite, tmp_path: Path) -> None:
    submission = pretrained(tiny_suite, tmp_path)
    before = load_file(tmp_path / "state-None" / "shop.safetensors")
    ctx = context(tiny_suite, tmp_path)
    plug = submission.item_plug(music(tiny_suite), ctx)
    fit_recommender(music(tiny_suite), "lightgcn", submission.recommender, ctx, plug)
    for name, tensor in plug.encoder.state_dict().items():
        assert torch.equal(tensor, before[f"encoder.{name}"])


def test_a_classifier_is_shipped_with_vectors_of_all_entities(tiny_suite: Suite, tmp_path: Path) -> None:
    submission = pretrained(tiny_suite, tmp_path)
    submission.adapt(games(tiny_suite), context(tiny_suite, tmp_path))
    submission.export(tmp_path)
    shipped = {
        name: t.shape
        for name, t in load_file(tmp_path / "classifier.safetensors").items()
        if ".plug." in name
    }
    n = tiny_suite.graph("shop").n_entities
    assert shipped == {"head.projection.plug.vectors": (n, 16), "head.projection.plug.mask": (n, 1)}


def test_the_same_seed_gives_the_same_scores(tiny_suite: Suite, tmp_path: Path) -> None:
    answers = []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        submission = pretrained(tiny_suite, tmp_path / place)
        ctx = context(tiny_suite, tmp_path / place)
        task = games(tiny_suite)
        submission.adapt(task, ctx)
        queries = ClassificationQueries(task.valid.examples, task.valid.entities, task.valid.texts)
        answers.append(submission.predict(task, queries, ctx))
    assert np.array_equal(*answers)


def test_text_comes_from_the_cache_and_says_so(tiny_suite: Suite, tmp_path: Path) -> None:
    submission = pretrained(tiny_suite, tmp_path)
    notes: dict[str, Any] = {}
    submission.text_plug(games(tiny_suite), context(tiny_suite, tmp_path, notes=notes))
    assert notes["entity_text"] == "hashed"
    assert notes["entity_text_cached"] is True
    assert notes["entity_text_seconds"] >= 0


def test_without_pretraining_the_error_says_what_is_missing(tiny_suite: Suite, tmp_path: Path) -> None:
    submission = MuDoK(params())
    with pytest.raises(SubmissionError, match="no encoder of KG 'shop'"):
        submission.item_plug(music(tiny_suite), context(tiny_suite, tmp_path))
    with pytest.raises(SubmissionError, match=r"mudok\.json does not say"):
        submission.load_pretrained(tmp_path)


def test_unknown_parameters_and_wrong_values_are_refused() -> None:
    with pytest.raises(SubmissionError, match="mudok_layer"):
        MuDoK(params(mudok_layer=3))
    with pytest.raises(SubmissionError, match="mudok_variant"):
        MuDoK(params(mudok_variant="authors"))


def test_only_nameless_items_lose_their_key() -> None:
    rows = [
        ("i:0", None, None, "item"),  # no name: the key goes
        ("i:1", "Harp", None, "item"),
        ("i:2", None, None, "item"),  # a head that is a tail too
        ("b:0", None, None, "brand"),  # a tail alone
        ("x:0", None, None, "item"),  # in no triple: nothing else is known about it
    ]
    entities = pa.table(
        {
            "entity": range(len(rows)),
            "key": [row[0] for row in rows],
            "name": pa.array([row[1] for row in rows], pa.string()),
            "text": pa.array([row[2] for row in rows], pa.string()),
            "domain": ["music"] * len(rows),
            "kind": [row[3] for row in rows],
        }
    )
    ids = np.array([[0, 0, 3], [1, 0, 2], [2, 0, 3]]).T
    kg = KnowledgeGraph("kg", *ids, entities, pa.table({"relation": [0], "key": ["r"], "name": ["r"]}))
    assert entity_texts(kg, item_keys=False) == [
        "music item",
        "Harp",
        "music item i:2",
        "music brand b:0",
        "music item x:0",
    ]
    assert entity_texts(kg, item_keys=True) == kg.entity_text()
