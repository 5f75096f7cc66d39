"""What every backbone is: tables of users and items, an optional plug, a loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.common.device import counts
from baselines.common.plugs import Plug, Projection
from baselines.common.sampling import PairBatch
from baselines.common.scorers import FactorScorer, Scorer
from kpi_bench import Csr
from kpi_bench.errors import SubmissionError


@dataclass(frozen=True)
class RecommenderConfig:
    """Parameters ``rec_*`` of a submission; the same for all methods of a comparison.

    ``batch_size`` 0 means: train pairs / ``steps_per_epoch``, between 1,024 and 65,536. ``valid_users`` 0 means all
    (a fixed random subset keeps early stopping cheap). ``plug_scale`` is s in item' = e + s (W_o z + b_o).

    Backbones with a contrastive loss (SimGCL, DCCF, LightGCL) read ``contrast`` (its weight) and ``temperature``; SimGCL reads
    ``noise``, DCCF ``intents``, LightGCL ``svd_rank``. ``plug_in_contrast_only`` (SimGCL): the plug enters the contrastive loss alone,
    ranking and evaluation run on the plain embeddings, as MuDoK's authors code it.
    """

    dim: int = 64
    layers: int = 2
    epochs: int = 60
    eval_every: int = 3
    patience: int = 4
    batch_size: int = 0
    steps_per_epoch: int = 24
    lr: float = 5e-3
    reg: float = 1e-2
    negatives: int = 1
    edge_keep: float = 1.0
    init_std: float = 0.01
    plug_scale: float = 0.1
    valid_metric: str = "ndcg@20"
    valid_users: int = 6000
    propagation: str = "auto"
    contrast: float = 0.01
    temperature: float = 0.2
    noise: float = 0.1
    intents: int = 128
    svd_rank: int = 5
    plug_in_contrast_only: bool = False

    def resolved_batch_size(self, n_pairs: int) -> int:
        """Pairs in a batch for a train split of ``n_pairs``."""
        return self.batch_size or min(65536, max(1024, -(-n_pairs // self.steps_per_epoch)))


class Recommender(nn.Module):
    """Scores are inner products of the two tables that :meth:`factors` makes of the embeddings, unless :meth:`scorer` says otherwise.

    ``train`` is the users x items matrix; ``plug`` gives a vector for each item or is None.

    Raises:
        SubmissionError: ``config`` asks for ``plug_in_contrast_only`` and the backbone has no such mode.
    """

    can_plug_in_contrast_only = False

    def __init__(
        self,
        train: Csr,
        config: RecommenderConfig,
        *,
        plug: Plug | None,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__()
        if config.plug_in_contrast_only and not self.can_plug_in_contrast_only:
            raise SubmissionError(
                f"plug_in_contrast_only is for the backbone simgcl, not for {type(self).__name__}"
            )
        self.config = config
        # Drawn on the CPU so that a seed means the same start on every device.
        self.user_table = self._table(train.n_rows, generator)
        self.item_table = self._table(train.n_columns, generator)
        self.projection = None if plug is None else Projection(plug, config.dim, config.plug_scale, generator)
        self.build(train, generator, device)
        self.to(device)

    def build(self, train: Csr, generator: torch.Generator, device: torch.device) -> None:
        """What a backbone adds to the tables, drawn after them."""

    def factors(self, item_inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Final user ``[U, dim]`` and item ``[I, dim]`` factors from :meth:`item_inputs` and the user table."""
        raise NotImplementedError

    def forward(self) -> tuple[Tensor, Tensor]:
        """:meth:`factors` of the current embeddings."""
        return self.factors(self.item_inputs())

    def scorer(self) -> Scorer:
        """What ranks with the current embeddings."""
        return FactorScorer(*(table.detach() for table in self()))

    def item_inputs(self) -> Tensor:
        """Item embeddings with what the plug adds, float32 ``[I, dim]``."""
        return self.item_table if self.projection is None else self.item_table + self.projection()

    def loss(self, batch: PairBatch) -> Tensor:
        """What a step minimises: :meth:`ranking` and :meth:`penalty`."""
        inputs = self.item_inputs()
        users, items = self.factors(inputs)
        return self.ranking(users, items, batch) + self.penalty(inputs, batch)

    def ranking(self, users: Tensor, items: Tensor, batch: PairBatch) -> Tensor:
        """Bayesian personalised ranking (arXiv 1205.2618) over factors ``[U, d]`` and ``[I, d]``."""
        scores = (
            functional.embedding(batch.users, users)[:, None]
            * functional.embedding(drawn_items(batch), items)
        ).sum(-1)
        return functional.softplus(scores[:, 1:] - scores[:, :1]).mean()

    def penalty(self, inputs: Tensor, batch: PairBatch) -> Tensor:
        """``reg`` times half the squared norm of the batch's inputs, a pair.

        An item's input is its embedding with what the plug adds: a plug is held to the same scale as an embedding.
        """
        if self.config.reg == 0:
            return inputs.new_zeros(())
        norm = _drawn_norm(self.user_table, batch.users) + _drawn_norm(inputs, drawn_items(batch).flatten())
        return self.config.reg * norm / (2 * len(batch.users))

    def _table(self, rows: int, generator: torch.Generator) -> nn.Parameter:
        return nn.Parameter(torch.randn(rows, self.config.dim, generator=generator) * self.config.init_std)


def drawn_items(batch: PairBatch) -> Tensor:
    """Positives, then negatives, int64 ``[b, 1 + n]``."""
    return torch.cat([batch.positives[:, None], batch.negatives], dim=1)


def _drawn_norm(table: Tensor, rows: Tensor) -> Tensor:
    """Sum of the squared norms of ``table[rows]``, counted per row of the table: cheaper than gathering the rows again."""
    return counts(rows, len(table)).to(table.dtype) @ table.square().sum(1)
