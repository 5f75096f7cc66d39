"""Timed rounds of a task: what they say of a phase, and whether the machine held still meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kpi_bench.harness.clock import Lap
from kpi_bench.harness.records import RunRecord
from kpi_bench.harness.results import Rounds, RoundTiming

UNSTEADY = 0.2
"""By more than this share the machine's speed may not have changed over the rounds."""


def summarise_rounds(record: RunRecord) -> Rounds:
    """What a finished timing run measured; ``record.calibrations`` are those before and after it."""
    cuda = not record.key.device.startswith("cpu")
    before, after = record.calibrations
    phases = {
        name: _phase([lap for lap in record.rounds if lap.phase == name], cuda)
        for name in dict.fromkeys(lap.phase for lap in record.rounds)
    }
    return Rounds(record.key.seed, phases, _queries(record.rounds), (before, after))


def unsteady(rounds: Rounds) -> bool:
    """Whether one of the calibration's kernels ran faster before the rounds than after, or after than before, by more than ``UNSTEADY``."""
    before, after = rounds.calibration
    return any(
        max(speed, after[kernel]) > (1.0 + UNSTEADY) * min(speed, after[kernel])
        for kernel, speed in before.items()
    )


def spread(seconds: Sequence[float]) -> tuple[float, float]:
    """Median and interquartile range, linear between order statistics."""
    low, middle, high = np.quantile(np.asarray(seconds, dtype=np.float64), (0.25, 0.5, 0.75))
    return float(middle), float(high - low)


def _phase(laps: Sequence[Lap], cuda: bool) -> RoundTiming:
    warm_up, *timed = laps
    wall = tuple(lap.wall_s for lap in timed)
    median, iqr = spread(wall)
    return RoundTiming(
        wall_s=wall,
        cpu_s=tuple(lap.cpu_s for lap in timed),
        gpu_s=wall if cuda else None,
        median_wall_s=median,
        iqr_wall_s=iqr,
        warm_up_wall_s=warm_up.wall_s,
        warm_up_cpu_s=warm_up.cpu_s,
    )


def _queries(laps: Sequence[Lap]) -> int:
    return next(lap.queries for lap in laps if lap.queries is not None)
