"""Pair kernels in numpy alone; the contract, and every number, is that of ``_pair_kernels``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def mean_differences(
    totals: Floats, swaps: NDArray[np.float32], left: Integers, right: Integers, out: Floats
) -> None:
    """Swapping queries with sums u_a and u_b moves the difference of totals D to D - 2 (u_a - u_b); ``out`` gets its size."""
    np.subtract(swaps[left, 0], swaps[right, 0], out=out, dtype=np.float64)
    out *= 2.0
    np.subtract((totals[left] - totals[right]), out, out=out)
    np.abs(out, out=out)


def macro_f1_differences(
    totals: Floats,
    swaps: NDArray[np.float32],
    sizes: Floats,
    left: Integers,
    right: Integers,
    out: Floats,
) -> None:
    """Sizes of the differences of macro-F1 after each swap.

    Over a common denominator a class gives 2 (hits_a * whole_b - hits_b * whole_a) / (whole_a * whole_b), whole = size + predictions.
    """
    n_classes = len(sizes)
    out[:] = 0.0
    for c in range(n_classes):
        hits = np.subtract(swaps[right, c], swaps[left, c], dtype=np.float64)
        calls = np.subtract(swaps[right, n_classes + c], swaps[left, n_classes + c], dtype=np.float64)
        whole_a = (totals[left, n_classes + c] + sizes[c])[:, None] + calls
        whole_b = (totals[right, n_classes + c] + sizes[c])[:, None] - calls
        numerator = (totals[left, c][:, None] + hits) * whole_b
        numerator -= (totals[right, c][:, None] - hits) * whole_a
        whole_a *= whole_b
        # A class without examples has no hits: its numerator is 0 whatever the denominator.
        numerator /= np.where(whole_a > 0.0, whole_a, 1.0)
        out += numerator
    out *= 2.0 / n_classes
    np.abs(out, out=out)


def step(
    values: Floats,
    least: Floats,
    inverse: Floats,
    largest: Floats,
    extreme: Integers,
    exceeded: Integers,
) -> None:
    """Go on with a block of pairs, from the least to the most significant.

    ``values`` float64 ``[b, P]`` are sizes of differences; ``extreme`` ``[b]`` gets how many reach ``least``. ``largest`` ``[P]`` is the
    running maximum of values * ``inverse``; ``exceeded`` gets how many swaps have one that reaches least * inverse.
    """
    for k in range(len(values)):
        extreme[k] = np.count_nonzero(values[k] >= least[k])
        np.maximum(largest, values[k] * inverse[k], out=largest)
        exceeded[k] = np.count_nonzero(largest >= least[k] * inverse[k])
