"""KGGLM through the protocol on the tiny suite: stages, what a task starts from, answers with their paths, what is shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from baseline_factory import check_head_answers, link_scores, link_task, pretrain_and_load
from baseline_factory import suite_context as context
from safetensors.torch import load_file

from baselines.common.paths.body import BodyShape
from baselines.common.paths.graph import PathGraph
from baselines.common.paths.interactions import TaskGraph
from baselines.kgglm.model import PathLM
from baselines.kgglm.pretrained import Pretrained
from baselines.kgglm.submission import KGGLM
from kpi_bench import (
    Context,
    ExplainedTopK,
    Interactions,
    LinkPredictionQueries,
    RecommendationQueries,
    RecommendationTask,
    Suite,
    TaskKind,
)
from kpi_bench.errors import SubmissionError
from kpi_bench.evaluators.explanations import ITEM, USER
from kpi_bench.evaluators.ranking import tie_order
from kpi_bench.harness.config import read_config

FOLDER = Path(__file__).resolve().parents[3] / "submissions" / "kgglm"
QUICK = {
    "rec_epochs": 2,
    "rec_dim": 8,
    "text_epochs": 2,
    "text_hashed_dim": 64,
    "kge_epochs": 2,
    "kgglm_hidden": 16,
    "kgglm_batch_size": 64,
    "kgglm_pretrain_epochs": 1,
    "kgglm_pretrain_walks": 2,
    "kgglm_epochs": 2,
    "kgglm_paths": 5,
    "kgglm_beams": 8,
}


def params(config: str | None = None, **other: Any) -> dict[str, Any]:
    return {**read_config(FOLDER).resolve_params("tiny", config, {}), **QUICK, **other}


def pretrained(suite: Suite, tmp_path: Path, **other: Any) -> KGGLM:
    return pretrain_and_load(KGGLM, params(**other), context(suite, tmp_path), tmp_path / "state")


def recommendation(suite: Suite) -> RecommendationTask:
    tasks = (suite.task(name) for name in suite.task_names())
    return next(task for task in tasks if isinstance(task, RecommendationTask))


def recommended(submission: KGGLM, task: RecommendationTask, ctx: Context, k: int = 10) -> ExplainedTopK:
    submission.adapt(task, ctx)
    users = np.unique(task.test.users)
    known = task.matrix("train", "valid").select(users)
    answer = submission.predict(
        task, RecommendationQueries(users, known, k, tie_order(task.n_items, task.spec.name)), ctx
    )
    assert isinstance(answer, ExplainedTopK)
    return answer


def test_answers_every_kind_of_task(tiny_suite: Suite, tmp_path: Path) -> None:
    submission = pretrained(tiny_suite, tmp_path)
    check_head_answers(submission, tiny_suite, context(tiny_suite, tmp_path))


def test_every_explanation_is_a_path_of_kg_and_train(tiny_suite: Suite, tmp_path: Path) -> None:
    task, ctx = recommendation(tiny_suite), context(tiny_suite, tmp_path)
    answer = recommended(pretrained(tiny_suite, tmp_path), task, ctx)
    kg, paths = ctx.graphs[task.spec.kg], answer.paths
    assert len(paths.users)
    triples = set(map(tuple, kg.triples().tolist()))
    watched = set(zip(task.train.users.tolist(), task.train.items.tolist(), strict=True))
    for nodes, kinds, relations, inverse in zip(
        paths.nodes.tolist(),
        paths.kinds.tolist(),
        paths.relations.tolist(),
        paths.inverse.tolist(),
        strict=True,
    ):
        places = [
            (kind, int(task.item_entity[node]))
            if kind == ITEM and task.item_entity[node] >= 0
            else (kind, node)
            for kind, node in zip(kinds, nodes, strict=True)
        ]
        for i, (relation, back) in enumerate(zip(relations, inverse, strict=True)):
            if relation < 0:
                pair = (nodes[i + 1], nodes[i]) if back else (nodes[i], nodes[i + 1])
                assert {kinds[i], kinds[i + 1]} == {USER, ITEM}
                assert pair in watched
            else:
                head, tail = places[i][1], places[i + 1][1]
                assert ((tail, relation, head) if back else (head, relation, tail)) in triples
    assert (paths.kinds[:, 0] == USER).all()
    assert (paths.nodes[:, 0] == paths.users).all()
    assert (paths.kinds[:, -1] == ITEM).all()
    assert (paths.nodes[:, -1] == paths.items).all()


def test_known_items_are_never_returned_and_short_lists_stay_short(tiny_suite: Suite, tmp_path: Path) -> None:
    task, ctx = recommendation(tiny_suite), context(tiny_suite, tmp_path)
    answer = recommended(pretrained(tiny_suite, tmp_path), task, ctx, k=task.n_items)
    known = task.matrix("train", "valid")
    for user, items in zip(np.unique(task.test.users), answer.items, strict=True):
        given = items[items >= 0]
        assert not np.isin(given, known.row(user)).any()
        assert len(np.unique(given)) == len(given)
        assert (items[len(given) :] == -1).all()


def test_valid_and_test_interactions_change_no_path(tiny_suite: Suite, tmp_path: Path) -> None:
    task, ctx = recommendation(tiny_suite), context(tiny_suite, tmp_path)
    kg = ctx.graphs[task.spec.kg]
    nothing = Interactions(np.zeros(0, np.int64), np.zeros(0, np.int64))
    bare = RecommendationTask(task.spec, task.n_users, task.item_entity, task.train, nothing, nothing)
    whole, alone = (TaskGraph.of_task(t, kg, collaborative=True).graph for t in (task, bare))
    assert np.array_equal(whole.neighbours, alone.neighbours)
    assert np.array_equal(whole.relations, alone.relations)


def test_a_seed_fixes_the_answers(tiny_suite: Suite, tmp_path: Path) -> None:
    task = recommendation(tiny_suite)
    submission = pretrained(tiny_suite, tmp_path)
    first = recommended(submission, task, context(tiny_suite, tmp_path, seed=3))
    torch.manual_seed(99)
    again = recommended(submission, task, context(tiny_suite, tmp_path, seed=3))
    other = recommended(submission, task, context(tiny_suite, tmp_path, seed=4))
    assert np.array_equal(first.items, again.items)
    assert np.array_equal(first.scores, again.scores)
    assert not np.array_equal(first.scores, other.scores)


@pytest.mark.parametrize(
    "other",
    [
        {"kgglm_softmax": "full", "kgglm_rank_by": "path", "kgglm_resample": False},
        {"kgglm_softmax": "type", "kgglm_decode": "sample"},
        {"kgglm_generic_epochs": 1, "kgglm_pretrain_epochs": 0, "kgglm_collaborative": True},
        {"kgglm_weighting": "degree", "kgglm_hops": 2},
        {"kgglm_init": "kge", "kge_dim": 16},
    ],
)
def test_options(other: dict[str, Any], tiny_suite: Suite, tmp_path: Path) -> None:
    task, ctx = recommendation(tiny_suite), context(tiny_suite, tmp_path)
    answer = recommended(pretrained(tiny_suite, tmp_path, **other), task, ctx)
    assert (answer.items[:, 0] >= 0).mean() > 0.5
    assert answer.paths.relations.shape[1] == params(**other)["kgglm_hops"]


def test_vectors_join_the_shared_recommender(tiny_suite: Suite, tmp_path: Path) -> None:
    task, ctx = recommendation(tiny_suite), context(tiny_suite, tmp_path)
    submission = pretrained(tiny_suite, tmp_path, kgglm_recommend="vectors")
    submission.adapt(task, ctx)
    (tmp_path / "export").mkdir()
    submission.export(tmp_path / "export")
    assert load_file(tmp_path / "export" / "recommender.safetensors")["items"].shape == (task.n_items, 8)


def test_what_serves_is_shipped_with_the_graph(tiny_suite: Suite, tmp_path: Path) -> None:
    task, ctx = recommendation(tiny_suite), context(tiny_suite, tmp_path)
    submission = pretrained(tiny_suite, tmp_path)
    recommended(submission, task, ctx)
    (tmp_path / "export").mkdir()
    submission.export(tmp_path / "export")
    shipped = load_file(tmp_path / "export" / "recommender.safetensors")
    graph = TaskGraph.of_task(task, ctx.graphs[task.spec.kg], collaborative=True).graph
    assert shipped["graph.neighbours"].tolist() == graph.neighbours.tolist()
    assert shipped["nodes"].shape == (graph.n_nodes, 16)
    assert submission.parameters()["total"] == sum(
        value.numel() for name, value in shipped.items() if not name.startswith(("graph.", "popularity"))
    )


def test_nothing_is_pretrained_where_the_kg_is_the_train_split() -> None:
    assert not KGGLM.pretrains({TaskKind.LINK_PREDICTION})
    assert KGGLM.pretrains({TaskKind.LINK_PREDICTION, TaskKind.CLASSIFICATION})


def test_a_task_starts_from_what_was_pretrained() -> None:
    """Rows follow their entity, relations keep their direction although the task adds one between them."""
    rng = np.random.default_rng(0)
    edges = rng.integers(6, size=(20, 2))
    relations = rng.integers(2, size=20)
    kg = PathGraph.of_edges(edges[:, 0], relations, edges[:, 1], n_nodes=6, n_forward=2)
    shape = BodyShape(hidden=8, layers=1, heads=1, positions=7)
    source = PathLM(
        kg.ranges,
        np.zeros(6, np.int64),
        4,
        shape,
        softmax="range",
        generator=torch.Generator().manual_seed(0),
    )
    task = PathGraph.of_edges(np.array([4]), np.array([2]), np.array([0]), n_nodes=5, n_forward=3)
    kinds = np.array([ITEM, 0, 0, 0, USER])
    target = PathLM(task.ranges, kinds, 6, shape, softmax="range", generator=torch.Generator().manual_seed(1))
    own_user, own_relation = target.nodes[4].clone(), target.relations[2].clone()
    Pretrained.of_model(source).start(target, np.array([5, 3, 1, 0]))
    assert torch.equal(target.nodes[:4], source.nodes[[5, 3, 1, 0]])
    assert torch.equal(target.nodes[4], own_user)
    assert torch.equal(target.relations[[0, 1, 3, 4]], source.relations)
    assert torch.equal(target.relations[2], own_relation)
    assert torch.equal(target.types[ITEM], source.types[0])
    assert all(
        torch.equal(a, b) for a, b in zip(source.body.parameters(), target.body.parameters(), strict=True)
    )


def test_pretrained_state_that_does_not_fit_is_refused(tiny_suite: Suite, tmp_path: Path) -> None:
    task, ctx = recommendation(tiny_suite), context(tiny_suite, tmp_path)
    pretrained(tiny_suite, tmp_path)
    wider = KGGLM(params(kgglm_hidden=32))
    wider.load_pretrained(tmp_path / "state")
    with pytest.raises(SubmissionError, match="another shape"):
        wider.adapt(task, ctx)
    with pytest.raises(SubmissionError, match="nothing was pre-trained"):
        KGGLM(params()).adapt(task, ctx)
    wider.load_pretrained(tmp_path)
    with pytest.raises(SubmissionError, match="pre-train again"):
        wider.adapt(task, ctx)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("kgglm_hops", 1, "kgglm_hops = 1"),
        ("kgglm_heads", 3, "multiple of heads"),
        ("kgglm_softmax", "half", "use one of range"),
        ("kgglm_lr", 0.0, "must be positive"),
        ("kgglm_beams", 0, "at least 1"),
        ("kgglm_typo", 1, "unknown parameter"),
    ],
)
def test_wrong_parameters_are_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(SubmissionError, match=message):
        KGGLM(params(**{name: value}))


def test_embeddings_of_another_width_are_refused(tiny_suite: Suite, tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match="kge_dim gives 8"):
        pretrained(tiny_suite, tmp_path, kgglm_init="kge", kge_dim=8)


def test_links_are_learned(tiny_suite: Suite, tmp_path: Path) -> None:
    """Train triples stand far above chance (a mean percentile of one half) in the scores of their own questions."""
    submission = KGGLM(params(kgglm_epochs=15, kgglm_lr=0.01))
    scores = link_scores(submission, tiny_suite, scratch=tmp_path)
    task = link_task(tiny_suite)
    assert scores.shape == (len(task.test), task.n_entities)
    queries = LinkPredictionQueries(
        task.train.heads, task.train.relations, np.zeros(len(task.train), np.int64)
    )
    asked = np.concatenate(list(submission.predict(task, queries, context(tiny_suite, tmp_path))))
    own = asked[np.arange(len(asked)), task.train.tails]
    assert (asked > own[:, None]).mean() < 0.2
