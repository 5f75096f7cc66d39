"""A working submission to start from: items are alike when they share attributes in the knowledge graph.

Run it with

    kpi-bench submission check .
    kpi-bench evaluate --submission . --suite kpi-mini --seeds 0
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from scipy import sparse

from kpi_bench import (
    ClassificationQueries,
    ClassificationTask,
    Context,
    KnowledgeGraph,
    LinkPredictionQueries,
    LinkPredictionTask,
    Predictions,
    Queries,
    RecommendationQueries,
    RecommendationTask,
    Submission,
    Task,
    TopK,
    top_k_from_scores,
)

BLOCK = 256


class Method(Submission):
    """Popularity mixed with shared attributes; replace the four methods by your own."""

    def pretrain(self, graphs: Mapping[str, KnowledgeGraph], ctx: Context) -> None:
        """Learn from the KGs alone. Runs once a suite and seed; what is learned goes to disk and comes back."""
        self.degrees = {name: (graph.out_edges.degrees() + graph.in_edges.degrees()).tolist() for name, graph in graphs.items()}

    def save_pretrained(self, folder: Path) -> None:
        (folder / "degrees.json").write_text(json.dumps(self.degrees))

    def load_pretrained(self, folder: Path) -> None:
        self.degrees = json.loads((folder / "degrees.json").read_text())

    def adapt(self, task: Task, ctx: Context) -> None:
        """Learn the task from train and valid. ``task.test`` is None: its labels stay with the harness."""
        if isinstance(task, RecommendationTask):
            self.train = sparse.csr_array(
                (np.ones(len(task.train)), (task.train.users, task.train.items)), shape=(task.n_users, task.n_items)
            )
            self.popularity = np.bincount(task.train.items, minlength=task.n_items) / len(task.train)
            self.attributes = self._attributes(task, ctx.graphs[task.spec.kg])
        elif isinstance(task, ClassificationTask):
            counts = np.bincount(task.train.labels, minlength=task.n_classes)
            self.prior = counts / counts.sum()
        else:
            self.frequency = np.bincount(task.train.tails, minlength=task.n_entities).astype(np.float32)

    def _attributes(self, task: RecommendationTask, graph: KnowledgeGraph) -> sparse.csr_array:
        known = task.item_entity >= 0
        edges = graph.out_edges
        rows, columns = [], []
        for item in np.flatnonzero(known):
            _, neighbours = edges.edges(task.item_entity[item])
            rows += [item] * len(neighbours)
            columns += neighbours.tolist()
        # An attribute that many items have says little: weigh it by the inverse of its degree.
        degree = np.maximum(np.asarray(self.degrees[graph.name]), 1)
        weights = 1.0 / np.sqrt(degree[np.asarray(columns, dtype=np.int64)])
        return sparse.csr_array((weights, (rows, columns)), shape=(task.n_items, graph.n_entities))

    def predict(self, task: Task, queries: Queries, ctx: Context) -> Predictions:
        """Answer the queries; see kpi_bench.Submission.predict for what each kind returns."""
        if isinstance(task, RecommendationTask) and isinstance(queries, RecommendationQueries):
            return self._recommend(queries, ctx)
        if isinstance(task, ClassificationTask) and isinstance(queries, ClassificationQueries):
            return np.tile(self.prior, (len(queries), 1))
        assert isinstance(task, LinkPredictionTask)
        assert isinstance(queries, LinkPredictionQueries)
        return self._complete(task, queries)

    def _recommend(self, queries: RecommendationQueries, ctx: Context) -> TopK:
        weight = self.params["shared_weight"]
        items, scores = [], []
        for start in ctx.progress(range(0, len(queries), BLOCK), "ranking"):
            users = queries.users[start : start + BLOCK]
            profile = self.train[users] @ self.attributes
            shared = (profile @ self.attributes.T).toarray()
            block = weight * shared / max(shared.max(), 1e-12) + (1 - weight) * self.popularity / self.popularity.max()
            exclude = queries.exclude.select(np.arange(start, start + len(users)))
            best = top_k_from_scores(block.astype(np.float32), exclude, queries.k, queries.tie_order)
            items.append(best.items)
            scores.append(best.scores)
        return TopK(np.concatenate(items), np.concatenate(scores))

    def _complete(self, task: LinkPredictionTask, queries: LinkPredictionQueries) -> Iterator[np.ndarray]:
        for start in range(0, len(queries), BLOCK):
            rows = min(BLOCK, len(queries) - start)
            yield np.tile(self.frequency, (rows, 1))
