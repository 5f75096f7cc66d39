"""Scores of explanations against a twin that walks every path with Python sets."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kpi_bench import Csr, KnowledgeGraph, Paths
from kpi_bench.errors import EvaluationError
from kpi_bench.evaluators import explanations
from kpi_bench.evaluators.evaluation import Evaluation
from kpi_bench.evaluators.explanations import score_explanations, valid_paths
from kpi_bench.evaluators.metrics import metric
from kpi_bench.evaluators.recommendation import score_recommendation

ENTITY, ITEM, USER = 0, 1, 2
Hop = tuple[int, bool, int, int]


def graph_of(triples: NDArray[np.int64], n_entities: int, n_relations: int) -> KnowledgeGraph:
    entities, relations = pa.table({"entity": range(n_entities)}), pa.table({"relation": range(n_relations)})
    return KnowledgeGraph("g", *triples.reshape(-1, 3).T, entities, relations)


def paths_of(rows: list[tuple[int, int, int, int, list[Hop]]]) -> Paths:
    """Paths from (user, item, first kind, first node, hops of (relation, inverse, kind, node))."""
    longest = max((len(hops) for *_, hops in rows), default=1)
    nodes, kinds = np.full((len(rows), longest + 1), -1), np.full((len(rows), longest + 1), -1, dtype=np.int8)
    relations, inverse = np.full((len(rows), longest), -1), np.zeros((len(rows), longest), dtype=bool)
    for row, (_, _, kind, node, hops) in enumerate(rows):
        kinds[row, 0], nodes[row, 0] = kind, node
        for i, (relation, backwards, kind_after, node_after) in enumerate(hops):
            relations[row, i], inverse[row, i] = relation, backwards
            kinds[row, i + 1], nodes[row, i + 1] = kind_after, node_after
    users, items = (np.array([row[i] for row in rows], dtype=np.int64) for i in (0, 1))
    return Paths(users, items, nodes, kinds, relations, inverse, np.zeros(len(rows), dtype=np.float32))


class World:
    """A small random KG in which items may share an entity or have none, with lists and paths of which many are almost true."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.rng, self.n_users, self.n_items, self.n_entities, self.n_relations = rng, 5, 6, 8, 3
        self.item_entity = rng.integers(-1, self.n_entities, self.n_items)
        ids = rng.integers(0, [self.n_entities, self.n_relations, self.n_entities], (25, 3))
        self.graph = graph_of(np.unique(ids, axis=0), self.n_entities, self.n_relations)
        self.train = Csr.from_pairs(
            rng.integers(0, self.n_users, 12), rng.integers(0, self.n_items, 12), (self.n_users, self.n_items)
        )
        pairs = rng.permutation(self.n_users * self.n_items)[:18]
        pairs = np.sort(pairs)
        self.users, self.items = np.divmod(pairs, self.n_items)
        self.ranks = np.concatenate(
            [np.arange(1, n + 1) for n in np.bincount(self.users, minlength=self.n_users)]
        )
        explained = rng.random(18) < 0.8
        self.paths = paths_of(
            [self.path(int(u), int(i)) for u, i in zip(self.users[explained], self.items[explained], strict=True)]
        )  # fmt: skip

    def place(self, kind: int, node: int) -> tuple[int, int]:
        if kind == ITEM and self.item_entity[node] >= 0:
            return ENTITY, int(self.item_entity[node])
        return kind, node

    def names(self, place: tuple[int, int]) -> list[tuple[int, int]]:
        """Every (kind, node) by which a place may be called."""
        return [place, *((ITEM, i) for i in range(self.n_items) if self.place(ITEM, i) == place)]

    def edges(self) -> dict[tuple[int, int], list[tuple[int, bool, tuple[int, int]]]]:
        out = defaultdict(list)
        for head, relation, tail in self.graph.triples().tolist():
            out[ENTITY, head].append((relation, False, (ENTITY, tail)))
            out[ENTITY, tail].append((relation, True, (ENTITY, head)))
        for user in range(self.n_users):
            for item in self.train.row(user).tolist():
                out[USER, user].append((-1, False, self.place(ITEM, item)))
                out[self.place(ITEM, item)].append((-1, True, (USER, user)))
        return out

    def path(self, user: int, item: int) -> tuple[int, int, int, int, list[Hop]]:
        """A random walk on true edges, towards the item when it can be reached; now and then one thing in it is changed."""
        rng, edges = self.rng, self.edges()
        hops: list[Hop] = []
        at = (USER, user)
        for _ in range(int(rng.integers(1, 6))):
            choices = edges[at] or [(0, False, at)]
            ends = [choice for choice in choices if choice[2] == self.place(ITEM, item)]
            relation, backwards, at = (ends or choices)[rng.integers(len(ends or choices))]
            names = self.names(at)
            hops.append((relation, backwards, *names[rng.integers(len(names))]))
            if at == self.place(ITEM, item):
                break
        start, wrong = user, int(rng.integers(8))
        which = int(rng.integers(len(hops)))
        relation, backwards, kind, node = hops[which]
        if wrong == 0:
            hops[which] = (relation, not backwards, kind, node)
        if wrong == 1:
            hops[which] = (int(rng.integers(-1, self.n_relations)), backwards, kind, node)
        if wrong == 2:
            hops[which] = (relation, backwards, int(rng.integers(3)), int(rng.integers(5)))
        if wrong == 3:
            start = int(rng.integers(self.n_users))
        return user, item, USER if wrong != 4 else ENTITY, start, hops

    def is_valid(self, row: int) -> bool:
        paths, edges = self.paths, self.edges()
        n = int((paths.kinds[row] >= 0).sum())
        places = [self.place(int(paths.kinds[row, i]), int(paths.nodes[row, i])) for i in range(n)]
        ends = ((USER, int(paths.users[row])), self.place(ITEM, int(paths.items[row])))
        return (
            (places[0], places[-1]) == ends
            and len(set(places)) == n
            and all(
                (int(paths.relations[row, i]), bool(paths.inverse[row, i]), places[i + 1]) in edges[places[i]]
                for i in range(n - 1)
            )
        )

    def valid(self) -> NDArray[np.bool_]:
        return valid_paths(
            self.paths, train=self.train, graph=self.graph, item_entity=self.item_entity
        )  # fmt: skip

    def score(self, **changes: object) -> Evaluation:
        given: dict[str, object] = {
            "paths": self.paths, "users": self.users, "items": self.items, "ranks": self.ranks,
            "query_users": np.arange(self.n_users), "train": self.train, "graph": self.graph, "item_entity": self.item_entity,
        }  # fmt: skip
        return score_explanations(**(given | changes))  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.sampled_from([1, 2, 20]), block=st.sampled_from([1, 4, 1 << 20]))
