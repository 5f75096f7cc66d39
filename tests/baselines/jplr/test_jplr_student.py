"""The student: losses of distillation against plain rewrites, what it reads, what stays as it is, and what it is left with."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jplr_factory import Drawn, Reports, Town, knowledge_graph, rows_of, small, table
from torch import Tensor, nn

from baselines.common.distill.teachers import fingerprint, freeze
from baselines.common.kge.scoring import LinkValidation
from baselines.jplr.encoder import EncoderShape
from baselines.jplr.linked import LinkedGraph, linked_graph
from baselines.jplr.local import LocalGraph
from baselines.jplr.model import PathModel, steps
from baselines.jplr.student import Imitation, Retraining, Student, Teacher, fit_student, scattered
from baselines.jplr.teacher import fit_teacher, new_teacher
from baselines.jplr.training import NextEntity, scores_of
from baselines.jplr.union import UnionGraph, given_links
from kpi_bench import KnowledgeGraph

CPU = torch.device("cpu")
TOWN = Town(24, 3)
WIDE = {"teacher_hidden": 12, "hidden": 8, "dropout": 0.0}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def joint(seed: int = 0, *, linked: bool = True, **settings: Any) -> Teacher:
    """An untrained teacher of town and club, all its numbers of size one."""
    graphs = TOWN.graphs(linked=linked)
    union = UnionGraph.of(graphs, given_links(graphs))
    model = new_teacher(union, small(**settings), seed)
    shake(model, seed)
    return Teacher(freeze(model), union)


def shake(model: nn.Module, seed: int) -> None:
    drawn = generator(seed + 100)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=drawn))


def part() -> LocalGraph:
    return LocalGraph.of_links(TOWN.task())


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
        EncoderShape(config.hidden, 1, 1, 0.0, 2 * config.hops + 1),
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


def retrained(
    tmp_path: Path,
    teacher: Teacher | None,
    *,
    local: LocalGraph | None = None,
    kg: KnowledgeGraph | None = None,
    seed: int = 1,
    reports: Reports | None = None,
    **settings: Any,
) -> Student:
    return fit_student(
        local or part(),
        kg or TOWN.graphs()["town"],
        teacher,
        small(**settings),
        (reports or Reports()).context(tmp_path, seed),
        "places",
    )


@pytest.mark.parametrize("encoder", ["transformer", "rsn"])
def test_retraining_leaves_the_teacher_as_it_was(encoder: str, tmp_path: Path) -> None:
    graphs = TOWN.graphs()
    union = UnionGraph.of(graphs, given_links(graphs))
    ctx = Reports().context(tmp_path)
    teacher = Teacher(fit_teacher(union, small(encoder=encoder, teacher_epochs=1), ctx, "joint"), union)
    before = fingerprint(teacher.model)
    student = retrained(tmp_path, teacher, encoder=encoder, dropout=0.3)
    assert fingerprint(teacher.model) == before
    assert not teacher.model.training
    assert student.model.borrowed is not None
    # Source-only rows are the teacher's, and stay so.
    club = union.first_entity["club"]
    assert torch.equal(student.model.borrowed.table, teacher.model.entities[club + 24 :])


def test_a_seed_fixes_the_student(tmp_path: Path) -> None:
    teacher = joint()
    first = retrained(tmp_path, teacher, seed=3)
    torch.manual_seed(99)
    again, other = (retrained(tmp_path, teacher, seed=seed) for seed in (3, 4))
    assert fingerprint(first.model) == fingerprint(again.model)
    assert np.array_equal(first.vectors(28)[0], again.vectors(28)[0])
    assert not np.array_equal(first.vectors(28)[0], other.vectors(28)[0])


@pytest.mark.parametrize("setting", ["feature", "network", "prediction"])
def test_each_loss_changes_what_is_learned(setting: str, tmp_path: Path) -> None:
    teacher, none = joint(), {"feature": 0.0, "network": 0.0, "prediction": 0.0}
    alone = retrained(tmp_path, teacher, **none)
    taught = retrained(tmp_path, teacher, **{**none, setting: 1.0})
    assert fingerprint(alone.model) != fingerprint(taught.model)
    # Same start, same paths, same batches: only the loss differs.
    still = {"lr": 1e-12, "decay": 0.0}
    same = [retrained(tmp_path, teacher, **{**none, setting: w}, **still).model.entities for w in (0.0, 1.0)]
    torch.testing.assert_close(*same, atol=1e-6, rtol=0)


def test_without_a_teacher_it_reads_its_own_triples_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, reports, local = Drawn(monkeypatch), Reports(), part()
    student = retrained(tmp_path, None, reports=reports, epochs=3)
    assert drawn.hops(2) == set(rows_of(local.train))
    assert student.model.borrowed is None
    assert student.n_forward == 2
    assert reports.notes["source_triples"] == reports.notes["source_only_entities"] == 0
    # Neither distillation nor links are there to be weighed.
    other = retrained(tmp_path, None, feature=5.0, link_hops=2, teacher_hidden=16)
    assert fingerprint(other.model) == fingerprint(retrained(tmp_path, None).model)


def test_no_held_out_triple_is_in_a_students_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even with a teacher whose own KG states the valid triples."""
    drawn, graphs, task = Drawn(monkeypatch), TOWN.graphs(), TOWN.task()
    local = part()
    stating = replace(
        graphs["town"],
        **dict(zip(("heads", "relations", "tails"), np.vstack([local.train, local.valid]).T, strict=True)),
    )
    for town in (graphs["town"], stating):
        both = {**graphs, "town": town}
        union = UnionGraph.of(both, given_links(both))
        teacher = Teacher(freeze(new_teacher(union, small(), 0)), union)
        for hops in (0, 1, 2):
            student = retrained(tmp_path, teacher, kg=town, link_hops=hops, epochs=4, patience=9)
            read = drawn.hops(student.n_forward)
            assert set(rows_of(local.train)) <= read
            assert (len(read) > len(local.train)) == (hops > 0)
            assert not read & set(rows_of(np.vstack([local.valid, task.test.array()])))


