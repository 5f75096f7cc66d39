"""What the configs of the submission read, train and answer with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from baseline_factory import suite_context
from jplr_factory import FOLDER, HEADS, Drawn, Reports, Town, exported, params, pretrained, rows_of
from safetensors.torch import load_file

from baselines.common.config import read_config as typed
from baselines.jplr.config import JplrConfig
from baselines.jplr.local import LocalGraph, held_out
from baselines.jplr.submission import Jplr
from baselines.jplr.teacher import load_teacher
from baselines.jplr.union import UnionGraph, given_links
from kpi_bench import (
    ClassificationTask,
    Context,
    KnowledgeGraph,
    LinkPredictionQueries,
    Suite,
)
from kpi_bench.errors import SubmissionError
from kpi_bench.harness.config import read_config


def shown(town: Town, tmp_path: Path, config: str | None, **other: Any) -> tuple[Jplr, Context, Reports]:
    reports, graphs = Reports(), town.graphs()
    ctx = reports.context(tmp_path, 1, **graphs)
    submission = pretrained(ctx, tmp_path / "state", config, **other)
    submission.adapt(town.task(), ctx)
    return submission, ctx, reports


@pytest.mark.parametrize(
    ("config", "source_triples", "source_only"),
    [
        (None, 24, 3),
        ("link-only", 24, 3),
        ("prediction", 24, 3),
        ("no-link", 0, 0),
        ("unlinked", 0, 0),
        ("own", 0, 0),
        ("scratch", 0, 0),
    ],
)
def test_variants_read_what_their_name_says(
    config: str | None, source_triples: int, source_only: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    town, drawn = Town(24, 3), Drawn(monkeypatch)
    graphs, task = town.graphs(), town.task()
    held_out = set(rows_of(np.vstack([task.valid.array(), task.test.array()])))
    ctx = Reports().context(tmp_path, 1, **graphs)
    submission = Jplr(params(config, teacher_epochs=4, epochs=4, patience=9))
    submission.pretrain(graphs, ctx)
    if config == "own":
        drawn.hops(1)  # the club has no held-out triple
    elif config != "scratch":
        links = np.zeros((0, 2), np.int64) if config == "unlinked" else given_links(graphs)
        union = UnionGraph.of(graphs, links)
        read = drawn.hops(union.n_relations)
        assert set(rows_of(union.triples)) <= read <= set(rows_of(np.vstack([union.triples, union.swapped])))
        assert not read & held_out
    reports = Reports()
    submission.adapt(task, reports.context(tmp_path, 1, **graphs))
    own = set(rows_of(task.train.array()))
    read = drawn.hops(3 if source_triples else 2)
    assert own <= read
    assert len(read - own) == source_triples
    assert not read & held_out
    assert reports.notes["student: source_triples"] == source_triples
    assert reports.notes["student: source_only_entities"] == source_only


@pytest.mark.parametrize("config", [None, "own"])
def test_held_out_triples_of_a_kg_are_in_no_path(
    config: str | None, tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of a teacher nor of the students that stop on them."""
    drawn, ctx = Drawn(monkeypatch), suite_context(tiny_suite, tmp_path)
    submission = Jplr(params(config, holdout=0.3, epochs=3, patience=9, link_hops=2))
    submission.pretrain(ctx.graphs, ctx)
    marks = {name: held_out(kg, 0.3, ctx.seed) for name, kg in ctx.graphs.items()}
    if config is None:
        union = UnionGraph.of(ctx.graphs, given_links(ctx.graphs))
        kept = np.concatenate([~marks[name] for name in ctx.graphs])
        assert drawn.hops(union.n_relations) == set(rows_of(union.triples[kept]))
    drawn.blocks.clear()
    for name in HEADS:
        task = tiny_suite.task(name)
        kg = ctx.graphs[task.spec.kg]
        local = LocalGraph.of_items(task, kg, marks[kg.name])
        submission.adapt(task, ctx)
        read = drawn.hops(kg.n_relations)
        assert set(rows_of(local.places(local.train))) <= read
        assert len(local.valid) > 5
        assert not read & set(rows_of(local.places(local.valid)))


