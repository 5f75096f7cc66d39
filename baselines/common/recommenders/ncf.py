"""NeuMF, the neural collaborative filtering that MuDoK calls NCF (arXiv 1708.05031, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.common.recommenders.base import Recommender, RecommenderConfig, drawn_items
from baselines.common.sampling import PairBatch
from baselines.common.scorers import DecoderScorer
from kpi_bench import Csr
from kpi_bench.errors import SubmissionError


class NeuMF(Recommender):
    """Logit of (u, i): ``h . [p_u * q_i ; MLP([m_u ; n_i])]`` plus a bias, with ``layers`` ReLU layers of width ``dim``.

    A table row is a GMF embedding, then an MLP embedding, ``dim`` each; a plug joins the MLP half of the items alone. Layers as in
    MuDoK's repository, where ``layers`` is always 2; the paper halves the width at each layer and pre-trains the branches apart.

    The MLP's first layer is linear in u and in i before its ReLU, so :meth:`factors` applies it, as it does h's GMF half, to whole
    tables; what remains of a pair is the :class:`_Decoder`'s.
    """

    def build(self, train: Csr, generator: torch.Generator, device: torch.device) -> None:
        config = self.config
        if config.layers < 1:
            raise SubmissionError(f"rec_layers = {config.layers}: the ncf backbone needs at least 1")
        dim = config.dim
        self.first = _linear(2 * dim, dim, generator)
        head = _linear(2 * dim, 1, generator)
        self.gmf_head = nn.Parameter(head.weight.detach()[0, :dim].clone())
        self.decoder = _Decoder(config, head.weight.detach()[0, dim:].clone(), generator)

    def item_inputs(self) -> Tensor:
        if self.projection is None:
            return self.item_table
        return self.item_table + functional.pad(self.projection(), (self.config.dim, 0))

    def factors(self, item_inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's tables, float32 ``[U, 2 dim]`` and ``[I, 2 dim]``: no factors of an inner product."""
        user_weight, item_weight = self.first.weight.chunk(2, 1)
        user_gmf, user_mlp = self.user_table.chunk(2, 1)
        item_gmf, item_mlp = item_inputs.chunk(2, 1)
        users = torch.cat(
            [user_gmf * self.gmf_head, functional.linear(user_mlp, user_weight, self.first.bias)], 1
        )
        return users, torch.cat([item_gmf, functional.linear(item_mlp, item_weight)], 1)

    def ranking(self, users: Tensor, items: Tensor, batch: PairBatch) -> Tensor:
        """Binary cross-entropy of positives to 1 plus that of negatives to 0, each a mean (arXiv 1708.05031, equation 7).

        No ranking loss: MuDoK's repository logs it as BPR, but trains NCF with this one too.
        """
        chosen = functional.embedding(batch.users, users)[:, None]
        logits: Tensor = self.decoder(chosen, functional.embedding(drawn_items(batch), items))
        return functional.softplus(-logits[:, 0]).mean() + functional.softplus(logits[:, 1:]).mean()

    def scorer(self) -> DecoderScorer:
        users, items = self()
        return DecoderScorer(users.detach(), items.detach(), self.decoder)

    def _table(self, rows: int, generator: torch.Generator) -> nn.Parameter:
        return nn.Parameter(super()._table(2 * rows, generator).detach().view(rows, -1))


class _Decoder(nn.Module):
    """What NeuMF does with a user and an item: user rows ``[b, 1, 2 dim]``, item rows ``[b, n, 2 dim]`` or ``[n, 2 dim]``, logits ``[b, n]``."""

    def __init__(self, config: RecommenderConfig, head: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        dim = config.dim
        self.layers = nn.ModuleList(_linear(dim, dim, generator) for _ in range(config.layers - 1))
        self.head = nn.Parameter(head)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        user_gmf, user_mlp = users.chunk(2, -1)
        item_gmf, item_mlp = items.chunk(2, -1)
        gmf = (user_gmf @ item_gmf.mT)[:, 0] if items.dim() == 2 else (user_gmf * item_gmf).sum(-1)
        hidden = (user_mlp + item_mlp).relu_()
        for layer in self.layers:
            hidden = layer(hidden).relu_()
        return gmf + hidden @ self.head + self.bias


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Xavier-uniform weights, zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
