"""The losses of distillation, against plain rewrites."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from jplr_factory import (
    TOWN,
    generator,
    joint,
    part,
    shake,
    small,
    table,
)
from torch import Tensor, nn

from baselines.common.distill.teachers import fingerprint, freeze
from baselines.common.paths.body import BodyShape
from baselines.jplr.linked import LinkedGraph, linked_graph
from baselines.jplr.model import PathModel, steps
from baselines.jplr.student import Imitation, Retraining, Teacher
from baselines.jplr.teacher import new_teacher
from baselines.jplr.training import NextEntity, scores_of
from baselines.jplr.union import UnionGraph

CPU = torch.device("cpu")
WIDE = {"teacher_hidden": 12, "hidden": 8, "dropout": 0.0}


def linked_of(teacher: Teacher, hops: int = 1) -> LinkedGraph:
    local = part()
    return linked_graph(
        teacher.union,
        "town",
        local.entities,
        local.train,
        withheld=local.valid,
        hops=hops,
        per_entity=16,
        seed=0,
    )


def student_of(linked: LinkedGraph, teacher: Teacher, seed: int = 3, **settings: Any) -> PathModel:
    config = small(**settings)
    borrowed = teacher.model.rows(torch.from_numpy(linked.origin[linked.n_local :])).detach()
    model = PathModel(
        linked.n_local,
        2 * linked.n_relations,
        BodyShape(config.hidden, 1, 1, 0.0, 2 * config.hops + 1),
        encoder=config.encoder,
        generator=generator(seed),
        borrowed=borrowed if len(borrowed) else None,
    )
    shake(model, seed)
    return model


def some_paths(linked: LinkedGraph, n: int = 9, seed: int = 0) -> Tensor:
    """Random tokens, source-only nodes and backward relations among them; each third path has one hop."""
    rng = np.random.default_rng(seed)
    paths = rng.integers(0, linked.n_nodes, (n, 5))
    paths[:, 1::2] = rng.integers(0, 2 * linked.n_relations, (n, 2))
    paths[::3, 3:] = -1
    paths[0, 2] = linked.n_nodes - 1
    return torch.from_numpy(paths)


def to_union(linked: LinkedGraph, token: int, place: int) -> int:
    if token < 0:
        return -1
    if place % 2 == 0:
        return int(linked.origin[token])
    direction, relation = divmod(token, linked.n_relations)
    return int(linked.relation_origin[relation]) + direction * linked.union_relations


def in_union(linked: LinkedGraph, paths: Tensor) -> Tensor:
    return torch.tensor([[to_union(linked, t, i) for i, t in enumerate(row)] for row in paths.tolist()])


def normal(row: Tensor) -> Tensor:
    centred = row - row.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt()


class World:
    """A teacher of 12 numbers, a student of 8 with source-only nodes, random maps between them, and paths."""

    def __init__(self) -> None:
        self.teacher = joint(**WIDE)
        self.linked = linked_of(self.teacher)
        self.student = student_of(self.linked, self.teacher, **WIDE).eval()
        self.imitation = Imitation(self.teacher, self.linked, 8, generator(), 2, CPU)
        shake(self.imitation, 5)
        self.paths = some_paths(self.linked)
        self.read = self.paths[:, :-1]

    def teacher_states(self) -> Tensor:
        return self.teacher.model.hidden(in_union(self.linked, self.read))


def test_the_world_has_what_the_tests_are_about() -> None:
    world = World()
    assert world.linked.n_nodes > world.linked.n_local
    assert world.student.borrowed is not None
    assert (world.paths[:, ::2] >= world.linked.n_local).any()
    assert (world.paths[:, 1::2] >= world.linked.n_relations).any()
    assert world.imitation.feature.shape == world.imitation.network.shape == (12, 8)


def test_the_maps_start_orthogonal_and_a_seed_fixes_them() -> None:
    world = World()
    first, same, other = (Imitation(world.teacher, world.linked, 8, generator(s), 2, CPU) for s in (1, 1, 2))
    for weight in (first.feature, first.network):
        torch.testing.assert_close(weight.T @ weight, torch.eye(8), atol=1e-5, rtol=0)
    assert fingerprint(first) == fingerprint(same) != fingerprint(other)
    assert not torch.equal(first.feature, first.network)


def test_the_teacher_is_no_part_of_what_is_trained_and_reads_the_unions_ids() -> None:
    world = World()
    assert {name for name, _ in world.imitation.named_parameters()} == {"feature", "network"}
    assert set(world.imitation.state_dict()) == {"feature", "network"}
    whole = Retraining(world.student, world.imitation, NextEntity(torch.ones(3) / 3, small(), 0), small())
    whole.train()
    assert not world.teacher.model.training
    states = world.imitation.states(world.read)
    assert not states.requires_grad
    known = world.read >= 0
    torch.testing.assert_close(states[known], world.teacher_states()[known])


def test_feature_loss_is_one_minus_the_cosine_of_distinct_local_entities() -> None:
    world = World()
    with torch.no_grad():
        world.student.entities[5] = 0.01  # another size changes nothing but the direction
    entities = {e for e in world.read[:, 0::2].flatten().tolist() if 0 <= e < world.linked.n_local}
    assert len(entities) < int((world.read[:, 0::2] >= 0).sum())
    parts = []
    for e in entities:
        mapped = world.imitation.feature @ world.student.entities[e]
        wanted = world.teacher.model.entities[int(world.linked.origin[e])]
        parts.append(1 - (mapped @ wanted) / (mapped.norm() * wanted.norm()))
    torch.testing.assert_close(
        world.imitation.feature_loss(world.student, world.read), torch.stack(parts).mean()
    )


def test_network_loss_is_the_gap_of_normalised_states() -> None:
    world = World()
    own, theirs = (
        steps(states, world.paths).states
        for states in (world.student.hidden(world.read), world.teacher_states())
    )
    parts = [
        (normal(world.imitation.network @ a) - normal(b)).square().mean()
        for a, b in zip(own, theirs, strict=True)
    ]
    torch.testing.assert_close(world.imitation.network_loss(own, theirs), torch.stack(parts).mean())


def asked_by_hand(linked: LinkedGraph, paths: Tensor) -> list[int]:
    """Numbers of the steps whose relations so far are all of the first two, forward or backward."""
    number, found = 0, []
    for row in paths.tolist():
        for hop in range(2):
            if row[2 * hop + 2] < 0:
                continue
            if all(relation % linked.n_relations < 2 for relation in row[1 : 2 * hop + 2 : 2]):
                found.append(number)
            number += 1
    return found


def test_the_teacher_is_asked_where_only_own_relations_were_walked() -> None:
    world = World()
    paths = some_paths(world.linked, 60)
    taken = world.student.queries(paths)
    wanted = asked_by_hand(world.linked, paths)
    assert world.imitation.asked(paths, taken.places).tolist() == wanted
    assert 0 < len(wanted) < len(taken.targets)
    none = paths[:, :3].clone()
    none[:, 1] = 2
    assert world.imitation.asked(none, world.student.queries(none).places).tolist() == []


@pytest.mark.parametrize("temperature", [1.0, 2.0, 7.5])
def test_prediction_loss_is_the_divergence_of_softened_answers(temperature: float) -> None:
    world = World()
    own = steps(world.student.hidden(world.read), world.paths).states
    theirs = steps(world.teacher_states(), world.paths).states
    ids = torch.tensor([0, 3, 7, 20, world.linked.n_local, world.linked.n_nodes - 1])
    origin = torch.from_numpy(world.linked.origin)[ids]
    model = world.teacher.model
    logits = own @ world.student.rows(ids).T + world.student.candidates(ids)[1]
    wanted = theirs @ model.entities[origin].T + model.bias[origin]
    target = (wanted / temperature).softmax(1)
    gaps = (target * (target.log() - (logits / temperature).log_softmax(1))).sum(1)
    found = world.imitation.prediction_loss(world.student, own, theirs, ids, temperature)
    torch.testing.assert_close(found, temperature**2 * gaps.mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoder", ["transformer", "rsn", "rnn"])
def test_nothing_is_lost_when_the_student_is_the_teacher(encoder: str) -> None:
    settings = {"encoder": encoder, "teacher_hidden": 8, "hidden": 8, "dropout": 0.0}
    graphs = {"town": TOWN.graphs()["town"]}
    union = UnionGraph.of(graphs, table([], 2))
    config = small(**settings)
    model = new_teacher(union, config, 0)
    shake(model, 0)
    teacher = Teacher(freeze(model), union)
    linked = linked_of(teacher, hops=0)
    student = new_teacher(union, config, 1)
    student.load_state_dict(teacher.model.served())
    student.eval()
    imitation = Imitation(teacher, linked, 8, generator(), 2, CPU)
    nn.init.eye_(imitation.feature)
    nn.init.eye_(imitation.network)
    paths = some_paths(linked)
    read = paths[:, :-1]
    own, theirs = (steps(states, paths).states for states in (student.hidden(read), imitation.states(read)))
    ids = torch.arange(0, linked.n_nodes, 2)
    losses = (
        imitation.feature_loss(student, read),
        imitation.network_loss(own, theirs),
        imitation.prediction_loss(student, own, theirs, ids, 2.0),
    )
    assert all(abs(loss.item()) < 1e-6 for loss in losses)
    frequency = torch.full((linked.n_nodes,), 1 / linked.n_nodes)
    alone, taught = (
        Retraining(student, part, NextEntity(frequency, config, 0), config).loss(paths)
        for part in (None, imitation)
    )
    assert alone.item() > 0.5
    torch.testing.assert_close(taught, alone, atol=1e-4, rtol=0)
    # And only then: with other rows of the student's there is something to lose.
    with torch.no_grad():
        student.entities.mul_(-1)
    assert imitation.feature_loss(student, read) > 1
    assert imitation.network_loss(student.queries(paths).states, theirs) > 1e-2


@pytest.mark.parametrize("weights", list(itertools.product([0.0, 1.5], [0.0, 0.5], [0.0, 2.0])))
def test_the_whole_loss_is_the_weighted_sum(weights: tuple[float, float, float]) -> None:
    world = World()
    feature, network, prediction = weights
    config = small(feature=feature, network=network, prediction=prediction, temperature=3.0, later_weight=0.3)
    frequency = torch.full((world.linked.n_nodes,), 1 / world.linked.n_nodes)

    def objective() -> NextEntity:
        return NextEntity(frequency, config, 8)

    found = Retraining(world.student, world.imitation, objective(), config).loss(world.paths)
    taken = world.student.queries(world.paths)
    judge = objective()
    candidates = judge.candidates(taken.targets)
    wanted = judge.loss(taken, scores_of(world.student, taken.states, candidates.ids), candidates)
    alone = Retraining(world.student, None, objective(), config).loss(world.paths)
    torch.testing.assert_close(alone, wanted)
    i, asked = world.imitation, asked_by_hand(world.linked, world.paths)
    own, theirs = taken.states[asked], steps(world.teacher_states(), world.paths).states[asked]
    wanted = wanted + feature * i.feature_loss(world.student, world.read)
    wanted = wanted + network * i.network_loss(own, theirs)
    wanted = wanted + prediction * i.prediction_loss(world.student, own, theirs, candidates.ids, 3.0)
    torch.testing.assert_close(found, wanted)


def test_gradients_reach_student_and_maps_and_not_the_teacher() -> None:
    world = World()
    before = fingerprint(world.teacher.model)
    for parameter in world.teacher.model.parameters():
        parameter.requires_grad_(True)  # even so
    frequency = torch.full((world.linked.n_nodes,), 1 / world.linked.n_nodes)
    Retraining(world.student, world.imitation, NextEntity(frequency, small(), 0), small()).loss(
        world.paths
    ).backward()
    assert all(parameter.grad is None for parameter in world.teacher.model.parameters())
    learned = [*world.student.named_parameters(), *world.imitation.named_parameters()]
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for _, parameter in learned)
    assert fingerprint(world.teacher.model) == before
