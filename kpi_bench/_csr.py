"""Compressed sparse rows: the one layout for adjacency, masks and positives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kpi_bench._sorted import distinct

IntArray = NDArray[np.integer]


@dataclass(frozen=True)
class Csr:
    """Rows of sorted column ids.

    ``indptr`` is int64 ``[n_rows + 1]``; ``indices`` is int32 or int64 ``[nnz]``, ascending within a row.
    """

    indptr: NDArray[np.int64]
    indices: IntArray
    n_columns: int

    @property
    def n_rows(self) -> int:
        return len(self.indptr) - 1

    @property
    def nnz(self) -> int:
        return len(self.indices)

    def row(self, i: int) -> IntArray:
        """Column ids of row ``i``, ascending (a view)."""
        return self.indices[self.indptr[i] : self.indptr[i + 1]]

    def lengths(self) -> NDArray[np.int64]:
        """Number of entries of each row, int64 ``[n_rows]``."""
        return np.diff(self.indptr)

    def row_ids(self) -> NDArray[np.int64]:
        """Row id of each entry, int64 ``[nnz]``."""
        return np.repeat(np.arange(self.n_rows, dtype=np.int64), self.lengths())

    def select(self, rows: ArrayLike) -> Csr:
        """The given rows, in the given order, as a new matrix."""
        chosen = np.asarray(rows, dtype=np.int64)
        starts, counts = self.indptr[chosen], self.lengths()[chosen]
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        offsets = np.arange(indptr[-1], dtype=np.int64) - np.repeat(indptr[:-1] - starts, counts)
        return Csr(indptr, self.indices[offsets], self.n_columns)

    @classmethod
    def from_pairs(cls, rows: ArrayLike, columns: ArrayLike, shape: tuple[int, int]) -> Csr:
        """Build from (row, column) pairs in any order; repeated pairs are kept once."""
        n_rows, n_columns = shape
        row = np.asarray(rows, dtype=np.int64)
        column = np.asarray(columns, dtype=np.int64)
        if len(column) and (
            row.min() < 0 or row.max() >= n_rows or column.min() < 0 or column.max() >= n_columns
        ):
            raise ValueError(f"pairs reach outside of a {n_rows} x {n_columns} matrix")
        keys = distinct(row * max(n_columns, 1) + column)
        row, column = np.divmod(keys, max(n_columns, 1))
        indptr = np.zeros(n_rows + 1, dtype=np.int64)
        np.cumsum(np.bincount(row, minlength=n_rows), out=indptr[1:])
        dtype = np.int32 if n_columns <= np.iinfo(np.int32).max else np.int64
        return cls(indptr, column.astype(dtype), n_columns)

    @classmethod
    def empty(cls, n_rows: int, n_columns: int) -> Csr:
        """A matrix without entries."""
        return cls(np.zeros(n_rows + 1, dtype=np.int64), np.zeros(0, dtype=np.int32), n_columns)
