"""Configurations, training to the end and to the best epoch, what every loss learns, the submission base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kge_factory import BILINEAR, HYPERBOLIC, N_ENTITIES, N_RELATIONS, context, random_triples
from numpy.typing import NDArray

from baselines.common.config import read_config
from baselines.common.kge import MODELS
from baselines.common.kge.checkpoint import load_model
from baselines.common.kge.knowledge import Knowledge
from baselines.common.kge.models import KgeModel
from baselines.common.kge.scoring import LinkValidation, score_blocks
from baselines.common.kge.submission import KgeSubmission
from baselines.common.kge.train import KgeConfig, adagrad, optimizer_of, train_kge
from kpi_bench import (
    Context,
    LinkPredictionQueries,
    LinkPredictionTask,
    RecommendationQueries,
    Suite,
    TaskKind,
)
from kpi_bench._csr import Csr
from kpi_bench.errors import SubmissionError

Ints = NDArray[np.int64]
OTHERS = sorted(set(MODELS) - set(BILINEAR))
FLAT = sorted(set(MODELS) - set(HYPERBOLIC))
QUICK: dict[str, Any] = {"kge_dim": 4, "kge_epochs": 2, "kge_batch_size": 64, "kge_negatives": 8}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "magic"}, "^model = 'magic'.*distmult.*roth"),
        ({"loss": "hinge"}, "^loss"),
        ({"corrupt": "head"}, "^corrupt"),
        ({"optimizer": "sgd"}, "^optimizer"),
        ({"regularizer": "n4"}, "^regularizer = 'n4'; use one of l2, n3, dura"),
        *(
            ({name: 0}, f"^{name} = 0.*at least 1")
            for name in ("dim", "epochs", "batch_size", "negatives", "eval_every", "patience")
        ),
        *(
            ({name: -1}, f"^{name} = -1.*must not be negative")
            for name in ("reg", "relation_weight", "init_std", "shared_negatives", "valid_triples")
        ),
        *(({"lr": value}, f"^lr = {value}; it must be positive") for value in (0.0, -0.1)),
    ],
)
def test_bad_configurations_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SubmissionError, match=message):
        KgeConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        *(
            ({"grouped": True, "loss": loss}, "grouped needs loss = 'softmax'")
            for loss in ("sampled_softmax", "binary")
        ),
        *(
            ({"corrupt": "both", "loss": loss}, "corrupt = 'both' needs loss = 'binary'")
            for loss in ("sampled_softmax", "softmax")
        ),
        *(
            ({"model": name, "relation_curvature": True}, f"relation_curvature: {name} has no curvature")
            for name in FLAT
        ),
        *(
            (
                {"model": name, "relation_weight": 0.1},
                f"relation_weight needs distmult or complex, not {name}",
            )
            for name in OTHERS
        ),
        *(
            (
                {"model": name, "regularizer": kind},
                f"regularizer = '{kind}' needs distmult or complex, not {name}",
            )
            for name in OTHERS
            for kind in ("n3", "dura")
        ),
        (
            {"sparse_rows": True, "optimizer": "adagrad", "loss": "softmax"},
            "sparse_rows: .* touches every row",
        ),
        ({"sparse_rows": True, "optimizer": "adam"}, "sparse_rows needs optimizer = 'adagrad'"),
        *(
            ({"model": name, "dim": 5}, f"dim = 5; it must be even: {name} pairs coordinates")
            for name in ("complex", "rote", "roth", "refh", "atth")
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SubmissionError, match=f"^{message}"):
        KgeConfig(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"grouped": True, "loss": "softmax"},
        {"corrupt": "both", "loss": "binary"},
        *({"model": name, "relation_curvature": True} for name in HYPERBOLIC),
        *({"model": name, "relation_weight": 0.1, "regularizer": "dura"} for name in BILINEAR),
        {"model": "rote", "regularizer": "n3", "reg": 0.0},
        *(
            {"sparse_rows": True, "optimizer": "adagrad", "loss": loss}
            for loss in ("sampled_softmax", "binary")
        ),
    ],
    ids=str,
)
def test_settings_that_go_together_are_taken(values: dict[str, Any]) -> None:
    config = KgeConfig(**values)
    assert {name: getattr(config, name) for name in values} == values


def test_parameters_of_a_submission_are_read_with_their_types() -> None:
    config = read_config(KgeConfig, {"kge_lr": 1, "kge_loss": "softmax", "kge_grouped": True}, "kge_")
    assert (config.lr, config.loss, config.grouped) == (1.0, "softmax", True)
    with pytest.raises(SubmissionError, match="kge_bias"):
        read_config(KgeConfig, {"kge_bias": 1}, "kge_")


@pytest.mark.parametrize("prefix", ["kge_", "teacher_"])
def test_a_refused_value_is_named_as_the_parameter(prefix: str) -> None:
    for values, message in (
        ({"lr": 0.0}, "lr = 0.0; it must be positive"),
        ({"model": "roth", "dim": 5}, "dim = 5; it must be even"),
        ({"grouped": True}, "grouped needs loss = 'softmax'"),
    ):
        with pytest.raises(SubmissionError, match=f"^{prefix}{message}"):
            read_config(KgeConfig, {prefix + name: value for name, value in values.items()}, prefix)


@pytest.mark.parametrize(
    ("optimizer", "sparse", "cls"),
    [
        ("adam", False, torch.optim.Adam),
        ("adagrad", False, torch.optim.Adagrad),
        ("adagrad", True, torch.optim.Adagrad),
    ],
)
def test_optimizers(optimizer: str, sparse: bool, cls: type[torch.optim.Optimizer]) -> None:
    table = torch.nn.Parameter(torch.ones(2, 2))
    built = optimizer_of(iter([table]), KgeConfig(optimizer=optimizer, sparse_rows=sparse, lr=0.25))
    assert type(built) is cls
    assert built.param_groups[0]["lr"] == 0.25
    assert built.param_groups[0]["params"] == [table]


def test_adagrad_is_fused_on_a_cpu_alone() -> None:
    for device, sparse, fused in (("cpu", False, True), ("cpu", True, None), ("meta", False, None)):
        table = torch.nn.Parameter(torch.ones(2, 2, device=device))
        built = adagrad([table], 0.1, sparse=sparse)
        assert built.param_groups[0]["fused"] is fused


def ring() -> Ints:
    """Two relations that pair entities 0..11 with 12..23 and with 24..35."""
    return np.array([(i, r, 12 * (r + 1) + i) for i in range(12) for r in range(2)], dtype=np.int64)


@pytest.mark.parametrize("model", ["distmult", "complex", "transe", "roth"])
@pytest.mark.parametrize("loss", ["softmax", "grouped", "sampled_softmax", "binary"])
def test_every_loss_ranks_true_tails_first(model: str, loss: str) -> None:
    triples = ring()
    config = KgeConfig(
        model=model,
        dim=32,
        epochs=80,
        batch_size=24,
        loss="softmax" if loss == "grouped" else loss,
        grouped=loss == "grouped",
        negatives=24,
        lr=0.05,
        reg=0.0,
        bias=model in ("transe", "roth"),
        init_std=0.1,
    )
    trained = train_kge(Knowledge(triples, 36, 2), config, context(), description="ring")
    assert not trained.training
    heads, relations, tails = triples.T
    for asked, kinds, answers in ((heads, relations, tails), (tails, relations + 2, heads)):
        scores = np.concatenate(list(score_blocks(trained, asked.copy(), kinds.copy())))
        assert (scores.argmax(1) == answers).mean() > 0.9


def overfit(events: list[tuple[str, dict[str, Any]]], **values: Any) -> tuple[float, Ints, Ints]:
    """Train with a valid split of noise; the valid score of what came back, and the splits."""
    triples = random_triples(80)
    train, valid = triples[:60], triples[60:]
    config = KgeConfig(
        **{"dim": 8, "epochs": 30, "batch_size": 32, "lr": 0.05, "eval_every": 1, "patience": 4, **values}
    )
    kg = Knowledge(train, N_ENTITIES, N_RELATIONS, valid)
    model = train_kge(kg, config, context(events=events), description="x")
    validation = LinkValidation(train, valid, N_ENTITIES, N_RELATIONS, max_triples=config.valid_triples)
    return validation.score(model), train, valid


@pytest.mark.parametrize("valid_triples", [0, 6])
@pytest.mark.parametrize("model", ["distmult", "roth"])
def test_early_stopping_returns_the_best_epoch(model: str, valid_triples: int) -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    score, *_ = overfit(events, model=model, valid_triples=valid_triples)
    curve = [values["value"] for kind, values in events if kind == "curve"]
    assert {values["metric"] for kind, values in events if kind == "curve"} == {"valid_mrr"}
    assert score == pytest.approx(max(curve))
    assert ("note", {"key": "valid_mrr", "value": max(curve)}) in events
    best = int(np.argmax(curve)) + 1
    assert ("note", {"key": "best_epoch", "value": best}) in events
    assert len(curve) == min(30, best + 4)
    assert score > curve[-1], "the case must overfit"


def test_without_valid_all_epochs_are_run() -> None:
    triples = random_triples(60)
    trained = []
    for epochs, patience in ((12, 1), (12, 9), (11, 1)):
        events: list[tuple[str, dict[str, Any]]] = []
        config = KgeConfig(dim=4, epochs=epochs, patience=patience, eval_every=1, batch_size=32, negatives=8)
        model = train_kge(
            Knowledge(triples, N_ENTITIES, N_RELATIONS), config, context(events=events), description="x"
        )
        assert {kind for kind, _ in events} <= {"progress"}
        trained.append(model.entities.detach())
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


def test_a_seed_of_its_own_replaces_the_contexts() -> None:
    config = KgeConfig(dim=4, epochs=2, batch_size=32, negatives=8)
    tables = [
        train_kge(
            Knowledge(random_triples(30), N_ENTITIES, N_RELATIONS),
            config,
            context(seed),
            description="x",
            seed=own,
        ).entities.detach()
        for seed, own in ((1, None), (2, 1), (2, None))
    ]
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_an_empty_kg_and_a_diverging_loss_are_clear_errors() -> None:
    with pytest.raises(SubmissionError, match="books: the KG has no triples"):
        train_kge(
            Knowledge(random_triples(0), N_ENTITIES, N_RELATIONS), KgeConfig(), context(), description="books"
        )
    config = KgeConfig(dim=4, epochs=50, lr=1e30, optimizer="adagrad", loss="binary")
    with pytest.raises(SubmissionError, match="lower the learning rate"):
        train_kge(Knowledge(random_triples(30), N_ENTITIES, N_RELATIONS), config, context(), description="x")


# --- the submission base ---------------------------------------------------------------------------------------------------------


def test_link_prediction_alone_is_not_pre_trained() -> None:
    assert not KgeSubmission.pretrains({TaskKind.LINK_PREDICTION})
    assert not KgeSubmission.pretrains([])
    for other in (TaskKind.RECOMMENDATION, TaskKind.CLASSIFICATION):
        assert KgeSubmission.pretrains({other})
        assert KgeSubmission.pretrains([TaskKind.LINK_PREDICTION, other])


def links_of(suite: Suite) -> LinkPredictionTask:
    (task,) = (t for t in map(suite.task, suite.task_names()) if isinstance(t, LinkPredictionTask))
    return task


@pytest.mark.parametrize("model", ["complex", "roth"])
def test_link_prediction_is_trained_on_its_task_counted_and_shipped(
    model: str, tiny_suite: Suite, tmp_path: Path
) -> None:
    task = links_of(tiny_suite)
    submission = KgeSubmission({**QUICK, "kge_model": model, "kge_bias": True})
    events: list[tuple[str, dict[str, Any]]] = []
    submission.adapt(task, context(events=events))
    assert any(kind == "curve" for kind, _ in events), "valid was not asked"
    heads, relations = task.valid.heads[:4], task.valid.relations[:4]
    asked = [LinkPredictionQueries(heads, relations, np.full(4, side, dtype=np.int64)) for side in (0, 1)]
    tail_scores, head_scores = (
        np.concatenate(list(submission.predict(task, queries, context()))) for queries in asked
    )
    submission.export(tmp_path)
    loaded = load_model(tmp_path / "kge.safetensors")
    ids = torch.from_numpy(heads)
    assert np.array_equal(tail_scores, loaded(ids, torch.from_numpy(relations)).detach().numpy())
    reciprocal = torch.from_numpy(relations + task.n_relations)
    assert np.array_equal(head_scores, loaded(ids, reciprocal).detach().numpy())
    size = sum(table.numel() for table in loaded.parameters())
    assert submission.parameters() == {"total": size, "trainable": size, "kept": size}


def test_other_queries_are_refused(tiny_suite: Suite) -> None:
    task = links_of(tiny_suite)
    submission = KgeSubmission(QUICK)
    submission.adapt(task, context())
    users = RecommendationQueries(np.arange(2), Csr.empty(2, 5), 3, np.arange(5))
    with pytest.raises(SubmissionError, match="RecommendationQueries"):
        submission.predict(task, users, context())


def test_vectors_are_those_pre_trained_and_survive_the_disk(tiny_suite: Suite, tmp_path: Path) -> None:
    graphs = {name: tiny_suite.graph(name) for name in tiny_suite.graph_names()}
    first, second = KgeSubmission(QUICK), KgeSubmission(QUICK)
    first.pretrain(graphs, context())
    first.save_pretrained(tmp_path)
    second.load_pretrained(tmp_path)
    for name, kg in graphs.items():
        vectors = first.entity_vectors(name, context())
        assert vectors.shape == (kg.n_entities, 4)
        assert vectors.dtype == np.float32
        assert np.array_equal(vectors, second.entity_vectors(name, context()))
        assert not second._models, "a loaded model must not stay in memory"
        config = read_config(KgeConfig, QUICK, "kge_")
        model = train_kge(Knowledge.of_graph(kg), config, context(), description="x")
        assert np.array_equal(vectors, model.entities.detach().numpy())


def test_a_kg_without_pre_training_and_unknown_parameters_are_errors() -> None:
    with pytest.raises(SubmissionError, match=r"'books'.*nothing was pre-trained"):
        KgeSubmission(QUICK).entity_vectors("books", context())
    with pytest.raises(SubmissionError, match="kge_dmi"):
        KgeSubmission({"kge_dmi": 4})


def test_a_subclass_chooses_its_fit(tiny_suite: Suite) -> None:
    seen = []

    class Watched(KgeSubmission):
        def fit(self, kg: Knowledge, ctx: Context, *, description: str) -> KgeModel:
            assert kg.valid is None, "pre-training must see no task"
            seen.append(super().fit(kg, ctx, description=description))
            return seen[-1]

    name = tiny_suite.graph_names()[0]
    submission = Watched(QUICK)
    submission.pretrain({name: tiny_suite.graph(name)}, context())
    vectors = submission.entity_vectors(name, context())
    assert np.array_equal(vectors, seen[0].entities.detach().numpy())
