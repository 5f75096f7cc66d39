"""Distillation losses against plain loops, frozen teachers, schedules."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from baselines.common.distill.losses import cosine_loss, normalised_mse, row_kl, soft_kl
from baselines.common.distill.schedules import time_decay
from baselines.common.distill.teachers import fingerprint, freeze


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value) for value in row]
    return [power / sum(powers) for power in powers]


def plain_kl(target: list[float], other: list[float], temperature: float, floor: float) -> float:
    p = [value + floor for value in plain_softmax([x / temperature for x in target])]
    q = plain_softmax([x / temperature for x in other])
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("floor", [0.0, 1e-7, 0.01])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_kl_is_the_plain_sum(temperature: float, floor: float) -> None:
    a, b = logits(4, 7), logits(4, 7, seed=1)
    wanted = [plain_kl(x, y, temperature, floor) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert row_kl(a, b, temperature=temperature, floor=floor).tolist() == pytest.approx(wanted)
    mean = sum(wanted) / 4
    scaled = soft_kl(a, b, temperature=temperature, floor=floor).item()
    assert scaled == pytest.approx(mean * temperature**2)


def test_rows_broadcast_against_several_teachers() -> None:
    own, teachers = logits(3, 1, 5), logits(3, 4, 5, seed=1)
    assert row_kl(own, teachers).shape == row_kl(teachers, own).shape == (3, 4)


def test_equal_answers_cost_nothing_and_teach_nothing() -> None:
    a = logits(4, 7)
    student = (a + 5).requires_grad_()  # a constant shift of a row is no difference
    loss = soft_kl(a, student, temperature=2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-12


def test_detach_keeps_the_gradient_from_the_target() -> None:
    for detach in (True, False):
        target, student = logits(4, 7).requires_grad_(), logits(4, 7, seed=1).requires_grad_()
        soft_kl(target, student, detach=detach).backward()
        assert student.grad is not None
        assert student.grad.abs().sum() > 0
        assert (target.grad is None) == detach


def plain_norm(row: list[float]) -> list[float]:
    mean = sum(row) / len(row)
    spread = math.sqrt(sum((x - mean) ** 2 for x in row) / len(row) + 1e-5)
    return [(x - mean) / spread for x in row]


def test_losses_of_vectors_are_plain_sums() -> None:
    a, b = logits(5, 6), logits(5, 6, seed=1)
    angles, gaps = [], []
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        angles.append(1 - sum(map(math.prod, zip(x, y, strict=True))) / math.hypot(*x) / math.hypot(*y))
        gaps.append(sum((p - q) ** 2 for p, q in zip(plain_norm(x), plain_norm(y), strict=True)) / 6)
    assert cosine_loss(a, b).item() == pytest.approx(sum(angles) / 5)
    assert normalised_mse(a, b).item() == pytest.approx(sum(gaps) / 5)


@pytest.mark.parametrize("loss", [cosine_loss, normalised_mse])
def test_losses_of_vectors_see_no_scale_and_teach_one_side(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    mapped, target = logits(4, 6).requires_grad_(), logits(4, 6, seed=1).requires_grad_()
    assert loss(3 * mapped, target / 2).item() == pytest.approx(loss(mapped, target).item(), rel=1e-3)
    assert loss(mapped, 2 * mapped).item() == pytest.approx(0, abs=1e-4)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), mapped)
    loss(mapped, target).backward()
    assert target.grad is None
    none = logits(0, 6).requires_grad_()
    loss(none, none).backward()
    assert loss(none, none).item() == 0
    zeros = torch.zeros(2, 6, requires_grad=True)
    loss(zeros, torch.ones(2, 6)).backward()
    assert zeros.grad is not None
    assert bool(zeros.grad.isfinite().all())


def test_a_frozen_model_has_no_gradient_and_keeps_its_fingerprint() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    before = fingerprint(model)
    assert freeze(model) is model
    assert not model.training
    x = torch.ones(5, 3, requires_grad=True)
    model(x).sum().backward()
    assert all(p.grad is None for p in model.parameters())
    assert fingerprint(model) == before
    with torch.no_grad():
        model[0].bias[1] += 1e-6
    assert fingerprint(model) != before


def test_fingerprint_knows_names_and_shapes() -> None:
    assert fingerprint(nn.Linear(2, 3, bias=False)) != fingerprint(nn.Linear(3, 2, bias=False))


def test_schedules() -> None:
    assert [time_decay(e) for e in (0, 4, 5, 12)] == pytest.approx([1, 1, math.e, math.e**2])
    assert time_decay(4, floored=False) == pytest.approx(math.exp(0.8))
    assert math.isfinite(torch.tensor(time_decay(10**6), dtype=torch.float32).item())
