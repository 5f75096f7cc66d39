"""Sparse rows against scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from kpi_bench import Csr


@st.composite
def pairs(draw: st.DrawFn) -> tuple[list[int], list[int], tuple[int, int]]:
    """Row and column ids, repeats allowed, and a shape that holds them."""
    n_rows, n_columns = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    entries = draw(
        st.lists(st.tuples(st.integers(0, n_rows - 1), st.integers(0, n_columns - 1)), max_size=30)
    )
    return [r for r, _ in entries], [c for _, c in entries], (n_rows, n_columns)


def reference(rows: list[int], columns: list[int], shape: tuple[int, int]) -> Any:
    matrix = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
    matrix.sum_duplicates()
    matrix.sort_indices()
    return matrix


@given(pairs())
def test_from_pairs(entries: tuple[list[int], list[int], tuple[int, int]]) -> None:
    ours, theirs = Csr.from_pairs(*entries), reference(*entries)
    np.testing.assert_array_equal(ours.indptr, theirs.indptr)
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    assert (ours.n_rows, ours.n_columns) == entries[2]
    assert ours.nnz == theirs.nnz
    assert ours.indptr.dtype == np.int64
    np.testing.assert_array_equal(ours.lengths(), np.diff(theirs.indptr))
    np.testing.assert_array_equal(ours.row_ids(), theirs.tocoo().coords[0])
    for i in range(ours.n_rows):
        np.testing.assert_array_equal(ours.row(i), theirs.indices[theirs.indptr[i] : theirs.indptr[i + 1]])


@given(pairs(), st.data())
def test_select(entries: tuple[list[int], list[int], tuple[int, int]], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, entries[2][0] - 1), max_size=10))
    ours = Csr.from_pairs(*entries).select(rows)
    theirs = reference(*entries)[np.array(rows, dtype=np.int64)]
    np.testing.assert_array_equal(ours.indptr, theirs.indptr)
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    assert (ours.n_rows, ours.n_columns) == (len(rows), entries[2][1])


def test_empty() -> None:
    matrix = Csr.empty(3, 5)
    assert (matrix.n_rows, matrix.n_columns, matrix.nnz) == (3, 5, 0)
    assert matrix.row(2).tolist() == []
    assert matrix.select([1, 1]).n_rows == 2
    none = Csr.from_pairs([], [], (0, 0))
    assert (none.n_rows, none.nnz) == (0, 0)


@pytest.mark.parametrize(("n_columns", "dtype"), [(2**31 - 1, np.int32), (2**31 + 5, np.int64)])
def test_indices_are_as_small_as_the_columns_allow(n_columns: int, dtype: type[np.integer]) -> None:
    matrix = Csr.from_pairs([1, 0], [n_columns - 1, 0], (2, n_columns))
    assert matrix.indices.dtype == dtype
    assert matrix.row(1).tolist() == [n_columns - 1]


@pytest.mark.parametrize("pair", [(0, 3), (3, 0), (-1, 0), (0, -1)])
def test_a_pair_outside_of_the_matrix_is_refused(pair: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="outside of a 3 x 3 matrix"):
        Csr.from_pairs([pair[0]], [pair[1]], (3, 3))
