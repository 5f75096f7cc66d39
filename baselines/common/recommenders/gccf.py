"""LR-GCCF (arXiv 2001.10167): linear residual graph convolution."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.common.recommenders.lightgcn import GraphRecommender
from kpi_bench import Csr


class GCCF(GraphRecommender):
    """Factors are the outputs of all layers side by side: their inner product is the sum over layers that the paper calls residual
    preference prediction. A layer is ``(D+I)^-1/2 (A+I) (D+I)^-1/2``.

    As in the authors' repository (newlei/LR-GCCF) layers have no weight matrix. The GCCF of MuDoK's repository has no self-loops
    either: its layer is LightGCN's. The penalty is on embeddings, where the authors' repository takes all layers' outputs.
    """

    def build(self, train: Csr, generator: torch.Generator, device: torch.device) -> None:
        super().build(train, generator, device)
        degree = torch.cat(
            [
                torch.from_numpy(train.lengths()),
                torch.from_numpy(train.indices.astype("int64")).bincount(minlength=train.n_columns),
            ]
        )
        self._itself = (1 / (degree + 1.0))[:, None].to(device)
        # Propagation divides by roots of D; this puts those of D + I in their place.
        self._scale = (degree / (degree + 1.0)).sqrt()[:, None].to(device)

    def factors(self, item_inputs: Tensor) -> tuple[Tensor, Tensor]:
        kernel = self._step_kernel()
        outputs = [torch.cat([self.user_table, item_inputs])]
        for _ in range(self.config.layers):
            x = outputs[-1]
            neighbours = self._propagation.apply(x * self._scale, kernel=kernel) * self._scale
            outputs.append(neighbours + x * self._itself)
        final = torch.cat(outputs, 1)
        return final[: len(self.user_table)], final[len(self.user_table) :]
