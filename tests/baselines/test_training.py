"""Steps whose rate anneals and whose weights decay, what is kept of batch norms, and where bfloat16 pays."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import pytest
import torch
from baseline_factory import context
from torch import Tensor, nn

from baselines.common.allocator import keep_few_products
from baselines.common.training import (
    Schedule,
    annealed_step,
    bfloat16_pays,
    decayed,
    gradient_step,
    train,
)


class Parts(nn.Module):
    """A matrix, a vector, a number and what is frozen; ``loss`` pulls each by ``slope``."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor([[2.0, -1.0]]))
        self.vector = nn.Parameter(torch.tensor([3.0]))
        self.number = nn.Parameter(torch.tensor(1.5))
        self.frozen = nn.Parameter(torch.tensor([[7.0]]), requires_grad=False)

    def loss(self, slope: float) -> Tensor:
        return slope * (self.matrix.sum() + self.vector.sum() + self.number)


def rates(steps: int, warmup: float) -> list[float]:
    """Shares of the learning rate: up to 1 in steps of 1 / rising, then down to 1 / falling."""
    rising = max(1, int(warmup * steps))
    falling = steps - rising
    return [i / rising for i in range(1, rising + 1)] + [i / falling for i in range(falling, 0, -1)]


def adam_by_hand(
    start: float, slopes: list[float], shares: list[float], lr: float, weight_decay: float
) -> float:
    value, mean, square = start, 0.0, 0.0
    for t, (slope, share) in enumerate(zip(slopes, shares, strict=True), 1):
        value *= 1 - lr * share * weight_decay
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        value -= lr * share * (mean / (1 - 0.9**t)) / (math.sqrt(square / (1 - 0.999**t)) + 1e-8)
    return value


@pytest.mark.parametrize(("steps", "warmup"), [(20, 0.0), (20, 0.25), (7, 0.6), (30, 1.0)])
@pytest.mark.parametrize("decay", [0.0, 0.8])
def test_steps_are_those_of_adamw_with_an_annealed_rate(steps: int, warmup: float, decay: float) -> None:
    model, lr = Parts(), 0.01
    # The norm of a gradient is twice its slope (four numbers are pulled): below the cut at 1, then far above it.
    slopes = [0.1 * (1 + i % 4) if i % 5 else -3.0 for i in range(steps)]
    step = annealed_step(model, model.loss, steps=steps, lr=lr, decay=decay, warmup=warmup)
    for slope in slopes:
        value = step(slope)
        assert not value.requires_grad
    shares = rates(steps, warmup)
    cut = [slope * min(1.0, 1 / (2 * abs(slope) + 1e-6)) for slope in slopes]
    per_step = min(decay / sum(shares), 0.1)
    for start, found, shrink in (
        (2.0, model.matrix[0, 0], per_step / lr),
        (-1.0, model.matrix[0, 1], per_step / lr),
        (3.0, model.vector[0], 0.0),
        (1.5, model.number, 0.0),
    ):
        assert found.item() == pytest.approx(adam_by_hand(start, cut, shares, lr, shrink), rel=1e-5)
    assert model.frozen.item() == 7


def test_the_loss_of_a_step_is_the_one_before_its_update() -> None:
    model = Parts()
    step = annealed_step(model, model.loss, steps=3, lr=0.1, decay=0.0, warmup=0.0)
    assert step(1.0).item() == 5.5
    assert step(1.0).item() == pytest.approx(5.5 - 0.4, rel=1e-5)


@pytest.mark.parametrize(("steps", "lr"), [(60, 1e-3), (600, 0.02)])
def test_a_weight_without_a_gradient_shrinks_as_decay_says(steps: int, lr: float) -> None:
    model = Parts()
    step = annealed_step(model, model.loss, steps=steps, lr=lr, decay=1.3, warmup=0.05)
    for _ in range(steps):
        step(0.0)
    torch.testing.assert_close(
        model.matrix.detach(), math.exp(-1.3) * Parts().matrix.detach(), rtol=0.03, atol=0
    )
    assert model.vector.item() == 3
    assert model.number.item() == 1.5


