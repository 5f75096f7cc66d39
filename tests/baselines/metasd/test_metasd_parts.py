"""Masks, logits, meta-gradient and packing of MetaSD against their literal definitions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor
from torch.nn import functional

from baselines.common.distill.losses import row_kl
from baselines.common.kge import create_model
from baselines.common.kge.bilinear import ComplEx
from baselines.common.kge.regularizers import dura
from baselines.metasd import logits as passes
from baselines.metasd.logits import Distance, cross_entropy_, mutual_gradients_
from baselines.metasd.mask import FLOOR, kept_tables, magnitude_threshold, training_mask
from baselines.metasd.meta import Buffers, meta_gradient
from baselines.metasd.pack import load_packed, save_packed
from baselines.metasd.quiz import quiz_parts, split_quiz
from baselines.metasd.tables import Batch, Tables, extra_loss, make_batch
from baselines.metasd.train import kept_weights, write_student
from kpi_bench.errors import SubmissionError

N, R, DIM, B = 13, 3, 6, 7
TAU, C1, C2, INNER, REG = 3.0, 3.0, 1.0, 0.1, 0.05


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def facts(n: int, seed: int, entities: int = N) -> Tensor:
    g = generator(seed)
    columns = [torch.randint(limit, (n,), generator=g) for limit in (entities, 2 * R, entities)]
    return torch.stack(columns, 1)


def double_model(seed: int = 0) -> ComplEx:
    return ComplEx(N, R, DIM, generator(seed), init_std=0.8).double()


def masks(model: ComplEx, share: float = 0.6, floor: float = FLOOR) -> Tables:
    kept = kept_tables([model.entities, model.relations], share)
    pair = (model.entities.detach(), model.relations.detach())
    masks = [
        torch.where(k, torch.ones_like(t), torch.full_like(t, floor)) for k, t in zip(kept, pair, strict=True)
    ]
    return Tables(*masks)


def scores(model: ComplEx, entities: Tensor, relations: Tensor, batch: Batch) -> Tensor:
    query = model.compose(entities[batch.heads], relations[batch.relations])
    return query @ (entities if batch.candidates is None else entities[batch.candidates]).T


def distance(a: Tensor, b: Tensor, c1: float = C1, c2: float = C2) -> Tensor:
    return c1 * row_kl(a, b, temperature=TAU).mean() + c2 * row_kl(b, a, temperature=TAU).mean()


def cross_entropy(values: Tensor, batch: Batch) -> Tensor:
    losses = functional.cross_entropy(values, batch.columns, reduction="none")
    return (losses if batch.weights is None else losses * batch.weights).mean()


def regularizer(model: ComplEx, entities: Tensor, relations: Tensor, batch: Batch) -> Tensor:
    rows = entities[batch.heads], relations[batch.relations], entities[batch.tails]
    return REG * dura(*(model.moduli(x) for x in rows))


def quiz_loss_of_source(
    model: ComplEx,
    frozen: tuple[Tensor, Tensor],
    source: tuple[Tensor, Tensor],
    mask: Tables,
    batch: Batch,
    quiz: list[Batch],
    c1: float = C1,
    c2: float = C2,
) -> Tensor:
    """Section 3, steps 1 and 2, as written: ``frozen`` is the value that the virtual student starts from."""
    student = [table.detach().clone().requires_grad_() for table in frozen]
    masked = student[0] * mask.entities, student[1] * mask.relations
    of_student = scores(model, *masked, batch)
    loss = cross_entropy(of_student, batch) + regularizer(model, *masked, batch)
    loss = loss + distance(scores(model, *source, batch), of_student, c1, c2)
    steps = torch.autograd.grad(loss, student, create_graph=True)
    moved = [table - INNER * step for table, step in zip(student, steps, strict=True)]
    after = moved[0] * mask.entities, moved[1] * mask.relations
    return torch.stack([cross_entropy(scores(model, *after, part), part) for part in quiz]).mean()


def closed_form(
    model: ComplEx, mask: Tables, batch: Batch, quiz: list[Batch], c1: float = C1, c2: float = C2
) -> Tables:
    return meta_gradient(
        model,
        Tables.of(model),
        mask,
        batch,
        quiz,
        distance=Distance(TAU, c1, c2),
        inner_lr=INNER,
        regularize=extra_loss(model, "dura", REG, 0.0),
        buffers=Buffers(),
    )


VARIANTS = [(0, 1, False), (3, 1, False), (0, 3, False), (0, 1, True), (2, 2, True)]


def problem(sampled: int, parts: int, weighted: bool) -> tuple[ComplEx, Tables, Batch, list[Batch]]:
    model = double_model()
    weights = torch.rand(N, generator=generator(5)).double() + 0.1 if weighted else None
    options = {"sampled": sampled, "generator": generator(6), "class_weights": weights}
    quiz = [make_batch(facts(5, 10 + i), N, **options) for i in range(parts)]
    return model, masks(model, floor=0.1), make_batch(facts(B, 1), N, **options), quiz


@pytest.mark.parametrize(("sampled", "parts", "weighted"), VARIANTS)
def test_meta_gradient_is_the_double_backward(sampled: int, parts: int, weighted: bool) -> None:
    model, mask, batch, quiz = problem(sampled, parts, weighted)
    source = (model.entities, model.relations)
    loss = quiz_loss_of_source(model, source, source, mask, batch, quiz)
    expected = torch.autograd.grad(loss, source)
    found = closed_form(model, mask, batch, quiz)
    assert expected[0].abs().max() > 1e-6
    torch.testing.assert_close(found.entities, expected[0], rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(found.relations, expected[1], rtol=1e-9, atol=1e-14)


def test_meta_gradient_is_the_finite_difference() -> None:
    model, mask, batch, quiz = problem(0, 1, False)
    found = closed_form(model, mask, batch, quiz)
    frozen = model.entities.detach().clone(), model.relations.detach().clone()
    step = 1e-4
    for name, place in (
        ("entities", (int(batch.heads[0]), 1)),
        ("entities", (3, 4)),
        ("relations", (int(batch.relations[0]), 2)),
    ):
        values = []
        for sign in (1, -1):
            moved = {"entities": frozen[0].clone(), "relations": frozen[1].clone()}
            moved[name][place] += sign * step
            source = moved["entities"], moved["relations"]
            values.append(float(quiz_loss_of_source(model, frozen, source, mask, batch, quiz).detach()))
        slope = (values[0] - values[1]) / (2 * step)
        assert float(getattr(found, name)[place]) == pytest.approx(slope, rel=1e-4, abs=1e-10)


def test_without_distillation_the_meta_gradient_is_exactly_zero() -> None:
    model, mask, batch, quiz = problem(0, 1, False)
    found = closed_form(model, mask, batch, quiz, 0.0, 0.0)
    assert not found.entities.any()
    assert not found.relations.any()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("cells", [1 << 17, 30])  # one block, blocks of two rows
def test_passes_are_the_gradients_of_their_losses(
    weighted: bool, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "CACHE_CELLS", cells)
    g = generator(3)
    teacher, student = (3 * torch.randn(B, N, generator=g, dtype=torch.float64) for _ in range(2))
    teacher.requires_grad_()
    student.requires_grad_()
    weights = torch.rand(N, generator=g).double() + 0.1 if weighted else None
    batch = make_batch(facts(B, 2), N, class_weights=weights)

    plain = teacher.detach().clone()
    loss = cross_entropy(teacher, batch)
    assert float(cross_entropy_(plain, batch.columns, batch.weights)) == pytest.approx(float(loss.detach()))
    torch.testing.assert_close(plain / B, torch.autograd.grad(loss, teacher)[0])

    mutual = cross_entropy(teacher, batch) + distance(teacher, student.detach())
    mutual = mutual + cross_entropy(student, batch) + distance(student, teacher.detach())
    expected = torch.autograd.grad(mutual, (teacher, student))
    a, b = teacher.detach() / TAU, student.detach() / TAU
    value = mutual_gradients_(a, b, batch.columns, batch.weights, Distance(TAU, C1, C2))
    assert float(value) == pytest.approx(float(mutual.detach()))
    torch.testing.assert_close(a / B, expected[0])
    torch.testing.assert_close(b / B, expected[1])

    virtual = cross_entropy(student, batch) + distance(teacher.detach(), student)
    a, b, out = teacher.detach() / TAU, student.detach() / TAU, torch.empty(B, N, dtype=torch.float64)
    passes.virtual_gradient_(a, b, out, batch.columns, batch.weights, Distance(TAU, C1, C2))
    torch.testing.assert_close(out / B, torch.autograd.grad(virtual, student)[0])
    torch.testing.assert_close(a, torch.softmax(teacher.detach() / TAU, 1))


def test_cross_entropy_survives_a_hopeless_target() -> None:
    values = torch.tensor([[0.0, 300.0]])
    assert float(cross_entropy_(values, torch.tensor([0]))) == 300.0


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.95])
def test_mask_prunes_the_exact_share_of_both_tables_together(share: float) -> None:
    tables = [torch.randn(31, 8, generator=generator(1)), 0.01 * torch.randn(6, 8, generator=generator(2))]
    kept = kept_tables(tables, share)
    total = sum(t.numel() for t in tables)
    assert sum(int(k.sum()) for k in kept) == total - math.ceil(round(share * total, 6)) + 1
    assert not kept[1].any() or share < 0.5  # the small table goes first: there is one threshold
    smallest = min(float(t.abs()[k].min()) for t, k in zip(tables, kept, strict=True) if k.any())
    largest = max(float(t.abs()[~k].max()) for t, k in zip(tables, kept, strict=True) if not k.all())
    assert largest < smallest


def test_histogram_finds_the_same_threshold() -> None:
    tables = [torch.randn(400, 8, generator=generator(1)), 1e-3 * torch.randn(60, 8, generator=generator(2))]
    tables[0][:50] = 0.25  # ties
    tables[1][0] = 0.0
    for share in (0.001, 0.1, 0.3, 0.5, 0.9, 0.999, 1.0):
        slow = magnitude_threshold(tables, share)
        assert torch.equal(magnitude_threshold(tables, share, sorted_up_to=0), slow)


def test_ties_at_the_threshold_are_kept() -> None:
    kept = kept_tables([torch.tensor([[1.0, -2.0, 2.0, 2.0]])], 0.5)[0]
    assert kept.tolist() == [[False, True, True, True]]
    assert torch.equal(training_mask(kept, torch.ones(1, 4)), torch.tensor([[FLOOR, 1.0, 1.0, 1.0]]))


def pruned(half: bool = False) -> tuple[ComplEx, ComplEx, list[Tensor]]:
    source, student = ComplEx(N, R, DIM, generator(1)), ComplEx(N, R, DIM, generator(2))
    kept = kept_tables([source.entities, source.relations], 0.7)
    write_student(source, student, kept, half=half)
    return source, student, kept


def test_student_is_the_source_with_zeros_in_queries_and_candidates() -> None:
    source, student, kept = pruned()
    asked = facts(9, 4)
    entities, relations = source.entities * kept[0], source.relations * kept[1]
    expected = source.compose(entities[asked[:, 0]], relations[asked[:, 1]]) @ entities.T
    assert torch.equal(student(asked[:, 0], asked[:, 1]), expected)
    assert not student.entities[~kept[0]].any()
    assert kept_weights(student) == sum(int(k.sum()) for k in kept)


@pytest.mark.parametrize("half", [False, True])
def test_packed_model_is_the_student_bit_for_bit(half: bool, tmp_path: Path) -> None:
    _, student, _ = pruned(half)
    path = tmp_path / "packed.safetensors"
    written = save_packed(student, path, half=half)
    loaded = load_packed(path)
    assert torch.equal(loaded.entities, student.entities)
    assert torch.equal(loaded.relations, student.relations)
    asked = facts(9, 4)
    assert torch.equal(loaded(asked[:, 0], asked[:, 1]), student(asked[:, 0], asked[:, 1]))
    bits = sum(math.ceil(p.numel() / 8) for p in student.parameters())
    payload = bits + (2 if half else 4) * kept_weights(student)
    assert written == path.stat().st_size
    assert payload <= written <= payload + 600


def test_packing_at_ninety_percent_is_seven_times_smaller(tmp_path: Path) -> None:
    source = ComplEx(500, R, 40, generator(1))
    write_student(source, source, kept_tables([source.entities, source.relations], 0.9), half=False)
    written = save_packed(source, tmp_path / "packed.safetensors")
    assert 4 * sum(p.numel() for p in source.parameters()) / written > 7


def test_packing_names_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match=r"absent: no such checkpoint; pre-train again"):
        load_packed(tmp_path / "absent")
    path = tmp_path / "packed.safetensors"
    save_packed(pruned()[1], path)
    content = path.read_bytes()
    with safe_open(path, framework="np") as file:
        form = file.metadata()
        stored = {name: file.get_tensor(name) for name in list(file.keys())}
    damaged: list[bytes | dict[str, np.ndarray]] = [
        b"hello, this is not a checkpoint",
        content[:-1],
        content[: len(content) // 2],
    ]
    for name, value in stored.items():
        damaged.append({key: stored[key] for key in stored if key != name})
        damaged += [
            {**stored, name: changed} for changed in (value[:-1], value[:1], np.append(value, value[:1]))
        ]
    for case in damaged:
        if isinstance(case, bytes):
            path.write_bytes(case)
        else:
            save_file(case, path, metadata=form)
        with pytest.raises(
            SubmissionError, match=r"(?s)packed\.safetensors holds no KGE model.*pre-train again"
        ):
            load_packed(path)
    for metadata in (None, {"packed_kge": "null"}, {"packed_kge": '{"model": "bert"}'}):
        save_file(stored, path, metadata=metadata)
        with pytest.raises(SubmissionError, match="holds no KGE model"):
            load_packed(path)


def triples(n: int = 300) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.unique(np.stack([rng.integers(m, size=n) for m in (N, R, N)], 1), axis=0)


def test_held_out_quiz_is_disjoint_from_train_with_its_reciprocals() -> None:
    known = triples()
    train, quiz = split_quiz(known, R, "heldout", 0.1, 3)
    as_set = lambda rows: {tuple(row) for row in rows.tolist()}  # noqa: E731
    assert len(quiz) == 2 * round(0.1 * len(known))
    assert not as_set(train) & as_set(quiz)
    turned = {(t, r + R if r < R else r - R, h) for h, r, t in as_set(quiz)}
    assert turned == as_set(quiz)
    assert len(as_set(train) | as_set(quiz)) == 2 * len(known)
    again = split_quiz(known, R, "heldout", 0.1, 3)
    assert torch.equal(quiz, again[1])
    assert not torch.equal(quiz, split_quiz(known, R, "heldout", 0.1, 4)[1])
    with pytest.raises(SubmissionError, match="too few"):
        split_quiz(known[:1], R, "heldout", 0.1, 0)


def test_head_of_train_is_asked_and_trained_on() -> None:
    known = triples()
    train, quiz = split_quiz(known, R, "train_head", 0.1, 3)
    assert len(train) == 2 * len(known)
    assert torch.equal(quiz, train[: int(0.2 * len(known))])


def test_quiz_parts_are_distinct_facts() -> None:
    quiz = torch.arange(30).view(10, 3)
    one = quiz_parts(quiz, 4, 1, generator())
    assert [len(part) for part in one] == [4]
    whole = quiz_parts(quiz, 4, 0, generator())
    assert [len(part) for part in whole] == [4, 4, 2]
    assert sorted(torch.cat(whole)[:, 0].tolist()) == quiz[:, 0].tolist()


def test_sampled_candidates_are_distinct_and_hold_the_targets() -> None:
    batch = make_batch(facts(5, 0, 100), 100, sampled=20, generator=generator())
    assert batch.candidates is not None
    assert len(set(batch.candidates.tolist())) == len(batch.candidates) == 25
    assert torch.equal(batch.candidates[batch.columns], batch.tails)
    assert make_batch(facts(5, 0), N, sampled=20, generator=generator()).candidates is None


def test_distmult_has_its_meta_gradient_too() -> None:
    model = create_model("distmult", N, R, DIM, generator(), init_std=0.8).double()
    batch, quiz = make_batch(facts(B, 1), N), [make_batch(facts(5, 9), N)]
    mask = masks(model, floor=0.1)
    source = (model.entities, model.relations)
    expected = torch.autograd.grad(quiz_loss_of_source(model, source, source, mask, batch, quiz), source)
    found = closed_form(model, mask, batch, quiz)
    torch.testing.assert_close(found.entities, expected[0], rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(found.relations, expected[1], rtol=1e-9, atol=1e-14)
