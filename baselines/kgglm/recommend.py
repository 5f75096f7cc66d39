"""Recommendation by paths: fine-tuning on a task's users, and what ranks items with the paths found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.common.paths.epochs import pieces
from baselines.common.paths.interactions import TaskGraph
from baselines.common.paths.random_numbers import stream
from baselines.common.paths.user_paths import UserPaths
from baselines.common.recommenders.base import RecommenderConfig
from baselines.common.recommenders.fit import FittedRecommender
from baselines.common.validation import RankingValidation
from baselines.kgglm.config import KgglmConfig
from baselines.kgglm.decode import Decoded, Decoding, PathDecoder
from baselines.kgglm.model import PathLM
from baselines.kgglm.train import fit_paths, fit_walks
from kpi_bench import Context, Csr, ExplainedTopK, RecommendationQueries, RecommendationTask
from kpi_bench.evaluators.recommendation import ranks_in_lists

Ints = NDArray[np.int64]

VALID_LENGTH = 100
"""Items a user ranked on valid: no cutoff of the benchmark is larger."""


def fit_path_recommender(
    task: RecommendationTask,
    graph: TaskGraph,
    model: PathLM,
    config: KgglmConfig,
    recommender: RecommenderConfig,
    ctx: Context,
) -> FittedRecommender:
    """Fine-tune ``model`` on paths from each user to the user's train items, stopping on valid as all recommenders do; first, where
    ``generic_epochs`` asks for it, train it on walks from every node of the graph.

    Raises:
        SubmissionError: no such path exists, or training diverged.
    """
    name = task.spec.name
    ctx.note("items_in_kg", int((graph.items < len(graph.entities)).sum()))
    fit_walks(model, graph.graph, config.generic_epochs, config, ctx, description=f"{name}: walks")
    sampler = UserPaths(
        graph.graph,
        task.train_matrix,
        graph.items,
        graph.first_user,
        weighting=config.weighting,
        device=ctx.device,
    )
    users = np.flatnonzero(task.train_matrix.lengths())
    seed = stream("user paths", ctx.seed)

    def sample(epoch: int) -> Iterator[NDArray[np.int32]]:
        start = epoch * config.paths * len(users)
        for first, block in pieces(users, config.paths):
            yield sampler.sample(block, config.hops, seed=seed, first=start + first)

    scorer = PathScorer.of(model, graph, config, ctx.seed)
    validation = RankingValidation(task, recommender.valid_metric, max_users=recommender.valid_users)
    fit = fit_paths(
        model,
        sample,
        config.epochs,
        config,
        ctx,
        description=f"{name}: user paths",
        evaluate=lambda: validation.score(scorer),
        metric=f"valid_{recommender.valid_metric}",
    )
    total = sum(parameter.numel() for parameter in model.parameters())
    return FittedRecommender(scorer, total, total, fit.best_score)


@dataclass(frozen=True, eq=False)
class PathScorer:
    """Ranks the items that decoding finds; the others are in no list."""

    decoder: PathDecoder
    graph: TaskGraph
    explained: int
    seed: int

    @classmethod
    def of(cls, model: PathLM, graph: TaskGraph, config: KgglmConfig, seed: int) -> PathScorer:
        decoding = Decoding(config.hops, config.beams, config.decode, config.rank_by)
        decoder = PathDecoder(model, graph.graph, graph.items, graph.first_user, graph.interacted, decoding)
        return cls(decoder, graph, config.explained, seed)

    def ranks(self, users: Ints, positives: Csr, exclude: Csr, order: Ints) -> Ints:
        found = self._decode(users, exclude, VALID_LENGTH, order).items
        row, place = np.nonzero(found >= 0)
        listed = row * len(order) + found[row, place]
        return ranks_in_lists(positives.row_ids() * len(order) + positives.indices, listed, place + 1)

    def top_k(self, queries: RecommendationQueries) -> ExplainedTopK:
        """Lists with the paths of their first ``explained`` items."""
        found = self._decode(queries.users, queries.exclude, queries.k, queries.tie_order)
        row, place = np.nonzero(found.items[:, : self.explained] >= 0)
        paths = self.graph.explanations(
            queries.users[row], found.items[row, place], found.paths[row, place], found.log_probs[row, place]
        )
        return ExplainedTopK(found.items, found.scores, paths)

    def tensors(self) -> Mapping[str, Tensor]:
        """The model and the graph that decoding walks over."""
        graph = self.graph.graph
        arrays = {
            "graph.indptr": graph.indptr,
            "graph.neighbours": graph.neighbours,
            "graph.relations": graph.relations,
            "graph.entities": self.graph.entities,
            "graph.items": self.graph.items,
        }
        model = {name: value.detach() for name, value in self.decoder.model.named_parameters()}
        return model | {name: torch.from_numpy(array) for name, array in arrays.items()}

    def to(self, device: str) -> PathScorer:
        self.decoder.to(device)
        return self

    def _decode(self, users: Ints, exclude: Csr, k: int, order: Ints) -> Decoded:
        return self.decoder.decode(users, exclude, k, order, stream("decoding", self.seed))
