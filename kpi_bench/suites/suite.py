"""A suite in a folder: its KGs and tasks, read on demand."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kpi_bench.errors import SuiteError
from kpi_bench.suites.graph import KnowledgeGraph
from kpi_bench.suites.manifest import Manifest, read_manifest
from kpi_bench.suites.task import (
    ClassificationTask,
    Examples,
    Interactions,
    LinkPredictionTask,
    RecommendationTask,
    Task,
    TaskKind,
    TaskSpec,
    Triples,
)


@dataclass(frozen=True, eq=False)
class Suite:
    """A benchmark on disk. ``source`` is the name it was loaded by; ``repo`` and ``revision`` the Hub's, if it came from there."""

    manifest: Manifest
    folder: Path
    source: str
    repo: str | None = None
    revision: str | None = None
    _graphs: dict[str, KnowledgeGraph] = field(default_factory=dict, repr=False)
    _tasks: dict[str, Task] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return self.manifest.name

    def graph_names(self) -> list[str]:
        """Names of the KGs, in the manifest's order."""
        return [kg.name for kg in self.manifest.kgs]

    def task_names(self) -> list[str]:
        """Names of the tasks, in the manifest's order."""
        return [task.name for task in self.manifest.tasks]

    def graph(self, name: str) -> KnowledgeGraph:
        """One KG, read once.

        Raises:
            SuiteError: no such KG.
        """
        if name not in self.graph_names():
            raise SuiteError(f"suite {self.name} has no KG {name!r}; it has {', '.join(self.graph_names())}")
        if name not in self._graphs:
            linked = f"kgs/{name}/links.parquet" in self.manifest.files
            self._graphs[name] = read_graph(self.folder / "kgs" / name, name, linked=linked)
        return self._graphs[name]

    def task(self, name: str) -> Task:
        """One task with its splits, read once; ``test`` is None in the copy handed to submissions.

        Raises:
            SuiteError: no such task.
        """
        if name not in self._tasks:
            spec = self.manifest.task(name)
            self._tasks[name] = _read_task(self.folder, spec, withheld=self.manifest.withheld)
        return self._tasks[name]


def open_suite(
    folder: Path, *, source: str | None = None, repo: str | None = None, revision: str | None = None
) -> Suite:
    """Open a suite folder without checking its files (``load_suite`` checks them)."""
    return Suite(read_manifest(folder), folder, source or str(folder), repo, revision)


def read_graph(folder: Path, name: str, *, linked: bool) -> KnowledgeGraph:
    """Read the tables of one KG folder; ``links.parquet`` only when ``linked``, that is, when the manifest lists (and so checks) it."""
    triples = pq.read_table(folder / "triples.parquet").combine_chunks()
    return KnowledgeGraph(
        name=name,
        heads=triples.column("head").to_numpy(),
        relations=triples.column("relation").to_numpy(),
        tails=triples.column("tail").to_numpy(),
        entities=pq.read_table(folder / "entities.parquet"),
        relation_table=pq.read_table(folder / "relations.parquet"),
        links=pq.read_table(folder / "links.parquet") if linked else None,
    )


def _read_task(folder: Path, spec: TaskSpec, *, withheld: bool) -> Task:
    base = folder / "tasks" / spec.name
    if spec.kind is TaskKind.RECOMMENDATION:
        if spec.n_users is None:
            raise SuiteError(f"suite.json: task {spec.name}: n_users is missing")
        items = pq.read_table(base / "items.parquet").column("entity")
        return RecommendationTask(
            spec=spec,
            n_users=spec.n_users,
            item_entity=items.fill_null(-1).to_numpy(),
            train=_interactions(base / "train.parquet"),
            valid=_interactions(base / "valid.parquet"),
            test=None if withheld else _interactions(base / "test.parquet"),
        )
    if spec.kind is TaskKind.CLASSIFICATION:
        return ClassificationTask(
            spec=spec,
            train=_examples(base / "train.parquet"),
            valid=_examples(base / "valid.parquet"),
            test=None if withheld else _examples(base / "test.parquet"),
        )
    kg = folder / "kgs" / spec.kg
    return LinkPredictionTask(
        spec=spec,
        n_entities=pq.read_metadata(kg / "entities.parquet").num_rows,
        n_relations=pq.read_metadata(kg / "relations.parquet").num_rows,
        train=_triples(base / "train.parquet"),
        valid=_triples(base / "valid.parquet"),
        test=None if withheld else _triples(base / "test.parquet"),
    )


def _columns(path: Path, names: tuple[str, ...]) -> list[NDArray[np.int64]]:
    table = pq.read_table(path, columns=list(names))
    return [table.column(name).to_numpy() for name in names]


def _interactions(path: Path) -> Interactions:
    timed = "time" in pq.read_schema(path).names
    return Interactions(*_columns(path, ("user", "item", "time") if timed else ("user", "item")))


def _examples(path: Path) -> Examples:
    examples, entities, labels = _columns(path, ("example", "entity", "label"))
    texts: list[str] = pq.read_table(path, columns=["text"]).column("text").to_pylist()
    return Examples(examples, entities, texts, labels)


def _triples(path: Path) -> Triples:
    return Triples(*_columns(path, ("head", "relation", "tail")))
