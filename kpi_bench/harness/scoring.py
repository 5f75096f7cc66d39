"""From predictions on disk to evaluations: the harness's only use of test labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from kpi_bench.errors import EvaluationError
from kpi_bench.evaluators.classification import predicted_labels, score_classification
from kpi_bench.evaluators.evaluation import Evaluation
from kpi_bench.evaluators.explanations import score_explanations
from kpi_bench.evaluators.link_prediction import (
    LinkPredictionIndex,
    Ranks,
    rank_scores,
    score_link_prediction,
)
from kpi_bench.evaluators.recommendation import Protocol as RankingProtocol
from kpi_bench.evaluators.recommendation import in_order, score_recommendation
from kpi_bench.harness.explanations import paths_file, read_paths
from kpi_bench.harness.predictions import (
    MUDOK,
    MUDOK_MASK,
    OFFICIAL,
    RankedLists,
    prediction_file,
    rank_file,
    read_class_scores,
    read_ranked_lists,
    read_ranks,
    read_score_rows,
    write_ranks,
)
from kpi_bench.harness.protocol import ClassificationQueries, RecommendationQueries
from kpi_bench.harness.results import ProtocolInfo
from kpi_bench.harness.withhold import recommendation_queries, test_users
from kpi_bench.suites.graph import KnowledgeGraph
from kpi_bench.suites.task import (
    ClassificationTask,
    Examples,
    LinkPredictionTask,
    RecommendationTask,
    Task,
)

SCORE_BLOCK = 256

ReadGraph = Callable[[str], KnowledgeGraph]
ScoreRows = Literal["drop", "keep", "ignore"]
"""What is done with score rows of link prediction once ranked: gone, left on disk, or never read where ranks lie."""


@dataclass(frozen=True, eq=False)
class RunScores:
    """Scores of one run: the official split, the task's variants, and (classification) labels and predicted labels of the test rows."""

    official: Evaluation
    variants: dict[str, Evaluation]
    labels: NDArray[np.int64] | None = None
    predicted: NDArray[np.int64] | None = None


class Scorer(Protocol):
    """Scores runs of one task; whatever depends on the task alone is built once."""

    protocol: ProtocolInfo

    def score(self, prefix: Path) -> RunScores:
        """Check and score the predictions of one run.

        Raises:
            PredictionError, EvaluationError: they cannot be scored honestly.
        """
        ...


def make_scorer(task: Task, graph: ReadGraph | None = None, *, rows: ScoreRows = "drop") -> Scorer:
    """The scorer of a task with its test labels at hand.

    ``graph`` gives the suite's KG of a name and is called only where explanations lie beside predictions. With ``rows="ignore"``
    scoring writes nothing: link prediction starts from the ranks that were kept.
    """
    if isinstance(task, RecommendationTask):
        return RecommendationScorer(task, graph)
    if isinstance(task, ClassificationTask):
        return ClassificationScorer(task)
    return LinkPredictionScorer(task, rows=rows)


class RecommendationScorer:
    """Full ranking over all items, and paths where there are some; the ``mudok`` variant masks train only and adds ``mrr_sum@k``."""

    def __init__(self, task: RecommendationTask, graph: ReadGraph | None = None) -> None:
        self.task = task
        self.graph = graph
        self.users = test_users(task)
        self.positives = task.matrix("test")
        self.protocol = ProtocolInfo(
            ties="score, then a fixed pseudo-random order of items",
            mask=task.spec.mask,
            k=task.spec.ks,
            filter=None,
        )

    def score(self, prefix: Path) -> RunScores:
        queries, lists = self._read(prefix, OFFICIAL, self.task.spec.mask)
        official = self._score(queries, lists, self.task.spec.mask)
        if paths_file(prefix).is_file():
            official = self._explain(paths_file(prefix), queries, lists, official)
        # Predictions that were made elsewhere may be of the official protocol alone.
        given = prediction_file(prefix, self.task.spec.kind, MUDOK).is_file()
        variants = {
            name: self._score(*self._read(prefix, name, MUDOK_MASK), MUDOK_MASK, "mudok")
            for name in self.task.spec.variants
            if name == MUDOK and given
        }
        return RunScores(official, variants)

    def _read(
        self, prefix: Path, variant: str, mask: tuple[str, ...]
    ) -> tuple[RecommendationQueries, RankedLists]:
        queries = recommendation_queries(self.task, self.users, mask)
        path = prediction_file(prefix, self.task.spec.kind, variant)
        return queries, read_ranked_lists(path, self.task, queries)

    def _explain(
        self, path: Path, queries: RecommendationQueries, lists: RankedLists, official: Evaluation
    ) -> Evaluation:
        """``official`` with the scores of its explanations."""
        if self.graph is None:
            raise EvaluationError(f"{path}: explanations cannot be scored without the KG of the suite")
        graph = self.graph(self.task.spec.kg)
        explained = score_explanations(
            read_paths(path, self.task, queries, lists, graph),
            *in_order(lists.users, lists.items, lists.ranks, lists.scores, queries.tie_order),
            query_users=official.queries,
            train=self.task.train_matrix,
            graph=graph,
            item_entity=self.task.item_entity,
            ks=self.task.spec.ks,
        )
        return dataclasses.replace(
            official,
            values=official.values | explained.values,
            # In front, so that the intervals of the other metrics do not depend on there being explanations.
            per_query=explained.per_query | official.per_query,
            counts=official.counts | explained.counts,
        )

    def _score(
        self,
        queries: RecommendationQueries,
        lists: RankedLists,
        mask: tuple[str, ...],
        protocol: RankingProtocol = "full",
    ) -> Evaluation:
        return score_recommendation(
            lists.users,
            lists.items,
            lists.ranks,
            lists.scores,
            positives=self.positives,
            query_users=self.users,
            train=self.task.train_matrix,
            n_items=self.task.n_items,
            ks=self.task.spec.ks,
            tie_order=queries.tie_order,
            exclude=self.task.matrix(*mask),
            protocol=protocol,
        )


