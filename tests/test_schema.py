"""Strict decoding: what fits comes back equal, what does not is named by its path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpi_bench._schema import decode, encode
from kpi_bench.errors import KpiBenchError, ResultError


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Leaf:
    count: int
    share: float = 0.0
    label: str | None = None


@dataclass(frozen=True)
class Tree:
    colour: Colour
    leaf: Leaf
    leaves: tuple[Leaf, ...] = ()
    pair: tuple[int, str] | None = None
    names: list[str] = field(default_factory=list)
    weights: Mapping[str, float] = field(default_factory=dict)
    flag: bool = False
    free: Any = None


leaves = st.builds(
    Leaf,
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.text(),
)
trees = st.builds(
    Tree,
    st.sampled_from(Colour),
    leaves,
    st.lists(leaves, max_size=3).map(tuple),
    st.none() | st.tuples(st.integers(), st.text()),
    st.lists(st.text(), max_size=3),
    st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    st.booleans(),
    st.none() | st.lists(st.integers(), max_size=2),
)


@given(trees)
def test_round_trip_through_json(tree: Tree) -> None:
    assert decode(Tree, json.loads(json.dumps(encode(tree))), "x", KpiBenchError) == tree


def test_defaults_and_whole_numbers_as_floats() -> None:
    tree = decode(Tree, {"colour": "red", "leaf": {"count": 3, "share": 1}}, "x", KpiBenchError)
    assert tree == Tree(Colour.RED, Leaf(3, 1.0))
    assert isinstance(tree.leaf.share, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "green"}, "f.json.colour: 'green' is none of red, blue"),
        ({"colour": None}, "f.json.colour: None is none of red, blue"),
        ({"leaf": 3}, "f.json.leaf: expected an object, found int 3"),
        ({"leaf": {}}, "f.json.leaf: missing key(s) count"),
        (
            {"leaf": {"count": 1, "b": 1, "a": 2}},
            "f.json.leaf: unknown key(s) a, b; allowed are count, share, label",
        ),
        ({"leaf": {"count": 1.0}}, "f.json.leaf.count: expected int, found float 1.0"),
        ({"leaf": {"count": True}}, "f.json.leaf.count: expected int, found bool True"),
        ({"leaf": {"count": 1, "share": True}}, "f.json.leaf.share: expected float, found bool True"),
        ({"leaf": {"count": 1, "share": "1"}}, "f.json.leaf.share: expected float, found str '1'"),
        ({"leaf": {"count": 1, "share": float("nan")}}, "f.json.leaf.share: nan is not a finite number"),
        ({"leaf": {"count": 1, "label": 5}}, "f.json.leaf.label: expected str, found int 5"),
        ({"leaves": [{"count": 1}, {"count": "x"}]}, "f.json.leaves[1].count: expected int, found str 'x'"),
        ({"leaves": {"count": 1}}, "f.json.leaves: expected a list, found dict"),
        ({"names": "abc"}, "f.json.names: expected a list, found str 'abc'"),
        ({"pair": [1]}, "f.json.pair: expected 2 values, found 1"),
        ({"pair": [1, 2]}, "f.json.pair[1]: expected str, found int 2"),
        ({"weights": {"a": "b"}}, "f.json.weights.a: expected float, found str 'b'"),
        ({"weights": [1]}, "f.json.weights: expected an object, found list"),
        ({"flag": 1}, "f.json.flag: expected bool, found int 1"),
    ],
)
def test_faults_are_named_by_their_path(change: dict[str, Any], message: str) -> None:
    value = {"colour": "red", "leaf": {"count": 1}, **change}
    with pytest.raises(ResultError) as caught:
        decode(Tree, value, "f.json", ResultError)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_no_object_at_all(value: object) -> None:
    with pytest.raises(ResultError, match=r"f\.json: expected an object"):
        decode(Tree, value, "f.json", ResultError)
