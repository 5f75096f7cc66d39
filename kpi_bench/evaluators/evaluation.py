"""The result type shared by every evaluator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Evaluation:
    """What an evaluator returns: values, the per-query scores behind those that are means, and what was counted."""

    values: dict[str, float]
    """Metric name -> value, finite."""
    per_query: dict[str, NDArray[np.float64]]
    """Metric name -> one score a query, only for metrics that are means over queries."""
    queries: NDArray[np.int64]
    """Query ids (user ids, example ids, row numbers), aligned with ``per_query``."""
    counts: dict[str, int]
    """n_queries, n_excluded, n_missing, n_short and the like."""
    slices: dict[str, dict[str, float]]
    """Slice name -> metric -> value, with "n_queries"; a metric without any query is left out."""
    chance: dict[str, float]
    """What random scores would get, where a closed form exists."""
