"""Path encoders: causality, seeds, and the recurrent skipping network against a plain rewrite."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from baselines.jplr.encoder import (
    ENCODERS,
    BodyShape,
    PathTransformer,
    SkippingNetwork,
    create_encoder,
)
from kpi_bench.errors import SubmissionError

SHAPE = BodyShape(hidden=8, layers=2, heads=2, dropout=0.0, positions=7)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=seeded(seed))


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("length", [1, 2, 5, 7])
def test_later_tokens_never_change_earlier_states(kind: str, length: int) -> None:
    encoder = create_encoder(kind, SHAPE, seeded()).eval()
    inputs = draw(3, length, 8)
    states = encoder(inputs)
    assert states.shape == inputs.shape
    for cut in range(1, length):
        other = inputs.clone()
        other[:, cut:] = draw(3, length - cut, 8, seed=cut) * 5
        changed = encoder(other)
        torch.testing.assert_close(changed[:, :cut], states[:, :cut])
        assert not torch.allclose(changed[:, cut:], states[:, cut:])
        torch.testing.assert_close(encoder(inputs[:, :cut]), states[:, :cut])


@pytest.mark.parametrize("kind", ENCODERS)
def test_in_training_what_stands_behind_a_path_changes_nothing(kind: str) -> None:
    encoder = create_encoder(kind, SHAPE, seeded())
    known = torch.arange(5) < torch.tensor([[5], [3], [1]])
    inputs = draw(3, 5, 8)
    other = torch.where(known[..., None], inputs, 100 * draw(3, 5, 8, seed=1))
    first, before = encoder(inputs, known), [x.clone() for x in encoder.buffers()]
    encoder = create_encoder(kind, SHAPE, seeded())
    torch.testing.assert_close(encoder(other, known)[known], first[known])
    for own, wanted in zip(encoder.buffers(), before, strict=True):
        torch.testing.assert_close(own, wanted)


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_seed_fixes_the_weights_and_leaves_the_global_generator(kind: str) -> None:
    before = torch.get_rng_state()
    first, same, other = (create_encoder(kind, SHAPE, seeded(s)).state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, same[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())
    assert all(bool(value.isfinite().all()) for value in first.values())


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_weight_learns_and_dropout_ends_with_training(kind: str) -> None:
    encoder = create_encoder(kind, dataclasses.replace(SHAPE, dropout=0.5), seeded())
    inputs = draw(4, 7, 8)
    assert not torch.equal(encoder(inputs), encoder(inputs))
    (encoder(inputs) * draw(4, 7, 8, seed=1)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    encoder.eval()
    torch.testing.assert_close(encoder(inputs), encoder(inputs), atol=0, rtol=0)


@pytest.mark.parametrize("kind", ENCODERS)
def test_mixed_precision_stays_near(kind: str) -> None:
    """On a GPU training runs under autocast; the CPU's has the same rules of types."""
    inputs, known = draw(16, 5, 8), torch.arange(5) < torch.arange(1, 17)[:, None].clamp_max(5)
    wanted = create_encoder(kind, SHAPE, seeded())(inputs, known)
    encoder = create_encoder(kind, SHAPE, seeded())
    with torch.autocast("cpu", torch.bfloat16):
        states = encoder(inputs, known)
    torch.testing.assert_close(states.float()[known], wanted[known], atol=0.15, rtol=0)
    states.float().square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in encoder.parameters())


def plain_lstm(encoder: SkippingNetwork, z: Tensor) -> Tensor:
    """Layer by layer, token by token, from the equations."""
    d = z.shape[2]
    for layer in range(2):
        weights = (
            getattr(encoder.lstm, f"{name}_l{layer}")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        by_input, by_state, bias, other_bias = weights
        h = c = torch.zeros(len(z), d)
        out = []
        for t in range(z.shape[1]):
            gates = z[:, t] @ by_input.T + h @ by_state.T + bias + other_bias
            i, f, g, o = gates.split(d, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            out.append(h)
        z = torch.stack(out, 1)
    return z


def plain_norm(values: Tensor) -> Tensor:
    flat = values.reshape(-1, values.shape[2])
    spread = flat.var(0, unbiased=False) + 1e-5
    return (values - flat.mean(0)) / spread.sqrt()


@pytest.mark.parametrize("length", [1, 2, 5, 6])
def test_skipping_network_is_its_equations(length: int) -> None:
    rsn = create_encoder("rsn", SHAPE, seeded())
    rnn = create_encoder("rnn", SHAPE, seeded())
    assert isinstance(rsn, SkippingNetwork)
    assert isinstance(rnn, SkippingNetwork)
    assert rsn.skip is not None
    inputs = 3 + 2 * draw(4, length, 8)
    z = plain_norm(inputs)
    h = plain_lstm(rsn, z)
    o = h.clone()
    for t in range(1, length, 2):
        o[:, t] = h[:, t] @ rsn.skip[0].T + z[:, t - 1] @ rsn.skip[1].T
    torch.testing.assert_close(rsn(inputs), plain_norm(o), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(rnn(inputs), plain_norm(h), atol=1e-4, rtol=1e-4)


def test_lstm_starts_orthogonal_with_open_forget_gates() -> None:
    lstm = SkippingNetwork(SHAPE, seeded(), skip=True).lstm
    for layer in range(2):
        parts = [getattr(lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh")]
        weights = torch.cat(parts, 1)
        torch.testing.assert_close(weights.T @ weights, torch.eye(16), atol=1e-5, rtol=0)
        bias = getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")
        assert bias.view(4, 8).tolist() == [[float(gate == 1)] * 8 for gate in range(4)]


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(SubmissionError, match="unknown encoder 'gru'; use one of transformer, rsn, rnn"):
        create_encoder("gru", SHAPE, seeded())
    with pytest.raises(SubmissionError, match="hidden = 8 is no multiple of heads = 3"):
        create_encoder("transformer", dataclasses.replace(SHAPE, heads=3), seeded())
    with pytest.raises(SubmissionError, match="8 tokens does not fit 7 positions"):
        PathTransformer(SHAPE, seeded())(draw(1, 8, 8))
    assert create_encoder("rsn", SHAPE, seeded())(draw(2, 9, 8)).shape == (2, 9, 8)
