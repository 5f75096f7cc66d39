"""LightGCL (arXiv 2302.08191): LightGCN contrasted with a view that is propagated over a low-rank copy of the graph."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from baselines.common.recommenders.base import drawn_items
from baselines.common.recommenders.contrast import check_contrast, info_nce
from baselines.common.recommenders.lightgcn import LightGCN
from baselines.common.sampling import PairBatch
from baselines.common.training import seeded
from kpi_bench import Csr
from kpi_bench.errors import SubmissionError

_OVERSAMPLED = 8
_POWER_ITERATIONS = 4


class LightGCL(LightGCN):
    """The final factors are LightGCN's. Contrast: InfoNCE between the final vectors z and the low-rank vectors g of the batch's distinct
    users, and of its distinct positive and negative items (on the layers' mean as the authors' code has it, with the cosine of the
    paper). g = mean over layers of ``x, S h_0, ..., S h_(L-1)`` with h_l = A_hat^l x and S the rank ``svd_rank`` part of A_hat.

    The plug enters the item inputs x, and so both views, all layers, ranking and evaluation. In the code of MuDoK's authors it enters
    the first propagation from items to users alone: the users' layer 1 carries it on, but not the items' own layer 0 nor the first
    low-rank layer.

    Raises:
        SubmissionError: ``svd_rank`` is below 1, or a parameter that :func:`check_contrast` refuses.
    """

    def build(self, train: Csr, generator: torch.Generator, device: torch.device) -> None:
        check_contrast(self.config)
        if self.config.svd_rank < 1:
            raise SubmissionError(f"svd_rank = {self.config.svd_rank} must be at least 1")
        super().build(train, generator, device)
        users, items = low_rank(train, self.config.svd_rank, seed=generator.initial_seed())
        self._user_basis, self._item_basis = users.to(device), items.to(device)

    def loss(self, batch: PairBatch) -> Tensor:
        """Ranking, penalty and ``contrast`` times the contrastive loss."""
        inputs = self.item_inputs()
        final, view = self._views(inputs)
        n_users = len(self.user_table)
        contrast = final.new_zeros(())
        for rows in (torch.unique(batch.users), torch.unique(drawn_items(batch)) + n_users):
            pair = functional.embedding(rows, final), functional.embedding(rows, view)
            contrast = contrast + info_nce(*pair, self.config.temperature)
        return (
            self.ranking(final[:n_users], final[n_users:], batch)
            + self.penalty(inputs, batch)
            + self.config.contrast * contrast
        )

    def _views(self, item_inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Means over layers of z and of g, float32 ``[n_nodes, dim]``. Layers 1 to L of z are A_hat times layers 0 to L - 1 of z, and
        those of g are S times the same: one sum of layers serves both."""
        layers = self.config.layers
        kernel = self._step_kernel()
        nodes = torch.cat([self.user_table, item_inputs])
        below = self._propagation.mean(nodes, layers - 1, kernel=kernel) * layers
        users, items = below.tensor_split([len(self.user_table)])
        view = torch.cat(
            [self._user_basis @ (self._item_basis.T @ items), self._item_basis @ (self._user_basis.T @ users)]
        )
        final = nodes + self._propagation.apply(below, kernel=kernel)
        return final / (layers + 1), (nodes + view) / (layers + 1)


def low_rank(matrix: Csr, rank: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """The truncated SVD of the normalised matrix ``D_u^-1/2 R D_i^-1/2`` as ``P Q^T``: float32 P ``[n_rows, rank]`` and Q ``[n_columns, rank]``
    on the CPU, each with the square roots of the singular values. Randomised (arXiv 0909.4061) and fixed by ``seed``; the rank is at
    most the matrix's smaller side."""
    rows, columns = torch.from_numpy(matrix.row_ids()), torch.from_numpy(matrix.indices.astype("int64"))
    row_degree = torch.bincount(rows, minlength=matrix.n_rows)
    column_degree = torch.bincount(columns, minlength=matrix.n_columns)
    values = (row_degree[rows] * column_degree[columns]).float().rsqrt()
    normal = torch.sparse_coo_tensor(
        torch.stack([rows, columns]),
        values,
        (matrix.n_rows, matrix.n_columns),
        is_coalesced=True,
        check_invariants=False,
    )
    limit = min(normal.shape)
    with seeded(torch.device("cpu"), seed):
        left, singular, right = torch.svd_lowrank(
            normal, q=min(rank + _OVERSAMPLED, limit), niter=_POWER_ITERATIONS
        )
    root = singular[:rank].sqrt()
    return left[:, :rank] * root, right[:, :rank] * root
