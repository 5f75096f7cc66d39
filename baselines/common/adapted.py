"""Adapted tasks of the shared heads: they answer queries and write what must be shipped to serve them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from baselines.common.classify import FittedClassifier
from baselines.common.recommenders.fit import FittedRecommender
from baselines.common.top_k import rank_by_one_score
from kpi_bench import ClassificationQueries, Context, Csr, Predictions, Queries, RecommendationQueries, TopK
from kpi_bench.errors import SubmissionError
from kpi_bench.evaluators.ranking import top_k_from_factors


class AdaptedRecommender:
    """Ranks by inner products; users without a train item, whose factors mean nothing, get the most popular items."""

    def __init__(self, fitted: FittedRecommender, train: Csr) -> None:
        self._users, self._items = fitted.user_factors, fitted.item_factors
        self._known = train.lengths() > 0
        self._popularity = np.bincount(train.indices, minlength=train.n_columns).astype(np.float32)
        self.total_parameters = self.kept_parameters = fitted.total_parameters
        self.trainable_parameters = fitted.trainable_parameters

    def predict(self, queries: Queries, ctx: Context) -> Predictions:
        """A :class:`TopK` of all queried users."""
        if not isinstance(queries, RecommendationQueries):
            raise SubmissionError(f"a recommender cannot answer {type(queries).__name__}")
        best = top_k_from_factors(
            self._users.numpy()[queries.users],
            self._items.numpy(),
            queries.exclude,
            queries.k,
            queries.tie_order,
            device=ctx.device,
        )
        ranked = TopK(best.items, best.scores)
        new = np.flatnonzero(~self._known[queries.users])
        if len(new):
            part = RecommendationQueries(
                queries.users[new], queries.exclude.select(new), queries.k, queries.tie_order
            )
            popular = rank_by_one_score(part, self._popularity)
            ranked.items[new], ranked.scores[new] = popular.items, popular.scores
        return ranked

    def export(self, folder: Path) -> None:
        """Final factors and item popularity: all that serving reads."""
        tensors = {
            "users": self._users,
            "items": self._items,
            "popularity": torch.from_numpy(self._popularity),
        }
        save_file(tensors, folder / "recommender.safetensors")


class AdaptedClassifier:
    """Class probabilities from text and entity."""

    def __init__(self, fitted: FittedClassifier) -> None:
        self._fitted = fitted
        self.total_parameters = self.kept_parameters = fitted.total_parameters
        self.trainable_parameters = fitted.trainable_parameters

    def predict(self, queries: Queries, ctx: Context) -> Predictions:
        """Probabilities, float64 ``[n, n_classes]``."""
        if not isinstance(queries, ClassificationQueries):
            raise SubmissionError(f"a classifier cannot answer {type(queries).__name__}")
        return self._fitted.scores(queries.texts, queries.entities)

    def export(self, folder: Path) -> None:
        """The head with its plug, and the encoder where it was tuned; a frozen public encoder is named, not copied."""
        model = self._fitted.model
        tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(tensors, folder / "classifier.safetensors")
        (folder / "encoder.json").write_text(
            json.dumps({"encoder": model.encoder.name, "tuned": model.encoder_model is not None}, indent=1)
        )
