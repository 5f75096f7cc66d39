"""Losses and regularisers against torch's own and against loops; batches of facts; sparse rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kge_factory import BILINEAR, N_ENTITIES, N_RELATIONS, random_model, random_triples
from torch import Tensor
from torch.nn import functional

from baselines.common.kge import MODELS
from baselines.common.kge.facts import GroupedFacts, batches, with_reciprocals
from baselines.common.kge.losses import binary, full_softmax, sampled_softmax
from baselines.common.kge.models import KgeModel
from baselines.common.kge.regularizers import dura, n3, penalty
from baselines.common.kge.train import KgeConfig, epochs_of, loss_of, optimizer_of, relation_loss
from baselines.common.training import gradient_step
from kpi_bench.errors import SubmissionError

relaxed = settings(deadline=None, max_examples=50)
seeds = st.integers(0, 2**32 - 1)


def facts_of(n: int = 40, seed: int = 0) -> Tensor:
    return with_reciprocals(random_triples(n, seed=seed), N_RELATIONS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loss_on(model: KgeModel, facts: Tensor, seed: int = 0, /, **config: Any) -> Tensor:
    return loss_of(model, KgeConfig(**{"reg": 0.0, **config}), seeded(seed))(facts)


# --- softmax over all entities ---------------------------------------------------------------------------------------------------


@relaxed
@given(
    seed=seeds,
    b=st.integers(1, 6),
    n=st.integers(1, 9),
    m=st.integers(1, 12),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_full_softmax_is_cross_entropy_with_its_gradients(
    seed: int, b: int, n: int, m: int, dtype: torch.dtype
) -> None:
    generator = seeded(seed)
    queries = torch.randn(b, 4, generator=generator, dtype=dtype, requires_grad=True)
    table = torch.randn(n, 4, generator=generator, dtype=dtype, requires_grad=True)
    rows, columns = (torch.randint(high, (m,), generator=generator) for high in (b, n))
    expected = functional.cross_entropy((queries @ table.T)[rows], columns)
    result = full_softmax(queries, table, rows, columns)
    torch.testing.assert_close(result, expected)
    for mine, theirs in zip(
        torch.autograd.grad(3 * result, (queries, table)),
        torch.autograd.grad(3 * expected, (queries, table)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_gradcheck_of_full_softmax() -> None:
    queries = torch.randn(3, 4, generator=seeded(), dtype=torch.float64, requires_grad=True)
    table = torch.randn(5, 4, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    rows, columns = torch.tensor([0, 0, 2, 2, 2]), torch.tensor([1, 4, 0, 0, 3])
    assert torch.autograd.gradcheck(lambda q, t: full_softmax(q, t, rows, columns), (queries, table))


def test_one_query_with_many_targets_is_the_mean_over_them() -> None:
    queries, table = torch.randn(1, 4, generator=seeded()), torch.randn(300, 4, generator=seeded(1))
    columns = torch.tensor([0, 7, 150, 299])
    expected = -torch.log_softmax(queries @ table.T, dim=1)[0, columns].mean()
    torch.testing.assert_close(
        full_softmax(queries, table, torch.zeros(4, dtype=torch.int64), columns), expected
    )


def test_a_hopeless_target_has_a_finite_loss_and_the_exact_gradient() -> None:
    queries, table = torch.tensor([[300.0]], requires_grad=True), torch.tensor([[1.0], [0.0]])
    loss = full_softmax(queries, table, torch.tensor([0]), torch.tensor([1]))
    assert 80 < loss.item() < math.inf
    (gradient,) = torch.autograd.grad(loss, queries)
    assert gradient.item() == pytest.approx(1.0)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_the_softmax_loss_of_every_model_is_cross_entropy_of_its_scores(name: str, bias: bool) -> None:
    model, facts = random_model(name, bias=bias), facts_of()
    loss = loss_on(model, facts, model=name, loss="softmax")
    expected = functional.cross_entropy(model(facts[:, 0], facts[:, 1]), facts[:, 2])
    torch.testing.assert_close(loss, expected)
    mine, theirs = (
        torch.autograd.grad(value, model.parameters(), allow_unused=True) for value in (loss, expected)
    )
    for (key, _), ours, literal in zip(model.named_parameters(), mine, theirs, strict=True):
        # A head's bias moves all scores of a query alike: it has no gradient, or one of rounding.
        if key == "head_bias":
            assert ours is None or ours.abs().max() < 1e-6
        else:
            torch.testing.assert_close(ours, literal, rtol=1e-4, atol=1e-6)


# --- batches ---------------------------------------------------------------------------------------------------------------------


def test_reciprocals_follow_their_facts() -> None:
    triples = random_triples(20)
    facts = with_reciprocals(triples, N_RELATIONS).numpy()
    assert np.array_equal(facts[:20], triples)
    assert np.array_equal(facts[20:], triples[:, [2, 1, 0]] + [0, N_RELATIONS, 0])


@relaxed
@given(seed=seeds, n=st.integers(1, 60), size=st.integers(1, 50))
def test_batches_hold_each_fact_once(seed: int, n: int, size: int) -> None:
    facts = facts_of(n, seed % 7)
    parts = list(batches(facts, size, seeded(seed)))
    assert {len(part) for part in parts[:-1]} <= {size}
    assert sorted(torch.cat(parts).tolist()) == sorted(facts.tolist())


@relaxed
@given(seed=seeds, n=st.integers(1, 60), size=st.integers(1, 50))
def test_grouped_batches_hold_each_fact_once_with_the_answers_of_a_query_together(
    seed: int, n: int, size: int
) -> None:
    facts = facts_of(n, seed % 7)
    grouped = GroupedFacts(facts)
    assert len(grouped) == len({(h, r) for h, r, _ in facts.tolist()})
    parts = list(grouped.batches(size, seeded(seed)))
    assert sorted(torch.cat(parts).tolist()) == sorted(facts.tolist())
    seen: list[tuple[int, int]] = []
    for number, part in enumerate(parts):
        queries = [tuple(row) for row in torch.unique_consecutive(part[:, :2], dim=0).tolist()]
        assert len(queries) == size or (number == len(parts) - 1 and len(queries) <= size)
        seen += queries
    assert len(set(seen)) == len(seen), "a query was asked twice"


def test_epochs_are_shuffled_anew() -> None:
    for grouped in (False, True):
        epoch = epochs_of(facts_of(), KgeConfig(batch_size=30, loss="softmax", grouped=grouped), seeded())
        first, second = torch.cat(list(epoch())), torch.cat(list(epoch()))
        assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["distmult", "complex", "transe", "roth"])
def test_a_grouped_epoch_sums_to_the_loss_of_a_plain_one(name: str) -> None:
    model, facts = random_model(name, bias=True), facts_of(60)
    totals = []
    for grouped in (False, True):
        config = KgeConfig(
            model=name, loss="softmax", batch_size=16, grouped=grouped, reg=0.01, relation_weight=0.0
        )
        loss = loss_of(model, config, seeded())
        parts = list(epochs_of(facts, config, seeded(1))())
        totals.append(sum(loss(part).item() * len(part) for part in parts))
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)


# --- sampled and binary ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 3])
def test_sampled_softmax_of_all_entities_is_the_full_one(times: int) -> None:
    n, b = 40, 7
    scores = torch.randn(b, n, generator=seeded(), dtype=torch.float64, requires_grad=True)
    tails = torch.randint(n, (b, 1), generator=seeded(1))
    drawn = torch.arange(n).repeat(times)
    own = scores.gather(1, tails).squeeze(1)
    loss = sampled_softmax(own, scores[:, drawn], tails == drawn, n)
    expected = functional.cross_entropy(scores, tails.squeeze(1))
    torch.testing.assert_close(loss, expected)
    mine, theirs = (torch.autograd.grad(value, scores)[0] for value in (loss, expected))
    torch.testing.assert_close(mine, theirs)


def test_samples_estimate_the_sum_over_all_entities_without_bias() -> None:
    n, tail = 4, 2
    scores = torch.randn(n, generator=seeded(), dtype=torch.float64)
    own = scores[tail, None]
    # All draws of three with replacement: uniform draws give each of them equally often.
    sums = [
        (own + sampled_softmax(own, scores[None, drawn], tail == drawn[None], n)).exp()
        for drawn in torch.cartesian_prod(*3 * [torch.arange(n)])
    ]
    torch.testing.assert_close(torch.cat(sums).mean(), scores.exp().sum())


def test_a_sample_that_is_the_answer_counts_for_nothing() -> None:
    own, others = torch.tensor([-60.0, -1.0]), torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    collisions = torch.tensor([[False, True, False], [False, False, False]])
    losses = [sampled_softmax(own, others + shift * collisions, collisions, 50) for shift in (0.0, 40.0)]
    assert torch.equal(*losses)
    alone = sampled_softmax(own[:1], others[:1], torch.ones(1, 3, dtype=torch.bool), 50)
    assert alone.item() == 0


@pytest.mark.parametrize("name", ["distmult", "transe", "roth"])
def test_the_sampled_loss_takes_shared_entities_for_all_queries(name: str) -> None:
    model, facts = random_model(name, bias=True), facts_of()
    drawn = torch.randint(N_ENTITIES, (9,), generator=seeded(3))
    scores = model(facts[:, 0], facts[:, 1])
    own = scores.gather(1, facts[:, 2:]).squeeze(1)
    expected = sampled_softmax(own, scores[:, drawn], facts[:, 2:] == drawn, N_ENTITIES)
    loss = loss_on(model, facts, 3, model=name, loss="sampled_softmax", negatives=9)
    torch.testing.assert_close(loss, expected)


def test_binary_is_the_mean_of_all_questions() -> None:
    own, others = 5 * torch.randn(6, generator=seeded()), 5 * torch.randn(6, 4, generator=seeded(1))
    scores, labels = torch.cat([own[:, None], others], dim=1), torch.zeros(6, 5)
    labels[:, 0] = 1
    expected = functional.binary_cross_entropy_with_logits(scores, labels)
    torch.testing.assert_close(binary(own, others, 4), expected)
    # Shared negatives: three columns that weigh as much as four.
    weights = torch.tensor([1.0] + 3 * [4 / 3]).expand(6, 4)
    summed = functional.binary_cross_entropy_with_logits(
        scores[:, :4], labels[:, :4], weights, reduction="sum"
    )
    torch.testing.assert_close(binary(own, others[:, :3], 4), summed / (6 * 5))


@pytest.mark.parametrize("corrupt", ["tail", "both"])
@pytest.mark.parametrize("shared", [0, 5])
def test_the_binary_loss_asks_about_random_tails_and_with_both_about_random_heads(
    shared: int, corrupt: str
) -> None:
    model, facts = random_model("rote", bias=True), facts_of()
    generator, n = seeded(2), len(facts)
    heads = torch.randint(N_ENTITIES, (n,), generator=generator) if corrupt == "both" else facts[:, 0]
    tails = torch.randint(N_ENTITIES, (shared,) if shared else (n, 8), generator=generator)
    own = model(facts[:, 0], facts[:, 1], facts[:, 2:]).squeeze(1)
    expected = binary(own, model(heads, facts[:, 1], tails), 8)
    options = {"loss": "binary", "negatives": 8, "shared_negatives": shared, "corrupt": corrupt}
    torch.testing.assert_close(loss_on(model, facts, 2, model="rote", **options), expected)


# --- relation prediction, regularisers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BILINEAR)
def test_relation_prediction_is_cross_entropy_over_the_scores_of_all_relations(name: str) -> None:
    model, facts = random_model(name, std=0.7), facts_of()
    losses = []
    for h, r, t in facts.tolist():
        scores = torch.stack(
            [model(*torch.tensor([[h], [other], [t]]))[0, 0] for other in range(2 * N_RELATIONS)]
        )
        losses.append(torch.logsumexp(scores, 0) - scores[r])
    expected = torch.stack(losses).mean()
    heads, relations, tails = facts.unbind(1)
    found = relation_loss(model, model.entities[heads], model.entities[tails], model.relations, relations)
    torch.testing.assert_close(found, expected)
    plain, joint = (loss_on(model, facts, model=name, loss="softmax", relation_weight=w) for w in (0.0, 0.3))
    torch.testing.assert_close(joint, plain + 0.3 * expected)


def loop_moduli(name: str, row: list[float]) -> list[float]:
    if name != "complex":
        return [abs(x) for x in row]
    half = len(row) // 2
    return [math.hypot(re, im) for re, im in zip(row[:half], row[half:], strict=True)]


@pytest.mark.parametrize("regularizer", ["n3", "dura"])
@pytest.mark.parametrize("name", BILINEAR)
def test_n3_and_dura_are_their_loops(name: str, regularizer: str) -> None:
    model, facts = random_model(name, std=0.6), facts_of()
    total = 0.0
    for h, r, t in facts.tolist():
        hs, ts = (loop_moduli(name, model.entities[i].tolist()) for i in (h, t))
        for x, y, z in zip(hs, loop_moduli(name, model.relations[r].tolist()), ts, strict=True):
            if regularizer == "n3":
                total += x**3 + y**3 + z**3
            else:
                total += (x**2 + z**2) / 2 + 1.5 * (x**2 * y**2 + z**2 * y**2)
    assert penalty(regularizer, model, facts).item() == pytest.approx(total / len(facts), rel=1e-5)
    weighed = loss_on(model, facts, model=name, loss="softmax", regularizer=regularizer, reg=0.2)
    plain = loss_on(model, facts, model=name, loss="softmax")
    assert (weighed - plain).item() == pytest.approx(0.2 * total / len(facts), rel=1e-4)


@relaxed
@given(seed=seeds, b=st.integers(1, 5), d=st.integers(1, 5))
def test_regularisers_are_means_over_the_batch(seed: int, b: int, d: int) -> None:
    h, r, t = torch.rand(3, b, d, generator=seeded(seed), dtype=torch.float64)
    for function in (n3, dura):
        each = torch.stack([function(h[i : i + 1], r[i : i + 1], t[i : i + 1]) for i in range(b)])
        torch.testing.assert_close(function(h, r, t), each.mean())


@pytest.mark.parametrize("name", MODELS)
def test_l2_weighs_queries_and_tails(name: str) -> None:
    model, facts = random_model(name), facts_of()
    queries, tails = model.query(facts[:, 0], facts[:, 1]).vectors, model.entities[facts[:, 2]]
    expected = sum((q.norm() ** 2 + t.norm() ** 2).item() for q, t in zip(queries, tails, strict=True))
    assert penalty("l2", model, facts).item() == pytest.approx(expected / len(facts), rel=1e-5)


def test_an_unknown_regulariser_is_refused() -> None:
    with pytest.raises(SubmissionError, match=r"'n4'.*l2, n3, dura"):
        penalty("n4", random_model("distmult"), facts_of())


# --- sparse rows -----------------------------------------------------------------------------------------------------------------

# No biases under a softmax: it does not see the heads', whose gradients of rounding Adagrad would blow up.
SPARSE: list[dict[str, Any]] = [
    {"model": "distmult", "loss": "binary", "corrupt": "both"},
    {"model": "complex", "loss": "sampled_softmax", "reg": 0.1, "regularizer": "n3"},
    {"model": "complex", "loss": "binary", "reg": 0.1, "regularizer": "dura", "relation_weight": 0.5},
    {"model": "transe", "loss": "binary", "shared_negatives": 4},
    {"model": "rote", "loss": "binary", "reg": 0.1, "bias": True},
    {"model": "roth", "loss": "binary", "bias": True},
    {"model": "atth", "loss": "sampled_softmax", "relation_curvature": True},
]


@pytest.mark.parametrize("options", SPARSE, ids=lambda o: f"{o['model']}-{o['loss']}")
def test_sparse_rows_learn_what_dense_ones_do(options: dict[str, Any]) -> None:
    flags = {key: options[key] for key in ("bias", "relation_curvature") if key in options}
    models, losses = [], []
    for sparse in (False, True):
        model = random_model(options["model"], sparse_rows=sparse, **flags)
        config = KgeConfig(
            **{"reg": 0.0, "negatives": 3, **options}, optimizer="adagrad", lr=0.1, sparse_rows=sparse
        )
        sampler = seeded(1)
        step = gradient_step(loss_of(model, config, sampler), optimizer_of(model.parameters(), config))
        losses.append(
            torch.stack([step(part) for _ in range(3) for part in batches(facts_of(), 16, sampler)])
        )
        models.append(model)
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    for sparse_table, dense_table in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(sparse_table, dense_table, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["distmult", "transe", "rote"])
def test_sparse_steps_touch_only_the_rows_of_their_batch(name: str) -> None:
    model = random_model(name, sparse_rows=True, bias=True)
    config = KgeConfig(
        model=name, loss="binary", shared_negatives=2, reg=0.1, lr=0.1, optimizer="adagrad", sparse_rows=True
    )
    step = gradient_step(loss_of(model, config, seeded(1)), optimizer_of(model.parameters(), config))
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    facts = torch.tensor([[0, 4, 1], [2, 4, 1]])
    for _ in range(2):
        step(facts)
    assert all(value.grad.is_sparse for value in model.parameters())
    sampler = seeded(1)
    drawn = torch.cat([torch.randint(N_ENTITIES, (2,), generator=sampler) for _ in range(2)]).tolist()
    touched = {"entities": {0, 1, 2, *drawn}, "relations": {4}, "head_bias": {0, 2}, "tail_bias": {1, *drawn}}
    assert len(touched["entities"]) < N_ENTITIES, "the case must leave rows alone"
    for key, value in model.named_parameters():
        changed = (value != before[key]).any(dim=1).nonzero().flatten().tolist()
        assert set(changed) == touched[key], key


def test_every_loss_gives_every_model_finite_gradients() -> None:
    for name in MODELS:
        model, facts = random_model(name, bias=True), facts_of()
        for loss in ("softmax", "sampled_softmax", "binary"):
            gradients = torch.autograd.grad(
                loss_on(model, facts, model=name, loss=loss, reg=0.1), [model.entities, model.relations]
            )
            assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in gradients), (name, loss)
