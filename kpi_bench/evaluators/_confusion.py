"""Class counts: the one place where a confusion becomes an F1, for scores, intervals and tests alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kpi_bench.errors import EvaluationError

Floats = NDArray[np.float64]


def f1_from_counts(hits: Floats, actual: Floats, predicted: Floats) -> Floats:
    """F1 of each class, float64 ``[..., C]``, from true positives, class sizes and prediction counts of that shape.

    Counts may be fractions (weights, means over seeds). A class that is neither present nor predicted gets 0.
    """
    size = np.asarray(actual + predicted, dtype=np.float64)
    return np.divide(2.0 * hits, size, out=np.zeros_like(size), where=size > 0)


def one_hot(classes: NDArray[np.int64], n_classes: int) -> Floats:
    """Indicator float64 ``[..., C]`` of class numbers int64 ``[...]``; -1 (no prediction) is a row of zeros."""
    return np.asarray(classes[..., None] == np.arange(n_classes), dtype=np.float64)


def class_numbers(classes: NDArray[np.int64], n_classes: int, *, name: str, lowest: int) -> NDArray[np.int64]:
    """``classes`` as int64, checked to lie in ``lowest .. n_classes - 1``.

    Raises EvaluationError with the count and the first offender.
    """
    array = np.asarray(classes)
    if array.dtype.kind not in "iu":
        raise EvaluationError(f"{name}: class numbers must be integers, not {array.dtype}")
    bad = np.argwhere((array < lowest) | (array >= n_classes))
    if len(bad):
        first = tuple(int(i) for i in bad[0])
        raise EvaluationError(
            f"{name}: {len(bad)} value(s) outside of {lowest}..{n_classes - 1}, the first {array[first]} at {list(first)}"
        )
    return array.astype(np.int64)
