"""Every reference submission on the tiny suite, through the protocol; what they learn from planted signals."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines.common import config as params_config
from baselines.common.heads import TextConfig
from baselines.common.kge.submission import KgeSubmission
from baselines.common.plugs import FrozenVectors
from baselines.common.recommenders.base import RecommenderConfig
from baselines.common.recommenders.fit import BACKBONES, fit_recommender
from baselines.common.scorers import FactorScorer, Scorer
from baselines.common.submission import TaskSubmission
from kpi_bench import (
    ClassificationQueries,
    ClassificationTask,
    Context,
    Csr,
    Interactions,
    LinkPredictionQueries,
    LinkPredictionTask,
    Queries,
    RecommendationQueries,
    RecommendationTask,
    Submission,
    Suite,
    Task,
    TaskKind,
    TaskSpec,
    TopK,
)
from kpi_bench.errors import SubmissionError
from kpi_bench.evaluators.ranking import tie_order
from kpi_bench.harness.config import load_class, read_config

SUBMISSIONS = Path(__file__).resolve().parents[2] / "submissions"
REFERENCE = [
    "random",
    "popularity",
    "itemknn",
    "majority",
    "text-lookup",
    "item-prior",
    "cf",
    "lightgcn",
    "text-classifier",
    "kg-embedding",
    "ncf",
    "gccf",
    "simgcl",
    "dccf",
    "lightgcl",
]
FLOORS = REFERENCE[:6]
QUICK = {
    "rec_epochs": 4,
    "rec_dim": 8,
    "text_epochs": 3,
    "text_hashed_dim": 64,
    "kge_epochs": 2,
    "kge_dim": 8,
}


def context(seed: int = 0, **graphs: Any) -> Context:
    return Context(seed=seed, device="cpu", scratch=Path("/nonexistent"), graphs=graphs)


def queries_of(task: Task) -> Queries:
    if isinstance(task, RecommendationTask):
        users = np.unique(task.test.users)
        return RecommendationQueries(
            users, task.matrix("train", "valid").select(users), 10, tie_order(task.n_items, 0)
        )
    if isinstance(task, ClassificationTask):
        return ClassificationQueries(task.test.examples, task.test.entities, task.test.texts)
    test = task.test
    return LinkPredictionQueries(test.heads, test.relations, np.zeros(len(test), np.int64))


def answers(name: str, suite: Suite, seed: int, tmp_path: Path) -> Iterator[tuple[Task, Queries, np.ndarray]]:
    """Run a submission on all tasks that it declares, in its smallest form."""
    config = read_config(SUBMISSIONS / name)
    params = {**config.params, **{k: v for k, v in QUICK.items() if k in config.params}}
    cls = load_class(config)
    graphs = {kg: suite.graph(kg) for kg in suite.graph_names()}
    submission: Submission = cls(params)
    kinds = {suite.task(name).spec.kind for name in suite.task_names()} & set(config.submission.tasks)
    if cls.pretrains(kinds):
        cls(params)  # a fresh instance must be enough to load
        submission.pretrain(graphs, context(seed))
        folder = tmp_path / f"pretrained-{seed}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        submission.save_pretrained(folder)
        submission = cls(params)
        submission.load_pretrained(folder)
    for task in map(suite.task, suite.task_names()):
        if task.spec.kind not in config.submission.tasks:
            continue
        queries = queries_of(task)
        submission.adapt(task, context(seed, **graphs))
        predicted = submission.predict(task, queries, context(seed, **graphs))
        sizes = submission.parameters()
        assert sizes["total"] >= sizes["trainable"] >= 0
        assert sizes["total"] >= sizes.get("kept", sizes["total"]) > 0 or name in FLOORS
        exported = tmp_path / f"export-{len(list(tmp_path.iterdir()))}"
        exported.mkdir()
        submission.export(exported)
        if isinstance(predicted, TopK):
            yield task, queries, predicted.items
        elif isinstance(predicted, np.ndarray):
            yield task, queries, predicted
        else:
            yield task, queries, np.concatenate(list(predicted))


@pytest.mark.parametrize("name", REFERENCE)
def test_answers_are_valid_and_fixed_by_the_seed(name: str, tiny_suite: Suite, tmp_path: Path) -> None:
    first = list(answers(name, tiny_suite, 1, tmp_path))
    again = list(answers(name, tiny_suite, 1, tmp_path))
    assert first, "the submission answers no task of the suite"
    for (task, queries, predicted), (_, _, repeated) in zip(first, again, strict=True):
        assert np.array_equal(predicted, repeated)
        if isinstance(queries, RecommendationQueries):
            assert predicted.shape == (len(queries), queries.k)
            for row, items in enumerate(predicted):
                listed = items[items >= 0]
                allowed = task.n_items - len(queries.exclude.row(row))
                assert len(set(listed)) == len(listed) == min(queries.k, allowed)
                assert not np.isin(listed, queries.exclude.row(row)).any()
        else:
            width = task.n_entities if isinstance(task, LinkPredictionTask) else task.n_classes
            assert predicted.shape == (len(queries), width)
            assert np.isfinite(predicted).all()


@pytest.mark.parametrize("folder", sorted(SUBMISSIONS.iterdir()), ids=lambda path: path.name)
def test_every_declared_config_builds(folder: Path) -> None:
    config = read_config(folder)
    cls = load_class(config)
    for choice in (None, *config.configs):
        for suite in ("any", *config.suites):
            cls(config.resolve_params(suite, choice, {}))
    with (folder / "submission.toml").open("rb") as file:
        assert tomllib.load(file)["submission"]["name"] == folder.name


def test_floors_do_not_import_torch() -> None:
    entries = {read_config(SUBMISSIONS / name).submission.entry.partition(":")[0] for name in FLOORS}
    # None in sys.modules makes any further `import torch` fail.
    code = f"import sys, importlib, kpi_bench\nsys.modules['torch'] = None\n[importlib.import_module(m) for m in {sorted(entries)}]"
    subprocess.run([sys.executable, "-c", code], cwd=SUBMISSIONS.parent, check=True)


def block_task(n_users: int = 120, n_items: int = 60, n_cold: int = 0, seed: int = 0) -> RecommendationTask:
    """Users and items of four groups; users take items of their own group. The last ``n_cold`` items occur in test only."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[tuple[int, int]]] = {"train": [], "valid": [], "test": []}
    for user in range(n_users):
        own = rng.permutation([i for i in range(n_items - n_cold) if i % 4 == user % 4])
        cold = [i for i in range(n_items - n_cold, n_items) if i % 4 == user % 4]
        rows["train"] += [(user, i) for i in own[:5]]
        rows["valid"] += [(user, i) for i in own[5:7]]
        rows["test"] += [(user, i) for i in (cold or own[7:9])]
    splits = {name: Interactions(*np.array(pairs, dtype=np.int64).T) for name, pairs in rows.items()}
    spec = TaskSpec(
        "blocks", TaskKind.RECOMMENDATION, "kg", "d", "", "", "ndcg@20", ks=(5, 10), n_users=n_users
    )
    return RecommendationTask(spec, n_users, np.arange(n_items), **splits)


