"""PKGM: scores and service vectors against slow twins, what training learns, and the submission on the tiny suite."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from baseline_factory import check_head_answers, context, link_task
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from baselines.common.kge.knowledge import Knowledge
from baselines.pkgm.config import PkgmConfig
from baselines.pkgm.model import PkgmModel, grouped_product
from baselines.pkgm.service import KeyRelations, key_relations, load_service, save_service, service_vectors
from baselines.pkgm.submission import PKGM
from baselines.pkgm.train import corrupt, margin_loss, train_pkgm
from kpi_bench import (
    KnowledgeGraph,
    Suite,
)
from kpi_bench.errors import SubmissionError
from kpi_bench.harness.config import read_config

SUBMISSIONS = Path(__file__).resolve().parents[3] / "submissions"
FOLDER = SUBMISSIONS / "pkgm"
QUICK = {
    "rec_epochs": 2,
    "rec_dim": 8,
    "text_epochs": 2,
    "text_hashed_dim": 64,
    "pkgm_epochs": 3,
    "pkgm_dim": 8,
    "pkgm_batch_size": 64,
}
SMALL = PkgmConfig(dim=16, epochs=60, batch_size=32, margin=4.0, lr=0.02)


def params(config: str | None = None, **other: Any) -> dict[str, Any]:
    return {**read_config(FOLDER).resolve_params("tiny", config, {}), **QUICK, **other}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def graph(triples: list[tuple[int, int, int]], domains: list[str], n_relations: int) -> KnowledgeGraph:
    columns = np.array(triples, dtype=np.int64).reshape(-1, 3).T
    relations = pa.table({"relation": range(n_relations)})
    return KnowledgeGraph("made", *columns, entities=pa.table({"domain": domains}), relation_table=relations)


def trained(kg: KnowledgeGraph, config: PkgmConfig = SMALL, seed: int = 1) -> PkgmModel:
    return train_pkgm(Knowledge.of_graph(kg), config, context(seed), description="made")


def slow_score(model: PkgmModel, head: int, relation: int, tail: int) -> tuple[float, float]:
    """f_T and f_R, number by number."""
    h, r, t = model.entities[head].tolist(), model.relations[relation].tolist(), model.entities[tail].tolist()
    matrix = model.matrices[relation].tolist()
    dims = range(model.dim)
    f_t = sum(abs(h[i] + r[i] - t[i]) for i in dims)
    f_r = sum(abs(sum(matrix[i][j] * h[j] for j in dims) - r[i]) for i in dims)
    return f_t, f_r


def test_scores_are_those_of_a_slow_twin() -> None:
    model = PkgmModel(5, 3, 4, seeded())
    triples = torch.tensor(list(product(range(5), range(3), range(5))))
    expected = np.array([slow_score(model, *triple) for triple in triples.tolist()])
    found = model.triple_scores(*triples.unbind(1)).detach().numpy()
    assert found == pytest.approx(expected[:, 0], rel=1e-5)
    assert model.relation_scores(triples[:, 0], triples[:, 1]).detach().numpy() == pytest.approx(
        expected[:, 1], rel=1e-5
    )
    assert model(triples).detach().numpy() == pytest.approx(expected.sum(1), rel=1e-5)


@given(groups=st.lists(st.integers(0, 4), max_size=40), seed=st.integers(0, 99))
def test_grouped_product_is_that_of_gathered_matrices(groups: list[int], seed: int) -> None:
    matrices = torch.randn(5, 3, 3, generator=seeded(seed), dtype=torch.float64).requires_grad_()
    vectors = torch.randn(len(groups), 3, generator=seeded(seed + 1), dtype=torch.float64).requires_grad_()
    rows = torch.tensor(groups, dtype=torch.int64)
    weights = torch.randn(len(groups), 3, generator=seeded(seed + 2), dtype=torch.float64)
    gathered = torch.einsum("bij,bj->bi", matrices[rows], vectors)
    found = grouped_product(matrices, rows, vectors)
    assert torch.allclose(found, gathered)
    gradients = [
        torch.autograd.grad((value * weights).sum(), (matrices, vectors)) for value in (found, gathered)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs)


@given(
    n_entities=st.integers(1, 5),
    n_relations=st.integers(1, 4),
    negatives=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_a_corrupted_triple_differs_in_one_column(
    n_entities: int, n_relations: int, negatives: int, seed: int
) -> None:
    sizes = torch.tensor([n_entities, n_relations, n_entities])
    triples = (torch.rand(20, 3, generator=seeded(seed)) * sizes).long()
    corrupted = corrupt(triples, negatives, n_entities, n_relations, seeded(seed))
    assert corrupted.shape == (negatives, 20, 3)
    assert ((corrupted >= 0) & (corrupted < sizes)).all()
    changed = corrupted != triples
    assert (changed.sum(2) <= 1).all()
    assert not changed[..., sizes == 1].any()
    if sizes.min() > 1:
        assert changed.any(2).all()


def test_corruption_is_even_over_columns_and_other_ids() -> None:
    triples = torch.tensor([[2, 1, 0]]).repeat(30_000, 1)
    corrupted = corrupt(triples, 1, 4, 3, seeded())[0]
    counts = [
        np.bincount(corrupted[:, c][corrupted[:, c] != triples[:, c]].numpy(), minlength=3) for c in range(3)
    ]
    for column, others in zip(counts, ([0, 1, 3], [0, 2], [1, 2, 3]), strict=True):
        assert column[others] == pytest.approx(10_000 / len(others), rel=0.06)
        assert column.sum() == column[others].sum()


def test_margin_loss_is_that_of_a_slow_twin_and_flat_where_nothing_differs() -> None:
    model = PkgmModel(6, 2, 4, seeded())
    triples = torch.tensor([[0, 0, 1], [2, 1, 3], [4, 0, 5]])
    corrupted = torch.stack([triples.flip(0), torch.tensor([[0, 1, 1], [2, 1, 0], [5, 0, 5]])])
    terms = [
        max(0.0, 2.0 + sum(slow_score(model, *own)) - sum(slow_score(model, *other)))
        for others in corrupted.tolist()
        for own, other in zip(triples.tolist(), others, strict=True)
    ]
    assert margin_loss(model, triples, corrupted, 2.0).item() == pytest.approx(np.mean(terms), rel=1e-5)
    loss = margin_loss(model, triples, triples[None], 2.0)
    assert loss.item() == pytest.approx(2.0)
    loss.backward()
    assert all(p.grad.abs().max() < 1e-6 for p in model.parameters())


def test_the_gradient_is_finite_where_distances_are_zero() -> None:
    model = PkgmModel(3, 1, 4, seeded())
    torch.nn.init.zeros_(model.entities)
    torch.nn.init.zeros_(model.relations)
    margin_loss(model, torch.tensor([[0, 0, 1]]), torch.tensor([[[2, 0, 1]]]), 1.0).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_training_lowers_the_loss_and_tells_triples_from_corrupted_ones(tiny_suite: Suite) -> None:
    kg = tiny_suite.graph("shop")
    triples = torch.from_numpy(kg.triples())
    corrupted = corrupt(triples, 5, kg.n_entities, kg.n_relations, seeded(9))
    fresh, model = trained(kg, replace(SMALL, lr=1e-9, epochs=1)), trained(kg)
    losses = [margin_loss(m, triples, corrupted, SMALL.margin).item() for m in (fresh, model)]
    assert losses[1] < 0.3 * losses[0]
    better = model(triples) < model(corrupted.flatten(0, 1)).view(5, -1)
    assert better.float().mean() > 0.9


def test_the_relation_module_tells_relations_that_an_entity_has(tiny_suite: Suite) -> None:
    kg = tiny_suite.graph("shop")
    model = trained(kg)
    heads = np.unique(kg.heads)
    has = np.zeros((kg.n_entities, kg.n_relations), dtype=bool)
    has[kg.heads, kg.relations] = True
    has = has[heads]
    entities, relations = (
        torch.from_numpy(grid.ravel()) for grid in np.meshgrid(heads, range(kg.n_relations))
    )
    scores = model.relation_scores(entities, relations).detach().view(kg.n_relations, -1).T.numpy()
    for relation in (0, 1, 3):  # all heads have relation 2
        own, lacking = scores[has[:, relation], relation], scores[~has[:, relation], relation]
        assert (own[:, None] < lacking).mean() > 0.95


def test_training_is_fixed_by_the_seed(tiny_suite: Suite) -> None:
    kg, quick = tiny_suite.graph("shop"), replace(SMALL, epochs=2)
    first, second, other = (trained(kg, quick, seed).state_dict() for seed in (1, 1, 2))
    for name, table in first.items():
        assert torch.equal(table, second[name])
        assert not torch.equal(table, other[name])


def test_one_entity_and_one_relation_train_without_a_gradient() -> None:
    kg = graph([(0, 0, 0)], ["a"], 1)
    assert torch.isfinite(trained(kg, replace(SMALL, epochs=2)).entities).all()


def test_a_kg_without_triples_is_refused() -> None:
    with pytest.raises(SubmissionError, match="made: pkgm: the KG has no triples"):
        PKGM(params()).pretrain({"made": graph([], ["a", "b"], 2)}, context())


def slow_keys(kg: KnowledgeGraph, entity: int, k: int) -> set[int]:
    """Key relations of one entity, by counting heads one at a time."""
    names = kg.entities.column("domain").to_pylist()
    triples = list(zip(kg.heads.tolist(), kg.relations.tolist(), strict=True))
    inside = [(h, r) for h, r in triples if names[h] == names[entity]] or triples
    heads = {r: len({h for h, other in inside if other == r}) for _, r in inside}
    return set(sorted(heads, key=lambda r: (-heads[r], r))[:k])


@given(
    triples=st.lists(
        st.tuples(st.integers(0, 7), st.integers(0, 4), st.integers(0, 7)), min_size=1, max_size=30
    ),
    domains=st.lists(st.sampled_from("abc"), min_size=8, max_size=8),
    k=st.integers(1, 6),
)
def test_key_relations_are_those_of_a_slow_twin(
    triples: list[tuple[int, int, int]], domains: list[str], k: int
) -> None:
    kg = graph(triples, domains, 5)
    keys = key_relations(kg, k)
    for entity in range(8):
        row = keys.chosen[keys.domains[entity]]
        assert set(row.nonzero().flatten().tolist()) == slow_keys(kg, entity, k)


def test_key_relations_count_heads_and_not_triples() -> None:
    many_tails = [(0, 1, tail) for tail in range(1, 6)]
    kg = graph([*many_tails, (0, 0, 1), (1, 0, 2)], ["a"] * 6 + ["empty"], 3)
    keys = key_relations(kg, 1)
    assert keys.chosen[keys.domains].tolist() == [[True, False, False]] * 7


@pytest.mark.parametrize("k", [1, 2, 10])
def test_service_vectors_are_the_mean_over_key_relations(k: int) -> None:
    # Entity 6 is in no triple, domain b has one relation, domain c has no head.
    kg = graph([(0, 0, 3), (0, 1, 4), (1, 1, 4), (2, 2, 5)], ["a", "a", "b", "a", "b", "c", "a"], 3)
    model = PkgmModel(kg.n_entities, kg.n_relations, 4, seeded())
    found = service_vectors(model, key_relations(kg, k)).numpy()
    assert found.shape == (7, 8)
    for entity in range(kg.n_entities):
        h = model.entities[entity].detach().double().numpy()
        pairs = []
        for relation in slow_keys(kg, entity, k):
            r, matrix = (p[relation].detach().double().numpy() for p in (model.relations, model.matrices))
            pairs.append(np.concatenate([h + r, matrix @ h - r]))
        assert found[entity] == pytest.approx(np.mean(pairs, axis=0), rel=1e-4, abs=1e-5)


def test_service_vectors_need_no_triples_of_the_entity() -> None:
    triples = [(head, head % 2, 4 + head % 3) for head in range(4)]
    model = trained(graph(triples, ["a"] * 8, 2))
    keys = key_relations(graph(triples, ["a"] * 8, 2), 10)
    vectors = service_vectors(model, keys)
    assert torch.isfinite(vectors).all()
    assert not torch.allclose(vectors[7], vectors[0])
    # A KG in which entity 0 has lost its triple has the same key relations, so the same vectors.
    fewer = key_relations(graph([*triples[1:], (2, 1, 5)], ["a"] * 8, 2), 10)
    assert torch.equal(service_vectors(model, fewer), vectors)


def test_what_is_saved_gives_the_same_vectors(tiny_suite: Suite, tmp_path: Path) -> None:
    kg = tiny_suite.graph("shop")
    model, keys = PkgmModel(kg.n_entities, kg.n_relations, 8, seeded()), key_relations(kg, 2)
    save_service(model, keys, tmp_path / "shop.safetensors")
    loaded = load_service(tmp_path / "shop.safetensors")
    assert torch.equal(service_vectors(*loaded), service_vectors(model, keys))


@pytest.mark.parametrize("damage", ["missing", "text", "no matrices", "other sizes", "other keys"])
def test_a_damaged_checkpoint_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "shop.safetensors"
    model = PkgmModel(4, 2, 3, seeded())
    keys = KeyRelations(torch.zeros(4, dtype=torch.int64), torch.ones(1, 2, dtype=torch.bool))
    save_service(model, keys, path)
    tensors = load_file(path)
    if damage == "missing":
        path.unlink()
    elif damage == "text":
        path.write_text("nothing")
    else:
        if damage == "no matrices":
            del tensors["matrices"]
        elif damage == "other sizes":
            tensors["matrices"] = torch.zeros(2, 3, 5)
        else:
            tensors["domains"] = torch.zeros(9, dtype=torch.int64)
        save_file(tensors, path)
    with pytest.raises(SubmissionError, match=r"(?s)shop\.safetensors.*pre-train again"):
        load_service(path)


def test_the_submission_answers_recommendation_and_classification(tiny_suite: Suite, tmp_path: Path) -> None:
    graphs = {kg: tiny_suite.graph(kg) for kg in tiny_suite.graph_names()}
    first = PKGM(params())
    first.pretrain(graphs, context(**graphs))
    first.save_pretrained(tmp_path)
    submission = PKGM(params())
    submission.load_pretrained(tmp_path)
    vectors = submission.entity_vectors("shop", context())
    assert vectors.shape == (graphs["shop"].n_entities, 16)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, first.entity_vectors("shop", context()))

    check_head_answers(submission, tiny_suite, context(**graphs))
    with pytest.raises(SubmissionError, match="does not answer link prediction"):
        submission.adapt(link_task(tiny_suite), context(**graphs))


def test_vectors_without_pre_training_are_refused() -> None:
    with pytest.raises(SubmissionError, match="'shop': nothing was pre-trained"):
        PKGM(params()).entity_vectors("shop", context())


def test_declared_parameters_are_the_defaults() -> None:
    declared = {k: v for k, v in read_config(FOLDER).params.items() if k.startswith("pkgm_")}
    assert declared == {f"pkgm_{k}": v for k, v in vars(PkgmConfig()).items()}


def test_unknown_and_impossible_parameters_are_refused() -> None:
    with pytest.raises(SubmissionError, match="pkgm_dims"):
        PKGM(params(pkgm_dims=1))
    with pytest.raises(SubmissionError, match=r"^pkgm_key_relations = 0; it must be at least 1"):
        PKGM(params(pkgm_key_relations=0))
    with pytest.raises(SubmissionError, match=r"^pkgm_margin = nan; it must be positive"):
        PKGM(params(pkgm_margin=float("nan")))
