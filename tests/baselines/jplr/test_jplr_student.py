"""The student: what it reads, what stays as it is, and what it is left with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jplr_factory import (
    TOWN,
    Drawn,
    Reports,
    Town,
    joint,
    knowledge_graph,
    part,
    rows_of,
    small,
    table,
)

from baselines.common.distill.teachers import fingerprint, freeze
from baselines.common.kge.scoring import LinkValidation
from baselines.jplr.local import LocalGraph
from baselines.jplr.model import PathModel
from baselines.jplr.student import Student, Teacher, fit_student, scattered
from baselines.jplr.teacher import fit_teacher, new_teacher
from baselines.jplr.union import UnionGraph, given_links
from kpi_bench import KnowledgeGraph

CPU = torch.device("cpu")
WIDE = {"teacher_hidden": 12, "hidden": 8, "dropout": 0.0}


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
