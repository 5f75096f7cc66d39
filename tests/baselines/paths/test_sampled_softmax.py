"""The sampled softmax against autograd of the plain form, and against the full softmax that it stands for."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from baselines.common.distill.losses import soft_kl
from baselines.common.paths import sampled
from baselines.common.paths.sampled import Candidates, Scores, sampled_kl, sampled_softmax
from kpi_bench.errors import SubmissionError


def draw(*size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, dtype=torch.float64, generator=generator).requires_grad_()


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 7),
    targets=st.lists(st.integers(0, 10**6), max_size=8),
    uniform=st.lists(st.integers(0, 10**6), min_size=1, max_size=8),
)
def test_candidates_are_counted_by_hand(n: int, targets: list[int], uniform: list[int]) -> None:
    targets, uniform = [t % n for t in targets], [u % n for u in uniform]
    frequency = torch.arange(1, n + 1, dtype=torch.float64)
    frequency /= frequency.sum()
    found = Candidates.of(torch.tensor(targets, dtype=torch.int64), torch.tensor(uniform), frequency)
    assert found.ids.tolist() == sorted({*targets, *uniform})
    assert found.ids[found.columns].tolist() == targets
    for entity, offset in zip(found.ids.tolist(), found.offsets.tolist(), strict=True):
        expected = max(len(targets) - 1, 0) * float(frequency[entity]) + len(uniform) / n
        assert offset == pytest.approx(math.log((targets + uniform).count(entity) / expected))


def test_uniform_candidates_are_needed() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(SubmissionError, match="uniform candidates"):
        Candidates.of(torch.tensor([1]), none, torch.full((3,), 1 / 3))


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(0, 6), c=st.integers(1, 6), block=st.sampled_from([1, 7, 1 << 22]), weighted=st.booleans()
)
def test_loss_and_gradients_are_those_of_autograd(m: int, c: int, block: int, weighted: bool) -> None:
    states, rows, bias = inputs = (draw(m, 3), draw(c, 3, seed=1), draw(c, seed=2))
    offsets = draw(c, seed=3).detach()
    columns = torch.arange(m) % c
    weights = torch.tensor([1.0, 0.5, 0.0] * 2, dtype=torch.float64)[:m] if weighted else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampled, "BLOCK", block)
        value = sampled_softmax(Scores(*inputs), Candidates(torch.arange(c), columns, offsets), weights)
    logits = states @ rows.T + bias + offsets
    parts = functional.cross_entropy(logits, columns, reduction="none")
    share = torch.ones(m, dtype=torch.float64) if weights is None else weights
    plain = (parts * share).sum() / (share.sum() if m else 1)
    torch.testing.assert_close(value, plain)
    expected = torch.autograd.grad(1.7 * plain, inputs)
    for own, other in zip(torch.autograd.grad(1.7 * value, inputs), expected, strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("block", [5, 1 << 22])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_kl_is_that_of_whole_matrices(
    temperature: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampled, "BLOCK", block)
    target = Scores(draw(6, 4), draw(5, 4, seed=1), draw(5, seed=2))
    other = Scores(draw(6, 3, seed=3), draw(5, 3, seed=4), draw(5, seed=5))
    value = sampled_kl(target, other, temperature=temperature)
    whole = [scores.states @ scores.rows.T + scores.bias for scores in (target, other)]
    plain = soft_kl(*whole, temperature=temperature)
    torch.testing.assert_close(value, plain)
    expected = torch.autograd.grad(plain, other)
    for own, wanted in zip(torch.autograd.grad(value, other, retain_graph=True), expected, strict=True):
        torch.testing.assert_close(own, wanted)
    value.backward()
    assert all(x.grad is None for x in target)


def test_gradients_by_finite_differences() -> None:
    candidates = Candidates.of(
        torch.tensor([1, 1, 4]), torch.tensor([0, 3, 4, 4]), torch.full((6,), 1 / 6, dtype=torch.float64)
    )
    c = len(candidates.ids)
    inputs = (draw(3, 2), draw(c, 2, seed=1), draw(c, seed=2))
    weights = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    target = Scores(*(x.detach() + 1 for x in inputs))
    assert torch.autograd.gradcheck(lambda *x: sampled_softmax(Scores(*x), candidates, weights), inputs)
    assert torch.autograd.gradcheck(lambda *x: sampled_kl(target, Scores(*x), temperature=2.0), inputs)


def test_no_query_costs_nothing_and_extreme_scores_stay_finite() -> None:
    rows = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    candidates = Candidates.of(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([0.5, 0.5]))
    scores = Scores(torch.tensor([[2.0], [2.0]], requires_grad=True), rows, torch.zeros(2))
    loss = sampled_softmax(scores, candidates)
    loss.backward()
    assert math.isfinite(loss.item())
    torch.testing.assert_close(rows.grad, torch.tensor([[1.0], [-1.0]]))
    torch.testing.assert_close(scores.states.grad, torch.tensor([[0.0], [300.0]]))
    nothing = Scores(torch.zeros(0, 1, requires_grad=True), rows, torch.zeros(2))
    of_none = Candidates.of(torch.zeros(0, dtype=torch.int64), torch.tensor([0, 1]), torch.tensor([0.5, 0.5]))
    for value in (sampled_softmax(nothing, of_none), sampled_kl(nothing, nothing)):
        assert value.item() == 0
        value.backward()
    assert sampled_kl(scores, scores).item() == 0


def test_without_gradient_it_costs_the_same() -> None:
    candidates = Candidates.of(torch.tensor([0, 2]), torch.tensor([1]), torch.full((3,), 1 / 3))
    scores = Scores(draw(2, 2), draw(3, 2, seed=1), draw(3, seed=2))
    with torch.no_grad():
        value = sampled_softmax(scores, candidates)
    assert not value.requires_grad
    assert value.item() == sampled_softmax(scores, candidates).item()


def test_the_true_scores_have_no_expected_gradient() -> None:
    """All outcomes of one query's target (from its own distribution), another target and two uniform draws, weighed by probability."""
    own = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    frequency = torch.full((3,), 1 / 3, dtype=torch.float64)
    bias = own.log().requires_grad_()
    expected = torch.zeros(3, dtype=torch.float64)
    for target, other, *uniform in itertools.product(range(3), repeat=4):
        candidates = Candidates.of(torch.tensor([target, other]), torch.tensor(uniform), frequency)
        c = len(candidates.ids)
        scores = Scores(torch.zeros(2, 1).double(), torch.zeros(c, 1).double(), bias[candidates.ids])
        loss = sampled_softmax(scores, candidates, torch.tensor([1.0, 0.0], dtype=torch.float64))
        expected += torch.autograd.grad(loss, bias)[0] * own[target] / 27
    torch.testing.assert_close(expected, torch.zeros_like(expected), atol=1e-12, rtol=0)


