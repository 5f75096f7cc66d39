"""MulDE trained on tiny KGs: the whole loss, who changes and who does not, the switches of the loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from baselines.common.distill.teachers import fingerprint, freeze
from baselines.common.kge.knowledge import Knowledge
from baselines.common.kge.scoring import LinkValidation
from baselines.common.kge.train import KgeConfig, create, train_kge
from baselines.mulde import train as training
from baselines.mulde.config import MuldeConfig
from baselines.mulde.senior import Senior
from baselines.mulde.train import Distillation, train_junior, train_mulde
from kpi_bench import Context
from kpi_bench.errors import SubmissionError

N, R = 36, 2
TRIPLES = np.array([(i, r, 12 * (r + 1) + i) for i in range(12) for r in range(R)], dtype=np.int64)
KG = Knowledge(TRIPLES[:20], N, R, TRIPLES[20:])
JUNIOR = KgeConfig(
    model="roth",
    dim=4,
    epochs=4,
    batch_size=16,
    loss="binary",
    negatives=5,
    bias=True,
    reg=0.0,
    lr=0.02,
    init_std=0.1,
    eval_every=1,
    patience=9,
)
TEACHER = replace(JUNIOR, dim=8, epochs=3)
MULDE = MuldeConfig(top_k=6)


def context(seed: int = 0, events: list[tuple[str, dict[str, Any]]] | None = None) -> Context:
    def report(kind: str, **values: Any) -> None:
        if events is not None:
            events.append((kind, values))

    return Context(seed=seed, device="cpu", scratch=Path("/nonexistent"), graphs={}, report=report)


def trained(
    config: MuldeConfig = MULDE, junior: KgeConfig = JUNIOR, seed: int = 0, **more: Any
) -> torch.Tensor:
    model = train_mulde(KG, junior, TEACHER, config, context(seed, **more), description="ring")
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def teachers(n: int = 4) -> list[Any]:
    names = MULDE.teacher_models[:n]
    return [freeze(create(replace(TEACHER, model=name), N, R, 10 + i)) for i, name in enumerate(names)]


def test_the_distillation_loss_is_steps_2_to_9() -> None:
    junior, frozen = create(JUNIOR, N, R, 0), teachers()
    senior = Senior(R, MULDE)
    facts = torch.from_numpy(TRIPLES[::3])
    heads, relations, tails = facts.unbind(1)
    distillation = Distillation(junior, senior, frozen, MULDE, 1)
    distillation.epoch = 3
    loss = distillation.loss(facts)

    scores = junior(heads, relations)
    asked = scores.topk(6).indices
    own = scores.gather(1, asked)
    w = torch.sigmoid(torch.ones(()))
    scaled = torch.stack([w * t(heads, relations).gather(1, asked) for t in frozen], 1)
    p = torch.softmax(own, -1)[:, None] + 1e-7
    distance = (p * (p.log() - torch.log_softmax(scaled, -1))).sum(-1)
    soft = (torch.softmax(-distance, -1)[:, :, None] * scaled).sum(1)
    truth = functional.binary_cross_entropy_with_logits(soft, (asked == tails[:, None]).float())
    q = torch.softmax(soft, -1) + 1e-7
    kl = (q * (q.log() - torch.log_softmax(own, -1))).sum(-1).mean()
    assert loss.item() == pytest.approx((truth + 0.5 * kl).item(), rel=1e-4)


def test_training_changes_junior_and_scales_and_no_teacher() -> None:
    junior, frozen = create(JUNIOR, N, R, 0), teachers()
    marks, before = [fingerprint(t) for t in frozen], fingerprint(junior)
    senior = train_junior(KG, junior, frozen, JUNIOR, MULDE, context(), description="ring")
    assert senior is not None
    assert senior.relation_weights is not None
    assert (senior.relation_weights != 1).any(1).all()
    assert fingerprint(junior) != before
    assert [fingerprint(t) for t in frozen] == marks


def test_the_junior_alone_is_a_plainly_trained_model() -> None:
    alone = trained(replace(MULDE, distil=False))
    plain = train_kge(KG, JUNIOR, context(), description="ring")
    assert torch.equal(alone, torch.cat([p.detach().flatten() for p in plain.parameters()]))


def test_the_hard_loss_sees_the_same_batches_with_and_without_teachers() -> None:
    # No gradient reaches the Junior from detached targets at gamma 0, so any difference would come from other random numbers.
    unheard = replace(MULDE, gamma=0.0, detach_targets=True)
    for config in (unheard, replace(unheard, asking="random")):
        assert torch.allclose(trained(config), trained(replace(MULDE, distil=False)), atol=1e-5)


@pytest.mark.parametrize(
    "switch",
    [
        {"gamma": 2.0},
        {"hard_weight": 0.3},
        {"teachers": "roth"},
        {"top_k": 12},
        {"asking": "random"},
        {"attention": "uniform"},
        {"attention": "sigmoid"},
        {"contrast": "teacher_junior"},
        {"detach_targets": True},
        {"senior_loss": "each"},
        {"scaling": False},
        {"temperature": 3.0},
        {"floor_epoch": False},
        {"warm_start": True},
        {"distil": False},
        {"max_candidates": 10, "pool": 8},
    ],
    ids=str,
)
def test_each_switch_changes_the_junior(switch: dict[str, Any]) -> None:
    # No valid: the last epoch counts, also where one before it was better.
    kg = replace(KG, valid=None)
    models = [
        train_mulde(kg, JUNIOR, TEACHER, config, context(), description="ring")
        for config in (MULDE, replace(MULDE, **switch))
    ]
    assert fingerprint(models[0]) != fingerprint(models[1])


def test_the_seed_fixes_everything() -> None:
    assert torch.equal(trained(seed=3), trained(seed=3))
    assert not torch.equal(trained(seed=3), trained(seed=4))


def test_teachers_of_one_kind_differ() -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    trained(replace(MULDE, teachers="rote,rote"), events=events)
    notes = {v["key"]: v["value"] for kind, v in events if kind == "note"}
    first, second = notes["teacher_fingerprints"].split()
    assert first != second


def test_notes_and_the_curve_tell_teachers_and_junior_apart() -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    trained(events=events)
    notes = {v["key"]: v["value"] for kind, v in events if kind == "note"}
    assert notes["teachers_unchanged"] is True
    # entities and two biases, reciprocal relations of 3 dim, one curvature
    assert notes["junior_parameters"] == N * (4 + 2) + 2 * R * 3 * 4 + 1
    assert notes["torch_threads"] == 1
    for label in ("", "teacher_3_roth_"):
        curve = [v["value"] for kind, v in events if kind == "curve" and v["metric"] == f"{label}valid_mrr"]
        assert notes[f"{label}valid_mrr"] == max(curve)
    metrics = [v["metric"] for kind, v in events if kind == "curve"]
    assert metrics.count("valid_mrr") == JUNIOR.epochs
    assert metrics.count("teacher_1_transh_valid_mrr") == TEACHER.epochs


def test_one_validation_serves_all_models_and_ranks_only_for_early_stopping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []
    scored: list[Any] = []
    build, score = LinkValidation.__init__, LinkValidation.score
    monkeypatch.setattr(
        LinkValidation, "__init__", lambda self, *a, **o: made.append(self) or build(self, *a, **o)
    )
    monkeypatch.setattr(LinkValidation, "score", lambda self, m: scored.append(m) or score(self, m))
    train_mulde(replace(KG), JUNIOR, TEACHER, MULDE, context(), description="ring")
    assert len(made) == 1
    assert len(scored) == JUNIOR.epochs + 4 * TEACHER.epochs


def test_large_steps_keep_their_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "ONE_THREAD_BELOW", 0)
    events: list[tuple[str, dict[str, Any]]] = []
    trained(events=events)
    assert not any(v.get("key") == "torch_threads" for _, v in events)


def test_without_valid_all_epochs_are_run_and_tau_follows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    plain = Distillation.loss
    monkeypatch.setattr(
        Distillation, "loss", lambda self, facts: seen.append(self.epoch) or plain(self, facts)
    )
    train_mulde(replace(KG, valid=None), JUNIOR, TEACHER, MULDE, context(), description="ring")
    assert seen == sorted(seen)
    assert set(seen) == {0, 1, 2, 3}


def test_a_distilled_junior_learns() -> None:
    kg = Knowledge(TRIPLES, N, R)
    longer = replace(JUNIOR, dim=8, epochs=60, lr=0.03)
    junior = train_mulde(
        kg, longer, replace(longer, dim=16, shared_negatives=16), MULDE, context(), description="ring"
    )
    none = np.empty((0, 3), dtype=np.int64)
    assert LinkValidation(none, TRIPLES, N, R).score(junior) > 0.6  # 0.11 by chance


def test_what_cannot_be_trained_is_refused() -> None:
    empty = Knowledge(TRIPLES[:0], N, R)
    with pytest.raises(SubmissionError, match="no triples"):
        train_mulde(empty, JUNIOR, TEACHER, MULDE, context(), description="ring")
