"""Adapted tasks of the shared heads: they answer queries and write what must be shipped to serve them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from baselines.common.classify import FittedClassifier
from baselines.common.recommenders.fit import FittedRecommender
from baselines.common.top_k import popularity, serve_new_users
from kpi_bench import ClassificationQueries, Context, Csr, Predictions, Queries, RecommendationQueries
from kpi_bench.errors import SubmissionError


class AdaptedRecommender:
    """Ranks by the fitted scores; users without a train item, whose scores mean nothing, get the most popular items."""

    def __init__(self, fitted: FittedRecommender, train: Csr) -> None:
        self._scorer = fitted.scorer
        self._train_items, self._popularity = train.lengths(), popularity(train)
        self.total_parameters = self.kept_parameters = fitted.total_parameters
        self.trainable_parameters = fitted.trainable_parameters

    def predict(self, queries: Queries, ctx: Context) -> Predictions:
        """A :class:`TopK` of all queried users."""
        if not isinstance(queries, RecommendationQueries):
            raise SubmissionError(f"a recommender cannot answer {type(queries).__name__}")
        ranked = self._scorer.to(ctx.device).top_k(queries)
        return serve_new_users(ranked, queries, self._train_items, self._popularity)

    def export(self, folder: Path) -> None:
        """The scorer's tensors, and item popularity for users without a train item."""
        # Cloned: tables may be parts of one, which safetensors refuses.
        tensors = {name: tensor.clone() for name, tensor in self._scorer.tensors().items()}
        tensors["popularity"] = torch.from_numpy(self._popularity)
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
