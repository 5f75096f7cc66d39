"""A task's part of its KG, against what a loop picks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from baseline_factory import link_task
from hypothesis import given, settings
from hypothesis import strategies as st
from jplr_factory import knowledge_graph, rows_of

from baselines.jplr.local import LocalGraph, held_out, without
from kpi_bench import (
    ClassificationTask,
    Examples,
    Interactions,
    KnowledgeGraph,
    RecommendationTask,
    Suite,
    TaskKind,
    TaskSpec,
)

KINDS = ["item", "item", "item", "item", "tag", "tag", "item", "tag", "item"]
DOMAINS = ["a", "a", "a", "a", "a", "a", "b", "b", "a"]
TRIPLES = [(0, 0, 4), (1, 0, 4), (2, 0, 5), (6, 0, 4), (6, 0, 7), (5, 1, 4), (7, 1, 0), (3, 1, 3), (2, 1, 6)]
NONE = np.zeros(0, np.int64)
NOTHING = np.zeros(len(TRIPLES), np.bool_)


def shop() -> KnowledgeGraph:
    kg = knowledge_graph("shop", len(KINDS), 2, TRIPLES)
    entities = kg.entities
    for name, values in (("kind", KINDS), ("domain", DOMAINS)):
        entities = entities.set_column(entities.schema.get_field_index(name), name, pa.array(values))
    return KnowledgeGraph(kg.name, kg.heads, kg.relations, kg.tails, entities, kg.relation_table)


def recommendation(item_entity: list[int]) -> RecommendationTask:
    spec = TaskSpec("t", TaskKind.RECOMMENDATION, "shop", "a", "", "", "ndcg@20", ks=(5,), n_users=1)
    nothing = Interactions(NONE, NONE)
    return RecommendationTask(spec, 1, np.array(item_entity), nothing, nothing)


def classification(train: list[int], valid: list[int]) -> ClassificationTask:
    spec = TaskSpec("t", TaskKind.CLASSIFICATION, "shop", "a", "", "", "accuracy", labels=("no", "yes"))

    def split(entities: list[int]) -> Examples:
        n = len(entities)
        return Examples(np.arange(n), np.array(entities), [""] * n, np.zeros(n, np.int64))

    return ClassificationTask(spec, split(train), split(valid))


@pytest.mark.parametrize(
    ("task", "items"),
    [
        (recommendation([0, -1, 1]), {0, 1, 2, 3, 8}),
        (recommendation([6]), {6}),
        (recommendation([0, 6, -1]), {0, 1, 2, 3, 8, 6}),
        (classification([1], [2]), {0, 1, 2, 3, 8}),
        (classification([1], [6]), {0, 1, 2, 3, 8, 6}),
        (classification([6], [6]), {6}),
    ],
)
def test_it_is_all_items_of_the_kinds_named_and_what_their_triples_lead_to(
    task: RecommendationTask | ClassificationTask, items: set[int]
) -> None:
    local = LocalGraph.of_items(task, shop(), NOTHING)
    mine = [triple for triple in TRIPLES if triple[0] in items or triple[2] in items]
    assert local.kg == "shop"
    assert rows_of(local.train) == mine
    assert local.valid.shape == (0, 3)
    assert local.entities.tolist() == sorted(items | {end for h, _, t in mine for end in (h, t)})
    assert local.entities.dtype == np.int64


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=len(TRIPLES), max_size=len(TRIPLES)))
def test_held_out_triples_are_there_to_stop_on_and_their_entities_stay(marks: list[bool]) -> None:
    whole = LocalGraph.of_items(recommendation([0]), shop(), NOTHING)
    local = LocalGraph.of_items(recommendation([0]), shop(), np.array(marks))
    chosen = {triple for triple, mark in zip(TRIPLES, marks, strict=True) if mark}
    assert rows_of(local.train) == [triple for triple in rows_of(whole.train) if triple not in chosen]
    assert rows_of(local.valid) == [triple for triple in rows_of(whole.train) if triple in chosen]
    assert np.array_equal(local.entities, whole.entities)


def line(n: int) -> KnowledgeGraph:
    return knowledge_graph("line", n + 1, 1, [(i, 0, i + 1) for i in range(n)])


def test_about_a_share_is_held_out_by_lots_that_a_seed_fixes() -> None:
    kg = line(6000)
    none, few, many = (held_out(kg, share, 3) for share in (0.0, 0.05, 0.4))
    assert not none.any()
    assert few.dtype == np.bool_
    assert abs(few.mean() - 0.05) < 0.012
    assert abs(many.mean() - (1 - 0.6**3) / 3) < 0.03  # below .4, and below the lots of both neighbours
    assert not (few & ~many).any()  # one lot a triple
    assert np.array_equal(few, held_out(kg, 0.05, 3))
    other = held_out(kg, 0.05, 4)
    assert 0 < (few & other).sum() < 0.3 * few.sum()
    # A lot is of the triple's place alone.
    assert np.array_equal(held_out(line(100), 0.4, 3)[:99], many[:99])


def test_every_entity_keeps_a_triple() -> None:
    rng = np.random.default_rng(0)
    heads, tails = rng.integers(0, 300, (2, 500))
    kg = replace(line(500), heads=heads, tails=tails)
    marks = held_out(kg, 0.49, 1)
    assert marks.any()
    assert np.array_equal(np.union1d(heads, tails), np.union1d(heads[~marks], tails[~marks]))
    star = replace(line(500), heads=np.arange(500), tails=np.full(500, 500))
    assert not held_out(star, 0.49, 1).any()


def test_a_kg_without_some_triples_keeps_the_others_and_its_tables() -> None:
    kg, marks = shop(), np.arange(len(TRIPLES)) % 3 == 1
    left = without(kg, marks)
    assert rows_of(left.triples()) == [t for i, t in enumerate(TRIPLES) if i % 3 != 1]
    assert left.entities is kg.entities
    assert (left.name, left.n_relations) == (kg.name, kg.n_relations)
    assert rows_of(kg.triples()) == TRIPLES


def test_places_number_the_ends_alone_and_leave_the_triples_as_they_are() -> None:
    local = LocalGraph.of_items(recommendation([6]), shop(), NOTHING)
    assert local.entities.tolist() == [2, 4, 6, 7]
    before = local.train.copy()
    assert rows_of(local.places(local.train)) == [(2, 0, 1), (2, 0, 3), (0, 1, 2)]
    assert np.array_equal(local.train, before)


def test_a_link_prediction_task_is_its_own_part(tiny_suite: Suite) -> None:
    task = link_task(tiny_suite)
    local = LocalGraph.of_links(task)
    assert local.kg == "library"
    assert local.entities.tolist() == list(range(task.n_entities))
    assert np.array_equal(local.train, task.train.array())
    assert np.array_equal(local.valid, task.valid.array())
    assert np.array_equal(local.places(local.valid), local.valid)


def test_items_of_the_tiny_suite_are_all_there(tiny_suite: Suite) -> None:
    for name in ("shop_music", "shop_games_qa", "library_review"):
        task = tiny_suite.task(name)
        assert isinstance(task, RecommendationTask | ClassificationTask)
        kg = tiny_suite.graph(task.spec.kg)
        marks = held_out(kg, 0.1, 3)
        local = LocalGraph.of_items(task, kg, marks)
        if isinstance(task, RecommendationTask):
            asked = task.item_entity[task.item_entity >= 0]
        else:  # cold entities, which test alone names, too
            asked = np.concatenate([task.train.entities, task.valid.entities, task.test.entities])
        assert np.isin(asked, local.entities).all()
        assert np.isin(local.train[:, ::2], local.entities).all()
        assert set(rows_of(local.valid)) <= set(rows_of(kg.triples()[marks]))
        assert not set(rows_of(local.train)) & set(rows_of(kg.triples()[marks]))
    domains = np.array(kg.entities.column("domain").to_pylist())
    assert set(domains[local.entities]) == {"books"}
