"""``forecast.json``: what a run is expected to take, and the measurements behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kpi_bench._io import write_json
from kpi_bench._schema import encode, read_versioned
from kpi_bench._version import __version__
from kpi_bench.errors import RunError
from kpi_bench.harness.forecast.fit import Figure

SCHEMA_VERSION = 1
SCORE, HARNESS = "score", "harness"
"""Phases that are not the submission's: scoring, and a run's wall time outside of all phases."""


@dataclass(frozen=True)
class Phase:
    """Seconds of one phase of one run; ``cpu`` is None where only wall time is measured. Without a GPU ``wall`` is ``cpu`` times the ratio
    of the two that was measured, where there is CPU time to speak of: then other work on the machine does not look like growth.

    ``steps`` is the last step of the learning curve at each size, smallest first, empty without a curve. With ``steps_assumed`` (low, mid,
    high) what grows is taken to be done so many times: early stopping does not follow the size.
    """

    wall: Figure
    cpu: Figure | None
    steps: tuple[int, ...] = ()
    steps_assumed: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class RunForecast:
    """One run: pre-training (``task`` None) or a task with one seed. ``memory`` and ``device_memory`` are peaks in bytes. ``why`` says what
    kept it from being forecast."""

    task: str | None
    phases: Mapping[str, Phase]
    memory: Figure | None
    device_memory: Figure | None
    why: str | None = None

    def seconds(self) -> tuple[float, float, float]:
        """Wall time of the run with scoring: low, mid and high, as if all phases were off in the same direction."""
        return total(phase.wall for phase in self.phases.values())


@dataclass(frozen=True)
class Probe:
    """A shrunken copy that was run: ``share`` as asked for, wall time with all that is around, load average at its end; ``complete`` is
    False where the budget ended it."""

    share: float
    seconds: float
    load_average: float
    complete: bool


@dataclass(frozen=True)
class Forecast:
    """A forecast of ``seeds`` runs of each task, after a pre-training each where the submission has one."""

    submission: str
    config: str | None
    source_sha256: str
    params: Mapping[str, Any]
    suite: str
    suite_version: str
    suite_sha256: str
    device: str
    hardware: Mapping[str, Any]
    seeds: tuple[int, ...]
    budget_s: float
    probes: tuple[Probe, ...]
    runs: tuple[RunForecast, ...]
    warnings: tuple[str, ...]
    git: str | None = None
    kpi_bench: str = __version__
    schema_version: int = SCHEMA_VERSION

    def seconds(self) -> tuple[float, float, float]:
        """Wall time of all runs of all seeds one after another: low, mid, high."""
        runs = [run.seconds() for run in self.runs]
        low, mid, high = (len(self.seeds) * sum(column) for column in zip(*runs, strict=True))
        return low, mid, high


def total(figures: Iterable[Figure]) -> tuple[float, float, float]:
    """Sums of low, mid and high."""
    rows = [(figure.low, figure.mid, figure.high) for figure in figures]
    low, mid, high = (sum(row[i] for row in rows) for i in range(3))
    return low, mid, high


def write_forecast(path: Path, forecast: Forecast) -> None:
    """Write ``forecast.json``."""
    write_json(path, encode(forecast))


def read_forecast(path: Path) -> Forecast:
    """Read and check ``forecast.json``.

    Raises:
        RunError: missing, not JSON, another schema version, or an unknown or missing key.
    """
    return read_versioned(Forecast, path, SCHEMA_VERSION, RunError, wanted="what `kpi-bench plan` wrote")
