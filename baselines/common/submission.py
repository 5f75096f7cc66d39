"""The base class of this package's submissions: shared backbones and heads, so that only the representation differs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from baselines.common.adapted import AdaptedClassifier, AdaptedRecommender
from baselines.common.classify import fit_classifier
from baselines.common.config import config_keys, read_config, refuse_unknown
from baselines.common.heads import TextConfig
from baselines.common.plugs import FrozenVectors, Plug
from baselines.common.recommenders.base import RecommenderConfig
from baselines.common.recommenders.fit import BACKBONES, FittedRecommender, fit_recommender
from kpi_bench import (
    ClassificationTask,
    Context,
    LinkPredictionTask,
    Predictions,
    Queries,
    RecommendationTask,
    Submission,
    Task,
)
from kpi_bench.errors import SubmissionError

SHARED_KEYS = frozenset(
    {"backbone"} | config_keys(RecommenderConfig, "rec_") | config_keys(TextConfig, "text_")
)
"""Parameters of the shared parts, none of which pre-trains."""


class Adapted(Protocol):
    """One adapted task: what answers its queries, is counted and is shipped."""

    total_parameters: int
    trainable_parameters: int
    kept_parameters: int

    def predict(self, queries: Queries, ctx: Context) -> Predictions: ...

    def export(self, folder: Path) -> None: ...


class TaskSubmission(Submission):
    """Sends each kind of task to the shared parts. A method overrides :meth:`entity_vectors` (frozen vectors), or
    :meth:`item_plug` and :meth:`text_plug` (anything trainable), or nothing: then it is the backbone without a KG. One that is no
    backbone overrides :meth:`recommend`.

    Link prediction needs :meth:`adapt_link_prediction`. ``own_keys`` names the parameters that the subclass reads itself; those of the
    shared parts are for adapting alone, and a subclass adds its own (``TaskSubmission.adapt_only | {...}``).
    """

    own_keys: ClassVar[frozenset[str]] = frozenset()
    adapt_only: ClassVar[frozenset[str]] = SHARED_KEYS

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__(params)
        known = SHARED_KEYS | self.own_keys | frozenset(self.adapt_only)
        refuse_unknown(self.params, known, type(self).__name__)
        self.backbone: str = self.params.get("backbone", "lightgcn")
        if self.backbone not in BACKBONES:
            raise SubmissionError(f"unknown backbone {self.backbone!r}; use one of {', '.join(BACKBONES)}")
        self.recommender = read_config(RecommenderConfig, self.params, "rec_")
        self.text = read_config(TextConfig, self.params, "text_")
        self._adapted: tuple[str, Adapted] | None = None

    def entity_vectors(self, kg: str, ctx: Context) -> NDArray[np.float32] | None:
        """Vectors of all entities of a KG, float32 ``[n_entities, dim]``, or None for a method without a KG."""
        return None

    def item_plug(self, task: RecommendationTask, ctx: Context) -> Plug | None:
        """What joins the item embeddings; rows are items."""
        vectors = self.entity_vectors(task.spec.kg, ctx)
        if vectors is None:
            return None
        known = task.item_entity >= 0
        return FrozenVectors(vectors[np.where(known, task.item_entity, 0)], known)

    def text_plug(self, task: ClassificationTask, ctx: Context) -> Plug | None:
        """What joins the text features; rows are entities of the task's KG."""
        vectors = self.entity_vectors(task.spec.kg, ctx)
        return None if vectors is None else FrozenVectors(vectors)

    def recommend(self, task: RecommendationTask, ctx: Context) -> FittedRecommender:
        """Adapt to a recommendation task: the backbone with the plug."""
        plug = self.item_plug(task, ctx)
        return fit_recommender(task, self.backbone, self.recommender, ctx, plug)

    def adapt_link_prediction(self, task: LinkPredictionTask, ctx: Context) -> Adapted:
        """Adapt to a link-prediction task."""
        raise SubmissionError(
            f"{type(self).__name__} does not answer link prediction (task {task.spec.name})"
        )

    def adapt(self, task: Task, ctx: Context) -> None:
        adapted: Adapted
        if isinstance(task, RecommendationTask):
            adapted = AdaptedRecommender(self.recommend(task, ctx), task.train_matrix)
        elif isinstance(task, ClassificationTask):
            adapted = AdaptedClassifier(fit_classifier(task, self.text, ctx, self.text_plug(task, ctx)))
        else:
            adapted = self.adapt_link_prediction(task, ctx)
        self._adapted = (task.spec.name, adapted)

    def predict(self, task: Task, queries: Queries, ctx: Context) -> Predictions:
        name, adapted = self._current()
        if name != task.spec.name:
            raise SubmissionError(
                f"predict was called for task {task.spec.name}, but adapt was last called for {name}"
            )
        return adapted.predict(queries, ctx)

    def parameters(self) -> Mapping[str, int]:
        _, adapted = self._current()
        return {
            "total": adapted.total_parameters,
            "trainable": adapted.trainable_parameters,
            "kept": adapted.kept_parameters,
        }

    def export(self, folder: Path) -> None:
        self._current()[1].export(folder)

    def _current(self) -> tuple[str, Adapted]:
        if self._adapted is None:
            raise SubmissionError(f"{type(self).__name__}: adapt has not been called")
        return self._adapted
