"""Link prediction by a language model: the node that follows "head, relation"."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from baselines.common.kge.scoring import LinkValidation
from baselines.common.paths.graph import PathGraph
from baselines.common.top_k import row_blocks
from baselines.kgglm.config import KgglmConfig
from baselines.kgglm.model import PathLM
from baselines.kgglm.pretrained import Pretrained
from baselines.kgglm.train import fit_paths
from kpi_bench import Context, LinkPredictionQueries, LinkPredictionTask, Predictions, Queries
from kpi_bench.errors import SubmissionError


def fit_links(
    task: LinkPredictionTask, graph: PathGraph, model: PathLM, config: KgglmConfig, ctx: Context
) -> AdaptedLinks:
    """Fine-tune ``model`` on the train triples as paths of one hop, both ways, stopping on valid.

    Raises:
        SubmissionError: no train triple, or training diverged.
    """
    heads = np.repeat(np.arange(graph.n_nodes, dtype=np.int32), graph.degrees())
    triples = np.stack([heads, graph.relations, graph.neighbours], axis=1)
    adapted = AdaptedLinks(model, task.n_relations)
    validation = LinkValidation(task.train.array(), task.valid.array(), task.n_entities, task.n_relations)
    fit = fit_paths(
        model,
        lambda epoch: [triples],
        config.epochs,
        config,
        ctx,
        description=f"{task.spec.name}: triples",
        evaluate=(lambda: validation.mrr(adapted.blocks(*validation.queries))) if len(task.valid) else None,
        metric="valid_mrr",
    )
    if len(task.valid):
        ctx.note("valid_mrr", fit.best_score)
    return adapted


class AdaptedLinks:
    """Scores all entities as what follows an entity and a relation."""

    def __init__(self, model: PathLM, n_relations: int) -> None:
        self.model, self._n_relations = model, n_relations
        self.total_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.trainable_parameters = self.kept_parameters = self.total_parameters

    def predict(self, queries: Queries, ctx: Context) -> Predictions:
        """Blocks of float32 rows; direction 1 asks the relation backwards."""
        if not isinstance(queries, LinkPredictionQueries):
            raise SubmissionError(f"a model of links cannot answer {type(queries).__name__}")
        return self.blocks(queries.entities, queries.relations + queries.directions * self._n_relations)

    def blocks(
        self, entities: NDArray[np.int64], relations: NDArray[np.int64]
    ) -> Iterator[NDArray[np.float32]]:
        """Scores of all nodes, float32 ``[rows, n_nodes]``, for queries int64 ``[n]``; relations from ``n_relations`` on run backwards."""
        device = self.model.nodes.device
        prompts = torch.from_numpy(np.stack([entities, relations], axis=1))
        for rows in row_blocks(len(prompts), len(self.model.nodes)):
            with torch.inference_mode():
                hidden = self.model.hidden(prompts[rows].to(device))[:, -1].float()
                yield (hidden @ self.model.nodes.T).cpu().numpy()

    def export(self, folder: Path) -> None:
        """The model."""
        Pretrained.of_model(self.model).save(folder / "paths.safetensors")
