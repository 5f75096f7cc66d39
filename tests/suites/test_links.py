from __future__ import annotations

import unicodedata
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpi_bench import KnowledgeGraph, align_by_name
from kpi_bench.errors import RecipeError
from kpi_bench.suites.audit import audit_links
from kpi_bench.suites.links import align_by_key, joined, links_between, normal_name, over_links
from kpi_bench.suites.task import LinkPredictionTask, TaskKind, TaskSpec, Triples
from kpi_bench.suites.writer import LINKS

Rows = list[tuple[int, int, int]]


def graph(
    name: str,
    names: list[str | None],
    triples: Rows | None = None,
    links: list[tuple[int, str, int, str]] | None = None,
) -> KnowledgeGraph:
    n = len(names)
    columns = {"entity": range(n), "key": [str(e) for e in range(n)], "name": pa.array(names, pa.string())}
    entities = pa.table({**columns, "text": [None] * n, "domain": ["d"] * n, "kind": ["k"] * n})
    relations = pa.table({"relation": [0], "key": ["r"], "name": ["r"]})
    table = (
        None
        if links is None
        else pa.Table.from_pandas(pd.DataFrame(links, columns=LINKS.names), schema=LINKS)
    )
    return KnowledgeGraph(name, *_columns(triples or []), entities, relations, table)


def _columns(rows: Rows) -> list[np.ndarray]:
    return list(np.array(rows, dtype=np.int64).reshape(-1, 3).T)


def linked(frame: pd.DataFrame) -> list[tuple[int, int]]:
    return list(zip(frame["entity"].tolist(), frame["other_entity"].tolist(), strict=True))


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("The Patriot (2000 film)", "thepatriot"),
        ("New_York", "newyork"),
        ("Café", "café"),
        ("CAFE\u0301", "café"),
        ("Straße", "strasse"),
        ("\uff21\uff22\uff23", "abc"),
        ("(What's the Story) Morning Glory?", "whatsthestorymorningglory"),
        ("Alpha (a) (b)", "alphaa"),
        ("(film)", ""),
        ("किला", "किला"),
        ("$ 9.99", "999"),
        ("", ""),
    ],
)
def test_normal_names(name: str, normal: str) -> None:
    assert normal_name(name) == normal


def test_names_link_one_to_one_and_only_where_they_say_something() -> None:
    one = graph("a", [None, "Nina", "Alpha (film)", "Alpha", "1984", "Io", "Beta!", "Gamma", "$9.99"])
    other = graph("b", ["gamma", "NINA (singer)", "alpha", "1984", "IO", None, "be-ta", "Beta", "999"])
    found = align_by_name(one, other)
    assert list(found.columns) == LINKS.names
    assert linked(found) == [(1, 1), (7, 0)]
    assert set(found["other_kg"]) == {"b"}
    assert set(found["rule"]) == {"name"}
    assert linked(align_by_name(one, other, shortest=2)) == [(1, 1), (5, 4), (7, 0)]
    assert pa.Table.from_pandas(found, schema=LINKS, preserve_index=False).num_rows == 2


def test_no_name_no_link() -> None:
    nothing = align_by_name(graph("a", [None, None]), graph("b", []))
    assert linked(nothing) == []
    assert pa.Table.from_pandas(nothing, schema=LINKS, preserve_index=False).schema.equals(
        LINKS, check_metadata=False
    )


WORDS = st.lists(
    st.one_of(st.none(), st.text("aAbBéß1 ()-\u0301", max_size=6), st.text(max_size=5)), max_size=25
)


@settings(max_examples=100, deadline=None)
@given(WORDS, WORDS, st.integers(1, 4))
def test_name_links_are_one_to_one_equal_and_complete(
    first: list[str | None], second: list[str | None], shortest: int
) -> None:
    pairs = linked(align_by_name(graph("a", first), graph("b", second), shortest=shortest))
    turned = linked(align_by_name(graph("b", second), graph("a", first), shortest=shortest))
    assert sorted((y, x) for x, y in turned) == pairs
    normal = [[normal_name(name or "") for name in names] for names in (first, second)]
    counts = [Counter(names) for names in normal]
    expected = [
        (x, normal[1].index(name))
        for x, name in enumerate(normal[0])
        if counts[0][name] == 1 == counts[1][name]
        and len(name) >= shortest
        and any(unicodedata.category(c).startswith("L") for c in name)
    ]
    assert pairs == expected


# --- keys -------------------------------------------------------------------------------------------------------------


