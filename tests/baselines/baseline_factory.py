"""What the tests of several submissions share: a context, and answers to the tasks of the tiny suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from kpi_bench import (
    ClassificationQueries,
    ClassificationTask,
    Context,
    LinkPredictionQueries,
    LinkPredictionTask,
    RecommendationQueries,
    RecommendationTask,
    Submission,
    Suite,
    TopK,
)
from kpi_bench.evaluators.ranking import tie_order


def context(seed: int = 1, scratch: Path = Path("/nonexistent"), **graphs: Any) -> Context:
    return Context(seed=seed, device="cpu", scratch=scratch, graphs=graphs)


def suite_context(suite: Suite, scratch: Path, seed: int = 1, notes: dict[str, Any] | None = None) -> Context:
    """With the suite's KGs and a cache in ``scratch``; notes are put into ``notes``."""

    def report(kind: str, **values: Any) -> None:
        if kind == "note" and notes is not None:
            notes[values["key"]] = values["value"]

    graphs = {name: suite.graph(name) for name in suite.graph_names()}
    return Context(seed, "cpu", scratch, graphs, report, scratch / "cache")


S = TypeVar("S", bound=Submission)


def pretrain_and_load(cls: type[S], settings: dict[str, Any], ctx: Context, folder: Path) -> S:
    """Pre-trained by one instance, loaded from a new ``folder`` by another."""
    first = cls(settings)
    first.pretrain(ctx.graphs, ctx)
    folder.mkdir()
    first.save_pretrained(folder)
    second = cls(settings)
    second.load_pretrained(folder)
    return second


def link_task(suite: Suite) -> LinkPredictionTask:
    task = suite.task("library_links")
    assert isinstance(task, LinkPredictionTask)
    return task


def link_scores(
    submission: Submission, suite: Suite, seed: int = 1, scratch: Path = Path("/nonexistent")
) -> np.ndarray:
    """Adapt to the task and score all entities for its test queries (h, r, ?), float32 ``[n, n_entities]``."""
    task = link_task(suite)
    submission.adapt(task, context(seed, scratch))
    test = task.test
    queries = LinkPredictionQueries(test.heads, test.relations, np.zeros(len(test), np.int64))
    return np.concatenate(list(submission.predict(task, queries, context(seed))))


def check_head_answers(submission: Submission, suite: Suite, ctx: Context) -> None:
    """Adapt to each recommendation and classification task of the suite and look at the answers to its test queries."""
    for task in map(suite.task, suite.task_names()):
        if isinstance(task, RecommendationTask):
            users = np.unique(task.test.users)
            known = task.matrix("train", "valid").select(users)
            submission.adapt(task, ctx)
            queries = RecommendationQueries(users, known, 5, tie_order(task.n_items, 0))
            answer = submission.predict(task, queries, ctx)
            assert isinstance(answer, TopK)
            assert answer.items.shape == (len(users), 5)
        elif isinstance(task, ClassificationTask):
            submission.adapt(task, ctx)
            asked = ClassificationQueries(task.test.examples, task.test.entities, task.test.texts)
            scores = submission.predict(task, asked, ctx)
            assert scores.shape == (len(asked), len(task.spec.labels))
            assert np.isfinite(scores).all()
        else:
            continue
        sizes = submission.parameters()
        assert sizes["total"] >= sizes["trainable"] > 0