def test_linked_triples_are_those_of_the_other_kg_over_local_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, reports = Drawn(monkeypatch), Reports()
    student = retrained(tmp_path, joint(), reports=reports)
    more = drawn.hops(student.n_forward) - set(rows_of(part().train))
    # Person i is member of the club's group, nodes behind the 28 local ones; relation 2 is the club's.
    assert more == {(i, 2, 28 + i % 3) for i in range(24)}
    assert student.n_forward == 3
    notes = reports.notes
    assert (notes["entities"], notes["source_only_entities"]) == (28, 3)
    assert (notes["triples"], notes["source_triples"]) == (len(part().train), 24)
    # The two maps of distillation, [8, 4] each, are trained too.
    assert notes["trained_parameters"] == sum(p.numel() for p in student.model.parameters()) + 64
    for none in ({"link_hops": 0}, {}):
        cut = retrained(tmp_path, joint(linked=bool(none)), **none)
        assert cut.model.borrowed is None
        assert drawn.hops(cut.n_forward) == set(rows_of(part().train))


def test_it_is_left_in_its_best_state_on_valid(tmp_path: Path) -> None:
    reports, local = Reports(), part()
    student = retrained(
        tmp_path, joint(), reports=reports, epochs=12, lr=0.03, eval_every=2, patience=2, batch_size=8
    )
    assert {metric for metric, _ in reports.curve} == {"valid_mrr"}
    scores = [score for _, score in reports.curve]
    best = 2 * (1 + int(np.argmax(scores)))
    assert reports.notes["best_epoch"] == best
    assert reports.notes["epochs"] == 2 * len(scores) <= min(12, best + 4)
    judge = LinkValidation(local.train, local.valid, 28, student.n_forward)
    assert judge.mrr(student.model.score_all(*judge.queries)) == pytest.approx(max(scores))


def test_without_valid_triples_all_epochs_are_run(tmp_path: Path) -> None:
    reports = Reports()
    local = replace(part(), valid=table([], 3))
    retrained(tmp_path, joint(), local=local, reports=reports, epochs=3, patience=1)
    assert reports.curve == []
    assert reports.notes["epochs"] == 3