def test_own_teachers_read_their_kg_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, drawn = Town(24, 3).graphs(), Drawn(monkeypatch)
    for name in graphs:
        submission = Jplr(params("own"))
        submission.pretrain({name: graphs[name]}, Reports().context(tmp_path, 1, **graphs))
        assert drawn.hops(graphs[name].n_relations) == set(rows_of(graphs[name].triples()))


def test_links_are_given_named_or_none(tmp_path: Path) -> None:
    """Persons 0 and 1 are linked by the suite, 1 and 2 have the same name on both sides."""
    town = Town(24, 3)
    graphs = town.graphs()
    stated = graphs["town"].links.slice(0, 2)
    names: list[str | None] = [None, "Ada", "Grace", *[None] * 25]

    def named(kg: KnowledgeGraph, links: Any) -> KnowledgeGraph:
        entities = kg.entities
        at = entities.schema.get_field_index("name")
        entities = entities.set_column(at, "name", pa.array(names[: len(entities)], pa.string()))
        return KnowledgeGraph(kg.name, kg.heads, kg.relations, kg.tails, entities, kg.relation_table, links)

    both = {"town": named(graphs["town"], stated), "club": named(graphs["club"], None)}
    for links, pairs in (("given", [0, 1]), ("name", [0, 1, 2]), ("none", [])):
        reports = Reports()
        submission = Jplr(params(links=links))
        submission.pretrain(both, reports.context(tmp_path, 1, **both))
        assert reports.notes["joint: links"] == len(pairs)
        assert submission._union("joint", both, 1).links.tolist() == [[i, 28 + i] for i in pairs]


def test_a_teacher_that_serves_answers_for_its_kg(tmp_path: Path) -> None:
    """The club's ids begin behind the town's, both of entities and of relations."""
    town = Town(24, 3)
    graphs = {"club": town.graphs()["club"], "town": town.graphs()["town"]}
    ctx = Reports().context(tmp_path, 1, **graphs)
    submission = pretrained(ctx, tmp_path / "state", "teacher")
    task = town.task()
    submission.adapt(task, ctx)
    union = UnionGraph.of(graphs, given_links(graphs))
    model = load_teacher(
        union, typed(JplrConfig, params("teacher"), "jplr_"), tmp_path / "state" / "joint.safetensors"
    )
    entities, relations, ways = np.array([3, 27, 24]), np.array([0, 1, 0]), np.array([0, 1, 1])
    found = np.concatenate(
        list(submission.predict(task, LinkPredictionQueries(entities, relations, ways), ctx))
    )
    paths = torch.from_numpy(np.stack([entities + 27, relations + 1 + 3 * ways], 1))
    states = model.hidden(paths)[:, 1]
    wanted = (states @ model.entities[27:55].T + model.bias[27:55]).detach()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    sizes = submission.parameters()
    assert sizes["total"] == sizes["kept"] == sum(p.numel() for p in model.parameters())
    shipped = exported(submission, tmp_path / "export")
    assert sum(value.numel() for value in shipped.values()) == sizes["total"]


def test_a_student_answers_forward_and_backward(tmp_path: Path) -> None:
    submission, ctx, _ = shown(Town(24, 3), tmp_path, None)
    model = submission._current()[1].model
    entities, relations, ways = np.array([3, 27, 24, 5]), np.array([0, 1, 0, 0]), np.array([0, 1, 1, 0])
    task = Town(24, 3).task()
    found = np.concatenate(
        list(submission.predict(task, LinkPredictionQueries(entities, relations, ways), ctx))
    )
    # Three relations forward: the town's two and the club's.
    states = model.hidden(torch.from_numpy(np.stack([entities, relations + 3 * ways], 1)))[:, 1]
    np.testing.assert_allclose(found, (states @ model.entities.T + model.bias).detach(), rtol=1e-4, atol=1e-6)
    shipped = exported(submission, tmp_path / "export")
    assert not any("borrowed" in name for name in shipped)
    assert shipped["paths.entities"].shape == (28, 4)
    assert sum(value.numel() for value in shipped.values()) == submission.parameters()["total"]


