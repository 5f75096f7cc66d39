"""The union graph by hand, and against sets of triples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from jplr_factory import knowledge_graph, rows_of, table, unions

from baselines.jplr.union import UnionGraph, given_links, name_links
from kpi_bench import KnowledgeGraph
from kpi_bench.errors import SubmissionError


def films() -> dict[str, KnowledgeGraph]:
    """Two KGs of three entities each; 0 and 1 of the first are linked to 2 and 0 of the second, stated once on either side."""
    one = knowledge_graph(
        "one",
        3,
        2,
        [(0, 0, 1), (2, 1, 0), (1, 1, 1)],
        links=[(0, "two", 2), (2, "elsewhere", 7)],
        names=["Alien (film)", "Ripley", None],
    )
    two = knowledge_graph(
        "two",
        3,
        1,
        [(0, 0, 1), (2, 0, 0)],
        links=[(0, "one", 1), (2, "one", 0)],
        names=["ripley", "Nostromo", "ALIEN"],
    )
    return {"one": one, "two": two}


def test_two_kgs_by_hand() -> None:
    union = UnionGraph.of(films(), given_links(films()))
    assert union.names == ("one", "two")
    assert (union.first_entity, union.first_relation) == ({"one": 0, "two": 3}, {"one": 0, "two": 2})
    assert (union.n_entities, union.n_relations) == (6, 3)
    assert (union.entities_of("one"), union.entities_of("two")) == (range(3), range(3, 6))
    assert (union.relations_of("one"), union.relations_of("two")) == (range(2), range(2, 3))
    assert rows_of(union.triples) == [(0, 0, 1), (2, 1, 0), (1, 1, 1), (3, 2, 4), (5, 2, 3)]
    assert rows_of(union.links) == [(0, 5), (1, 3)]
    assert union.bridges.tolist() == [True, True, False, True, False, True]
    # The loop (1, 1, 1) is copied with one end at a time.
    assert rows_of(union.swapped) == [
        (0, 0, 3),
        (0, 2, 3),
        (1, 1, 3),
        (1, 2, 4),
        (2, 1, 5),
        (3, 1, 1),
        (5, 0, 1),
        (5, 2, 1),
    ]
    assert union.triples.dtype == union.links.dtype == union.swapped.dtype == np.int64
    assert union.graph.n_edges == 2 * (5 + 8)
    assert union.graph.has_edges(*union.swapped.T).all()
    assert union.graph is union.graph


def test_given_links_need_both_kgs_and_may_be_stated_on_one_side() -> None:
    graphs = films()
    assert sorted(rows_of(given_links(graphs))) == [(0, 5), (1, 3)]
    assert rows_of(given_links({"two": graphs["two"], "one": graphs["one"]}))
    alone = given_links({"one": graphs["one"]})
    assert alone.shape == (0, 2)
    assert alone.dtype == np.int64


def test_links_do_not_depend_on_the_side_that_states_them() -> None:
    graphs = films()
    either = UnionGraph.of(graphs, given_links(graphs))
    turned = UnionGraph.of(graphs, given_links(graphs)[:, ::-1])
    np.testing.assert_array_equal(either.links, turned.links)
    np.testing.assert_array_equal(either.swapped, turned.swapped)


def test_name_links_of_all_pairs_of_kgs() -> None:
    graphs = films()
    graphs["three"] = knowledge_graph("three", 2, 1, [(0, 0, 1)], names=["Nostromo", "Alien"])
    links = rows_of(name_links(graphs))
    assert sorted(links) == [(0, 5), (0, 7), (1, 3), (4, 6), (5, 7)]
    assert name_links({"one": graphs["one"]}).shape == (0, 2)
    # Links between the second and the third KG are followed as well.
    assert (3, 2, 6) in rows_of(UnionGraph.of(graphs, name_links(graphs)).swapped)


@settings(max_examples=50, deadline=None)
@given(unions())
def test_swapped_triples_against_sets(union: UnionGraph) -> None:
    partners: dict[int, set[int]] = {}
    for a, b in rows_of(union.links):
        partners.setdefault(a, set()).add(b)
        partners.setdefault(b, set()).add(a)
    expected = set()
    for h, r, t in rows_of(union.triples):
        expected |= {(x, r, t) for x in partners.get(h, set())}
        expected |= {(h, r, x) for x in partners.get(t, set())}
    assert rows_of(union.swapped) == sorted(expected)
    assert not expected & set(rows_of(union.triples))
    assert all(h != t for h, _, t in expected)
    assert np.flatnonzero(union.bridges).tolist() == sorted(partners)
    assert union.graph.n_edges == 2 * (len(union.triples) + len(expected))


@settings(max_examples=40, deadline=None)
@given(unions())
def test_links_are_distinct_and_in_the_order_of_the_kgs(union: UnionGraph) -> None:
    links = rows_of(union.links)
    assert links == sorted(set(links))
    starts = list(union.first_entity.values())
    for a, b in links:
        assert sum(a >= start for start in starts) < sum(b >= start for start in starts)


def test_a_union_without_links_is_its_kgs() -> None:
    graphs = films()
    union = UnionGraph.of({"one": graphs["one"]}, given_links({"one": graphs["one"]}))
    assert union.swapped.shape == (0, 3)
    assert not union.bridges.any()
    np.testing.assert_array_equal(union.triples, graphs["one"].triples())


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ([(0, 6)], "found 0..6"),
        ([(-1, 3)], "found -1..3"),
        ([(0, 3), (1, 2)], r"1 links join two entities of one KG, first \[1, 2\]"),
        ([(4, 4)], "one KG"),
    ],
)
def test_links_that_join_nothing_are_refused(links: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(SubmissionError, match=message):
        UnionGraph.of(films(), table(links, 2))


def test_no_kg_and_unknown_names_are_refused() -> None:
    with pytest.raises(SubmissionError, match="at least one KG"):
        UnionGraph.of({}, table([], 2))
    union = UnionGraph.of(films(), table([], 2))
    with pytest.raises(SubmissionError, match=r"no KG 'three'; its KGs are one, two"):
        union.entities_of("three")
    with pytest.raises(SubmissionError, match="no KG 'three'"):
        union.relations_of("three")