def test_equals_the_slow_twin(seed: int, k: int, block: int) -> None:
    world = World(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explanations, "BEYOND_ACCURACY_K", k)
        patch.setattr(explanations, "TRIPLE_BLOCK", block)
        evaluation = world.score(ks=(k,))
        valid = world.valid()
    expected = [world.is_valid(row) for row in range(len(world.paths))]
    assert valid.tolist() == expected
    assert evaluation.counts == {
        "n_explanations": len(expected),
        "n_invalid_explanations": len(expected) - sum(expected),
    }
    assert evaluation.values.get("path_validity", 0.0) == pytest.approx(sum(expected) / max(len(expected), 1))
    paths = world.paths
    row_of = {pair: row for row, pair in enumerate(zip(paths.users.tolist(), paths.items.tolist(), strict=True))}  # fmt: skip
    for user in range(world.n_users):
        top = [
            int(i)
            for i, u, r in zip(world.items, world.users, world.ranks, strict=True)
            if u == user and r <= k
        ]
        rows = [row_of[user, i] for i in top if (user, i) in row_of and expected[row_of[user, i]]]
        patterns = set()
        for row in rows:
            n = int((paths.kinds[row] >= 0).sum()) - 1
            patterns.add(
                tuple(zip(paths.relations[row, :n].tolist(), paths.inverse[row, :n].tolist(), strict=True))
            )
        shown = evaluation.per_query
        assert shown[f"explained@{k}"][user] == pytest.approx(len(rows) / max(len(top), 1))
        assert shown[f"path_types@{k}"][user] == len(patterns)
    for name, scores in evaluation.per_query.items():
        assert evaluation.values[name] == pytest.approx(scores.mean())
        assert metric(name).minimum <= evaluation.values[name] <= metric(name).maximum


def test_the_worlds_have_both_kinds_of_path() -> None:
    shares = [World(seed).valid().mean() for seed in range(20)]
    assert 0.2 < np.mean(shares) < 0.8


# Items 0, 1, 2 are entities 4, 5 and none; user 0 has items 0 and 2, user 1 has item 1.
TRAIN = Csr.from_pairs([0, 0, 1], [0, 2, 1], (2, 3))
ITEM_ENTITY = np.array([4, 5, -1])
GRAPH = graph_of(np.array([[4, 0, 3], [5, 0, 3], [5, 1, 4]]), 6, 2)


