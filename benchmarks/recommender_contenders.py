"""Ways to take training steps of the recommendation backbones on the same interactions: 40,000 users, 20,000 items, 24 steps an epoch.

``own-NAME`` is a backbone as :func:`baselines.common.recommenders.fit.fit_recommender` trains it: loss, gradients, fused Adam.
``recbole-lightgcn`` is RecBole's model and loss (its normalised matrix is made by us: that is not timed, and its own way takes minutes)
with torch's Adam, as its trainer takes it. ``plain-bpr`` and ``plain-lightgcn`` are restatements of what one writes first: embeddings,
a COO matrix, autograd, torch's Adam. All start from the same tables and take the same batches; a contender takes a step of a
training that goes on, and returns its loss.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import count
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from torch import Tensor, nn
from torch.nn import functional

from baselines.common.allocator import keep_freed_memory
from baselines.common.recommenders.base import Recommender, RecommenderConfig
from baselines.common.recommenders.fit import BACKBONES
from baselines.common.sampling import PairBatch, PairSampler
from baselines.common.training import gradient_step
from benchmarks.propagation_contenders import coo
from benchmarks.workloads import interaction_workload

CPU = torch.device("cpu")
CONFIG = RecommenderConfig(dim=64, layers=2, steps_per_epoch=24)
Step = Callable[[PairBatch], Tensor]


def backbone(name: str) -> Recommender:
    """With the tables of seed 0, in training mode."""
    generator = torch.Generator().manual_seed(0)
    return BACKBONES[name](interaction_workload(), CONFIG, plug=None, generator=generator, device=CPU).train()


def batches() -> Iterator[PairBatch]:
    """The same for all who ask: 20,834 pairs with a negative each."""
    train = interaction_workload()
    sampler = PairSampler(
        train,
        batch_size=CONFIG.resolved_batch_size(train.nnz),
        negatives=CONFIG.negatives,
        generator=torch.Generator().manual_seed(1),
        device=CPU,
    )
    return (batch for _ in count() for batch in sampler.epoch())


def own_loss(name: str) -> tuple[nn.Module, Step]:
    model = backbone(name)
    return model, model.loss


class PlainBpr(nn.Module):
    """Two embeddings; scores, softplus of their differences, squared norms of what was looked up."""

    def __init__(self) -> None:
        super().__init__()
        ours = backbone("cf")
        self.users = nn.Embedding.from_pretrained(ours.user_table.detach().clone(), freeze=False)
        self.items = nn.Embedding.from_pretrained(ours.item_table.detach().clone(), freeze=False)

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.users.weight, self.items.weight

    def forward(self, batch: PairBatch) -> Tensor:
        users, items = self.factors()
        negatives = batch.negatives[:, 0]
        u, i, j = users[batch.users], items[batch.positives], items[negatives]
        ranking = -functional.logsigmoid((u * i).sum(1) - (u * j).sum(1)).mean()
        looked_up = (self.users(batch.users), self.items(batch.positives), self.items(negatives))
        return ranking + CONFIG.reg * sum(x.square().sum() for x in looked_up) / (2 * len(u))


class PlainLightGCN(PlainBpr):
    """The same on the mean over layers of products with a sorted COO matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = coo(coalesced=True)

    def factors(self) -> tuple[Tensor, Tensor]:
        final = self.mean(torch.cat([self.users.weight, self.items.weight]))
        return final[: len(self.users.weight)], final[len(self.users.weight) :]


def plain_loss(kind: type[PlainBpr]) -> tuple[nn.Module, Step]:
    model = kind()
    return model, model


class _Data:
    """As much of a RecBole dataset as its LightGCN asks for."""

    def num(self, field: str) -> int:
        matrix = interaction_workload()
        return matrix.n_rows if field == "user_id" else matrix.n_columns

    def inter_matrix(self, form: str) -> coo_matrix:
        matrix = interaction_workload()
        ones = np.ones(matrix.nnz, dtype=np.float32)
        return coo_matrix((ones, (matrix.row_ids(), matrix.indices)), (matrix.n_rows, matrix.n_columns))


def recbole_loss() -> tuple[nn.Module, Step]:
    vars(np).setdefault("float", float)  # removed from numpy, still used by RecBole 1.2.1
    theirs: Any = importlib.import_module("recbole.model.general_recommender.lightgcn").LightGCN

    class WithOurMatrix(theirs):  # type: ignore[misc]
        def get_norm_adj_mat(self) -> Tensor:
            from benchmarks.propagation_contenders import edges

            source, target, weight, n_nodes = edges()
            ends = torch.stack([target, source])
            return torch.sparse_coo_tensor(ends, weight, (n_nodes, n_nodes), check_invariants=False)

    settings = {
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "NEG_PREFIX": "neg_",
        "device": CPU,
        "embedding_size": CONFIG.dim,
        "n_layers": CONFIG.layers,
        "reg_weight": CONFIG.reg,
        "require_pow": True,
    }
    model, ours = WithOurMatrix(settings, _Data()), backbone("cf")
    with torch.no_grad():
        model.user_embedding.weight.copy_(ours.user_table)
        model.item_embedding.weight.copy_(ours.item_table)

    def loss(batch: PairBatch) -> Tensor:
        found: Tensor = model.calculate_loss(
            {"user_id": batch.users, "item_id": batch.positives, "neg_item_id": batch.negatives[:, 0]}
        )
        return found.sum()  # its penalty is a vector of one

    return model, loss


MAKE: dict[str, Callable[[], tuple[nn.Module, Step]]] = {
    **{f"own-{name}": partial(own_loss, name) for name in BACKBONES},
    "plain-bpr": partial(plain_loss, PlainBpr),
    "plain-lightgcn": partial(plain_loss, PlainLightGCN),
    "recbole-lightgcn": recbole_loss,
}
ANSWERS = {"plain-bpr": "own-cf", "plain-lightgcn": "own-lightgcn", "recbole-lightgcn": "own-lightgcn"}
"""Which of ours has the same loss."""


def first_loss(name: str) -> tuple[float, Tensor]:
    """Loss of the first batch from the initial tables, and the gradient of the users' table."""
    model, loss = MAKE[name]()
    value = loss(next(batches()))
    value.backward()  # type: ignore[no-untyped-call]
    gradient = next(p.grad for p in model.parameters() if p.shape[0] == interaction_workload().n_rows)
    assert gradient is not None
    return value.item(), gradient


@cache
def training(name: str) -> Callable[[], float]:
    """A training that goes on from call to call."""
    keep_freed_memory()
    model, loss = MAKE[name]()
    optimizer = torch.optim.Adam(model.parameters(), lr=CONFIG.lr, fused=name.startswith("own") or None)
    step, some = gradient_step(loss, optimizer), batches()
    return lambda: float(step(next(some)))


def work(name: str) -> dict[str, int]:
    """``bytes`` that a call cannot avoid: Adam reads parameters, gradients and both moments and writes three of them; a graph's layer
    reads and writes all nodes once, forward and backward, were its cache perfect."""
    model, _ = MAKE[name]()
    size = sum(4 * p.numel() for p in model.parameters())
    layers = 0 if name in ("own-cf", "own-ncf") else CONFIG.layers
    return {"bytes": size * (7 + 4 * layers)}


CONTENDERS: dict[str, Callable[[], float]] = {
    name: partial(lambda one: training(one)(), name) for name in MAKE
}
