"""Time to target: how long learning takes to reach what a reference row reaches on valid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median, median_low

from kpi_bench.harness.results import CurvePoint, Result

REFERENCES: Mapping[str, str] = {
    "recommendation": "lightgcn",
    "classification": "text-classifier",
    "link_prediction": "kg-embedding",
}
"""By kind of task the row that sets the target: the usual method without a KG (recommendation, classification) or without anything but
the KG (link prediction). A floor sets none: it has no learning curve."""


@dataclass(frozen=True)
class Target:
    """The score on valid that a learning curve has to reach: the median over seeds of the reference's best."""

    reference: str
    value: float
    higher_is_better: bool


def target_of(results: Iterable[Result], reference: str | None = None) -> Target | None:
    """The target of a task from its rows; ``reference`` names another row than that of :data:`REFERENCES`. None when that row has
    no curve of the main metric for each seed."""
    row = next(
        (row for row in results if row.submission.name == (reference or REFERENCES.get(row.task.kind))), None
    )
    if row is None or not (curves := _curves(row)):
        return None
    higher = row.main.higher_is_better
    # The lower of the middle two: a value that a seed reached, so that the reference reaches its own target.
    value = median_low(max(_gain(point, higher) for point in curve) for curve in curves)
    return Target(row.submission.name, value if higher else -value, higher)


def seconds_to(target: Target, result: Result) -> float | None:
    """Median over seeds of the seconds from the beginning of ``adapt`` to the first point at the target; a seed that never gets there
    counts as infinite. None when most seeds do not, or a seed logs no score of the main metric on valid."""
    goal = target.value if target.higher_is_better else -target.value
    curves = _curves(result)
    if not curves:
        return None
    reached = median(
        min((p.seconds for p in curve if _gain(p, target.higher_is_better) >= goal), default=math.inf)
        for curve in curves
    )
    return reached if math.isfinite(reached) else None


def _curves(result: Result) -> list[list[CurvePoint]]:
    """The points of ``adapt`` that are the main metric on valid, by seed: ``valid_ndcg@20`` or ``ndcg@20``, perhaps after the name of
    a part (``student: valid_mrr``). Empty when a seed has none."""
    main = result.task.main_metric
    names = (main, f"valid_{main}")
    curves = [
        [p for p in curve if p.phase == "adapt" and p.metric.rpartition(": ")[2] in names]
        for curve in result.timing.curves
    ]
    return curves if all(curves) else []


def _gain(point: CurvePoint, higher_is_better: bool) -> float:
    return point.value if higher_is_better else -point.value
