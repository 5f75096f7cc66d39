"""Ascending arrays: made, and looked up in; edges in order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def distinct(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The distinct values, ascending. ``np.unique`` hashes values first (numpy 2.3), which takes ten times a sort where few are equal."""
    ordered = np.sort(values)
    first: NDArray[np.bool_] = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]
    return ordered[first]


def positions(ordered: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of ``keys`` lies in the ascending array ``ordered``, -1 if nowhere; int64 ``[len(keys)]``."""
    if not len(ordered):
        return np.full(len(keys), -1, dtype=np.int64)
    places = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    return np.where(ordered[places] == keys, places, -1)


def edges_in_order(
    rows: NDArray[np.int64],
    relations: NDArray[np.int64],
    columns: NDArray[np.int64],
    n_nodes: int,
    n_relations: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Columns and relations, int32 ``[n]``, of the edges by row, relation and column; ids are within ``n_nodes`` and ``n_relations``."""
    if n_nodes * n_relations * n_nodes > np.iinfo(np.int64).max:
        order = np.lexsort((columns, relations, rows))
        return columns[order].astype(np.int32), relations[order].astype(np.int32)
    # An edge is one number, which says all when sorted: nothing is looked up in the order of another sort.
    keys = rows * n_relations
    keys += relations
    keys *= n_nodes
    keys += columns
    keys.sort()
    pairs, ends = np.divmod(keys, max(n_nodes, 1), out=(keys, np.empty_like(keys)))
    return ends.astype(np.int32), np.remainder(pairs, max(n_relations, 1), out=pairs).astype(np.int32)