def test_valid_triples_of_a_part_are_numbered_as_its_nodes(tmp_path: Path) -> None:
    """A part that begins at entity 40 of a large KG; with the KG's ids there would be no such node."""
    ring = [(40 + i, i % 2, 40 + (i + 1) % 9) for i in range(9)]
    kg = knowledge_graph("big", 60, 2, [*ring, (0, 0, 1)])
    local = LocalGraph("big", np.arange(40, 49), table(ring[:7], 3), table(ring[7:], 3))
    reports = Reports()
    student = retrained(tmp_path, None, local=local, kg=kg, reports=reports)
    judge = LinkValidation(local.train - [40, 0, 40], local.valid - [40, 0, 40], 9, 2)
    wanted = judge.mrr(student.model.score_all(*judge.queries))
    assert max(score for _, score in reports.curve) == pytest.approx(wanted)
    assert student.model.entities.shape == (9, 4)


def test_vectors_are_rows_of_what_paths_can_reach(tmp_path: Path) -> None:
    ring = [(4 + i, 0, 4 + (i + 1) % 4) for i in range(4)]
    kg = knowledge_graph("k", 12, 1, [*ring, (9, 0, 9), (10, 0, 4)])
    # 10 has a held-out triple alone, 11 none at all; 9 a loop.
    local = LocalGraph(
        "k", np.array([4, 5, 6, 7, 9, 10, 11]), table([*ring, (9, 0, 9)], 3), table([(10, 0, 4)], 3)
    )
    student = retrained(tmp_path, None, local=local, kg=kg)
    assert student.seen.tolist() == [True] * 5 + [False] * 2
    rows, known = student.vectors(12)
    assert rows.dtype == np.float32
    assert np.flatnonzero(known).tolist() == [4, 5, 6, 7, 9]
    assert np.array_equal(rows[known], student.model.entities[:5].detach().numpy())
    assert not rows[~known].any()


def test_an_entity_without_local_triples_is_seen_over_the_other_kgs(tmp_path: Path) -> None:
    graphs = TOWN.graphs()
    union = UnionGraph.of(graphs, given_links(graphs))
    teacher = Teacher(freeze(new_teacher(union, small(), 0)), union)
    local = part()
    of_one = (local.train[:, ::2] == 23).any(1)
    without = LocalGraph("town", local.entities, local.train[~of_one], local.valid)
    for hops in (0, 1):
        seen = retrained(tmp_path, teacher, local=without, link_hops=hops).seen
        assert seen[23] == (hops == 1)
        assert seen[:23].all()


def test_rows_are_scattered_where_they_are_known() -> None:
    rows = np.arange(1, 7, dtype=np.float32).reshape(3, 2)
    found, known = scattered(rows, np.array([4, 0, 2]), np.array([True, False, True]), 5)
    assert found.tolist() == [[0, 0], [0, 0], [5, 6], [0, 0], [1, 2]]
    assert known.tolist() == [False, False, True, False, True]


def test_distillation_alone_brings_what_the_teacher_knows(tmp_path: Path) -> None:
    """No linked triples: the teacher's states and answers are all that tells the places of half of the people. Chance is 0.41."""
    town, task = Town(), Town().task()
    graphs = town.graphs()
    union = UnionGraph.of(graphs, given_links(graphs))
    ctx = Reports().context(tmp_path)
    widths = {"teacher_hidden": 16, "hidden": 16, "dropout": 0.0, "negatives": 40, "link_hops": 0}
    steps = {
        "teacher_epochs": 30,
        "teacher_lr": 0.02,
        "epochs": 40,
        "lr": 0.02,
        "eval_every": 8,
        "patience": 9,
    }
    config = small(**widths, **steps)
    teacher = Teacher(fit_teacher(union, config, ctx, "joint"), union)
    heads = task.test.heads

    def mrr(model: PathModel) -> float:
        scores = np.concatenate(list(model.score_all(heads, np.zeros_like(heads))))
        return town.mrr(scores, heads)

    taught, alone = (
        fit_student(LocalGraph.of_links(task), graphs["town"], of, config, ctx, "t") for of in (teacher, None)
    )
    assert mrr(alone.model) < 0.55
    assert mrr(teacher.model) > 0.7
    assert mrr(taught.model) > 0.65
