"""Ascending arrays: made, and looked up in."""

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
