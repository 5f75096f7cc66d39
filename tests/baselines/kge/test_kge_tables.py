"""Scores of a candidate table against those of its model, in any blocks and near the origin."""

from __future__ import annotations

import copy

import pytest
import torch
from kge_factory import HYPERBOLIC, N_ENTITIES, N_RELATIONS, all_queries, random_model
from torch import Tensor

from baselines.common.kge import MODELS, create_model, tables
from baselines.common.kge.tables import CandidateTable

CASES = [(name, False) for name in MODELS] + [(name, True) for name in HYPERBOLIC]


def some_positions(n: int, k: int, limit: int = N_ENTITIES) -> Tensor:
    return torch.randint(limit, (n, k), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("name", "relation_curvature"), CASES)
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_a_table_scores_as_its_model(name: str, relation_curvature: bool, bias: bool) -> None:
    model = random_model(name, std=0.3, bias=bias, relation_curvature=relation_curvature)
    heads, relations = all_queries()
    query, wanted = model.query(heads, relations), model(heads, relations)
    table = CandidateTable(model)
    assert len(table) == N_ENTITIES
    torch.testing.assert_close(table.all(query), wanted, rtol=5e-5, atol=1e-5)
    ids = torch.tensor([7, 3, 3, 12])
    assert len(CandidateTable(model, ids)) == 4
    torch.testing.assert_close(CandidateTable(model, ids).all(query), wanted[:, ids], rtol=5e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "relation_curvature"), CASES)
@pytest.mark.parametrize("product_per_answer", [0, 1000])
@torch.no_grad()
def test_own_candidates_are_taken_from_all(
    name: str, relation_curvature: bool, product_per_answer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "PRODUCT_PER_ANSWER", product_per_answer)
    monkeypatch.setattr(tables, "CACHE_ENTRIES", 2 * N_ENTITIES)
    model = random_model(name, std=0.3, bias=True, relation_curvature=relation_curvature)
    heads, relations = all_queries()
    query, wanted = model.query(heads, relations), model(heads, relations)
    own = some_positions(len(heads), 5)
    torch.testing.assert_close(
        CandidateTable(model).at(query, own), wanted.gather(1, own), rtol=5e-5, atol=1e-5
    )
    ids = torch.tensor([7, 3, 12])
    places = some_positions(len(heads), 2, len(ids))
    torch.testing.assert_close(
        CandidateTable(model, ids).at(query, places), wanted.gather(1, ids[places]), rtol=5e-5, atol=1e-5
    )


@torch.no_grad()
def test_a_table_keeps_the_scores_of_when_it_was_made() -> None:
    model = random_model("roth", bias=False)
    query = model.query(*all_queries())
    table = CandidateTable(model)
    before = table.all(query)
    model.entities.add_(1)
    assert torch.equal(table.all(query), before)


@pytest.mark.parametrize(
    ("entries", "size"), [(1, 1), (2 * N_ENTITIES, 2), (3 * N_ENTITIES - 1, 2), (1 << 20, 7)]
)
def test_blocks_cover_all_queries_in_order(entries: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "CACHE_ENTRIES", entries)
    table = CandidateTable(random_model("roth"))
    parts = [torch.arange(7)[rows] for rows in table.blocks(7)]
    assert {len(part) for part in parts[:-1]} <= {size}
    assert torch.equal(torch.cat(parts), torch.arange(7))
    assert table.blocks(0) == []


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_scores_near_the_origin_are_told_apart(name: str) -> None:
    """Training starts there, and links are ranked by these scores: rounding must not make ties."""
    model = create_model(name, 300, N_RELATIONS, 8, torch.Generator().manual_seed(0), init_std=1e-3)
    exact = copy.deepcopy(model).double()
    heads, relations = all_queries()
    wanted = exact(heads, relations)
    found = CandidateTable(model).all(model.query(heads, relations)).double()
    assert ((found - wanted).abs().amax(1) <= 2e-6 * wanted.abs().amax(1)).all()
