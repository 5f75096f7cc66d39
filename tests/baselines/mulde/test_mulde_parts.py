"""What the Junior asks, what teachers answer, what the Senior makes of it: against plain twins."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from baselines.common.kge import KgeModel, create_model, tables
from baselines.mulde import asking
from baselines.mulde.config import MuldeConfig
from baselines.mulde.senior import Senior
from kpi_bench.errors import SubmissionError

E, R, B, K, N = 53, 3, 6, 5, 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model_of(name: str, n: int = E, **options: Any) -> KgeModel:
    model = create_model(name, n, R, 8, generator(), bias=True, init_std=0.3, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator(1))
    return model


def queries(n: int = E) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = generator(2)
    return (
        torch.randint(n, (B,), generator=g),
        torch.randint(2 * R, (B,), generator=g),
        torch.randint(n, (B,), generator=g),
    )


@pytest.mark.parametrize(("n", "k"), [(1000, 7), (1003, 20), (64, 4), (50, 40), (9, 9), (4099, 100)])
def test_two_rounds_find_the_plain_top_k(n: int, k: int) -> None:
    scores = torch.randperm(5 * n, generator=generator()).float().view(5, n)
    found = asking.top_positions(scores, k)
    assert torch.equal(found.sort().values, scores.topk(k).indices.sort().values)


def test_two_rounds_with_ties_take_the_highest_values() -> None:
    scores = torch.randint(4, (8, 500), generator=generator()).float()
    found = scores.gather(1, asking.top_positions(scores, 30))
    assert torch.equal(found.sort(descending=True).values, scores.topk(30).values)


@pytest.mark.parametrize(
    ("name", "options"), [("roth", {}), ("roth", {"relation_curvature": True}), ("rote", {})]
)
@pytest.mark.parametrize("entries", [1, 2 * 1500, 1 << 20])
def test_asked_are_the_juniors_best_in_any_blocks(
    name: str, options: dict[str, bool], entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "CACHE_ENTRIES", entries)
    junior = model_of(name, 1500, **options)
    heads, relations, tails = queries(1500)
    asked = asking.ask(junior, heads, relations, tails, MuldeConfig(top_k=K), generator())
    with torch.no_grad():
        wanted = junior(heads, relations).topk(K).indices
    assert not asked.requires_grad
    assert torch.equal(asked.sort().values, wanted.sort().values)


def test_more_asked_than_there_are_is_all() -> None:
    asked = asking.ask(model_of("roth"), *queries(), MuldeConfig(top_k=500), generator())
    assert torch.equal(asked.sort().values, torch.arange(E).expand(B, E))


def test_random_asking_does_not_follow_the_junior() -> None:
    config = MuldeConfig(top_k=K, asking="random")
    asked = asking.ask(model_of("roth"), *queries(), config, generator())
    other = asking.ask(model_of("transh"), *queries(), config, generator())
    assert asked.shape == (B, K)
    assert torch.equal(asked, other)


@pytest.mark.parametrize("k", [1, 20, E, 500])
def test_random_asking_asks_about_distinct_entities_each_as_likely(k: int) -> None:
    config = MuldeConfig(top_k=k, asking="random")
    counts = torch.zeros(E)
    for seed in range(200):
        asked = asking.ask(model_of("roth"), *queries(), config, generator(seed))
        assert asked.shape == (B, min(k, E))
        assert all(len(row.unique()) == len(row) for row in asked)
        counts += torch.bincount(asked.flatten(), minlength=E)
    share = min(k, E) / E
    n = 200 * B
    assert (counts / n - share).abs().max() < 6 * math.sqrt(share * (1 - share) / n) + 1e-6
    assert k >= E or not torch.equal(asked[0].sort().values, asked[1].sort().values)


@pytest.mark.parametrize("size", [10, 30, 53, 80])
def test_a_pool_has_distinct_entities_and_the_tails(size: int) -> None:
    tails = torch.tensor([3, 3, 9, 52, 0, 9])
    counts = torch.zeros(E)
    for seed in range(400):
        pool, repeated = asking.draw_pool(E, size, tails, generator(seed))
        kept = pool[~repeated]
        assert len(kept.unique()) == len(kept)
        assert set(tails.tolist()) <= set(kept.tolist())
        drawn = pool[: min(size, E)]
        assert len(drawn.unique()) == min(size, E)
        counts[drawn] += 1
    share = min(size, E) / E
    assert (counts / 400 - share).abs().max() < 6 * math.sqrt(share * (1 - share) / 400) + 1e-6


def test_asked_of_a_pool_are_the_juniors_best_in_it() -> None:
    junior = model_of("roth")
    heads, relations, tails = queries()
    config = MuldeConfig(top_k=K, max_candidates=20, pool=12)
    asked = asking.ask(junior, heads, relations, tails, config, generator(5))
    pool, repeated = asking.draw_pool(E, 12, tails, generator(5))
    kept = pool[~repeated]
    with torch.no_grad():
        scores = junior(heads, relations, kept)
    wanted = kept[scores.topk(K).indices]
    assert torch.equal(asked.sort().values, wanted.sort().values)
    few = MuldeConfig(top_k=40, max_candidates=20, pool=12)
    assert asking.ask(junior, heads, relations, tails, few, generator(5)).shape == (B, 12)


def senior_input(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    g = generator(seed)
    relations = torch.randint(2 * R, (B,), generator=g)
    junior = torch.randn(B, K, generator=g).requires_grad_()
    answers = 2 * torch.randn(B, N, K, generator=g) - 3
    labels = torch.zeros(B, K)
    labels[torch.arange(B - 1), torch.randint(K, (B - 1,), generator=g)] = 1
    return relations, junior, answers, labels


def senior_of(**switches: Any) -> Senior:
    senior = Senior(R, MuldeConfig(**switches))
    if senior.relation_weights is not None:
        with torch.no_grad():
            senior.relation_weights += 0.5 * torch.randn(2 * R, N, generator=generator(7))
    return senior


def plain_step(
    senior: Senior,
    relations: torch.Tensor,
    junior: torch.Tensor,
    answers: torch.Tensor,
    labels: torch.Tensor,
    epoch: int,
) -> dict[str, Any]:
    """Steps 4 to 8 number by number."""
    config = senior.config
    tau = math.exp(epoch // 5 if config.floor_epoch else epoch / 5)
    weights, soft, hard, kl = [], [], [], []
    for b in range(B):
        scaled = []
        for i in range(N):
            factor = 1.0
            if senior.relation_weights is not None:
                factor = 1 / (1 + math.exp(-senior.relation_weights[relations[b], i].item()))
            scaled.append([factor * s for s in answers[b, i].tolist()])
        own = torch.softmax(junior[b].detach(), 0).tolist()
        distance = []
        for row in scaled:
            teacher = torch.softmax(torch.tensor(row), 0).tolist()
            p, q = (own, teacher) if config.contrast == "junior_teacher" else (teacher, own)
            distance.append(sum((x + 1e-7) * math.log((x + 1e-7) / y) for x, y in zip(p, q, strict=True)))
        if config.attention == "uniform":
            a = [1 / N] * N
        elif config.attention == "sigmoid":
            a = [N / (1 + math.exp(d / tau)) for d in distance]
        else:
            powers = [math.exp(-d / tau) for d in distance]
            a = [power / sum(powers) for power in powers]
        weights.append(a)
        combined = [sum(a[i] * scaled[i][k] for i in range(N)) for k in range(K)]
        soft.append(combined)
        for row in [combined] if config.senior_loss == "combined" else scaled:
            for value, label in zip(row, labels[b].tolist(), strict=True):
                chance = 1 / (1 + math.exp(-value))
                hard.append(-math.log(chance if label else 1 - chance))
        t = config.temperature
        wanted = torch.softmax(torch.tensor(combined) / t, 0).tolist()
        given = torch.softmax(junior[b].detach() / t, 0).tolist()
        kl.append(sum((x + 1e-7) * math.log((x + 1e-7) / y) for x, y in zip(wanted, given, strict=True)))
    return {
        "weights": weights,
        "soft": soft,
        "hard": sum(hard) / len(hard),
        "kl": config.temperature**2 * sum(kl) / B,
    }


SWITCHES: list[dict[str, Any]] = [
    {},
    {"attention": "sigmoid"},
    {"attention": "uniform"},
    {"contrast": "teacher_junior"},
    {"scaling": False},
    {"senior_loss": "each"},
    {"floor_epoch": False},
    {"temperature": 2.0},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_the_senior_is_its_equations_and_each_switch_changes_something(switches: dict[str, Any]) -> None:
    relations, junior, answers, labels = senior_input()
    epoch = 7
    senior = senior_of(**switches)
    answer = senior(relations, junior, answers, epoch)
    plain = plain_step(senior, relations, junior, answers, labels, epoch)
    assert torch.allclose(answer.weights, torch.tensor(plain["weights"]), atol=1e-5)
    assert torch.allclose(answer.soft, torch.tensor(plain["soft"]), atol=1e-4)
    losses = (senior.hard_loss(answer, labels).item(), senior.soft_loss(answer, junior).item())
    assert losses == pytest.approx((plain["hard"], plain["kl"]), rel=1e-4)
    if switches:
        default = senior_of()
        other = default(relations, junior, answers, epoch)
        assert losses != pytest.approx(
            (default.hard_loss(other, labels).item(), default.soft_loss(other, junior).item()), rel=1e-4
        )


@pytest.mark.parametrize("contrast", ["junior_teacher", "teacher_junior"])
def test_attention_prefers_close_teachers_and_levels_out(contrast: str) -> None:
    relations, junior, answers, _ = senior_input()
    answers[:, 2] = junior.detach()  # teacher 2 is the Junior
    senior = senior_of(contrast=contrast, scaling=False)
    early = senior(relations, junior, answers, 0).weights
    assert (early.argmax(1) == 2).all()
    assert torch.allclose(early.sum(1), torch.ones(B))
    late = senior(relations, junior, answers, 60).weights
    assert torch.allclose(late, torch.full((B, N), 1 / N), atol=1e-4)


def test_gradients_reach_who_they_should() -> None:
    relations, junior, answers, labels = senior_input()
    for detach in (False, True):
        reached = {}
        for loss in ("hard", "soft"):
            senior = senior_of(detach_targets=detach)
            junior.grad = None
            answer = senior(relations, junior, answers, 0)
            value = senior.hard_loss(answer, labels) if loss == "hard" else senior.soft_loss(answer, junior)
            value.backward()
            assert senior.relation_weights is not None
            reached[loss] = (
                junior.grad is not None and bool(junior.grad.any()),
                senior.relation_weights.grad is not None and bool(senior.relation_weights.grad.any()),
            )
        # The truth reaches the Junior through its side of the contrast; the soft target learns from the Junior: unless detached.
        assert reached == {"hard": (not detach, True), "soft": (True, not detach)}


def test_contrast_gives_no_gradient_to_the_scales() -> None:
    relations, junior, answers, _ = senior_input()
    senior = senior_of()
    weights = senior.attention(junior, senior.scale(relations, answers), 0)
    weights[:, 0].sum().backward()
    assert senior.relation_weights is not None
    assert senior.relation_weights.grad is None


def test_a_junior_that_agrees_has_nothing_to_learn() -> None:
    relations, _, answers, _ = senior_input()
    senior = senior_of(attention="uniform")
    same = answers[:, :1].expand(B, N, K)
    scaled = senior.scale(relations, same)
    junior = scaled.mean(1).detach() + 4
    answer = senior(relations, junior, same, 0)
    assert senior.soft_loss(answer, junior).item() == pytest.approx(0, abs=1e-5)


def test_initial_scales_are_sigmoid_of_one() -> None:
    senior = Senior(R, MuldeConfig())
    ones = torch.ones(B, N, K)
    scaled = senior.scale(torch.zeros(B, dtype=torch.int64), ones)
    assert torch.allclose(scaled, functional.sigmoid(torch.tensor(1.0)) * ones)
    assert sum(p.numel() for p in senior.parameters()) == 2 * R * N
    assert not list(Senior(R, MuldeConfig(scaling=False)).parameters())


@pytest.mark.parametrize(
    "bad",
    [
        {"attention": "x"},
        {"teachers": ""},
        {"teachers": "roth,x"},
        {"top_k": 0},
        {"gamma": -1.0},
        {"temperature": 0.0},
    ],
    ids=str,
)
def test_bad_switches_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(SubmissionError, match=f"^{next(iter(bad))} = "):
        MuldeConfig(**bad)