def test_many_candidates_give_the_full_softmax() -> None:
    n, m = 12, 5
    states, table, bias = inputs = (draw(m, 3), draw(n, 3, seed=1), draw(n, seed=2))
    targets = torch.tensor([0, 3, 3, 7, 11])
    full = functional.cross_entropy(states @ table.T + bias, targets)
    wanted = torch.autograd.grad(full, inputs)
    frequency = torch.arange(1, n + 1, dtype=torch.float64) / (n * (n + 1) / 2)
    gaps = []
    for k in (10, 1000, 1_000_000):
        uniform = torch.randint(n, (k,), generator=torch.Generator().manual_seed(4))
        candidates = Candidates.of(targets, uniform, frequency)
        ids = candidates.ids
        loss = sampled_softmax(Scores(states, table[ids], bias[ids]), candidates)
        found = torch.autograd.grad(loss, inputs)
        pairs = zip((loss, *found), (full, *wanted), strict=True)
        gaps.append(max(float((a - b).detach().abs().max()) for a, b in pairs))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-2


@pytest.mark.parametrize("k", [4, 64])
def test_a_model_of_popularity_learns_the_frequencies(k: int) -> None:
    """With the target's duplicates masked and its own score corrected, the most frequent target ends a quarter too high."""
    n, m, steps = 50, 64, 700
    frequency = torch.arange(1, n + 1).float() ** -1.2
    frequency /= frequency.sum()
    generator = torch.Generator().manual_seed(k)
    bias = torch.zeros(n, requires_grad=True)
    optimizer = torch.optim.Adam([bias], lr=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    mean = torch.zeros(n)
    for step in range(steps):
        targets = torch.multinomial(frequency, m, replacement=True, generator=generator)
        candidates = Candidates.of(targets, torch.randint(n, (k,), generator=generator), frequency)
        ids = candidates.ids
        loss = sampled_softmax(Scores(torch.zeros(m, 1), torch.zeros(len(ids), 1), bias[ids]), candidates)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step >= steps // 2:
            mean += bias.detach()
    gap = (mean / (steps - steps // 2)).log_softmax(0) - frequency.log()
    assert abs(float(gap[0])) < 0.05
    assert abs(float(gap[n // 2 :].mean())) < 0.06
    assert float(-(frequency * gap).sum()) < 0.005


def singles(m: int, c: int, d: int, seed: int = 0) -> Scores:
    parts = (draw(m, d, seed=seed), draw(c, d, seed=seed + 1), draw(c, seed=seed + 2))
    return Scores(*(part.detach().float().requires_grad_() for part in parts))


def value_and_gradients(
    candidates: Candidates, *, narrow: bool, distil: bool, weights: Tensor | None
) -> list[Tensor]:
    scores = singles(len(candidates.columns), len(candidates.ids), 24)
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        if distil:
            loss = sampled_kl(
                singles(*scores.states.shape[:1], len(scores.rows), 40, 7), scores, temperature=2.0
            )
        else:
            loss = sampled_softmax(scores, candidates, weights)
    return [loss.detach(), *torch.autograd.grad(3.0 * loss, scores)]


@pytest.mark.parametrize("block", [50, 1 << 22])
@pytest.mark.parametrize("distil", [False, True])
def test_bfloat16_products_are_close_to_float32(
    distil: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampled, "BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    targets, uniform = (torch.randint(60, (n,), generator=generator) for n in (40, 30))
    candidates = Candidates.of(targets, uniform, torch.full((60,), 1 / 60))
    weights = torch.linspace(0.1, 1, 40)
    wide, narrow = (
        value_and_gradients(candidates, narrow=narrow, distil=distil, weights=weights)
        for narrow in (False, True)
    )
    for name, exact, close in zip(("loss", *Scores._fields), wide, narrow, strict=True):
        assert close.dtype == exact.dtype == torch.float32
        gap = float((close - exact).norm() / exact.norm())
        # bfloat16 has 8 bits: a gap of zero would mean that it was not used.
        assert 0 < gap < 0.02, name


def test_under_autocast_biases_and_offsets_stay_float32() -> None:
    """1000 and 1000.5 are one number in bfloat16."""
    bias = torch.tensor([1000.0, 1000.5], requires_grad=True)
    scores = Scores(torch.zeros(1, 2), torch.zeros(2, 2), bias)
    offsets = torch.tensor([0.0, 0.125])
    with torch.autocast("cpu", torch.bfloat16):
        loss = sampled_softmax(scores, Candidates(torch.arange(2), torch.tensor([0]), offsets))
        other = Scores(torch.zeros(1, 2), torch.zeros(2, 2), bias.detach() * 0)
        gap = sampled_kl(Scores(*(x.detach() for x in scores)), other)
    share = 1 / (1 + math.exp(-0.625))
    assert loss.item() == pytest.approx(math.log1p(math.exp(0.625)), abs=1e-4)
    torch.testing.assert_close(
        torch.autograd.grad(loss, bias)[0], torch.tensor([-share, share]), atol=1e-4, rtol=0
    )
    own = 1 / (1 + math.exp(-0.5))
    entropy = -own * math.log(own) - (1 - own) * math.log(1 - own)
    assert gap.item() == pytest.approx(math.log(2) - entropy, abs=1e-4)


def test_under_autocast_a_distribution_has_no_distance_to_itself() -> None:
    scores = singles(30, 50, 16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = sampled_kl(scores, scores, temperature=2.0)
    assert abs(loss.item()) < 1e-6
    assert all(float(grad.abs().max()) < 1e-6 for grad in torch.autograd.grad(loss, scores))
