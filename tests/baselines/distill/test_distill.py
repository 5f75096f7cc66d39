"""Distillation losses against plain loops, frozen teachers, schedules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from baselines.common.distill.losses import row_kl, soft_kl
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
