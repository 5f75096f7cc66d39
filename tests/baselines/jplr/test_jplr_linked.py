"""The linked subgraph by hand, against a plain twin, and as a graph for walks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jplr_factory import knowledge_graph, rows_of, table, unions
from numpy.typing import NDArray
from scipy.stats import chisquare

from baselines.common.paths.random_numbers import keys
from baselines.common.paths.walks import Walker
from baselines.jplr.linked import LinkedGraph, linked_graph
from baselines.jplr.union import UnionGraph
from kpi_bench.errors import SubmissionError
from kpi_bench.suites.suite import Suite

Triple = tuple[int, int, int]
Ints = NDArray[np.int64]


def in_union(linked: LinkedGraph) -> list[tuple[int, ...]]:
    """The triples in union ids, in order."""
    h, r, t = linked.triples.T
    return rows_of(np.stack([linked.origin[h], linked.relation_origin[r], linked.origin[t]], axis=1))


def grown(
    union: UnionGraph,
    kg: str,
    local: Ints,
    own: Ints,
    *,
    withheld: Ints | None = None,
    hops: int,
    per_entity: int,
    seed: int,
) -> LinkedGraph:
    """A linked graph from which nothing is withheld unless the test says so."""
    barred = table([], 3) if withheld is None else withheld
    return linked_graph(union, kg, local, own, withheld=barred, hops=hops, per_entity=per_entity, seed=seed)


def two_kgs() -> UnionGraph:
    """KG local: entities 0..3, relations 0..1. KG other: union entities 4..9, relations 2..4; 4 ~ 0, 5 ~ 1, 5 ~ 2, 9 ~ 3."""
    local = knowledge_graph("local", 4, 2, [(0, 0, 1), (1, 1, 2), (2, 0, 3)])
    other = knowledge_graph(
        "other", 6, 3, [(0, 2, 1), (0, 0, 2), (2, 0, 3), (3, 0, 4), (1, 0, 0), (1, 2, 1), (5, 0, 3)]
    )
    return UnionGraph.of({"local": local, "other": other}, table([(4, 0), (1, 5), (2, 5), (3, 9)], 2))


def test_two_kgs_by_hand() -> None:
    linked = grown(
        two_kgs(), "local", np.array([2, 0, 1]), table([(0, 0, 1)], 3), hops=1, per_entity=9, seed=0
    )
    # 5 is linked to 1 and 2 and goes to 1; 9 stays, as 3 is not local; relation 3 of the other KG is not met.
    assert linked.origin.tolist() == [2, 0, 1, 3, 6]
    assert linked.relation_origin.tolist() == [0, 1, 2, 4]
    assert (linked.n_local, linked.n_nodes, linked.n_relations, linked.n_own) == (3, 5, 4, 1)
    # (1, 1, 2) and (2, 0, 3) are the local KG's own; (5, 4, 5) was a loop before the merge and stays one.
    assert in_union(linked) == [(0, 0, 1), (1, 1, 2), (2, 0, 3), (0, 4, 1), (0, 2, 6), (1, 2, 0), (1, 4, 1)]
    assert rows_of(linked.triples)[:3] == [(1, 0, 2), (2, 1, 0), (0, 0, 3)]
    assert linked.bridges.tolist() == [True, True, True, False, False]
    assert linked.graph.n_edges == 2 * 7


def test_further_rounds_start_from_what_the_last_one_brought() -> None:
    ends = []
    for hops in range(5):
        linked = grown(two_kgs(), "local", np.array([0]), table([], 3), hops=hops, per_entity=9, seed=0)
        ends.append(linked.origin.tolist())
    assert ends == [
        [0],
        [0, 1, 5, 6],
        [0, 1, 2, 5, 6, 7],
        [0, 1, 2, 3, 5, 6, 7, 8, 9],
        [0, 1, 2, 3, 5, 6, 7, 8, 9],
    ]


def test_a_merge_makes_loops_and_repeats_vanish() -> None:
    local = knowledge_graph("local", 2, 1, [(0, 0, 1)])
    other = knowledge_graph("other", 3, 1, [(0, 0, 1), (0, 0, 2), (1, 0, 2), (2, 0, 2)])
    union = UnionGraph.of({"other": other, "local": local}, table([(0, 3), (1, 3)], 2))
    linked = grown(union, "local", np.array([0, 1]), table([(0, 0, 1)], 3), hops=2, per_entity=9, seed=0)
    assert in_union(linked) == [(3, 1, 4), (3, 0, 2), (2, 0, 2)]


@dataclass(frozen=True)
class Request:
    union: UnionGraph
    kg: str
    local: list[int]
    own: list[Triple]
    withheld: list[Triple]
    hops: int
    per_entity: int
    seed: int

    def linked(self) -> LinkedGraph:
        return grown(
            self.union,
            self.kg,
            table([(e,) for e in self.local], 1)[:, 0],
            table(self.own, 3),
            withheld=table(self.withheld, 3),
            hops=self.hops,
            per_entity=self.per_entity,
            seed=self.seed,
        )


@st.composite
def requests(draw: st.DrawFn) -> Request:
    union = draw(unions())
    kg = draw(st.sampled_from(union.names))
    n_entities, n_relations = len(union.entities_of(kg)), len(union.relations_of(kg))
    local = draw(st.permutations(range(n_entities)))[: draw(st.integers(0, n_entities))]
    own = []
    if local:
        node, relation = st.sampled_from(local), st.integers(0, n_relations - 1)
        own = draw(st.lists(st.tuples(node, relation, node), unique=True, max_size=6))
    first, below = union.first_entity[kg], union.first_relation[kg]
    spanned = range(below, below + n_relations)
    mine = [(h - first, r - below, t - first) for h, r, t in rows_of(union.triples) if r in spanned]
    withheld = draw(st.lists(st.sampled_from(mine), unique=True, max_size=3)) if mine else []
    sizes = draw(st.integers(0, 3)), draw(st.sampled_from([1, 2, 50])), draw(st.integers(0, 9))
    return Request(union, kg, local, own, withheld, *sizes)


def plain(request: Request) -> tuple[list[Triple], list[Triple], dict[int, int]]:
    """Own triples, brought triples in union ids, and what is merged into what, one triple at a time."""
    union, first = request.union, request.union.first_entity[request.kg]
    relation = request.union.first_relation[request.kg]
    home = {first + e for e in request.local}
    own = [(first + h, relation + r, first + t) for h, r, t in request.own]
    barred = own + [(first + h, relation + r, first + t) for h, r, t in request.withheld]
    into: dict[int, int] = {}
    for a, b in rows_of(union.links):
        for x, y in ((a, b), (b, a)):
            if x in home:
                into[y] = min(x, into.get(y, x))
    pool: dict[Triple, int] = {}
    for number, (h, r, t) in enumerate(rows_of(union.triples)):
        merged = (into.get(h, h), r, into.get(t, t))
        if merged not in barred and (merged[0] != merged[2] or h == t):
            pool.setdefault(merged, number)
    taken: set[Triple] = set()
    known, frontier = set(home), set(home)
    for _ in range(request.hops):
        drawn = set()
        for entity in frontier:
            lots = []
            for triple, number in pool.items():
                if entity in triple[::2] and triple not in taken:
                    stream = 2 * number + (triple[0] != entity)
                    lots.append((int(keys(request.seed, torch.tensor(stream))), triple))
            drawn |= {triple for _, triple in sorted(lots)[: request.per_entity]}
        taken |= drawn
        frontier = {e for h, _, t in drawn for e in (h, t)} - known
        known |= frontier
    return own, [triple for triple in pool if triple in taken], into


@settings(max_examples=150, deadline=None)
@given(requests())
def test_against_a_plain_twin(request_: Request) -> None:
    union, linked = request_.union, request_.linked()
    own, brought, into = plain(request_)
    assert in_union(linked) == own + brought
    assert linked.n_own == len(own)

    home = [union.first_entity[request_.kg] + e for e in request_.local]
    ends = {e for h, _, t in brought for e in (h, t)}
    assert linked.origin.tolist() == home + sorted(ends - set(home))
    spans = list(union.relations_of(request_.kg))
    assert linked.relation_origin.tolist() == spans + sorted({r for _, r, _ in brought} - set(spans))
    assert linked.origin[linked.bridges].tolist() == [e for e in home if e in ends]

    known = set(rows_of(union.triples)) | set(rows_of(union.swapped))
    for h, r, t in brought:
        if h not in into.values() or t not in into.values():
            assert (h, r, t) in known
        if r in spans:
            assert (h, r, t) in set(rows_of(union.triples))
            first = union.first_entity[request_.kg]
            assert (h - first, r - spans[0], t - first) not in request_.withheld


@settings(max_examples=30, deadline=None)
@given(requests())
def test_paths_are_paths_in_the_union(request_: Request) -> None:
    linked = request_.linked()
    if not linked.n_nodes:
        return
    paths = Walker(linked.graph).walk(np.repeat(np.arange(linked.n_nodes), 4), 2, seed=1)
    mapped = linked.to_union(torch.from_numpy(paths).long())
    assert mapped.shape == paths.shape
    assert mapped.dtype == torch.int64
    edges, n = set(in_union(linked)), request_.union.n_relations
    for path, row in zip(paths.tolist(), mapped.tolist(), strict=True):
        assert [i == -1 for i in path] == [i == -1 for i in row]
        for h, r, t in (row[:3], row[2:]):
            if r != -1:
                assert ((h, r, t) if r < n else (t, r - n, h)) in edges


def test_paths_of_any_shape_and_all_ids() -> None:
    linked = grown(two_kgs(), "local", np.array([2, 0, 1]), table([], 3), hops=1, per_entity=9, seed=0)
    n = two_kgs().n_relations
    paths = torch.tensor([[[0, 0, 1], [2, 3, -1]], [[3, 4, -1], [-1, -1, -1]], [[4, 7, 4], [1, 5, 2]]])
    assert linked.to_union(paths).tolist() == [
        [[2, 0, 0], [1, 4, -1]],
        [[3, n, -1], [-1, -1, -1]],
        [[6, n + 4, 6], [0, n + 1, 1]],
    ]
    assert linked.to_union(paths[0, :, :2]).tolist() == [[2, 0], [1, 4]]
    moved = linked.to_union.to(torch.device("cpu"))
    assert torch.equal(moved(paths), linked.to_union(paths))


def test_a_part_of_one_kg_grows_by_its_own_neighbours(tiny_suite: Suite) -> None:
    kg = tiny_suite.graph("shop")
    union = UnionGraph.of({"shop": kg}, table([], 2))
    local = np.unique(np.concatenate([np.arange(10), kg.tails[kg.heads < 10]]))
    own = kg.triples()[kg.heads < 10]
    linked = grown(union, "shop", local, own, hops=1, per_entity=10**6, seed=3)
    touched = np.isin(kg.heads, local) | np.isin(kg.tails, local)
    assert set(in_union(linked)) == set(rows_of(kg.triples()[touched]))
    assert linked.relation_origin.tolist() == list(range(kg.n_relations))
    assert linked.n_nodes > linked.n_local == len(local)
    assert linked.graph.n_edges == 2 * touched.sum()
    whole = grown(union, "shop", np.arange(kg.n_entities), kg.triples(), hops=2, per_entity=9, seed=3)
    assert (whole.n_nodes, len(whole.triples), whole.n_own) == (kg.n_entities, kg.n_triples, kg.n_triples)
    assert not whole.bridges.any()


def test_withheld_triples_are_never_brought() -> None:
    kg = knowledge_graph("kg", 4, 2, [(0, 0, 1), (0, 1, 1), (1, 0, 2), (2, 0, 3)])
    other = knowledge_graph("other", 1, 1, [(0, 0, 0)])
    union = UnionGraph.of({"other": other, "kg": kg}, table([], 2))
    linked = grown(
        union,
        "kg",
        np.array([0, 1]),
        table([(0, 0, 1)], 3),
        withheld=table([(0, 1, 1), (2, 0, 3)], 3),
        hops=3,
        per_entity=9,
        seed=0,
    )
    assert in_union(linked) == [(1, 1, 2), (2, 1, 3)]


def star(edges: int) -> UnionGraph:
    """One local entity that is linked to the centre of a star of another KG."""
    local = knowledge_graph("local", 1, 1, [])
    triples = [(0, 0, i + 1) if i % 2 else (i + 1, 1, 0) for i in range(edges)]
    other = knowledge_graph("other", edges + 1, 2, triples)
    return UnionGraph.of({"local": local, "other": other}, table([(0, 1)], 2))


def test_an_entity_brings_no_more_than_its_share_and_each_triple_as_often() -> None:
    union, counts = star(6), np.zeros(6, dtype=np.int64)
    for seed in range(600):
        linked = grown(union, "local", np.array([0]), table([], 3), hops=1, per_entity=2, seed=seed)
        assert len(linked.triples) == 2
        counts[linked.origin[1:] - 2] += 1
    assert chisquare(counts).pvalue > 1e-3


def test_draws_depend_on_the_seed_and_not_on_what_else_is_local() -> None:
    def brought(local: list[int], seed: int) -> list[tuple[int, ...]]:
        kg = knowledge_graph("kg", 40, 1, [(i, 0, j) for i in (0, 20) for j in range(i + 1, i + 20)])
        union = UnionGraph.of({"kg": kg}, table([], 2))
        return in_union(grown(union, "kg", np.array(local), table([], 3), hops=1, per_entity=5, seed=seed))

    alone = brought([0], 4)
    assert brought([0], 4) == alone
    assert [triple for triple in brought([20, 0], 4) if triple[0] == 0] == alone
    assert len({tuple(brought([0], seed)) for seed in range(5)}) == 5


@pytest.mark.parametrize(
    ("local", "own", "sizes", "message"),
    [
        ([0, 4], [], {}, r"local entities must be in 0\.\.3"),
        ([-1], [], {}, r"local entities must be in 0\.\.3"),
        ([0, 0], [], {}, "1 local entities are repeated"),
        ([0, 1], [(0, 2, 1)], {}, r"relations must be in 0\.\.1"),
        ([0, 1], [(0, 0, 1), (1, 0, 2)], {}, r"1 own triples leave the local entities, first \[1, 0, 2\]"),
        ([0, 1], [(0, 0, 1), (0, 0, 1)], {}, "own triples are repeated"),
        ([0], [], {"hops": -1}, "got -1 and 1"),
        ([0], [], {"per_entity": 0}, "got 1 and 0"),
    ],
)
def test_what_makes_no_graph_is_refused(
    local: list[int], own: list[Triple], sizes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SubmissionError, match=message):
        grown(
            two_kgs(),
            "local",
            np.array(local),
            table(own, 3),
            **{"hops": 1, "per_entity": 1, "seed": 0, **sizes},
        )


def test_an_unknown_kg_is_refused() -> None:
    with pytest.raises(SubmissionError, match="no KG 'third'"):
        grown(two_kgs(), "third", np.array([0]), table([], 3), hops=1, per_entity=1, seed=0)
