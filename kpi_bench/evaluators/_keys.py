"""One int64 key for a (score, column) pair, so that one integer comparison applies the tie rule.

The high half is the float32 bit pattern made monotone (negative numbers have their magnitude bits flipped, -0.0 counts
as 0.0); the low half grows as the column falls, so that of two equal scores the lower column has the larger key.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EMPTY = np.iinfo(np.int64).min
_LOW_BITS = 0xFFFFFFFF


def encode(scores: NDArray[np.float32], columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keys of finite scores and of columns below 2**32, elementwise."""
    bits = (scores + np.float32(0)).view(np.int32).astype(np.int64)
    monotone = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (monotone << 32) | (_LOW_BITS - columns)


def decode(keys: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and columns of keys; a slot that holds ``EMPTY`` gives (-inf, -1)."""
    monotone = (keys >> 32).astype(np.int32)
    scores = np.where(monotone < 0, monotone ^ np.int32(0x7FFFFFFF), monotone).view(np.float32)
    columns = _LOW_BITS - (keys & _LOW_BITS)
    vacant = keys == EMPTY
    return np.where(vacant, np.float32(-np.inf), scores), np.where(vacant, -1, columns)