@pytest.mark.parametrize(
    ("hops", "valid"),
    [
        ([(-1, False, ITEM, 0), (0, False, ENTITY, 3), (0, True, ITEM, 1)], True),
        ([(-1, False, ENTITY, 4), (0, False, ENTITY, 3), (0, True, ENTITY, 5)], True),
        ([(-1, False, ITEM, 0), (1, True, ITEM, 1)], True),
        ([(-1, False, ITEM, 0), (1, False, ITEM, 1)], False),
        ([(-1, False, ITEM, 0), (-1, True, USER, 0), (-1, False, ITEM, 1)], False),
        ([(-1, False, ITEM, 0)], False),
        ([(-1, False, ITEM, 1)], False),
        ([(0, False, ITEM, 1)], False),
        ([(-1, True, ITEM, 0), (1, True, ITEM, 1)], False),
        ([(-1, False, ITEM, 2), (-1, False, ITEM, 1)], False),
        ([(-1, False, ITEM, 2), (0, False, ENTITY, 3), (0, True, ITEM, 1)], False),
        ([(-1, False, USER, 1), (-1, False, ITEM, 1)], False),
        ([(-1, False, ITEM, 0), (-1, True, USER, 0), (-1, False, ITEM, 0), (1, True, ITEM, 1)], False),
        ([(-1, False, ITEM, 0), (0, False, ENTITY, 3), (0, True, ENTITY, 4), (1, True, ITEM, 1)], False),
    ],
    ids=[
        "through the KG", "entities for items", "against a triple", "a triple the wrong way", "not this user's", "ends elsewhere",
        "not in train", "a relation from a user", "an interaction the wrong way", "item to item", "an item that the KG lacks",
        "user to user", "a loop over the user", "a loop that calls an item by its entity",
    ],
)  # fmt: skip
def test_one_path(hops: list[Hop], valid: bool) -> None:
    paths = paths_of([(0, 1, USER, 0, hops)])
    assert valid_paths(paths, train=TRAIN, graph=GRAPH, item_entity=ITEM_ENTITY).tolist() == [valid]


def test_a_collaborative_path() -> None:
    train = Csr.from_pairs([0, 1, 1], [0, 0, 2], (2, 3))
    hops = [(-1, False, ENTITY, 4), (-1, True, USER, 1), (-1, False, ITEM, 2)]
    paths = paths_of([(0, 2, USER, 0, hops)])
    assert valid_paths(paths, train=train, graph=GRAPH, item_entity=ITEM_ENTITY).all()


def test_no_paths_lists_or_triples() -> None:
    world = World(1)
    silent = world.score(paths=paths_of([]))
    assert silent.values == {"explained@20": 0.0, "path_types@20": 0.0}
    nothing = np.zeros(0, dtype=np.int64)
    unlisted = world.score(users=nothing, items=nothing, ranks=nothing)
    assert unlisted.values["explained@20"] == 0
    assert unlisted.values["path_validity"] == world.score().values["path_validity"] > 0
    bare = world.score(graph=graph_of(nothing, world.n_entities, world.n_relations), train=Csr.empty(5, 6))
    assert bare.values == {"path_validity": 0.0, "explained@20": 0.0, "path_types@20": 0.0}
    nobody = world.score(query_users=nothing)
    assert "explained@20" not in nobody.values
    assert world.score(ks=(5, 10)).per_query == {}


def test_a_pair_with_two_paths_is_refused() -> None:
    world = World(2)
    twice = world.paths.take(np.array([0, 1, 1, 2]))
    pair = f"user {twice.users[1]}, item {twice.items[1]}"
    with pytest.raises(EvaluationError, match=f"1 paths are of a pair .* first is of {pair}"):
        world.score(paths=twice)


def test_ids_too_many_for_one_key_are_refused() -> None:
    world = World(3)
    # Nulls take no memory.
    huge = dataclasses.replace(world.graph, entities=pa.table({"entity": pa.nulls(2**31)}))
    with pytest.raises(EvaluationError, match="too many to look up triples"):
        world.score(graph=huge)


def test_novelty_by_hand() -> None:
    train = Csr.from_pairs([0, 1, 2, 0], [0, 0, 0, 1], (3, 3))
    users, items, ranks = np.array([0, 0, 1]), np.array([2, 1, 0]), np.array([1, 2, 1])
    everyone = Csr.from_pairs([0, 1, 2], [2, 2, 2], (3, 3))
    evaluation = score_recommendation(
        users, items, ranks, np.array([2.0, 1.0, 0.0]), positives=everyone, query_users=np.arange(3), train=train,
        n_items=3, tie_order=np.arange(3),
    )  # fmt: skip
    # Items 0, 1, 2 have 3, 1 and 0 of 3 train users: 0, 1 and 2 bits; user 2 has no list.
    assert evaluation.per_query["novelty@20"].tolist() == [1.5, 0.0, 0.0]
    assert evaluation.values["novelty@20"] == pytest.approx(0.5)
    assert metric("novelty@20").maximum == np.inf
