"""What the tests of several submissions share: a context, and answers to the tiny suite's link-prediction task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kpi_bench import Context, LinkPredictionQueries, LinkPredictionTask, Submission, Suite


def context(seed: int = 1, **graphs: Any) -> Context:
    return Context(seed=seed, device="cpu", scratch=Path("/nonexistent"), graphs=graphs)


def link_task(suite: Suite) -> LinkPredictionTask:
    task = suite.task("library_links")
    assert isinstance(task, LinkPredictionTask)
    return task


def link_scores(submission: Submission, suite: Suite, seed: int = 1) -> np.ndarray:
    """Adapt to the task and score all entities for its test queries (h, r, ?), float32 ``[n, n_entities]``."""
    task = link_task(suite)
    submission.adapt(task, context(seed))
    test = task.test
    queries = LinkPredictionQueries(test.heads, test.relations, np.zeros(len(test), np.int64))
    return np.concatenate(list(submission.predict(task, queries, context(seed))))
