"""LightGCN (arXiv 2002.02126): the mean over layers of propagated embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.common.propagation import Kernel, Propagation
from baselines.common.recommenders.base import Recommender
from kpi_bench import Csr


class GraphRecommender(Recommender):
    """A backbone that propagates over the train graph; with ``edge_keep`` < 1 a fresh subset of edges carries each training step."""

    def build(self, train: Csr, generator: torch.Generator, device: torch.device) -> None:
        self._propagation = Propagation(train, device, self.config.propagation)
        self._edge_generator = torch.Generator(device=device)
        self._edge_generator.manual_seed(generator.initial_seed())

    def _step_kernel(self) -> Kernel | None:
        """The edges of one training step, or None: all of them."""
        if not self.training or self.config.edge_keep >= 1:
            return None
        return self._propagation.dropped(self.config.edge_keep, self._edge_generator)


class LightGCN(GraphRecommender):
    """``layers`` rounds of propagation."""

    def factors(self, item_inputs: Tensor) -> tuple[Tensor, Tensor]:
        nodes = torch.cat([self.user_table, item_inputs])
        final = self._propagation.mean(nodes, self.config.layers, kernel=self._step_kernel())
        return final[: len(self.user_table)], final[len(self.user_table) :]
