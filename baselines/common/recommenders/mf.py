"""Matrix factorisation trained with BPR (arXiv 1205.2618), the backbone that MuDoK calls CF."""

from __future__ import annotations

from torch import Tensor

from baselines.common.recommenders.base import Recommender


class MatrixFactorisation(Recommender):
    """The embeddings are the factors."""

    def factors(self, item_inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.user_table, item_inputs
