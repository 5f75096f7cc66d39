"""JPLR through the protocol: what each variant trains, reads and answers with, what is stored and what is shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from baseline_factory import check_head_answers, link_task, pretrain_and_load, suite_context
from jplr_factory import SMALL, Drawn, Reports, Town, rows_of
from numpy.typing import NDArray
from safetensors.torch import load_file

from baselines.common.config import read_config as typed
from baselines.common.distill.teachers import fingerprint
from baselines.jplr.config import JplrConfig
from baselines.jplr.local import LocalGraph, held_out
from baselines.jplr.submission import Jplr
from baselines.jplr.teacher import load_teacher
from baselines.jplr.union import UnionGraph, given_links
from kpi_bench import (
    ClassificationTask,
    Context,
    Csr,
    KnowledgeGraph,
    LinkPredictionQueries,
    RecommendationQueries,
    RecommendationTask,
    Suite,
    TaskKind,
)
from kpi_bench.errors import SubmissionError
from kpi_bench.harness.config import read_config

FOLDER = Path(__file__).resolve().parents[3] / "submissions" / "jplr"
QUICK = {
    "rec_epochs": 2,
    "rec_dim": 8,
    "text_epochs": 2,
    "text_hashed_dim": 64,
    **{f"jplr_{name}": value for name, value in SMALL.items()},
}
HEADS = ("shop_music", "shop_games_qa", "library_review")


def params(config: str | None = None, **other: Any) -> dict[str, Any]:
    settings = {f"jplr_{name}": value for name, value in other.items()}
    named = read_config(FOLDER).configs[config] if config else {}
    return {**read_config(FOLDER).resolve_params("tiny", None, {}), **QUICK, **named, **settings}


def pretrained(ctx: Context, folder: Path, config: str | None = None, **other: Any) -> Jplr:
    return pretrain_and_load(Jplr, params(config, **other), ctx, folder)


def exported(submission: Jplr, folder: Path) -> dict[str, torch.Tensor]:
    folder.mkdir()
    submission.export(folder)
    return {
        f"{file.stem}.{name}": value
        for file in folder.glob("*.safetensors")
        for name, value in load_file(file).items()
    }


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
