from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpi_bench._sorted import distinct, edges_in_order, positions

NUMBERS = st.lists(st.integers(-5, 5) | st.integers(-(2**63), 2**63 - 1), max_size=30)


@given(NUMBERS)
def test_distinct(values: list[int]) -> None:
    found = distinct(np.array(values, dtype=np.int64))
    assert found.tolist() == sorted(set(values))
    assert found.dtype == np.int64


@given(NUMBERS, NUMBERS)
def test_positions(values: list[int], keys: list[int]) -> None:
    ordered = sorted(set(values))
    found = positions(np.array(ordered, dtype=np.int64), np.array(keys, dtype=np.int64))
    assert found.tolist() == [ordered.index(key) if key in ordered else -1 for key in keys]


@pytest.mark.parametrize("n_nodes", [50, 2**31 - 1])
def test_edges_are_in_order_whatever_the_numbers(n_nodes: int) -> None:
    """Few nodes make one number of an edge; of many, columns are sorted one after the other."""
    rng = np.random.default_rng(0)
    edges = rng.integers(0, [50, 6, 50], (2_000, 3)) + np.array([n_nodes - 50, 0, n_nodes - 50])
    columns, relations = edges_in_order(*edges.T, n_nodes, 6)
    wanted = np.array(sorted(edges.tolist()))
    assert columns.tolist() == wanted[:, 2].tolist()
    assert relations.tolist() == wanted[:, 1].tolist()
    assert columns.dtype == relations.dtype == np.int32


def test_no_edge_is_in_order() -> None:
    none = np.empty(0, dtype=np.int64)
    assert [len(part) for part in edges_in_order(none, none, none, 0, 0)] == [0, 0]
