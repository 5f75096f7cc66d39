"""Numbers that describe a suite: how large its KGs and tasks are, how dense, how well the KG covers them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from kpi_bench.suites.graph import KnowledgeGraph
from kpi_bench.suites.suite import Suite
from kpi_bench.suites.task import ClassificationTask, RecommendationTask, Split, Task


@dataclass(frozen=True)
class GraphStats:
    """One KG. Degrees count both directions, over all entities; ``named`` is the share of entities with a name or text."""

    kg: str
    domains: int
    entities: int
    relations: int
    triples: int
    median_degree: float
    max_degree: int
    isolated: int
    named: float


@dataclass(frozen=True)
class RecommendationStats:
    """One recommendation task; ``test`` is None where it is withheld.

    ``density`` is interactions of all splits over users x items. ``kg_coverage`` is the share of items that have a KG entity with at least
    one triple, and ``median_degree`` the median number of triples of these.
    """

    task: str
    kg: str
    users: int
    items: int
    train: int
    valid: int
    test: int | None
    density: float
    kg_coverage: float
    median_degree: float
    median_train_per_user: float


@dataclass(frozen=True)
class ClassificationStats:
    """One classification task. ``balance`` is the share of each class over all splits, in class order."""

    task: str
    kg: str
    classes: int
    train: int
    valid: int
    test: int | None
    entities: int
    kg_coverage: float
    median_degree: float
    balance: tuple[float, ...]
    median_characters: float


@dataclass(frozen=True)
class LinkPredictionStats:
    """One link-prediction task; entities and relations are those its triples use."""

    task: str
    kg: str
    train: int
    valid: int
    test: int | None
    entities: int
    relations: int


TaskStats = RecommendationStats | ClassificationStats | LinkPredictionStats


@dataclass(frozen=True)
class SuiteStats:
    """All of a suite."""

    suite: str
    version: str
    graphs: tuple[GraphStats, ...]
    tasks: tuple[TaskStats, ...]

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """One table a kind, as rows of plain values for ``tabulate`` (headers="keys") and JSON; kinds that do not occur are left out."""
        kinds: dict[str, Sequence[GraphStats | TaskStats]] = {
            "graphs": self.graphs,
            "recommendation": [stats for stats in self.tasks if isinstance(stats, RecommendationStats)],
            "classification": [stats for stats in self.tasks if isinstance(stats, ClassificationStats)],
            "link_prediction": [stats for stats in self.tasks if isinstance(stats, LinkPredictionStats)],
        }
        return {kind: [dataclasses.asdict(stats) for stats in rows] for kind, rows in kinds.items() if rows}

    def to_json(self) -> dict[str, Any]:
        """The tables with the suite's name and version, for ``json.dump``."""
        return {"suite": self.suite, "version": self.version, **self.tables()}

    def render(self) -> str:
        """The tables as text, one a kind, each under its name."""
        parts = []
        for kind, rows in self.tables().items():
            cells = [{key: _cell(value) for key, value in row.items()} for row in rows]
            parts.append(
                f"{kind.replace('_', ' ')}\n{tabulate(cells, headers='keys', disable_numparse=True)}"
            )
        return "\n\n".join(parts)


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(_cell(part) for part in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value if value is not None else "withheld")


def suite_stats(suite: Suite) -> SuiteStats:
    """Describe every KG and task of a suite.

    Raises:
        SuiteError: a table is missing or unreadable.
    """
    graphs = {name: suite.graph(name) for name in suite.graph_names()}
    degrees = {name: _degrees(graph) for name, graph in graphs.items()}
    tasks = [suite.task(name) for name in suite.task_names()]
    return SuiteStats(
        suite=suite.name,
        version=suite.manifest.version,
        graphs=tuple(_graph_stats(graph, degrees[name]) for name, graph in graphs.items()),
        tasks=tuple(_task_stats(task, degrees[task.spec.kg]) for task in tasks),
    )


def _degrees(graph: KnowledgeGraph) -> NDArray[np.int64]:
    ends = np.concatenate([graph.heads, graph.tails])
    return np.bincount(ends, minlength=graph.n_entities).astype(np.int64)


def _graph_stats(graph: KnowledgeGraph, degrees: NDArray[np.int64]) -> GraphStats:
    columns = (graph.entities.column(name).to_pylist() for name in ("name", "text"))
    named = [bool(name or text) for name, text in zip(*columns, strict=True)]
    return GraphStats(
        kg=graph.name,
        domains=len(graph.domains()),
        entities=graph.n_entities,
        relations=graph.n_relations,
        triples=graph.n_triples,
        median_degree=_median(degrees),
        max_degree=int(degrees.max(initial=0)),
        isolated=int((degrees == 0).sum()),
        named=sum(named) / max(len(named), 1),
    )


def _task_stats(task: Task, degrees: NDArray[np.int64]) -> TaskStats:
    if isinstance(task, RecommendationTask):
        return _recommendation_stats(task, degrees)
    if isinstance(task, ClassificationTask):
        return _classification_stats(task, degrees)
    triples = [part for part in (task.train, task.valid, task.test) if part is not None]
    return LinkPredictionStats(
        task=task.spec.name,
        kg=task.spec.kg,
        train=len(task.train),
        valid=len(task.valid),
        test=_rows(task.test),
        entities=len(
            np.unique(np.concatenate([end for part in triples for end in (part.heads, part.tails)]))
        ),
        relations=len(np.unique(np.concatenate([part.relations for part in triples]))),
    )


def _recommendation_stats(task: RecommendationTask, degrees: NDArray[np.int64]) -> RecommendationStats:
    interactions = len(task.train) + len(task.valid) + (_rows(task.test) or 0)
    covered = _covered(task.item_entity, degrees)
    return RecommendationStats(
        task=task.spec.name,
        kg=task.spec.kg,
        users=task.n_users,
        items=task.n_items,
        train=len(task.train),
        valid=len(task.valid),
        test=_rows(task.test),
        density=interactions / max(task.n_users * task.n_items, 1),
        kg_coverage=len(covered) / max(task.n_items, 1),
        median_degree=_median(covered),
        median_train_per_user=_median(np.bincount(task.train.users, minlength=task.n_users)),
    )


def _classification_stats(task: ClassificationTask, degrees: NDArray[np.int64]) -> ClassificationStats:
    examples = [part for part in (task.train, task.valid, task.test) if part is not None]
    entities = np.unique(np.concatenate([part.entities for part in examples]))
    labels = np.concatenate([part.labels for part in examples])
    covered = _covered(entities, degrees)
    balance = np.bincount(labels, minlength=task.n_classes) / max(len(labels), 1)
    return ClassificationStats(
        task=task.spec.name,
        kg=task.spec.kg,
        classes=task.n_classes,
        train=len(task.train),
        valid=len(task.valid),
        test=_rows(task.test),
        entities=len(entities),
        kg_coverage=len(covered) / max(len(entities), 1),
        median_degree=_median(covered),
        balance=tuple(balance.tolist()),
        median_characters=_median(np.array([len(text) for part in examples for text in part.texts])),
    )


def _rows(split: Split | None) -> int | None:
    return None if split is None else len(split)


def _covered(entities: NDArray[np.int64], degrees: NDArray[np.int64]) -> NDArray[np.int64]:
    """Degrees of the entities that are in the KG and have a triple."""
    found = degrees[entities[entities >= 0]]
    return found[found > 0]


def _median(values: NDArray[np.integer]) -> float:
    return float(np.median(values)) if len(values) else 0.0
