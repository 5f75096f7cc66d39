"""MetaSD's updates on a tiny KG: what each phase does, what each switch turns off, what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines.common.distill.losses import row_kl
from baselines.common.kge.bilinear import ComplEx
from baselines.common.kge.facts import with_reciprocals
from baselines.common.kge.knowledge import Knowledge
from baselines.common.kge.models import KgeModel
from baselines.common.kge.scoring import LinkValidation
from baselines.common.kge.train import KgeConfig, create, loss_of
from baselines.metasd import train as training
from baselines.metasd.config import MetasdConfig, check_kge
from baselines.metasd.mask import kept_tables
from baselines.metasd.step import MetasdStep
from baselines.metasd.train import class_weights, kept_weights, over_dense, train_metasd
from kpi_bench import Context
from kpi_bench.errors import SubmissionError

N, R = 36, 2
KGE = KgeConfig(
    model="complex",
    dim=8,
    epochs=6,
    batch_size=24,
    loss="softmax",
    optimizer="adagrad",
    lr=0.1,
    regularizer="dura",
    reg=0.01,
    relation_weight=0.5,
    init_std=0.1,
    eval_every=2,
)
QUICK = MetasdConfig(share=0.5, quiz_share=0.1)


def ring() -> np.ndarray:
    return np.array([(i, r, 12 * (r + 1) + i) for i in range(12) for r in range(R)], dtype=np.int64)


def context(seed: int = 0) -> tuple[Context, dict[str, Any]]:
    notes: dict[str, Any] = {}

    def report(kind: str, **values: Any) -> None:
        if kind == "note":
            notes[values["key"]] = values["value"]

    return Context(seed, "cpu", Path("/nonexistent"), {}, report), notes


def step_of(config: MetasdConfig = QUICK, kge: KgeConfig = KGE, seed: int = 0) -> MetasdStep:
    model = create(kge, N, R, seed)
    assert isinstance(model, ComplEx)
    facts = with_reciprocals(ring(), R)
    return MetasdStep(model, config, kge, torch.Generator().manual_seed(seed), quiz=facts[:6])


def weights(model: KgeModel) -> tuple[Tensor, Tensor]:
    return model.entities.detach().clone(), model.relations.detach().clone()


def gradients_of(step: MetasdStep, name: str, *args: Any) -> tuple[Tensor, Tensor]:
    """What a phase hands to its optimizer; weights stay."""
    found: list[Any] = []
    step._update = lambda optimizer, by_tables: found.append(by_tables)  # type: ignore[method-assign]
    getattr(step, name)(*args)
    return found[0].entities, found[0].relations


FACTS = with_reciprocals(ring(), R)[:20]


def test_source_step_is_the_plain_one() -> None:
    step = step_of()
    loss = loss_of(step.model, KGE, torch.Generator())(FACTS)
    expected = torch.autograd.grad(loss, (step.model.entities, step.model.relations))
    for found, wanted in zip(gradients_of(step, "_source_step", step._batch(FACTS)), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("mutual", [True, False])
def test_mutual_step_adds_the_gradients_of_both_losses(mutual: bool) -> None:
    config = replace(QUICK, mutual=mutual)
    step = step_of(config)
    step.renew_mask()
    model, mask = step.model, step._mask
    assert mask is not None
    shadow = create(KGE, N, R, 0)
    with torch.no_grad():
        shadow.entities.copy_(model.entities * mask.entities)
        shadow.relations.copy_(model.relations * mask.relations)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return 3 * row_kl(a, b, temperature=3.0).mean() + row_kl(b, a, temperature=3.0).mean()

    both = []
    for learner, other in ((model, shadow), (shadow, model)):
        loss = loss_of(learner, KGE, torch.Generator())(FACTS)
        if mutual:
            a, b = learner(FACTS[:, 0], FACTS[:, 1]), other(FACTS[:, 0], FACTS[:, 1]).detach()
            loss = loss + distance(a, b)
        both.append(torch.autograd.grad(loss, (learner.entities, learner.relations)))
    found = gradients_of(step, "_mutual_step", step._batch(FACTS), mask)
    for i, part in enumerate((mask.entities, mask.relations)):
        torch.testing.assert_close(found[i], both[0][i] + part * both[1][i], rtol=1e-4, atol=1e-7)


def phases(config: MetasdConfig, masked: bool = True) -> list[str]:
    step = step_of(config)
    if masked:
        step.renew_mask()
    called: list[str] = []
    for name in ("_source_step", "_meta_step", "_mutual_step"):
        original = getattr(step, name)
        setattr(step, name, lambda *a, _name=name, _run=original: (called.append(_name), _run(*a))[1])
    step(FACTS)
    return called


def test_switches_skip_their_phases() -> None:
    assert phases(QUICK) == ["_source_step", "_meta_step", "_mutual_step"]
    assert phases(replace(QUICK, meta=False)) == ["_source_step", "_mutual_step"]
    assert phases(replace(QUICK, source_step=False)) == ["_meta_step", "_mutual_step"]
    assert phases(QUICK, masked=False) == ["_source_step"]


def test_meta_step_has_an_optimizer_of_its_own() -> None:
    step = step_of(kge=replace(KGE, init_std=0.8))
    step.renew_mask()
    before = weights(step.model)
    assert step._mask is not None
    step._meta_step(step._batch(FACTS), step._mask)
    moved = (step.model.entities.detach() - before[0]).abs()
    # Adagrad's first step is its learning rate wherever there is a gradient.
    assert float(moved.max()) == pytest.approx(QUICK.meta_lr, rel=1e-2)
    assert not step._optimizer.state[step.model.entities]["sum"].any()


def test_a_new_mask_brings_weights_back() -> None:
    step = step_of()
    step.renew_mask()
    assert step.kept is not None
    first = step.kept[0].clone()
    place = torch.nonzero(~first)[0]
    with torch.no_grad():
        step.model.entities[place[0], place[1]] = 10.0
    assert not step.kept[0][place[0], place[1]]
    step.renew_mask()
    assert step.kept[0][place[0], place[1]]


def masks_of_epochs(config: MetasdConfig, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], Tensor]:
    """The entities' mask in each epoch, and where the student ends with a weight."""
    seen: list[Any] = []
    original = training.batches

    def spied(*args: Any) -> Any:
        seen.append(None if steps[-1].kept is None else steps[-1].kept[0].clone())
        return original(*args)

    steps: list[MetasdStep] = []

    class Recorded(MetasdStep):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            steps.append(self)

    monkeypatch.setattr(training, "batches", spied)
    monkeypatch.setattr(training, "MetasdStep", Recorded)
    trained = train_metasd(Knowledge(ring(), N, R), config, KGE, context()[0], description="ring")
    return seen, trained.student.entities != 0