def recall(task: RecommendationTask, scorer: Scorer, k: int, exclude: Csr | None = None) -> float:
    known, test = exclude or task.matrix("train", "valid"), task.matrix("test")
    queries = RecommendationQueries(np.arange(task.n_users), known, k, tie_order(task.n_items, 0))
    top = scorer.top_k(queries).items
    return float(np.mean([np.isin(test.row(u), top[u]).mean() for u in range(task.n_users)]))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbones_learn_a_block_structure_that_popularity_cannot(backbone: str) -> None:
    task = block_task()
    config = RecommenderConfig(dim=16, epochs=60, eval_every=5, lr=0.02, valid_metric="ndcg@5")
    fitted = fit_recommender(task, backbone, config, context())
    popularity = torch.from_numpy(np.bincount(task.train.items, minlength=60)).float()[:, None]
    chance = recall(task, FactorScorer(torch.ones(120, 1), popularity), 10)
    assert recall(task, fitted.scorer, 10) > 2 * chance


@pytest.mark.parametrize("backbone", BACKBONES)
def test_vectors_that_know_the_group_help_cold_items(backbone: str) -> None:
    """Among themselves: the cross-entropy of NeuMF puts items that it has seen as negatives alone below all others, plug or not."""
    task = block_task(n_items=80, n_cold=20)
    warm = Csr.from_pairs(np.repeat(np.arange(120), 60), np.tile(np.arange(60), 120), (120, 80))
    vectors = np.eye(4, dtype=np.float32)[np.arange(80) % 4]
    config = RecommenderConfig(dim=16, epochs=60, eval_every=5, lr=0.02, valid_metric="ndcg@5")
    if backbone == "ncf":  # at one step an epoch its layers die before they have seen the vectors
        config = replace(config, batch_size=128, plug_scale=1.0)
    plain = fit_recommender(task, backbone, config, context())
    plugged = fit_recommender(task, backbone, config, context(), FrozenVectors(vectors))
    assert recall(task, plugged.scorer, 5, warm) > 0.1 + recall(task, plain.scorer, 5, warm)


