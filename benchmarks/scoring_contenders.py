"""Ways to score predictions that lie on disk: what the parent does after each run, from file to metrics.

``own-*`` is the harness's scorer with all its checks, slices and per-query scores, made once a task as there. ``ranx-parquet`` and
``scikit-learn`` are the packages, given the same file through pandas and asked for metrics alone: they check nothing.
``plain-*`` are restatements of what one writes first. ``bare-*`` reads the file and does nothing. Each contender returns the task's
main metric; the files are made once, in a folder for temporary files.
"""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from benchmarks.link_prediction_contenders import query_vectors
from benchmarks.workloads import KS, kge_workload, recommendation_workload
from kpi_bench import (
    ClassificationTask,
    Csr,
    Examples,
    Interactions,
    LinkPredictionTask,
    RecommendationTask,
    TaskKind,
    TaskSpec,
    Triples,
)
from kpi_bench.evaluators.link_prediction import LinkPredictionIndex
from kpi_bench.evaluators.ranking import top_k_from_factors
from kpi_bench.harness.predictions import prediction_file, write_predictions
from kpi_bench.harness.protocol import ClassificationQueries, LinkPredictionQueries
from kpi_bench.harness.scoring import Scorer, make_scorer
from kpi_bench.harness.withhold import recommendation_queries, test_users

FOLDER = "KPI_BENCH_SCORING"
N_EXAMPLES, N_CLASSES = 200_000, 5
LINK_TRIPLES = 1_000
"""Test triples of the link-prediction task here: their score rows are a file of 100 MB."""
METRICS = ("recall", "ndcg", "hit_rate", "precision")


@cache
def folder() -> Path:
    """Where the files are; processes that measure memory find by the variable what this one has written."""
    if FOLDER not in os.environ:
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="kpi-bench-scoring-")
        atexit.register(shutil.rmtree, os.environ[FOLDER], ignore_errors=True)
    return Path(os.environ[FOLDER])


def _spec(name: str, kind: TaskKind, main_metric: str, **more: object) -> TaskSpec:
    return TaskSpec(
        name=name,
        kind=kind,
        kg="kg",
        domain="generated",
        description="Generated.",
        reference="generated",
        main_metric=main_metric,
        **more,  # type: ignore[arg-type]
    )


# --- Recommendation: 1M rows of user, rank, item, score ---------------------------------------------------------------------------------


def _pairs(matrix: Csr) -> Interactions:
    return Interactions(matrix.row_ids(), matrix.indices.astype(np.int64))


@cache
def recommendation() -> tuple[RecommendationTask, Path]:
    """The workload of :mod:`benchmarks.recommendation_contenders` as a task, and the prefix of its predictions: top-100 lists."""
    w = recommendation_workload()
    n_users, n_items = len(w.users), len(w.items)
    none = np.empty(0, dtype=np.int64)
    task = RecommendationTask(
        spec=_spec("lists", TaskKind.RECOMMENDATION, "ndcg@20", ks=KS, n_users=n_users, mask=("train",)),
        n_users=n_users,
        item_entity=np.full(n_items, -1),
        train=_pairs(w.masked),
        valid=Interactions(none, none),
        test=_pairs(w.positives),
    )
    prefix = folder() / "lists"
    if not prediction_file(prefix, task.spec.kind).exists():
        queries = recommendation_queries(task, test_users(task), task.spec.mask)
        top = top_k_from_factors(w.users, w.items, queries.exclude, queries.k, queries.tie_order)
        write_predictions(prefix, "official", task, queries, top)
    return task, prefix


def lists_file() -> Path:
    task, prefix = recommendation()
    return prediction_file(prefix, task.spec.kind)


@cache
def scorer(kind: TaskKind) -> Scorer:
    """Made once a task, as the harness does."""
    if kind is TaskKind.RECOMMENDATION:
        return make_scorer(recommendation()[0])
    if kind is TaskKind.CLASSIFICATION:
        return make_scorer(classification()[0])
    return make_scorer(links()[0], rows="keep")


def own_lists() -> float:
    prefix = recommendation()[1]
    return scorer(TaskKind.RECOMMENDATION).score(prefix).official.values["ndcg@20"]


