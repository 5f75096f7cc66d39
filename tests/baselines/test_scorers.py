"""Scorers against each other and against sorting; NeuMF against its definition pair by pair; LR-GCCF against the dense operator."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from baselines.common import scorers
from baselines.common.plugs import FrozenVectors
from baselines.common.recommenders.base import RecommenderConfig
from baselines.common.recommenders.gccf import GCCF
from baselines.common.recommenders.ncf import NeuMF
from baselines.common.sampling import PairBatch
from baselines.common.scorers import DecoderScorer, FactorScorer, is_finite
from kpi_bench import Csr, RecommendationQueries
from kpi_bench.errors import SubmissionError
from kpi_bench.evaluators.ranking import tie_order

CPU = torch.device("cpu")
N_USERS, N_ITEMS = 31, 23


class InnerProduct(nn.Module):
    """A decoder that is a :class:`FactorScorer`; it keeps the sizes of what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        self.asked.append(len(users) * len(items))
        return (users * items).sum(-1)


def matrix(seed: int, density: float = 0.15) -> Csr:
    users, items = np.nonzero(np.random.default_rng(seed).random((N_USERS, N_ITEMS)) < density)
    return Csr.from_pairs(users, items, (N_USERS, N_ITEMS))


def tables(seed: int) -> tuple[Tensor, Tensor]:
    """Small integers: exact in every order of summation, and full of ties."""
    rng = np.random.default_rng(seed)
    users, items = (torch.from_numpy(rng.integers(-2, 3, (n, 4))).float() for n in (N_USERS, N_ITEMS))
    return users, items


