"""When learning curves say that a trial can be given up: the rule of Optuna's median pruner."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from kpi_bench.errors import EvaluationError
from kpi_bench.evaluators.metrics import Metric, metric
from kpi_bench.harness.tuning.curves import Curve, CurveKey

MEDIAN = "median"
MIN_TRIALS = 5
"""Finished trials that must have come as far before one is given up."""
SMALLEST = 1e-12

Curves = Mapping[CurveKey, Curve]


class MedianRule:
    """Compares a trial with finished ones, as far as it has come.

    One run: a trial is behind when its best value so far is worse than the median of what the finished trials had at the same step.
    Several runs (tasks, seeds): the same with the sum of logarithms over the runs begun so far, each run that is done counted with its
    best value, since values of different tasks are on different scales; what later runs would bring is not known and does not count.
    Metrics that the registry does not know have no known direction: their curves say nothing.
    """

    def __init__(self, finished: Sequence[Curves]) -> None:
        """``finished`` are the curves of finished trials."""
        self._finished = finished

    def behind(self, done: Curves, running: Curves) -> bool:
        """Whether a trial is worth no more time; ``done`` are the curves of its runs that have ended, ``running`` of those that have not."""
        declared = {key: _declared(key.metric) for key in (*done, *running)}
        known = {key: way for key, way in declared.items() if way is not None}
        several = len(known) > 1
        if several:
            known = {key: way for key, way in known.items() if way.minimum >= 0}
        if not any(key in known for key in running):
            return False
        own, others = 0.0, []
        for key, way in known.items():
            own += _weight(_best({**done, **running}[key], way), way, several)
        for trial in self._finished:
            reached = []
            for key, way in known.items():
                curve = trial.get(key, {})
                if key in done and curve:
                    reached.append(_weight(_best(curve, way), way, several))
                elif key in running and max(running[key]) in curve:
                    reached.append(_weight(curve[max(running[key])], way, several))
            if len(reached) == len(known):
                others.append(sum(reached))
        return len(others) >= MIN_TRIALS and own < statistics.median(others)


def _declared(name: str) -> Metric | None:
    """The metric of a curve, which may carry the name of a part and its split: ``student: valid_mrr``."""
    try:
        return metric(name.rpartition(": ")[2].removeprefix("valid_"))
    except EvaluationError:
        return None


def _best(curve: Curve, way: Metric) -> float:
    return max(curve.values()) if way.higher_is_better else min(curve.values())


def _weight(value: float, way: Metric, several: bool) -> float:
    """What a value counts, higher being better."""
    size = math.log(max(value, SMALLEST)) if several else value
    return size if way.higher_is_better else -size
