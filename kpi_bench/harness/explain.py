"""One user's recommendations and why, in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tabulate import tabulate

from kpi_bench.errors import EvaluationError, PredictionError
from kpi_bench.evaluators.explanations import ENTITY, INTERACTION, ITEM, Paths, valid_paths
from kpi_bench.evaluators.recommendation import in_order
from kpi_bench.harness.explanations import paths_file, read_paths
from kpi_bench.harness.predictions import prediction_file, read_ranked_lists
from kpi_bench.harness.withhold import recommendation_queries, test_users
from kpi_bench.suites.graph import KnowledgeGraph
from kpi_bench.suites.suite import Suite
from kpi_bench.suites.task import RecommendationTask

UNTRUE = " (not a path of the KG and the train split)"


def explain(run: Path, suite: Suite, task: str, user: int, *, seed: int = 0, k: int = 10) -> str:
    """The first ``k`` items of a user with scores and paths, as a table. ``run`` is ``<out>/<suite>/<row>``, or its predictions folder.

    Raises:
        SuiteError: the suite has no such task.
        EvaluationError: the task is no recommendation.
        PredictionError: predictions or explanations are missing or broken, or the user was not asked about.
    """
    asked = suite.task(task)
    if not isinstance(asked, RecommendationTask):
        raise EvaluationError(
            f"{task} is a {asked.spec.kind} task; paths explain recommendations ({_recommendations(suite)})"
        )
    root = run / "predictions" if (run / "predictions").is_dir() else run
    prefix = root / task / f"seed{seed}"
    predictions, explanations = prediction_file(prefix, asked.spec.kind), paths_file(prefix)
    for path, missing in (
        (predictions, f"{run} has no predictions of {task} with seed {seed}"),
        (explanations, f"{run} explains nothing of {task} with seed {seed}: its predict returned no ExplainedTopK"),
    ):  # fmt: skip
        if not path.is_file():
            raise PredictionError(f"{missing} ({path} does not exist)")
    queries = recommendation_queries(asked, test_users(asked), asked.spec.mask)
    if user not in queries.users:
        raise PredictionError(
            f"user {user} of {task} was not asked about; the {len(queries)} users with test items are, such as {queries.users[0]}"
        )
    graph = suite.graph(asked.spec.kg)
    lists = read_ranked_lists(predictions, asked, queries)
    paths = read_paths(explanations, asked, queries, lists, graph)
    own = lists.users == user
    users, items, ranks = in_order(
        lists.users[own], lists.items[own], lists.ranks[own], lists.scores[own], queries.tie_order
    )
    # Equal scores alone change places, so the scores by rank stay what they are.
    scores = np.sort(lists.scores[own])[::-1]
    paths = paths.take(paths.users == user)
    true = valid_paths(paths, train=asked.train_matrix, graph=graph, item_entity=asked.item_entity)
    row_of = {int(item): row for row, item in enumerate(paths.items)}
    names = _Names(asked, graph)
    rows = []
    for item, rank, score in zip(items[:k].tolist(), ranks[:k].tolist(), scores[:k].tolist(), strict=True):
        row = row_of.get(item)
        why = "" if row is None else names.path(paths, row) + ("" if true[row] else UNTRUE)
        rows.append([rank, names.item(item), f"{score:.4f}", why])
    title = f"user {user} of {task}: {len(users)} items, {len(paths)} explained"
    if not rows:
        return title
    headers, align = ("rank", "item", "score", "path"), ("right", "left", "right", "left")
    return f"{title}\n{tabulate(rows, headers, disable_numparse=True, colalign=align)}"


def _recommendations(suite: Suite) -> str:
    names = [spec.name for spec in suite.manifest.tasks if spec.kind == "recommendation"]
    return ", ".join(names) if names else f"{suite.name} has none"


class _Names:
    """Words for the nodes and relations of a task's paths."""

    def __init__(self, task: RecommendationTask, graph: KnowledgeGraph) -> None:
        self.task = task
        self.entities = graph.entities.select(["name", "key"])
        self.relations: list[str] = graph.relation_table.column("name").to_pylist()

    def item(self, item: int) -> str:
        entity = int(self.task.item_entity[item])
        return self.entity(entity) if entity >= 0 else f"item {item}"

    def entity(self, entity: int) -> str:
        name, key = (self.entities.column(column)[entity].as_py() for column in ("name", "key"))
        return str(name or key)

    def node(self, kind: int, node: int) -> str:
        if kind == ENTITY:
            return self.entity(node)
        return self.item(node) if kind == ITEM else f"user {node}"

    def path(self, paths: Paths, row: int) -> str:
        """``user 3 -[interacted with]-> Album 4 -[has genre]-> Genre 1 <-[has genre]- Album 7``."""
        return " ".join(self._words(paths, row))

    def _words(self, paths: Paths, row: int) -> Iterator[str]:
        for i in range(int(paths.lengths()[row])):
            if i:
                relation = int(paths.relations[row, i - 1])
                word = "interacted with" if relation == INTERACTION else self.relations[relation]
                yield f"<-[{word}]-" if paths.inverse[row, i - 1] else f"-[{word}]->"
            yield self.node(int(paths.kinds[row, i]), int(paths.nodes[row, i]))
