"""Compiled pair kernels, imported only when numba is installed; what they do is said in ``_pair_arrays``, whose numbers they give."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@njit(nogil=True, cache=True)
def mean_differences(
    totals: Floats, swaps: NDArray[np.float32], left: Integers, right: Integers, out: Floats
) -> None:
    for k in range(len(left)):
        sums_a, sums_b, values = swaps[left[k], 0], swaps[right[k], 0], out[k]
        difference = totals[left[k], 0] - totals[right[k], 0]
        for p in range(len(values)):
            values[p] = abs(difference - 2.0 * (np.float64(sums_a[p]) - np.float64(sums_b[p])))


@njit(nogil=True, cache=True)
def macro_f1_differences(
    totals: Floats,
    swaps: NDArray[np.float32],
    sizes: Floats,
    left: Integers,
    right: Integers,
    out: Floats,
) -> None:
    n_classes = len(sizes)
    for k in range(len(left)):
        a, b, values = left[k], right[k], out[k]
        values[:] = 0.0
        for c in range(n_classes):
            hits_a, hits_b = totals[a, c], totals[b, c]
            whole_a, whole_b = totals[a, n_classes + c] + sizes[c], totals[b, n_classes + c] + sizes[c]
            sums_a, sums_b = swaps[a, c], swaps[b, c]
            calls_a, calls_b = swaps[a, n_classes + c], swaps[b, n_classes + c]
            for p in range(len(values)):
                hits = np.float64(sums_b[p]) - np.float64(sums_a[p])
                calls = np.float64(calls_b[p]) - np.float64(calls_a[p])
                after_a, after_b = whole_a + calls, whole_b - calls
                whole = after_a * after_b
                numerator = (hits_a + hits) * after_b - (hits_b - hits) * after_a
                values[p] += numerator / (whole if whole > 0.0 else 1.0)
        for p in range(len(values)):
            values[p] = abs(values[p] * (2.0 / n_classes))


@njit(nogil=True, cache=True)
def step(
    values: Floats,
    least: Floats,
    inverse: Floats,
    largest: Floats,
    extreme: Integers,
    exceeded: Integers,
) -> None:
    for k in range(len(values)):
        row, own, inv = values[k], least[k], inverse[k]
        scaled = own * inv
        n_extreme, n_exceeded = 0, 0
        for p in range(len(row)):
            n_extreme += row[p] >= own
            value = row[p] * inv
            value = value if value > largest[p] else largest[p]
            largest[p] = value
            n_exceeded += value >= scaled
        extreme[k] = n_extreme
        exceeded[k] = n_exceeded