def _named(ids: pd.Series) -> pd.Series:
    """Ids as texts in a column of objects, which ranx wants."""
    return ids.astype(str).astype(object)


@cache
def _qrels() -> object:
    """Made once, as a scorer's labels are."""
    pairs = recommendation()[0].test
    assert pairs is not None
    frame = pd.DataFrame({"q": pairs.users, "i": pairs.items, "s": 1})
    frame["q"], frame["i"] = _named(frame["q"]), _named(frame["i"])
    return importlib.import_module("ranx").Qrels.from_df(frame, q_id_col="q", doc_id_col="i", score_col="s")


def ranx_parquet() -> float:
    """ranx from a data frame of the file; ids as texts, which it wants."""
    package = importlib.import_module("ranx")
    frame = pq.read_table(lists_file(), columns=["user", "item", "score"]).to_pandas()
    frame["user"], frame["item"] = _named(frame["user"]), _named(frame["item"])
    frame["score"] = frame["score"].astype(np.float64)
    run = package.Run.from_df(frame, q_id_col="user", doc_id_col="item", score_col="score")
    found = package.evaluate(_qrels(), run, [f"{metric}@{k}" for metric in METRICS for k in KS])
    return float(found["ndcg@20"])


@cache
def _relevant() -> tuple[pd.DataFrame, pd.Series]:
    pairs = recommendation()[0].test
    assert pairs is not None
    frame = pd.DataFrame({"user": pairs.users, "item": pairs.items})
    return frame.assign(hit=1.0), frame.groupby("user").size()


def plain_pandas() -> float:
    """A join with the test pairs, then a groupby for each cut."""
    pairs, sizes = _relevant()
    frame = pd.read_parquet(lists_file()).merge(pairs, on=["user", "item"], how="left").fillna({"hit": 0.0})
    frame["gain"] = frame.hit / np.log2(frame["rank"] + 1)
    ideal = np.cumsum(1 / np.log2(np.arange(2, max(KS) + 2)))
    ndcg = 0.0
    for k in KS:
        sums = frame[frame["rank"] <= k].groupby("user")[["hit", "gain"]].sum().reindex(sizes.index)
        found = {
            "recall": (sums.hit / sizes).mean(),
            "ndcg": (sums.gain / ideal[np.minimum(sizes, k) - 1]).mean(),
            "hit_rate": (sums.hit > 0).mean(),
            "precision": (sums.hit / k).mean(),
        }
        ndcg = float(found["ndcg"]) if k == 20 else ndcg
    return ndcg


def bare_parquet() -> float:
    """The file's columns in memory."""
    return float(pq.read_table(lists_file()).column("score").to_numpy()[0])


# --- Classification: 200,000 rows of five scores ----------------------------------------------------------------------------------------


@cache
def classification() -> tuple[ClassificationTask, Path]:
    """Labels 0..4, and scores that are right a third of the time."""
    rng = np.random.default_rng(0)

    def examples(first: int, n: int) -> Examples:
        labels = rng.integers(0, N_CLASSES, n)
        return Examples(np.arange(first, first + n), rng.integers(0, 1000, n), [""] * n, labels)

    train, valid, test = examples(0, 10), examples(10, 10), examples(20, N_EXAMPLES)
    task = ClassificationTask(
        spec=_spec(
            "ratings",
            TaskKind.CLASSIFICATION,
            "macro_f1",
            labels=tuple(str(c + 1) for c in range(N_CLASSES)),
            ordinal=True,
        ),
        train=train,
        valid=valid,
        test=test,
    )
    prefix = folder() / "ratings"
    if not prediction_file(prefix, task.spec.kind).exists():
        scores = rng.random((N_EXAMPLES, N_CLASSES))
        scores[np.arange(N_EXAMPLES), test.labels] += 0.3
        queries = ClassificationQueries(test.examples, test.entities, test.texts)
        write_predictions(prefix, "official", task, queries, scores)
    return task, prefix


def own_ratings() -> float:
    prefix = classification()[1]
    return scorer(TaskKind.CLASSIFICATION).score(prefix).official.values["macro_f1"]


def _columns() -> list[str]:
    return [f"score_{c}" for c in range(N_CLASSES)]


