"""SimGCL (arXiv 2112.08679): LightGCN whose contrastive views differ by random noise on each layer's output."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from baselines.common.propagation import Kernel
from baselines.common.recommenders.contrast import check_contrast, info_nce
from baselines.common.recommenders.lightgcn import LightGCN
from baselines.common.sampling import PairBatch
from kpi_bench import Csr
from kpi_bench.errors import SubmissionError


class SimGCL(LightGCN):
    """The final factors are LightGCN's, without noise. Contrast: InfoNCE between two noisy views of the batch's distinct users, and of
    its distinct positive items. The embeddings count as layer 0 of the mean, as in LightGCN and as MuDoK runs it.

    With ``plug_in_contrast_only`` the plug enters the two views alone.

    Raises:
        SubmissionError: ``noise`` is negative, or a parameter that :func:`check_contrast` refuses.
    """

    can_plug_in_contrast_only = True

    def build(self, train: Csr, generator: torch.Generator, device: torch.device) -> None:
        check_contrast(self.config)
        if self.config.noise < 0:
            raise SubmissionError(f"noise = {self.config.noise} must not be negative")
        super().build(train, generator, device)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Final factors of the current embeddings; of the plain ones with ``plug_in_contrast_only``."""
        return self.factors(self.item_table) if self.config.plug_in_contrast_only else super().forward()

    def loss(self, batch: PairBatch) -> Tensor:
        """Ranking, penalty and ``contrast`` times the contrastive loss."""
        kernel = self._step_kernel()
        plugged = self.item_inputs()
        layers = self._layers(plugged, kernel)
        final = _mean(layers)
        inputs = self.item_table if self.config.plug_in_contrast_only else plugged
        ranked = final if inputs is plugged else _mean(self._layers(inputs, kernel))
        users, items = ranked.tensor_split([len(self.user_table)])
        contrast = self._contrast(final, self._offsets(layers, kernel), batch)
        return (
            self.ranking(users, items, batch) + self.penalty(inputs, batch) + self.config.contrast * contrast
        )

    def _layers(self, item_inputs: Tensor, kernel: Kernel | None) -> list[Tensor]:
        layers = [torch.cat([self.user_table, item_inputs])]
        for _ in range(self.config.layers):
            layers.append(self._propagation.apply(layers[-1], kernel=kernel))
        return layers

    @torch.no_grad()
    def _offsets(self, layers: list[Tensor], kernel: Kernel | None) -> tuple[Tensor, Tensor]:
        """What the noise adds to the mean over layers, in two independent draws, float32 ``[n_nodes, dim]`` each.

        Propagation is linear and the sign in the noise passes no gradient, so a view is the final factors plus a constant: the noise
        is propagated alone, without autograd and for both views side by side, and the backward pass is that of LightGCN.
        """
        total = torch.zeros_like(layers[0]).repeat(1, 2)
        offset: Tensor | None = None
        for layer in layers[1:]:
            views = layer.repeat(1, 2)
            if offset is None:
                offset = self._noise(views)
            else:
                offset = self._propagation.apply(offset, kernel=kernel)
                offset += self._noise(views.add_(offset))
            total += offset
        first, second = total.div_(len(layers)).chunk(2, dim=1)
        return first, second

    def _noise(self, views: Tensor) -> Tensor:
        """Of length ``noise`` a node and view, in the orthant of the node's vector, ``[n_nodes, 2 dim]``."""
        draw = torch.rand(views.shape, generator=self._edge_generator, device=views.device)
        each = draw.view(len(views), 2, -1)
        each.mul_(self.config.noise / each.norm(dim=2, keepdim=True))
        # Not copysign: a node without edges has zeros, and gets no noise.
        return draw.mul_(views.sign())

    def _contrast(self, final: Tensor, offsets: tuple[Tensor, Tensor], batch: PairBatch) -> Tensor:
        loss = final.new_zeros(())
        for rows in (torch.unique(batch.users), torch.unique(batch.positives) + len(self.user_table)):
            drawn = functional.embedding(rows, final)
            first, second = (drawn + offset[rows] for offset in offsets)
            loss = loss + info_nce(first, second, self.config.temperature)
        return loss


def _mean(layers: list[Tensor]) -> Tensor:
    return torch.stack(layers).mean(0)