def test_masks_over_the_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    dynamic, _ = masks_of_epochs(QUICK, monkeypatch)
    assert len(dynamic) == KGE.epochs
    assert (~dynamic[0] & dynamic[-1]).any()  # pruned in the first epoch, back in the last
    one_shot, kept = masks_of_epochs(replace(QUICK, one_shot=True), monkeypatch)
    assert one_shot == [None] * KGE.epochs
    assert not kept.all()
    static, kept = masks_of_epochs(replace(QUICK, mask="static", static_after=2), monkeypatch)
    assert static[:2] == [None, None]
    assert all(torch.equal(mask, static[2]) for mask in (*static[3:], kept))
    dense, kept = masks_of_epochs(replace(QUICK, prune=False), monkeypatch)
    assert all(mask.all() for mask in (*dense, kept))


def train_once(
    config: MetasdConfig, *, valid: bool = True, seed: int = 0, **kge: Any
) -> tuple[training.Trained, Mapping[str, Any]]:
    ctx, notes = context(seed)
    known = ring()
    kg = Knowledge(known[:-4], N, R, known[-4:]) if valid else Knowledge(known, N, R)
    trained = train_metasd(kg, config, replace(KGE, **kge), ctx, description="ring")
    return trained, notes


CONFIGS = {
    "default": QUICK,
    "one-shot": replace(QUICK, one_shot=True),
    "dense": replace(QUICK, prune=False),
    "static": replace(QUICK, mask="static", static_after=2),
    "full-quiz": replace(QUICK, quiz_batches=0, quiz="train_head"),
    "sampled": replace(QUICK, full_up_to=10, candidates=4),
    "weighted": replace(QUICK, weighted_classes=True),
    "half": replace(QUICK, half=True),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_student_is_the_pruned_source_of_the_kept_epoch(name: str) -> None:
    config = CONFIGS[name]
    trained, notes = train_once(config)
    total = sum(p.numel() for p in trained.source.parameters())
    zero = trained.student.entities == 0
    same = trained.source.entities.half().float() if config.half else trained.source.entities
    assert torch.equal(trained.student.entities[~zero], same[~zero])
    kept = kept_weights(trained.student)
    assert kept == notes["kept_weights"] == (total // 2 + 1 if config.prune else total)
    validation = LinkValidation(ring()[:-4], ring()[-4:], N, R)
    assert notes["valid_mrr_student"] == validation.score(trained.student)
    assert notes["valid_mrr_source"] == validation.score(trained.source)
    assert notes["valid_mrr_unpruned_candidates"] == validation.score(
        over_dense(trained.student, trained.source)
    )
    assert ("quiz_facts" in notes) == config.uses_quiz
    assert notes.get("sampled_candidates") == (4 if name == "sampled" else None)
    again, _ = train_once(config)
    assert torch.equal(again.student.entities, trained.student.entities)
    if config.prune and config.mask == "dynamic":
        fresh = kept_tables([trained.source.entities, trained.source.relations], config.share)
        assert torch.equal(fresh[0], ~zero)


def test_over_dense_prunes_queries_alone() -> None:
    trained, _ = train_once(QUICK, valid=False)
    heads, relations = FACTS[:, 0], FACTS[:, 1]
    queries = trained.student.query(heads, relations).vectors
    mixed = over_dense(trained.student, trained.source)
    assert torch.equal(mixed(heads, relations), queries @ trained.source.entities.T)
    assert torch.equal(trained.student(heads, relations), queries @ trained.student.entities.T)


def test_epochs_before_a_static_mask_count() -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    ctx = replace(context()[0], report=lambda kind, **values: events.append((kind, values)))
    kg = Knowledge(ring()[:-4], N, R, ring()[-4:])
    train_metasd(kg, CONFIGS["static"], replace(KGE, eval_every=1), ctx, description="ring")
    curve = {v["step"]: v["value"] for kind, v in events if kind == "curve"}
    assert list(curve) == [3, 4, 5, 6]
    (best,) = (v["value"] for _, v in events if v.get("key") == "best_epoch")
    assert curve[best] == max(curve.values())


def test_the_student_is_made_when_it_is_first_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[KgeModel] = []
    at_epoch: list[int] = []
    copied, drawn = training.copy.deepcopy, training.batches
    monkeypatch.setattr(training.copy, "deepcopy", lambda model: made.append(model) or copied(model))
    monkeypatch.setattr(training, "batches", lambda *a: at_epoch.append(len(made)) or drawn(*a))
    train_once(QUICK)
    assert at_epoch == [0, 0, 1, 1, 1, 1]  # scored every 2 epochs


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_falls(name: str) -> None:
    config = CONFIGS[name]
    step = step_of(config)
    if config.uses_quiz:
        step.renew_mask()
    losses = [float(step(FACTS)) for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]


def test_sampled_source_step_with_all_entities_is_the_full_one() -> None:
    few = step_of(replace(QUICK, full_up_to=10, candidates=N - len(FACTS) - 1))
    assert few._batch(FACTS).candidates is not None
    full = step_of()
    a = gradients_of(few, "_source_step", few._batch(FACTS))[0]
    b = gradients_of(full, "_source_step", full._batch(FACTS))[0]
    left_out = torch.ones(N, dtype=torch.bool)
    left_out[few._batch(FACTS).candidates] = False
    assert float((a - b).abs().max()) < 0.1 * float(b.abs().max())


def test_class_weights_follow_the_degree() -> None:
    known = np.array([(0, 0, 1), (0, 0, 2), (0, 1, 3), (3, 0, 0)])
    assert class_weights(known, 5).tolist() == pytest.approx([1.0, 0.325, 0.325, 0.55, 0.1])


@pytest.mark.parametrize(
    "values",
    [
        {"share": 1.0},
        {"mask": "soft"},
        {"quiz_share": 0.0},
        {"temperature": 0.0},
        {"candidates": 0},
        {"first_kl": -1.0},
    ],
)
def test_wrong_settings_are_named(values: dict[str, Any]) -> None:
    with pytest.raises(SubmissionError, match=f"^{next(iter(values))} = "):
        MetasdConfig(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"model": "rote", "regularizer": "l2", "relation_weight": 0.0},
        {"loss": "binary"},
        {"optimizer": "adam"},
        {"bias": True},
        {"regularizer": "l2"},
        {"grouped": True},
    ],
)
def test_settings_without_a_closed_form_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SubmissionError, match=f"kge_{next(iter(values))}"):
        check_kge(replace(KGE, **values))


def test_a_kg_without_triples_is_refused() -> None:
    with pytest.raises(SubmissionError, match="no triples"):
        train_metasd(Knowledge(ring()[:0], N, R), QUICK, KGE, context()[0], description="empty")
