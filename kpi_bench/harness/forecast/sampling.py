"""Choose parts of tables at random so that every kind of size falls by about the same share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kpi_bench.evaluators._hash import STEP, mix64

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

STEEPEST = 8.0
HALVINGS = 12


def uniform(*columns: Ints, salt: int = 0) -> Floats:
    """A number in (0, 1) for each row, float64 ``[n]``, that depends on its values and ``salt`` alone: equal rows of two tables get equal
    numbers."""
    state = np.full(columns[0].shape, salt + 1, dtype=np.uint64) * STEP
    for column in columns:
        state = mix64(state ^ (column.astype(np.uint64) * STEP + STEP))
    return (np.asarray(state >> np.uint64(11), dtype=np.float64) + 0.5) / 2.0**53


def least(keys: Floats, n: int, always: Mask | None = None) -> Mask:
    """The rows of the ``n`` least keys, bool ``[n_rows]``; ``always`` are among them, and may be more than ``n``."""
    if always is not None:
        keys = np.where(always, -np.inf, keys)
        n = max(n, int(np.count_nonzero(always)))
    chosen = np.zeros(len(keys), dtype=bool)
    if n >= len(keys):
        chosen[:] = True
    elif n > 0:
        chosen[np.argpartition(keys, n - 1)[:n]] = True
    return chosen


def choose_weighted(
    draws: Floats,
    degrees: Ints,
    steepness: float,
    n: int,
    always: Mask | None = None,
    first: Mask | None = None,
) -> Mask:
    """``n`` of the nodes without replacement, by weights ``(degree + 1) ** steepness``, bool ``[n_nodes]``; ``draws`` are uniform.

    A node's key is an exponential variable divided by its weight (Efraimidis and Spirakis 2006), here as logarithms. ``always`` are
    chosen whatever ``n`` is; ``first`` before all others.
    """
    keys = np.log(-np.log(draws)) - steepness * np.log(degrees + 1.0)
    if first is not None:
        keys = np.where(first, keys, keys + 2 * np.abs(keys).max(initial=0.0) + 1.0)
    return least(keys, n, always)


def steepness_for(count: Callable[[float], int], wanted: int) -> float:
    """The least steepness at which ``count`` reaches ``wanted`` (it grows with steepness, more or less); the steepest where none does.

    Nodes chosen uniformly keep the square of their share of the edges; the more their degree counts, the more edges stay.
    """
    if count(0.0) >= wanted:
        return 0.0
    low, high = 0.0, STEEPEST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if count(middle) >= wanted else (middle, high)
    return high


def first_of_each(groups: Ints, keys: Floats, n: int = 1) -> Mask:
    """The ``n`` rows with the least keys of every group, bool ``[n_rows]``."""
    order = np.lexsort((keys, groups))
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, int)
    place = np.arange(len(ordered)) - np.repeat(starts, np.diff(np.r_[starts, len(ordered)]))
    found = np.zeros(len(groups), dtype=bool)
    found[order[place < n]] = True
    return found


def bound(kept: Mask, wanted: int) -> float:
    """Of the rows kept, about ``wanted`` have a key (:func:`uniform`) below this."""
    return wanted / max(wanted, int(np.count_nonzero(kept)), 1)


def numbering(kept: Mask) -> Ints:
    """New ids of what is kept, in the old order, int64 ``[n]``; -1 for the rest."""
    return np.where(kept, np.cumsum(kept) - 1, -1)
