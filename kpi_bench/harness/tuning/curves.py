"""Learning curves of a trial's runs, as trials are compared by them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kpi_bench.harness.results import CurvePoint

Curve = Mapping[int, float]
"""Step -> value."""


@dataclass(frozen=True)
class CurveKey:
    """Curves that can be compared: those of one task and seed in one metric."""

    task: str
    seed: int
    metric: str


def curves_of(task: str, seed: int, points: Iterable[CurvePoint]) -> dict[CurveKey, Curve]:
    """The curves of a finished run's adapt phase."""
    curves: dict[CurveKey, dict[int, float]] = {}
    for point in points:
        if point.phase == "adapt":
            curves.setdefault(CurveKey(task, seed, point.metric), {})[point.step] = point.value
    return dict(curves)