def test_a_decoder_ranks_like_factors_in_blocks_of_few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorers, "_PAIRS", 3 * N_ITEMS)
    decoder = InnerProduct()
    by_factors, by_decoder = FactorScorer(*tables(0)), DecoderScorer(*tables(0), decoder)
    users = np.array([4, 30, 4, 0, 17, 9, 2])
    train, order = matrix(1), tie_order(N_ITEMS, 0)
    both = matrix(2).row_ids() * N_ITEMS + matrix(2).indices
    fresh = np.setdiff1d(both, train.row_ids() * N_ITEMS + train.indices)
    positives = Csr.from_pairs(fresh // N_ITEMS, fresh % N_ITEMS, (N_USERS, N_ITEMS)).select(users)
    asked = (users, positives, train.select(users), order)
    ranks = by_decoder.ranks(*asked)
    assert ranks.tolist() == by_factors.ranks(*asked).tolist()
    assert len(ranks) == positives.nnz > 0
    queries = RecommendationQueries(users, train.select(users), 5, order)
    left, right = by_decoder.top_k(queries), by_factors.top_k(queries)
    assert np.array_equal(left.items, right.items)
    assert np.array_equal(left.scores, right.scores)
    assert max(decoder.asked) <= 3 * N_ITEMS


def test_lists_are_the_sorted_scores() -> None:
    users, items = tables(3)
    order = tie_order(N_ITEMS, 1)
    queries = RecommendationQueries(np.arange(N_USERS), matrix(4), 6, order)
    top = FactorScorer(users, items).top_k(queries)
    for user, row in enumerate((users @ items.T).tolist()):
        allowed = np.setdiff1d(np.arange(N_ITEMS), queries.exclude.row(user))
        assert top.items[user].tolist() == sorted(allowed, key=lambda i: (-row[i], order[i]))[:6]


@pytest.mark.parametrize("broken", ["users", "items", "decoder.head"])
def test_one_nan_anywhere_is_seen(broken: str) -> None:
    scorer = neumf(matrix(0)).scorer()
    assert is_finite(scorer)
    scorer.tensors()[broken].flatten()[-1] = torch.nan
    assert not is_finite(scorer)


def test_a_moved_scorer_no_longer_follows_training() -> None:
    model = neumf(matrix(0))
    scorer = model.scorer().to("cpu")
    before = {name: tensor.clone() for name, tensor in scorer.tensors().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert before.keys() >= {"users", "items", "decoder.head", "decoder.bias"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in scorer.tensors().items())


VECTORS = np.random.default_rng(5).normal(size=(N_ITEMS, 3)).astype(np.float32)


def neumf(train: Csr, layers: int = 2, plug: FrozenVectors | None = None, reg: float = 0.0) -> NeuMF:
    config = RecommenderConfig(dim=4, layers=layers, init_std=1.0, reg=reg, plug_scale=0.5)
    generator = torch.Generator().manual_seed(1)
    model = NeuMF(train, config, plug=plug, generator=generator, device=CPU)
    with torch.no_grad():  # biases start at zero, where a misplaced one would not be seen
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def slow_logit(model: NeuMF, user: int, item: int) -> Tensor:
    """NeuMF as its paper draws it: the layers over the concatenated pair."""
    user_row, item_row = model.user_table[user], model.item_table[item]
    item_mlp = item_row[4:]
    if model.projection is not None:
        item_mlp = item_mlp + model.projection(torch.tensor([item]))[0]
    hidden = torch.relu(model.first(torch.cat([user_row[4:], item_mlp])))
    for layer in model.decoder.layers:
        hidden = torch.relu(layer(hidden))
    both = torch.cat([user_row[:4] * item_row[:4], hidden])
    return torch.cat([model.gmf_head, model.decoder.head]) @ both + model.decoder.bias


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("plug", [None, FrozenVectors(VECTORS)])
def test_neumf_scores_and_loss_are_its_definition(layers: int, plug: FrozenVectors | None) -> None:
    model = neumf(matrix(0), layers, plug, reg=0.3)
    assert len(model.decoder.layers) == layers - 1
    slow = torch.stack(
        [torch.stack([slow_logit(model, u, i) for i in range(N_ITEMS)]) for u in range(N_USERS)]
    )
    block = model.scorer()._block(np.arange(N_USERS))
    torch.testing.assert_close(torch.from_numpy(block), slow.detach(), rtol=1e-4, atol=1e-5)

    generator = torch.Generator().manual_seed(2)
    users, positives = (torch.randint(n, (9,), generator=generator) for n in (N_USERS, N_ITEMS))
    negatives = torch.randint(N_ITEMS, (9, 3), generator=generator)
    bce = nn.functional.binary_cross_entropy_with_logits
    chosen = slow[users]
    right, wrong = chosen.gather(1, positives[:, None]), chosen.gather(1, negatives)
    drawn = torch.cat([positives[:, None], negatives], 1)
    inputs = model.item_inputs()
    norm = model.user_table[users].square().sum() + inputs[drawn].square().sum()
    expected = bce(right, torch.ones_like(right)) + bce(wrong, torch.zeros_like(wrong)) + 0.3 * norm / 18
    loss = model.loss(PairBatch(users, positives, negatives))
    torch.testing.assert_close(loss, expected)
    fast, twin = (torch.autograd.grad(value, list(model.parameters())) for value in (loss, expected))
    for left, other in zip(fast, twin, strict=True):
        torch.testing.assert_close(left, other, rtol=1e-4, atol=1e-6)


def test_a_plug_joins_the_mlp_half_of_neumf_alone() -> None:
    model = neumf(matrix(0), plug=FrozenVectors(VECTORS))
    added = (model.item_inputs() - model.item_table).detach()
    assert torch.equal(added[:, :4], torch.zeros(N_ITEMS, 4))
    assert bool((added[:, 4:] != 0).all())


def test_neumf_without_a_layer_is_refused() -> None:
    with pytest.raises(SubmissionError, match="rec_layers = 0"):
        neumf(matrix(0), layers=0)


def dense_gccf(train: Csr, inputs: Tensor, layers: int) -> Tensor:
    n = train.n_rows + train.n_columns
    looped = torch.eye(n, dtype=torch.float64)
    rows, columns = torch.from_numpy(train.row_ids()), torch.from_numpy(train.indices.astype(np.int64))
    looped[rows, columns + train.n_rows] = looped[columns + train.n_rows, rows] = 1
    root = looped.sum(1).rsqrt()
    layer = root[:, None] * looped * root
    return torch.cat([torch.matrix_power(layer, k) @ inputs.double() for k in range(layers + 1)], 1)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_gccf_concatenates_the_layers_of_the_graph_with_self_loops(layers: int) -> None:
    train = matrix(6, 0.06)
    assert (train.lengths() == 0).any(), "the case must hold users without an edge"
    config = RecommenderConfig(dim=5, layers=layers, init_std=1.0, propagation="torch")
    model = GCCF(train, config, plug=None, generator=torch.Generator().manual_seed(0), device=CPU)
    model.train()
    nodes = torch.cat(model())
    inputs = torch.cat([model.user_table, model.item_table]).detach().requires_grad_()
    expected = dense_gccf(train, inputs, layers)
    torch.testing.assert_close(nodes, expected.float())
    weight = torch.randn(nodes.shape, generator=torch.Generator().manual_seed(1))
    (nodes * weight).sum().backward()
    (expected * weight).sum().backward()
    got: Mapping[str, Tensor] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    torch.testing.assert_close(torch.cat([got["user_table"], got["item_table"]]), inputs.grad)


def test_gccf_drops_edges_while_training_only() -> None:
    config = RecommenderConfig(dim=5, layers=2, init_std=1.0, edge_keep=0.5)
    model = GCCF(matrix(6), config, plug=None, generator=torch.Generator().manual_seed(0), device=CPU)
    model.eval()
    assert torch.equal(model()[0], model()[0])
    model.train()
    assert not torch.equal(model()[0], model()[0])