def scikit_learn() -> float:
    """The same metrics: accuracy, macro-F1, mean absolute error, quadratic kappa."""
    metrics = importlib.import_module("sklearn.metrics")
    task, prefix = classification()
    assert task.test is not None
    frame = pq.read_table(prediction_file(prefix, task.spec.kind)).to_pandas()
    truth, guessed = task.test.labels, frame[_columns()].to_numpy().argmax(1)
    metrics.accuracy_score(truth, guessed)
    metrics.mean_absolute_error(truth, guessed)
    metrics.cohen_kappa_score(truth, guessed, weights="quadratic")
    return float(metrics.f1_score(truth, guessed, average="macro"))


def bare_labels() -> float:
    """The file's columns in memory."""
    task, prefix = classification()
    return float(pq.read_table(prediction_file(prefix, task.spec.kind)).column("score_0").to_numpy()[0])


# --- Link prediction: a row of scores for each distinct query ---------------------------------------------------------------------------


@cache
def links() -> tuple[LinkPredictionTask, Path, LinkPredictionIndex]:
    """FB15k-237's first test triples with the ComplEx scores of :mod:`benchmarks.link_prediction_contenders`."""
    w = kge_workload()
    test = w.test[:LINK_TRIPLES]
    task = LinkPredictionTask(
        spec=_spec("links", TaskKind.LINK_PREDICTION, "mrr"),
        n_entities=len(w.entities),
        n_relations=len(w.relations),
        **{
            name: Triples(*np.ascontiguousarray(part.T))
            for name, part in (("train", w.train), ("valid", w.valid), ("test", test))
        },
    )
    index = LinkPredictionIndex.build(w.train, w.valid, test, task.n_entities, task.n_relations)
    prefix = folder() / "links"
    if not prediction_file(prefix, task.spec.kind).exists():
        vectors = query_vectors(index)
        queries = LinkPredictionQueries(index.entity, index.relation, index.direction.astype(np.int64))
        blocks = (vectors[i : i + 256] @ w.table.T for i in range(0, len(vectors), 256))
        write_predictions(prefix, "official", task, queries, blocks)
    return task, prefix, index


def rows_file() -> Path:
    task, prefix, _ = links()
    return prediction_file(prefix, task.spec.kind)


def own_rows() -> float:
    prefix = links()[1]
    return scorer(TaskKind.LINK_PREDICTION).score(prefix).official.values["mrr"]


def plain_torch_rows() -> float:
    """Known answers masked, then compared: one pass over the rows for each test triple's query, in blocks of 256."""
    _, _, index = links()
    rows = np.load(rows_file(), mmap_mode="r")
    total = 0.0
    for first in range(0, len(rows), 256):
        some = np.arange(first, min(first + 256, len(rows)))
        scores = torch.from_numpy(np.array(rows[some]))
        positives, known = index.positives.select(some), index.filters.select(some)
        line = torch.from_numpy(positives.row_ids())
        target = scores[line, torch.from_numpy(positives.indices).long()]
        scores[torch.from_numpy(known.row_ids()), torch.from_numpy(known.indices).long()] = -torch.inf
        above = (scores[line] > target[:, None]).sum(1)
        total += float((1 / (1 + above).double()).sum())
    return total / index.positives.nnz


def bare_rows() -> float:
    """Every byte of the file read once, in blocks."""
    rows = np.load(rows_file(), mmap_mode="r")
    return float(sum(rows[i : i + 256].max() for i in range(0, len(rows), 256)))


LISTS: dict[str, Callable[[], float]] = {
    "bare-parquet": bare_parquet,
    "own-lists-file": own_lists,
    "ranx-parquet": ranx_parquet,
    "plain-pandas": plain_pandas,
}
RATINGS: dict[str, Callable[[], float]] = {
    "bare-labels": bare_labels,
    "own-ratings-file": own_ratings,
    "scikit-learn": scikit_learn,
}
ROWS: dict[str, Callable[[], float]] = {
    "bare-rows": bare_rows,
    "own-rows-file": own_rows,
    "plain-torch-rows": plain_torch_rows,
}
CONTENDERS: dict[str, Callable[[], float]] = {**LISTS, **RATINGS, **ROWS}
