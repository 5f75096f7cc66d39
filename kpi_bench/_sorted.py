"""Look-ups in ascending arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def positions(ordered: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of ``keys`` lies in the ascending array ``ordered``, -1 if nowhere; int64 ``[len(keys)]``."""
    if not len(ordered):
        return np.full(len(keys), -1, dtype=np.int64)
    places = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    return np.where(ordered[places] == keys, places, -1)