def test_few_steps_shrink_a_weight_by_a_tenth_each_at_most() -> None:
    model = Parts()
    step = annealed_step(model, model.loss, steps=2, lr=0.01, decay=5.0, warmup=0.0)
    for _ in range(2):
        step(0.0)
    assert model.matrix[0, 0].item() == pytest.approx(2 * 0.9 * 0.9)


def test_tables_and_matrices_decay_and_nothing_else_does() -> None:
    model = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 2), nn.LayerNorm(2), nn.BatchNorm1d(2))
    model[1].weight.requires_grad_(False)
    model.append(Parts())
    wide, flat = decayed(model, 0.25)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (wide["weight_decay"], flat["weight_decay"]) == (0.25, 0.0)
    assert [names[id(p)] for p in wide["params"]] == ["0.weight", "4.matrix"]
    assert [names[id(p)] for p in flat["params"]] == [
        "1.bias",
        "2.weight",
        "2.bias",
        "3.weight",
        "3.bias",
        "4.vector",
        "4.number",
    ]


class Norms(nn.Module):
    """Two batch norms, one of them frozen, a buffer that is not theirs, and one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.BatchNorm1d(1))
        self.fixed = nn.BatchNorm1d(1).requires_grad_(False)
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(()))

    def loss(self, batch: Tensor) -> Tensor:
        self.seen += 1
        return (self.inner(batch) + self.fixed(batch)).sum() - self.weight


@pytest.mark.parametrize(
    ("scores", "best"), [((0.1, 0.9, 0.3), 2), ((0.5, 0.4, 0.3), 1), ((0.1, 0.2, 0.3), 3)]
)
def test_statistics_of_batch_norms_are_those_of_the_best_epoch(scores: tuple[float, ...], best: int) -> None:
    model, batches = Norms(), iter(torch.tensor([[[0.0], [2.0]], [[10.0], [14.0]], [[90.0], [96.0]]]))
    remaining, means = iter(scores), []

    def evaluate() -> float:
        means.append([norm.running_mean.item() for norm in (model.inner[0], model.fixed)])
        return next(remaining)

    train(
        model,
        epoch=lambda: [next(batches)],
        step=gradient_step(model.loss, torch.optim.SGD([model.weight], lr=1.0)),
        evaluate=evaluate,
        schedule=Schedule(3),
        ctx=context(),
        metric="m",
        description="d",
    )
    # Momentum 0.1 on the batch means 1, 12, 93.
    expected = [0.1, 0.9 * 0.1 + 1.2, 0.81 * 0.1 + 0.9 * 1.2 + 9.3]
    assert [a for a, _ in means] == pytest.approx(expected)
    for norm in (model.inner[0], model.fixed):
        assert norm.running_mean.item() == pytest.approx(expected[best - 1])
        assert norm.num_batches_tracked.item() == best
    assert norm.running_var.item() == pytest.approx(
        [0.9 + 0.2, 0.81 + 0.18 + 0.8, 0.729 + 0.162 + 0.72 + 1.8][best - 1]
    )
    assert model.weight.item() == best
    assert model.seen.item() == 3
    assert not model.training


@pytest.mark.parametrize(
    ("known", "pays"),
    [
        ({}, False),
        ({"avx512_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": False, "avx512_f": True}, False),
    ],
)
def test_bfloat16_pays_where_the_cpu_multiplies_it(
    known: dict[str, bool], pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert bfloat16_pays(torch.device("cpu")) is pays


def test_bfloat16_pays_on_a_gpu_and_not_where_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bfloat16_pays(torch.device("cuda", 1))
    assert not bfloat16_pays(torch.device("meta"))
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not bfloat16_pays(torch.device("cpu"))


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the CPU's flags are not told here")
@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="torch before 2.11 does not tell")
def test_this_cpu_is_known_by_its_flags() -> None:
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    names = set(flags[1].split()) if flags else set()
    assert bfloat16_pays(torch.device("cpu")) == bool(names & {"avx512_bf16", "amx_bf16"})


def test_the_number_of_kept_products_is_bounded_unless_the_user_set_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, "5")
    keep_few_products()
    assert os.environ[name] == "5"
    monkeypatch.delenv(name)
    keep_few_products()
    assert 0 < int(os.environ[name]) < 1024
