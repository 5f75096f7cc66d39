"""Plain KG embeddings in the shared heads: what any KG pre-training method has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from baselines.common.config import config_keys, read_config
from baselines.common.kge.models import KgeModel
from baselines.common.kge.train import KgeConfig, score_blocks, train_kge
from baselines.common.submission import Adapted, TaskSubmission
from kpi_bench import (
    Context,
    KnowledgeGraph,
    LinkPredictionQueries,
    LinkPredictionTask,
    Predictions,
    Queries,
)
from kpi_bench.errors import SubmissionError

VECTORS = "entity_vectors.safetensors"


class KgEmbedding(TaskSubmission):
    """Pre-trains TransE or DistMult on each KG of the suite and plugs the frozen entity vectors into the shared heads.

    A link-prediction task is trained on its own train triples alone.
    """

    own_keys: ClassVar[frozenset[str]] = frozenset(config_keys(KgeConfig, "kge_"))

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__(params)
        self._kge = read_config(KgeConfig, self.params, "kge_")
        self._vectors: dict[str, torch.Tensor] = {}

    def pretrain(self, graphs: Mapping[str, KnowledgeGraph], ctx: Context) -> None:
        for name, kg in graphs.items():
            model = train_kge(
                kg.triples(),
                kg.n_entities,
                kg.n_relations,
                self._kge,
                ctx,
                description=f"{name}: {self._kge.model}",
            )
            self._vectors[name] = model.entities.detach().cpu().contiguous()

    def save_pretrained(self, folder: Path) -> None:
        save_file(self._vectors, folder / VECTORS)

    def load_pretrained(self, folder: Path) -> None:
        self._vectors = load_file(folder / VECTORS)

    def entity_vectors(self, kg: str, ctx: Context) -> NDArray[np.float32]:
        if kg not in self._vectors:
            raise SubmissionError(
                f"kg-embedding has no vectors of KG {kg!r}; pre-trained were: {', '.join(self._vectors)}"
            )
        return self._vectors[kg].numpy()

    def adapt_link_prediction(self, task: LinkPredictionTask, ctx: Context) -> Adapted:
        model = train_kge(
            task.train.array(),
            task.n_entities,
            task.n_relations,
            self._kge,
            ctx,
            description=f"{task.spec.name}: {self._kge.model}",
        )
        return AdaptedKge(model)


class AdaptedKge:
    """Scores all entities for link-prediction queries."""

    def __init__(self, model: KgeModel) -> None:
        self._model = model
        self.total_parameters = sum(p.numel() for p in model.parameters())
        self.trainable_parameters = self.total_parameters

    def predict(self, queries: Queries, ctx: Context) -> Predictions:
        """Blocks of float32 rows; direction 1 asks the reciprocal relation."""
        if not isinstance(queries, LinkPredictionQueries):
            raise SubmissionError(f"a KG embedding cannot answer {type(queries).__name__}")
        device = self._model.entities.device
        relations = queries.relations + queries.directions * self._model.n_relations
        return score_blocks(
            self._model, torch.tensor(queries.entities).to(device), torch.tensor(relations).to(device)
        )

    def export(self, folder: Path) -> None:
        """Both tables."""
        tensors = {name: p.detach().cpu().contiguous() for name, p in self._model.named_parameters()}
        save_file(tensors, folder / "kge.safetensors")