def test_users_without_train_items_get_popular_ones(tiny_suite: Suite) -> None:
    from baselines.reference.backbones import Backbone
    from baselines.reference.itemknn import ItemKNN
    from baselines.reference.popularity import Popularity

    task = block_task()
    kept = task.train.users != 3
    train = Interactions(task.train.users[kept], task.train.items[kept])
    task = RecommendationTask(task.spec, task.n_users, task.item_entity, train, task.valid, task.test)
    queries = RecommendationQueries(np.array([2, 3]), Csr.empty(2, 60), 5, tie_order(60, 0))
    lists = []
    for submission in (Backbone({"backbone": "cf", "rec_epochs": 2}), ItemKNN({}), Popularity({})):
        submission.adapt(task, context())
        lists.append(submission.predict(task, queries, context()).items)
    assert lists[0][1].tolist() == lists[1][1].tolist() == lists[2][1].tolist()
    assert lists[0][0].tolist() != lists[2][0].tolist()


def test_only_kg_methods_pretrain_and_not_for_link_prediction_alone() -> None:
    for name in REFERENCE:
        cls = load_class(read_config(SUBMISSIONS / name))
        assert cls.pretrains(set(TaskKind)) == (name == "kg-embedding")
        assert issubclass(cls, KgeSubmission) == (name == "kg-embedding")
        assert not cls.pretrains({TaskKind.LINK_PREDICTION})


@pytest.mark.parametrize(("family", "pooling"), [("bert", "pooler"), ("roberta", "mean"), ("gpt2", "last")])
def test_tuning_an_encoder_trains_it(family: str, pooling: str, tmp_path: Path, tiny_suite: Suite) -> None:
    from transformers import AutoConfig, AutoModel, BertTokenizerFast

    from baselines.common.classify import fit_classifier

    task = next(t for t in map(tiny_suite.task, tiny_suite.task_names()) if isinstance(t, ClassificationTask))
    words = sorted({word for text in task.train.texts for word in text.lower().split()})
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    BertTokenizerFast(str(vocabulary)).save_pretrained(tmp_path)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 0}
    model = AutoModel.from_config(AutoConfig.for_model(family, vocab_size=len(words) + 5, **size))
    model.save_pretrained(tmp_path)
    before = model.get_input_embeddings().weight.detach().clone()
    config = TextConfig(
        encoder=str(tmp_path), tune_encoder=True, pooling=pooling, epochs=2, batch_size=16, encoder_lr=1e-2
    )
    vectors = np.random.default_rng(0).normal(size=(tiny_suite.graph(task.spec.kg).n_entities, 4))
    plug = FrozenVectors(vectors.astype(np.float32))
    fitted = fit_classifier(task, config, context(), plug)
    assert not torch.equal(fitted.model.encoder_model.get_input_embeddings().weight, before)
    assert fitted.trainable_parameters > sum(p.numel() for p in fitted.model.head.parameters())
    scores = fitted.scores(task.test.texts, task.test.entities)
    assert np.allclose(scores.sum(1), 1)


@pytest.mark.parametrize("suite", ["kpi-open", "kpi-public", "kpi-mini", "kpi"])
def test_methods_differ_by_their_vectors_alone(suite: str) -> None:
    def heads(name: str, config: str | None) -> tuple[str, RecommenderConfig, TextConfig]:
        params = read_config(SUBMISSIONS / name).resolve_params(suite, config, {})
        return (
            params["backbone"],
            params_config.read_config(RecommenderConfig, params, "rec_"),
            params_config.read_config(TextConfig, params, "text_"),
        )

    for config in (None, "base", "minilm"):
        assert heads("kg-embedding", config) == heads("lightgcn", config)
    for name in ("mulde", "metasd", "pkgm", "mudok", "kgglm"):
        for config in (None, "base", "cf", "minilm"):
            assert heads(name, config) == heads("kg-embedding", config)
    for backbone in ("cf", "ncf", "gccf", "simgcl", "dccf", "lightgcl"):
        if suite != "kpi-mini":  # its overrides of epochs are each submission's own
            assert heads("mudok", backbone)[:2] == heads(backbone, None)[:2]


def test_a_method_may_add_parameters_that_are_for_adapting_alone() -> None:
    class Own(TaskSubmission):
        adapt_only = TaskSubmission.adapt_only | {"dropout"}

    assert Own({"backbone": "ncf", "rec_lr": 0.1, "dropout": 0.1}).backbone == "ncf"
    with pytest.raises(SubmissionError, match="droput"):
        Own({"droput": 0.1})

    class Alone(TaskSubmission):
        adapt_only = frozenset({"dropout"})

    assert Alone({"backbone": "ncf", "dropout": 0.1}).backbone == "ncf"
