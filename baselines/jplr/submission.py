"""Joint pre-training and local re-training (KDD 2023, arXiv 2306.02679), reconstructed from its abstract."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from baselines.common.config import config_keys, read_config
from baselines.common.plugs import FrozenVectors
from baselines.common.submission import Adapted, TaskSubmission
from baselines.common.training import prefixed
from baselines.jplr.config import JplrConfig
from baselines.jplr.local import LocalGraph, held_out, without
from baselines.jplr.model import PathModel
from baselines.jplr.student import fit_student, scattered
from baselines.jplr.teacher import Teacher, fit_teacher, load_teacher, save_teacher
from baselines.jplr.union import UnionGraph, given_links, name_links
from kpi_bench import (
    ClassificationTask,
    Context,
    KnowledgeGraph,
    LinkPredictionQueries,
    LinkPredictionTask,
    Predictions,
    Queries,
    RecommendationTask,
    Task,
)
from kpi_bench.errors import SubmissionError

JOINT = "joint"


class Jplr(TaskSubmission):
    """Pre-trains a teacher over all KGs and their links; for each task it trains a small student on the task's part of its KG, whose entity
    rows are the vectors of the shared heads."""

    data_parallel: ClassVar[bool] = True
    own_keys: ClassVar[frozenset[str]] = frozenset(config_keys(JplrConfig, "jplr_"))

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__(params)
        self.jplr = read_config(JplrConfig, self.params, "jplr_")
        self._teachers: dict[str, Teacher] = {}
        self._folder: Path | None = None
        self._table: dict[str, torch.Tensor] = {}

    def pretrain(self, graphs: Mapping[str, KnowledgeGraph], ctx: Context) -> None:
        with_triples = [name for name, kg in graphs.items() if kg.n_triples]
        names = {"joint": [JOINT], "own": with_triples, "none": []}[self.jplr.teacher]
        for name in names:
            union = self._union(name, graphs, ctx.seed)
            model = fit_teacher(union, self.jplr, prefixed(ctx, f"{name}: "), name)
            self._teachers[name] = Teacher(model, union)

    def save_pretrained(self, folder: Path) -> None:
        for name, teacher in self._teachers.items():
            save_teacher(teacher.model, teacher.union, self.jplr, folder / f"{name}.safetensors")

    def load_pretrained(self, folder: Path) -> None:
        self._folder = folder

    def item_plug(self, task: RecommendationTask, ctx: Context) -> FrozenVectors:
        vectors, known = self._vectors(task, ctx)
        entities = np.maximum(task.item_entity, 0)
        return FrozenVectors(vectors[entities], known[entities] & (task.item_entity >= 0))

    def text_plug(self, task: ClassificationTask, ctx: Context) -> FrozenVectors:
        return FrozenVectors(*self._vectors(task, ctx))

    def adapt_link_prediction(self, task: LinkPredictionTask, ctx: Context) -> Adapted:
        kg = ctx.graphs[task.spec.kg]
        begun = time.perf_counter()
        teacher = self._teacher(kg.name, ctx)
        if self.jplr.serve == "teacher" and teacher is not None:
            union = teacher.union
            first = union.first_entity[kg.name]
            return AdaptedPaths(
                teacher.model.to(ctx.device),
                slice(first, first + kg.n_entities),
                union.first_relation[kg.name],
                union.n_relations,
                trained=False,
            )
        student = fit_student(
            LocalGraph.of_links(task), kg, teacher, self.jplr, prefixed(ctx, "student: "), task.spec.name
        )
        ctx.note("retrain_s", round(time.perf_counter() - begun, 1))
        return AdaptedPaths(student.model, slice(0, kg.n_entities), 0, student.n_forward)

    def adapt(self, task: Task, ctx: Context) -> None:
        self._table = {}
        super().adapt(task, ctx)

    def export(self, folder: Path) -> None:
        """As all submissions, and the task's table of entity vectors."""
        super().export(folder)
        if self._table:
            save_file(self._table, folder / "entities.safetensors")

    def _vectors(
        self, task: RecommendationTask | ClassificationTask, ctx: Context
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Vectors of all entities of the task's KG, and which of them the task's part of it has."""
        kg = ctx.graphs[task.spec.kg]
        begun = time.perf_counter()
        local = LocalGraph.of_items(task, kg, held_out(kg, self.jplr.holdout, ctx.seed))
        if len(local.train) == 0:
            vectors = np.zeros((kg.n_entities, self.jplr.hidden), dtype=np.float32)
            known = np.zeros(kg.n_entities, dtype=np.bool_)
        elif self.jplr.serve == "teacher" and (teacher := self._teacher(kg.name, ctx)) is not None:
            first = teacher.union.first_entity[kg.name]
            rows = teacher.model.entities[torch.from_numpy(local.entities) + first]
            met = np.isin(local.entities, local.train[:, ::2])
            vectors, known = scattered(_principal(rows, self.jplr.hidden), local.entities, met, kg.n_entities)
        else:
            student = fit_student(
                local, kg, self._teacher(kg.name, ctx), self.jplr, prefixed(ctx, "student: "), task.spec.name
            )
            vectors, known = student.vectors(kg.n_entities)
        ctx.note("retrain_s", round(time.perf_counter() - begun, 1))
        entities = np.flatnonzero(known)
        ctx.note("entities_with_vectors", len(entities))
        self._table = {"entities": torch.from_numpy(entities), "vectors": torch.from_numpy(vectors[entities])}
        return vectors, known

    def _teacher(self, kg: str, ctx: Context) -> Teacher | None:
        if self.jplr.teacher == "none":
            return None
        name = JOINT if self.jplr.teacher == "joint" else kg
        if name in self._teachers:
            return self._teachers[name]
        if self._folder is None:
            raise SubmissionError(f"{type(self).__name__} has no teacher {name!r}: nothing was pre-trained")
        union = self._union(name, ctx.graphs, ctx.seed)
        return Teacher(load_teacher(union, self.jplr, self._folder / f"{name}.safetensors"), union)

    def _union(self, name: str, graphs: Mapping[str, KnowledgeGraph], seed: int) -> UnionGraph:
        """What the teacher of this name reads."""
        names = [name] if self.jplr.teacher == "own" else list(graphs)
        read = {kg: without(graphs[kg], held_out(graphs[kg], self.jplr.holdout, seed)) for kg in names}
        links = [np.zeros((0, 2), dtype=np.int64)]
        if self.jplr.links != "none":
            links.append(given_links(read))
        if self.jplr.links == "name":
            links.append(name_links(read))
        return UnionGraph.of(read, np.concatenate(links))


class AdaptedPaths:
    """Scores the entities of a KG, rows ``entities`` of a path model, as what follows an entity and a relation.

    Relation r of the KG is ``first_relation + r``, and backwards ``n_forward`` more.
    """

    def __init__(
        self, model: PathModel, entities: slice, first_relation: int, n_forward: int, *, trained: bool = True
    ) -> None:
        self.model, self._entities = model, entities
        self._first_relation, self._n_forward = first_relation, n_forward
        self.total_parameters = sum(tensor.numel() for tensor in model.served().values())
        self.kept_parameters = self.total_parameters
        self.trainable_parameters = self.total_parameters if trained else 0

    def predict(self, queries: Queries, ctx: Context) -> Predictions:
        """Blocks of float32 rows; direction 1 asks the relation backwards."""
        if not isinstance(queries, LinkPredictionQueries):
            raise SubmissionError(f"a path model cannot answer {type(queries).__name__}")
        return self._blocks(queries)

    def export(self, folder: Path) -> None:
        """The model."""
        save_file(self.model.served(), folder / "paths.safetensors")

    def _blocks(self, queries: LinkPredictionQueries) -> Iterator[NDArray[np.float32]]:
        relations = queries.relations + self._first_relation + queries.directions * self._n_forward
        return self.model.score_all(queries.entities + self._entities.start, relations, among=self._entities)


def _principal(rows: torch.Tensor, width: int) -> NDArray[np.float32]:
    """Rows ``[n, d]`` brought to their first ``width`` principal components."""
    centred = rows.detach().double()
    centred -= centred.mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    top: NDArray[np.float32] = (centred @ vectors.flip(1)[:, :width]).float().cpu().numpy()
    return top