def test_a_teachers_table_is_its_rows_in_principal_components(tiny_suite: Suite, tmp_path: Path) -> None:
    ctx = suite_context(tiny_suite, tmp_path)
    submission = pretrained(ctx, tmp_path / "state", "teacher")
    task = tiny_suite.task("library_review")
    assert isinstance(task, ClassificationTask)
    submission.adapt(task, ctx)
    shipped = exported(submission, tmp_path / "export")
    entities, found = shipped["entities.entities"].numpy(), shipped["entities.vectors"].double().numpy()
    first = submission._union("joint", ctx.graphs, 1).first_entity["library"]
    assert first > 0  # behind the shop's
    rows = load_file(tmp_path / "state" / "joint.safetensors")["entities"].double().numpy()[entities + first]
    left, sizes, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    wanted = (left * sizes)[:, :4]
    signs = np.sign((wanted * found).sum(0))
    np.testing.assert_allclose(found * signs, wanted, atol=1e-5)


def test_what_stops_a_student_is_reported(tmp_path: Path) -> None:
    _, _, reports = shown(Town(24, 3), tmp_path, None, epochs=3, eval_every=1, patience=3)
    assert [metric for metric, _ in reports.curve] == ["student: valid_mrr"] * 3
    for key in ("student: best_epoch", "retrain_s", "student: trained_parameters", "joint: triples"):
        assert key in reports.notes


@pytest.mark.parametrize(
    ("settings", "least", "most"),
    [
        ({}, 0.75, 1.0),
        ({"serve": "teacher"}, 0.75, 1.0),
        ({"links": "none"}, 0.2, 0.55),
        ({"teacher": "own"}, 0.2, 0.55),
        ({"teacher": "none"}, 0.2, 0.55),
    ],
)
def test_what_the_other_kg_states_helps_over_links_alone(
    settings: dict[str, Any], least: float, most: float, tmp_path: Path
) -> None:
    """Chance is 0.41."""
    town, learned = Town(), {"dropout": 0.0, "negatives": 40, "teacher_hidden": 16, "hidden": 16}
    schedule = {
        "teacher_epochs": 30,
        "teacher_lr": 0.02,
        "epochs": 15,
        "lr": 0.02,
        "eval_every": 3,
        "patience": 9,
    }
    submission, ctx, _ = shown(town, tmp_path, None, **learned, **schedule, **settings)
    heads = town.task().test.heads
    queries = LinkPredictionQueries(heads, np.zeros_like(heads), np.zeros_like(heads))
    scores = np.concatenate(list(submission.predict(town.task(), queries, ctx)))
    assert least < town.mrr(scores, heads) < most + 1e-9


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("jplr_hops", 0, "^jplr_hops = 0; it must be at least 1"),
        ("jplr_heads", 3, "^jplr_hidden = 4; it must be a multiple of heads = 3"),
        ("jplr_encoder", "gru", "^jplr_encoder = 'gru'; use one of transformer"),
        ("jplr_lr", 0.0, "^jplr_lr = 0.0; it must be positive"),
        ("jplr_typo", 1, "unknown parameter"),
        ("kge_dim", 8, "unknown parameter"),
    ],
)
def test_wrong_parameters_are_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(SubmissionError, match=message):
        Jplr({**params(), name: value})


def test_heads_are_those_of_the_other_methods() -> None:
    reference, own = (read_config(FOLDER.parent / name) for name in ("kg-embedding", "jplr"))
    for suite in ("kpi-open", "kpi-public", "kpi-mini", "kpi"):
        for config in (None, "base", "cf", "minilm"):
            one, other = (
                {
                    k: v
                    for k, v in c.resolve_params(suite, config, {}).items()
                    if k.startswith(("rec_", "text_", "back"))
                }
                for c in (reference, own)
            )
            assert one == other