class ClassificationScorer:
    """Official test rows, and beside them ``dedup`` (texts unseen in train and valid) and ``cold`` (entities unseen in train)."""

    def __init__(self, task: ClassificationTask) -> None:
        if task.test is None:
            raise EvaluationError(
                f"task {task.spec.name}: the test labels are withheld here; nothing can be scored"
            )
        self.task = task
        self.test = task.test
        seen_texts = set(task.train.texts) | set(task.valid.texts)
        subsets = {
            "dedup": np.array([text not in seen_texts for text in task.test.texts], dtype=bool),
            "cold": ~np.isin(task.test.entities, task.train.entities),
        }
        self.subsets = {
            name: subsets[name] for name in task.spec.variants if name in subsets and subsets[name].any()
        }
        self.protocol = ProtocolInfo(ties="class order drawn per example", mask=(), k=(), filter=None)

    def score(self, prefix: Path) -> RunScores:
        path = prediction_file(prefix, self.task.spec.kind)
        given = read_class_scores(path, self.task, _class_queries(self.test))
        everything = np.ones(len(self.test), dtype=bool)
        predicted = predicted_labels(given.scores, self.test.examples)
        return RunScores(
            official=self._score(given.scores, given.missing, everything),
            variants={
                name: self._score(given.scores, given.missing, subset)
                for name, subset in self.subsets.items()
            },
            labels=self.test.labels,
            predicted=np.where(given.missing, -1, predicted),
        )

    def _score(
        self, scores: NDArray[np.float64], missing: NDArray[np.bool_], rows: NDArray[np.bool_]
    ) -> Evaluation:
        return score_classification(
            self.test.labels[rows],
            scores[rows],
            labels=range(self.task.n_classes),
            ordinal=self.task.spec.ordinal,
            positive=self.task.spec.positive,
            examples=self.test.examples[rows],
            missing=missing[rows],
        )


class LinkPredictionScorer:
    """Filtered ranks of both directions, ties realistic; score rows are read in blocks."""

    def __init__(self, task: LinkPredictionTask, *, rows: ScoreRows = "drop") -> None:
        if task.test is None:
            raise EvaluationError(
                f"task {task.spec.name}: the test triples are withheld here; nothing can be scored"
            )
        self.task = task
        self.rows = rows
        self.index = LinkPredictionIndex.build(
            task.train.array(),
            task.valid.array(),
            task.test.array(),
            task.n_entities,
            task.n_relations,
            split="test",
        )
        self.protocol = ProtocolInfo(ties="realistic", mask=(), k=(1, 3, 10), filter="train+valid+test")

    def score(self, prefix: Path) -> RunScores:
        kept = rank_file(prefix)
        rows = prediction_file(prefix, self.task.spec.kind)
        if self.rows != "ignore" and (rows.is_file() or not kept.is_file()):
            write_ranks(kept, self._rank(rows))
            if self.rows == "drop":
                # Score rows take gigabytes; their ranks are all that any metric needs.
                rows.unlink()
        return RunScores(score_link_prediction(read_ranks(kept, self.index.positives.nnz), self.index), {})

    def _rank(self, path: Path) -> Ranks:
        rows = read_score_rows(path, self.task, self.index.n_queries)
        return rank_scores(self.index, (rows[i : i + SCORE_BLOCK] for i in range(0, len(rows), SCORE_BLOCK)))


def _class_queries(test: Examples) -> ClassificationQueries:
    return ClassificationQueries(test.examples, test.entities, test.texts)


def scored_files(task: Task, prefix: Path) -> list[Path]:
    """Every file of a run that scoring it again reads where it exists; it cannot do without the first."""
    if isinstance(task, LinkPredictionTask):
        return [rank_file(prefix)]
    names = (OFFICIAL, MUDOK) if MUDOK in task.spec.variants else (OFFICIAL,)
    explained = [paths_file(prefix)] if isinstance(task, RecommendationTask) else []
    return [*(prediction_file(prefix, task.spec.kind, name) for name in names), *explained]


def kept_files(task: Task, prefix: Path) -> list[Path]:
    """Prediction files of a run that stay on disk: what it takes to score it again; explanations where the run has some."""
    return [path for path in scored_files(task, prefix) if path != paths_file(prefix) or path.is_file()]
