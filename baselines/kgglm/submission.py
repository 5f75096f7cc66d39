"""KGGLM (RecSys 2024, doi 10.1145/3640457.3691703): a language model of paths through knowledge graphs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from baselines.common.config import config_keys, read_config
from baselines.common.kge.knowledge import Knowledge
from baselines.common.kge.train import KgeConfig, train_kge
from baselines.common.paths.body import BodyShape
from baselines.common.paths.graph import PathGraph
from baselines.common.paths.interactions import TaskGraph
from baselines.common.recommenders.fit import FittedRecommender
from baselines.common.submission import Adapted, TaskSubmission
from baselines.common.training import prefixed
from baselines.kgglm.config import KgglmConfig
from baselines.kgglm.links import fit_links
from baselines.kgglm.model import PathLM
from baselines.kgglm.pretrained import Pretrained
from baselines.kgglm.recommend import fit_path_recommender
from baselines.kgglm.train import fit_walks
from kpi_bench import Context, KnowledgeGraph, LinkPredictionTask, RecommendationTask, TaskKind
from kpi_bench.errors import SubmissionError
from kpi_bench.evaluators.explanations import ENTITY

_INIT_STD = 0.02
"""Standard deviation of GPT-2's embeddings, to which rows taken from elsewhere are brought."""


class KGGLM(TaskSubmission):
    """Pre-trains a model on walks over each KG; recommends by the paths that it finds from a user, and plugs its entity rows into the
    shared heads for the other tasks."""

    data_parallel: ClassVar[bool] = True
    own_keys: ClassVar[frozenset[str]] = frozenset(
        config_keys(KgglmConfig, "kgglm_") | config_keys(KgeConfig, "kge_")
    )

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__(params)
        self.kgglm = read_config(KgglmConfig, self.params, "kgglm_")
        self.kge = read_config(KgeConfig, self.params, "kge_")
        self._pretrained: dict[str, Pretrained] = {}
        self._folder: Path | None = None

    @classmethod
    def pretrains(cls, kinds: Collection[TaskKind]) -> bool:
        return any(kind is not TaskKind.LINK_PREDICTION for kind in kinds)

    def pretrain(self, graphs: Mapping[str, KnowledgeGraph], ctx: Context) -> None:
        for name, kg in graphs.items():
            own = prefixed(ctx, f"{name}: ")  # several KGs share one process: a note names its own
            model = self._generic_model(
                PathGraph.of_kg(kg), Knowledge.of_graph(kg), self.kgglm.softmax, own, name
            )
            self._pretrained[name] = Pretrained.of_model(model)

    def save_pretrained(self, folder: Path) -> None:
        for name, pretrained in self._pretrained.items():
            pretrained.save(folder / f"{name}.safetensors")

    def load_pretrained(self, folder: Path) -> None:
        self._folder = folder

    def entity_vectors(self, kg: str, ctx: Context) -> NDArray[np.float32]:
        return self._of_kg(kg).entity_vectors()

    def recommend(self, task: RecommendationTask, ctx: Context) -> FittedRecommender:
        if self.kgglm.recommend == "vectors":
            return super().recommend(task, ctx)
        kg = ctx.graphs[task.spec.kg]
        graph = TaskGraph.of_task(task, kg, collaborative=self.kgglm.collaborative)
        model = self._model(graph.graph, graph.kinds(), self.kgglm.softmax, ctx)
        self._of_kg(kg.name).start(model, graph.entities)
        return fit_path_recommender(task, graph, model.to(ctx.device), self.kgglm, self.recommender, ctx)

    def adapt_link_prediction(self, task: LinkPredictionTask, ctx: Context) -> Adapted:
        graph = PathGraph.of_edges(
            task.train.heads,
            task.train.relations,
            task.train.tails,
            n_nodes=task.n_entities,
            n_forward=task.n_relations,
        )
        # Every entity is a candidate of a question, also where its relation never leads to.
        softmax = "type" if self.kgglm.softmax == "range" else self.kgglm.softmax
        model = self._generic_model(graph, Knowledge.of_task(task), softmax, ctx, task.spec.name)
        return fit_links(task, graph, model, self.kgglm, ctx)

    def _generic_model(
        self, graph: PathGraph, kg: Knowledge, softmax: str, ctx: Context, name: str
    ) -> PathLM:
        """A model trained on walks over a graph of entities."""
        kg.require_triples(name)
        config = self.kgglm
        model = self._model(graph, np.full(graph.n_nodes, ENTITY), softmax, ctx)
        if config.init == "kge":
            embedding = train_kge(kg, self.kge, ctx, description=f"{name}: {self.kge.model}")
            _take_rows(model, embedding.entities.detach().cpu())
        model.to(ctx.device)
        fit_walks(model, graph, config.pretrain_epochs, config, ctx, description=f"{name}: walks")
        return model

    def _model(self, graph: PathGraph, kinds: NDArray[np.int64], softmax: str, ctx: Context) -> PathLM:
        config = self.kgglm
        shape = BodyShape(config.hidden, config.layers, config.heads, config.dropout, config.positions)
        return PathLM(
            graph.ranges,
            kinds,
            graph.n_relations,
            shape,
            softmax=softmax,
            generator=torch.Generator().manual_seed(ctx.seed),
        )

    def _of_kg(self, kg: str) -> Pretrained:
        if kg in self._pretrained:
            return self._pretrained[kg]
        if self._folder is None:
            raise SubmissionError(f"{type(self).__name__} has no model of KG {kg!r}: nothing was pre-trained")
        return Pretrained.load(self._folder / f"{kg}.safetensors")


def _take_rows(model: PathLM, rows: torch.Tensor) -> None:
    """Start the nodes from rows ``[n_nodes, d]`` of another model, centred and scaled.

    Raises:
        SubmissionError: the widths differ.
    """
    if rows.shape != model.nodes.shape:
        raise SubmissionError(
            f"kgglm_init = 'kge' needs embeddings as wide as the model: kge_dim gives {rows.shape[1]} numbers, kgglm_hidden is {model.nodes.shape[1]}"
        )
    rows = rows - rows.mean(0)
    with torch.no_grad():
        model.nodes.copy_(rows * (_INIT_STD / rows.square().mean().sqrt().clamp_min(1e-12)))