def test_keys_link_in_the_order_of_the_pairs() -> None:
    pairs = pd.DataFrame(
        {"key": ["c", "a", "c"], "other_key": ["x", "y", "y"], "rule": ["sameAs", "id", "sameAs"]}
    )
    found = align_by_key(["a", "b", "c"], ["y", "x"], "other", pairs)
    assert list(found.itertuples(index=False, name=None)) == [
        (2, "other", 1, "sameAs"),
        (0, "other", 0, "id"),
        (2, "other", 0, "sameAs"),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("a", "x"), ("q", "x"), ("w", "y")],
            r"links to KG other: key 'q' is no entity's \(2 of 3 rows have such a key\)",
        ),
        ([("a", "x"), ("a", "z")], r"other_key 'z' is no entity's \(1 of 2"),
        ([("a", "x"), ("b", "x"), ("a", "x")], r"'a' and 'x' are paired twice \(1 repeated rows\)"),
        ([("a", None)], r"other_key None is no entity's"),
    ],
)
def test_keys_that_cannot_be_linked_are_named(rows: list[tuple[str, str]], message: str) -> None:
    pairs = pd.DataFrame(rows, columns=["key", "other_key"], dtype=object).assign(rule="id")
    with pytest.raises(RecipeError, match=message):
        align_by_key(["a", "b"], ["x", "y"], "other", pairs)


# --- what links say ---------------------------------------------------------------------------------------------------


def test_links_are_read_from_either_side_once() -> None:
    one = graph("a", [None] * 3, links=[(0, "b", 1, "id"), (2, "b", 0, "id"), (1, "c", 0, "id")])
    other = graph("b", [None] * 3, links=[(1, "a", 0, "name"), (2, "a", 1, "name")])
    assert linked(links_between(one, other)) == [(0, 1), (2, 0), (1, 2)]
    assert sorted(linked(links_between(other, one))) == [(0, 2), (1, 0), (2, 1)]
    assert linked(links_between(graph("d", [None]), other)) == []


SMALL = st.integers(0, 4)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(SMALL, SMALL), max_size=12),
    st.sets(st.tuples(SMALL, SMALL), max_size=10),
    st.lists(st.tuples(SMALL, SMALL), max_size=8),
)
def test_pairs_over_links_equal_brute_force(
    triples: list[tuple[int, int]], links: set[tuple[int, int]], asked: list[tuple[int, int]]
) -> None:
    ends = ["head", "tail"]
    frame = pd.DataFrame(triples, columns=ends, dtype=np.int64)
    pairs = pd.DataFrame(sorted(links), columns=["entity", "other_entity"], dtype=np.int64)
    said = over_links(frame, pairs)
    expected = [
        (row, x, y)
        for row, (head, tail) in enumerate(triples)
        for entity, x in links
        if entity == head
        for other, y in links
        if other == tail
    ]
    assert sorted(said.itertuples(index=False, name=None)) == sorted(expected)
    both = {(x, y) for _, x, y in expected} | {(y, x) for _, x, y in expected}
    mask = joined(pd.DataFrame(asked, columns=ends, dtype=np.int64), said)
    assert mask.tolist() == [pair in both for pair in asked]


def test_a_planted_leak_is_found_from_either_side_of_the_links() -> None:
    target = graph("kg", [None] * 5, links=[(0, "near", 2, "id"), (1, "near", 0, "id")])
    near = graph("near", [None] * 4, [(0, 0, 2), (3, 0, 1)], [(3, "kg", 3, "id"), (1, "kg", 4, "id")])
    far = graph("far", [None] * 2, [(0, 0, 1)], [(0, "kg", 0, "id"), (1, "kg", 1, "id")])
    apart = graph("apart", [None] * 2, [(0, 0, 1)])
    found = audit_links(_task([(4, 0, 2)], [(0, 0, 1), (1, 0, 0), (4, 0, 3), (0, 0, 3)]), target, [near, far])
    assert [(f.check, f.severity, f.count, f.total) for f in found] == [
        ("valid pairs joined in a linked KG", "info", 0, 1),
        ("test pairs joined in a linked KG", "leak", 3, 4),
    ]
    assert found[1].detail.endswith("in either direction: KG near (3); KG far (2)")
    assert audit_links(_task([(0, 0, 1)], [(0, 0, 1)]), target, [apart]) == []
    withheld = audit_links(_task([(0, 0, 1)], None), target, [far])
    assert [(f.check, f.count) for f in withheld] == [("valid pairs joined in a linked KG", 1)]


def _task(valid: Rows, test: Rows | None) -> LinkPredictionTask:
    spec = TaskSpec("links", TaskKind.LINK_PREDICTION, "kg", "d", "", "", "mrr")
    held_out = None if test is None else Triples(*_columns(test))
    return LinkPredictionTask(
        spec, 5, 1, Triples(*_columns([(2, 0, 3)])), Triples(*_columns(valid)), held_out
    )
