"""The packed encoder against transformers' own BERT layers on padded rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import BertConfig, BertModel

from baselines.mudok.encoder import PackedBert, Run, dropout, first_slots

HIDDEN, HEADS, FFN = 8, 2, 12


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def encoder(layers: int = 2, p: float = 0.1, seed: int = 0, scale: float = 20.0) -> PackedBert:
    """Weights of a size at which attention and GELU are far from linear."""
    model = PackedBert(
        hidden=HIDDEN, layers=layers, heads=HEADS, ffn=FFN, dropout=p, generator=generator(seed)
    ).double()
    g = generator(seed + 1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "LayerNorm" in name or name.endswith("bias"):
                value.add_(torch.randn(value.shape, generator=g, dtype=torch.float64), alpha=0.3)
            else:
                value.mul_(scale)
    return model.eval()


def padded(model: PackedBert, x: Tensor, groups: list[Run]) -> Tensor:
    """The same states from padded rows and an additive mask, through transformers' own layers."""
    lengths = [length for length, count, _ in groups for _ in range(count)]
    wanted = [min(read, length) for length, count, read in groups for _ in range(count)]
    longest = max(lengths)
    rows = [
        torch.cat([part, torch.full((longest - len(part), HIDDEN), 3.0, dtype=x.dtype)])
        for part in x.split(lengths)
    ]
    mask = torch.tensor([[0.0] * n + [-1e30] * (longest - n) for n in lengths], dtype=x.dtype)
    states = model.bert.encoder(torch.stack(rows), attention_mask=mask[:, None, None]).last_hidden_state
    return torch.cat([row[:n] for row, n in zip(states, wanted, strict=True)])


runs = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 7)), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(runs, st.integers(1, 3))
def test_forward_and_gradients_equal_transformers_layers(groups: list[Run], layers: int) -> None:
    model = encoder(layers)
    n = sum(length * count for length, count, _ in groups)
    x = torch.randn(n, HIDDEN, generator=generator(5), dtype=torch.float64, requires_grad=True)
    ours, theirs = model(x, groups), padded(model, x, groups)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    weights = torch.randn(ours.shape, generator=generator(6), dtype=torch.float64)
    parameters = [x, *model.bert.encoder.parameters()]
    a, b = (torch.autograd.grad((out * weights).sum(), parameters) for out in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


def test_read_slots_are_those_of_the_full_pass() -> None:
    model = encoder()
    x = torch.randn(2 * 3 + 4 * 2, HIDDEN, generator=generator(1), dtype=torch.float64)
    everything = model(x, [(3, 2, 3), (4, 2, 4)])
    some = model(x, [(3, 2, 1), (4, 2, 3)])
    torch.testing.assert_close(some, everything[[0, 3, 6, 7, 8, 10, 11, 12]])


def test_first_slots_copies_only_when_it_must() -> None:
    x = torch.arange(7.0)[:, None]
    assert first_slots(x, [(2, 2, 2), (3, 1, 9)]) is x
    assert first_slots(x, [(2, 2, 1), (3, 1, 2)]).flatten().tolist() == [0, 2, 4, 5]


def test_sequences_do_not_see_each_other() -> None:
    model = encoder()
    x = torch.randn(6, HIDDEN, generator=generator(1), dtype=torch.float64)
    before = model(x, [(3, 2, 3)])
    x[3:] += 1
    after = model(x, [(3, 2, 3)])
    torch.testing.assert_close(before[:3], after[:3])
    assert not torch.allclose(before[3:], after[3:])


def test_no_sequence_gives_no_state() -> None:
    assert encoder()(torch.zeros(0, HIDDEN, dtype=torch.float64), []).shape == (0, HIDDEN)


def test_pool_is_the_pooler_of_bert() -> None:
    model = encoder()
    first = torch.randn(5, HIDDEN, generator=generator(2), dtype=torch.float64)
    dense = model.bert.pooler.dense
    torch.testing.assert_close(model.pool(first), torch.tanh(first @ dense.weight.T + dense.bias))
    assert model.pool(first[:0]).shape == (0, HIDDEN)


def test_parameters_are_those_of_bert_without_embeddings() -> None:
    config = BertConfig(
        vocab_size=1,
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=FFN,
    )
    wanted = {
        f"bert.{name}": p.shape
        for name, p in BertModel(config).named_parameters()
        if not name.startswith("embeddings")
    }
    model = encoder()
    assert {name: p.shape for name, p in model.named_parameters()} == wanted
    assert set(model.state_dict()) == set(wanted)


def test_initialisation_comes_from_the_generator_alone() -> None:
    def make(seed: int) -> PackedBert:
        return PackedBert(hidden=64, layers=1, heads=4, ffn=128, dropout=0.0, generator=generator(seed))

    state = torch.random.get_rng_state()
    one, same, other = make(1), make(1), make(2)
    assert torch.equal(state, torch.random.get_rng_state())
    pairs = list(zip(one.named_parameters(), same.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for (_, a), b, _ in pairs)
    for (name, a), _, c in pairs:
        if "LayerNorm.weight" in name:
            assert torch.equal(a, torch.ones_like(a))
        elif name.endswith("bias"):
            assert torch.equal(a, torch.zeros_like(a))
        else:
            assert not torch.equal(a, c)
            assert abs(float(a.detach().std()) - 0.02) < 0.001


def test_dropout_acts_in_training_mode_only() -> None:
    model = encoder(p=0.5)
    x = torch.randn(6, HIDDEN, generator=generator(1), dtype=torch.float64)
    groups = [(3, 2, 3)]
    assert torch.equal(model(x, groups), model(x, groups))
    model.train()
    assert not torch.allclose(model(x, groups), model(x, groups))
    quiet = encoder(p=0.0).train()
    assert torch.equal(quiet(x, groups), quiet(x, groups))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_drops_the_asked_share(p: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = torch.ones(401, 1003, requires_grad=True)
        out = dropout(x, p)
        again = dropout(x, p)
    kept = out != 0
    # Each of the four 16-bit parts of a draw, and pairs of neighbours, drop independently.
    for part in range(4):
        share = (~kept.flatten()[part::4]).double().mean()
        assert abs(float(share) - p) < 0.006
    both = (~kept[:, 1:] & ~kept[:, :-1]).double().mean()
    assert abs(float(both) - p * p) < 0.006
    assert torch.unique(out[kept]).tolist() == pytest.approx([1 / (1 - p)], rel=2e-4)
    assert float(out.detach().mean()) == pytest.approx(1, abs=0.02)
    assert not torch.equal(out, again)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient, out)


def test_dropout_is_seeded_by_torch_and_off_at_zero() -> None:
    x = torch.randn(7, 3)
    results = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            results.append(dropout(x, 0.5))
    assert torch.equal(*results)
    assert dropout(x, 0.0) is x
    assert dropout(x[:0], 0.5).shape == (0, 3)
