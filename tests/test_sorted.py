from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kpi_bench._sorted import distinct, positions

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
