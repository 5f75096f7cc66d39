"""The base of submissions that embed a KG: one model a KG, its entity vectors in the shared heads, link prediction by its scores."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from baselines.common.config import config_keys, read_config
from baselines.common.kge.checkpoint import load_model, save_model
from baselines.common.kge.knowledge import Knowledge
from baselines.common.kge.models import KgeModel
from baselines.common.kge.scoring import score_blocks
from baselines.common.kge.train import KgeConfig, train_kge
from baselines.common.submission import Adapted, TaskSubmission
from baselines.common.training import prefixed
from kpi_bench import (
    Context,
    KnowledgeGraph,
    LinkPredictionQueries,
    LinkPredictionTask,
    Predictions,
    Queries,
    TaskKind,
)
from kpi_bench.errors import SubmissionError


class KgeSubmission(TaskSubmission):
    """Pre-trains a model on each KG of the suite and plugs the frozen entity vectors into the shared heads.

    A link-prediction task is trained on its own train triples, with early stopping on its valid ones; its suite's KG is the same
    triples, so nothing is pre-trained there. A method overrides :meth:`fit`, and :meth:`serve` where it ships less than a table.
    """

    own_keys: ClassVar[frozenset[str]] = frozenset(config_keys(KgeConfig, "kge_"))

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__(params)
        self.kge = read_config(KgeConfig, self.params, "kge_")
        self._models: dict[str, KgeModel] = {}
        self._folder: Path | None = None

    @classmethod
    def pretrains(cls, kinds: Collection[TaskKind]) -> bool:
        return any(kind is not TaskKind.LINK_PREDICTION for kind in kinds)

    def fit(self, kg: Knowledge, ctx: Context, *, description: str) -> KgeModel:
        """Train on a KG of the suite, or on a link-prediction task, which has valid triples to stop on."""
        return train_kge(kg, self.kge, ctx, description=description)

    def serve(self, model: KgeModel) -> AdaptedKge:
        """What answers link prediction and is shipped for it."""
        return AdaptedKge(model)

    def pretrain(self, graphs: Mapping[str, KnowledgeGraph], ctx: Context) -> None:
        for name, kg in graphs.items():
            description = f"{name}: {self.kge.model}"
            model = self.fit(
                Knowledge.of_graph(kg),
                prefixed(ctx, f"{description}: "),  # several KGs share one process: a note names its own
                description=description,
            )
            self.keep(name, model, ctx)

    def keep(self, name: str, model: KgeModel, ctx: Context) -> None:
        """Take the model of a KG over until :meth:`save_pretrained`."""
        self._models[name] = model

    def save_pretrained(self, folder: Path) -> None:
        for name, model in self._models.items():
            save_model(model, folder / f"{name}.safetensors")

    def load_pretrained(self, folder: Path) -> None:
        self._folder = folder

    def entity_vectors(self, kg: str, ctx: Context) -> NDArray[np.float32]:
        model = self._models.get(kg)
        if model is None:
            if self._folder is None:
                raise SubmissionError(
                    f"{type(self).__name__} has no vectors of KG {kg!r}: nothing was pre-trained"
                )
            # Not kept: the heads need its vectors alone.
            model = load_model(self._folder / f"{kg}.safetensors")
        return model.entities.detach().float().cpu().numpy()

    def adapt_link_prediction(self, task: LinkPredictionTask, ctx: Context) -> Adapted:
        description = f"{task.spec.name}: {self.kge.model}"
        return self.serve(self.fit(Knowledge.of_task(task), ctx, description=description))


class AdaptedKge:
    """Scores all entities for link-prediction queries."""

    def __init__(self, model: KgeModel) -> None:
        self.model = model
        self.total_parameters = sum(p.numel() for p in model.parameters())
        self.trainable_parameters = self.total_parameters
        self.kept_parameters = self.total_parameters

    def predict(self, queries: Queries, ctx: Context) -> Predictions:
        """Blocks of float32 rows; direction 1 asks the reciprocal relation."""
        if not isinstance(queries, LinkPredictionQueries):
            raise SubmissionError(f"a KG embedding cannot answer {type(queries).__name__}")
        relations = queries.relations + queries.directions * self.model.n_relations
        return score_blocks(self.model, queries.entities, relations)

    def export(self, folder: Path) -> None:
        """The tables."""
        save_model(self.model, folder / "kge.safetensors")
