"""Losses and masks against pure-Python twins."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baselines.mudok.losses import contrastive, knowledge, known_tails, same_inputs
from baselines.mudok.sequences import Sequences


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_cross_entropy(score: list[list[float]], left_out: list[list[bool]]) -> float:
    total = 0.0
    for i, row in enumerate(score):
        among = [s for j, s in enumerate(row) if j == i or not left_out[i][j]]
        total -= row[i] - math.log(sum(math.exp(s) for s in among))
    return total / len(score)


def slow_contrastive(z1: Tensor, z2: Tensor, temperature: float, left_out: list[list[bool]]) -> float:
    def cosine(a: list[float], b: list[float]) -> float:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))

    score = [[cosine(a, b) / temperature for b in z2.tolist()] for a in z1.tolist()]
    return slow_cross_entropy(score, left_out)


def slow_knowledge(h: Tensor, r: Tensor, t: Tensor, left_out: list[list[bool]]) -> float:
    score = [
        [sum(x * y * z for x, y, z in zip(a, b, c, strict=True)) for c in t.tolist()]
        for a, b in zip(h.tolist(), r.tolist(), strict=True)
    ]
    return slow_cross_entropy(score, left_out)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(0, 99), st.sampled_from([0.1, 0.5, 2.0]), st.booleans())
def test_losses_equal_their_twins(b: int, seed: int, temperature: float, masked: bool) -> None:
    h, r, t = (randn(b, 4, seed=3 * seed + i) for i in range(3))
    mask = torch.rand(b, b, generator=torch.Generator().manual_seed(seed)) < (0.4 if masked else 0)
    left_out = mask.tolist()
    given_mask = mask if masked else None
    assert float(contrastive(h, t, temperature, given_mask)) == pytest.approx(
        slow_contrastive(h, t, temperature, left_out), rel=1e-5, abs=1e-6
    )
    assert float(knowledge(h, r, t, given_mask)) == pytest.approx(
        slow_knowledge(h, r, t, left_out), rel=1e-5, abs=1e-6
    )


def test_the_own_tail_stays_whatever_the_mask_says() -> None:
    h, r, t = (randn(3, 4, seed=i) for i in range(3))
    everything = torch.ones(3, 3, dtype=torch.bool)
    assert float(knowledge(h, r, t, everything)) == 0
    assert float(contrastive(h, t, 0.1, everything)) == 0


def test_a_masked_negative_gets_no_gradient() -> None:
    h, r = randn(3, 4, seed=0), randn(3, 4, seed=1)
    t = randn(3, 4, seed=2).requires_grad_()
    known = torch.zeros(3, 3, dtype=torch.bool)
    known[0, 2] = known[1, 2] = True
    loss = knowledge(h, r, t, known)
    (by_masked,) = torch.autograd.grad(loss, t)
    alone = torch.softmax(((h * r) @ t.T)[2].detach(), 0)
    # Only item 2 itself moves tail 2: it is no negative of the others.
    torch.testing.assert_close(by_masked[2], (h * r)[2] * (alone[2] - 1) / 3, rtol=1e-5, atol=1e-6)


def test_large_scores_and_zero_vectors_stay_finite() -> None:
    big = randn(4, 3, seed=0) * 1e4
    assert torch.isfinite(knowledge(big, big, big))
    zero = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    loss = contrastive(zero, zero, 0.1)
    assert loss.item() == pytest.approx(math.log(4))
    (gradient,) = torch.autograd.grad(loss, zero)
    assert torch.isfinite(gradient).all()


rows = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), max_size=3, unique=True), min_size=1, max_size=6
)


@settings(max_examples=60, deadline=None)
@given(rows, st.data())
def test_masks_equal_their_twins(attributes: list[list[tuple[int, int]]], data: st.DataObject) -> None:
    """Row e has the given (value, relation) attributes; there are three kinds of item text."""
    n = len(attributes)
    starts = np.cumsum([0] + [len(a) for a in attributes])
    flat = [pair for a in attributes for pair in a]
    tails = np.array([v for v, _ in flat], dtype=np.int32)
    relations = np.array([r for _, r in flat], dtype=np.int32)
    sequences = Sequences(starts, tails, relations, 2)
    kind = data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    text = torch.tensor([[float(k), -1.5] for k in kind])
    packed = sequences.pack(np.arange(n))
    wanted = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))

    items = packed.order.tolist()
    assert known_tails(packed, np.array(wanted)).tolist() == [
        [t in {v for v, _ in attributes[e]} for t in wanted] for e in items
    ]
    assert same_inputs(packed, text).tolist() == [
        [kind[a] == kind[b] and sorted(attributes[a]) == sorted(attributes[b]) for b in items] for a in items
    ]
