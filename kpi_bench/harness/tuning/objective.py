"""One number for a trial, from its main metrics on valid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kpi_bench.errors import RunError
from kpi_bench.evaluators.metrics import metric
from kpi_bench.suites.suite import Suite


@dataclass(frozen=True)
class Objective:
    """What trials are compared by. One task: its main metric. Several: the geometric mean of their main metrics.

    The order of trials by a geometric mean does not change when a task's metric is multiplied by a constant (the arithmetic mean of
    ratios to a reference changes with the reference; Fleming and Wallace 1986, doi:10.1145/5666.5673), so a task with small numbers
    weighs as much as one with large numbers, and no reference run has to succeed first. It is 0 where a task's metric is 0.
    """

    description: str
    higher_is_better: bool
    tasks: tuple[str, ...]

    def value(self, by_task: Mapping[str, float]) -> float:
        """The number of a trial with these main metrics."""
        values = [by_task[task] for task in self.tasks]
        if len(values) == 1:
            return values[0]
        if min(values) <= 0.0:
            return 0.0
        return math.exp(math.fsum(map(math.log, values)) / len(values))

    def better(self, one: float, other: float) -> bool:
        """Whether ``one`` is better than ``other``."""
        return one > other if self.higher_is_better else one < other


def make_objective(suite: Suite, tasks: Sequence[str]) -> Objective:
    """The objective over some tasks of a suite.

    Raises:
        RunError: several tasks, and a main metric of theirs is better when lower or can be negative.
    """
    names = {task: suite.manifest.task(task).main_metric for task in tasks}
    if len(names) == 1:
        (name,) = names.values()
        return Objective(name, metric(name).higher_is_better, tuple(tasks))
    for task, name in names.items():
        if not metric(name).higher_is_better or metric(name).minimum < 0:
            raise RunError(
                f"task {task}: {name} has no place in a geometric mean (lower is better, or it can be negative); tune it alone with --tasks {task}"
            )
    listed = ", ".join(f"{task} {name}" for task, name in names.items())
    return Objective(f"geometric mean of {listed}", True, tuple(tasks))
