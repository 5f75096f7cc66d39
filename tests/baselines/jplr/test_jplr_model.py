"""The model of paths: what is read, what is asked, what is scored, and nodes whose rows are a teacher's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from baselines.common import top_k
from baselines.common.paths.body import BodyShape
from baselines.common.paths.sampled import Candidates, Scores, sampled_softmax
from baselines.jplr.encoder import ENCODERS
from baselines.jplr.model import PathModel, steps
from kpi_bench.errors import SubmissionError

N, RELATIONS, BORROWED = 11, 6, 4
SHAPE = BodyShape(hidden=8, layers=1, heads=2, dropout=0.0, positions=6)
PATHS = torch.tensor([[0, 1, 2, 3, 10], [4, 5, 4, -1, -1], [7, 0, -1, -1, -1], [9, 2, 3, 3, -1]])


def make(
    encoder: str = "transformer",
    shape: BodyShape = SHAPE,
    *,
    borrowed: Tensor | None = None,
    seed: int = 0,
) -> PathModel:
    generator = torch.Generator().manual_seed(seed)
    model = PathModel(N, RELATIONS, shape, encoder=encoder, generator=generator, borrowed=borrowed)
    with torch.no_grad():
        model.bias.normal_(generator=generator)
    return model


def teacher_rows() -> Tensor:
    return torch.randn(BORROWED, 12, generator=torch.Generator().manual_seed(5))


def plain_rows(model: PathModel) -> Tensor:
    assert model.borrowed is not None
    return torch.cat([model.entities, model.borrowed.table @ model.borrowed.project.T])


def test_inputs_are_rows_and_types() -> None:
    model = make()
    seen: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    model.hidden(PATHS)
    for row, path in enumerate(PATHS.tolist()):
        for place, token in enumerate(path):
            table = model.entities if place % 2 == 0 else model.relations
            wanted = table[token] + model.types[place % 2] if token >= 0 else torch.zeros(8)
            torch.testing.assert_close(seen[0][row, place], wanted)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_queries_are_the_relation_places_with_an_entity_behind(encoder: str) -> None:
    model = make(encoder).eval()
    found = model.queries(PATHS)
    assert found.targets.tolist() == [2, 10, 4, 3]
    assert found.hops.tolist() == [0, 1, 0, 0]
    for state, (row, place) in zip(found.states, [(0, 1), (0, 3), (1, 1), (3, 1)], strict=True):
        alone = model.hidden(PATHS[row : row + 1, : place + 1])
        torch.testing.assert_close(state, alone[0, -1])
    nothing = model.queries(torch.full((2, 3), -1))
    assert nothing.states.shape == (0, 8)
    assert nothing.targets.tolist() == nothing.hops.tolist() == []


@settings(max_examples=40, deadline=None)
@given(hops=st.integers(0, 3), ends=st.lists(st.integers(0, 3), max_size=6), more=st.booleans())
def test_steps_by_a_loop(hops: int, ends: list[int], more: bool) -> None:
    """``more``: states of the last token are given too."""
    paths = torch.arange(len(ends) * (2 * hops + 1)).view(len(ends), 2 * hops + 1)
    for row, end in enumerate(ends):
        paths[row, 2 * end + 1 :] = -1
    states = torch.randn(len(ends), 2 * hops + int(more), 3)
    found = steps(states, paths)
    wanted = [(row, hop) for row, end in enumerate(ends) for hop in range(min(end, hops))]
    assert found.hops.tolist() == [hop for _, hop in wanted]
    assert found.targets.tolist() == [int(paths[row, 2 * hop + 2]) for row, hop in wanted]
    for state, (row, hop) in zip(found.states, wanted, strict=True):
        assert torch.equal(state, states[row, 2 * hop + 1])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, N + BORROWED - 1), max_size=12))
def test_rows_of_own_and_borrowed_nodes_and_their_gradients(ids: list[int]) -> None:
    model = make(borrowed=teacher_rows())
    assert model.borrowed is not None
    assert model.n_nodes == N + BORROWED
    with torch.no_grad():
        model.borrowed.bias.normal_()
    asked = torch.tensor(ids, dtype=torch.int64)
    wanted_rows, wanted_bias = plain_rows(model)[asked], torch.cat([model.bias, model.borrowed.bias])[asked]
    rows, bias = model.candidates(asked)
    torch.testing.assert_close(rows, wanted_rows)
    torch.testing.assert_close(bias, wanted_bias)
    scale = torch.randn(len(ids), 8)
    learned = (model.entities, model.borrowed.project, model.bias, model.borrowed.bias)
    found = torch.autograd.grad((rows * scale).sum() + bias.sum(), learned)
    wanted = torch.autograd.grad((wanted_rows * scale).sum() + wanted_bias.sum(), learned)
    for own, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, other)


def test_a_path_through_borrowed_nodes_reads_their_projected_rows() -> None:
    model = make(borrowed=teacher_rows()).eval()
    whole = make().eval()
    whole.load_state_dict(model.served())
    with torch.no_grad():
        whole.entities = torch.nn.Parameter(plain_rows(model))
    paths = torch.tensor([[N + 1, 0, 3, 1, N + 3], [2, 5, N, 2, 2]])
    torch.testing.assert_close(model.hidden(paths), whole.hidden(paths))


def test_the_teacher_rows_are_frozen_copies_and_not_shipped(tmp_path: Path) -> None:
    rows = teacher_rows()
    model = make(borrowed=rows)
    assert model.borrowed is not None
    before = model.borrowed.table.clone()
    rows.zero_()
    assert torch.equal(model.borrowed.table, before)
    assert "borrowed.table" not in dict(model.named_parameters())
    save_file(model.served(), tmp_path / "model.safetensors")
    served = make(seed=1)
    served.load_state_dict(load_file(tmp_path / "model.safetensors"))
    queries = np.array([0, 3]), np.array([1, 5])
    assert np.array_equal(next(served.score_all(*queries)), next(model.score_all(*queries)))
    with pytest.raises(SubmissionError, match=r"\[nodes, dimensions\]; got \[3\]"):
        make(borrowed=torch.zeros(3))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_scores_are_states_times_rows_in_blocks(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(encoder, borrowed=teacher_rows())
    model.hidden(PATHS)  # batch norms have seen something
    model.eval()
    entities, relations = np.array([3, 0, 10]), np.array([0, 5, 2])
    states = torch.stack(
        [model.hidden(torch.tensor([pair]))[0, 1] for pair in zip(entities, relations, strict=True)]
    )
    wanted = (states @ model.entities.T + model.bias).detach().numpy()
    model.train()
    monkeypatch.setattr(top_k.row_blocks, "__defaults__", (2 * N,))
    blocks = list(model.score_all(entities, relations))
    assert [block.shape for block in blocks] == [(2, N), (1, N)]
    assert all(block.dtype == np.float32 for block in blocks)
    np.testing.assert_allclose(np.concatenate(blocks), wanted, rtol=1e-4, atol=1e-5)
    part = np.concatenate(list(model.score_all(entities, relations, among=slice(2, 5))))
    np.testing.assert_allclose(part, wanted[:, 2:5], rtol=1e-4, atol=1e-5)
    assert model.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_it_learns_a_permutation(encoder: str) -> None:
    """Relation r takes entity e to (e + r + 1) mod n: first hops and second ones."""
    model = make(encoder, replace(SHAPE, hidden=16), borrowed=0.1 * teacher_rows())
    n = N + BORROWED
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    frequency = torch.full((n,), 1 / n)
    for _ in range(120):
        starts, through = (
            torch.randint(high, (64, 2), generator=generator).unbind(1) for high in (n, RELATIONS)
        )
        start, first, second = starts[0], through[0], through[1]
        middle = (start + first + 1) % n
        paths = torch.stack([start, first, middle, second, (middle + second + 1) % n], 1)
        found = model.queries(paths)
        candidates = Candidates.of(found.targets, torch.randint(n, (32,), generator=generator), frequency)
        scores = Scores(found.states, *model.candidates(candidates.ids))
        loss = sampled_softmax(scores, candidates, torch.where(found.hops == 0, 1.0, 0.5))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    entities, relations = (grid.flatten() for grid in np.meshgrid(np.arange(N), np.arange(RELATIONS)))
    scores_of_all = np.concatenate(list(model.score_all(entities, relations)))
    target = (entities + relations + 1) % n
    own = target < N
    assert (scores_of_all.argmax(1)[own] == target[own]).mean() > 0.9


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_seed_fixes_the_model(encoder: str) -> None:
    first, same, other = (make(encoder, borrowed=teacher_rows(), seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(value, same[name]) for name, value in first.items())
    assert not torch.equal(first["entities"], other["entities"])
