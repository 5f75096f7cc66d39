"""What is kept of every run, so that an interrupted evaluation continues where it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kpi_bench._io import read_json, write_json
from kpi_bench._schema import decode, encode
from kpi_bench._version import __version__
from kpi_bench.errors import RunError
from kpi_bench.harness.clock import Lap
from kpi_bench.harness.results import CurvePoint, Size

RECORD = "run.json"


@dataclass(frozen=True)
class RunKey:
    """What a run depends on. A record with an equal key need not be run again. ``task`` is None for pre-training.

    ``pretraining`` is the session of the pre-training that the run started from, None without one; ``rounds`` how many a timing run has;
    ``processes`` how many pre-trained together.
    """

    submission: str
    source_sha256: str
    params: Mapping[str, Any]
    suite_sha256: str
    task: str | None
    seed: int
    device: str
    pretraining: str | None = None
    kpi_bench: str = __version__
    rounds: int | None = None
    processes: int = 1


@dataclass(frozen=True)
class RunSite:
    """What a run ran on: hardware fingerprint with calibration, software around it, commit of kpi-bench."""

    hardware: Mapping[str, Any]
    environment: Mapping[str, Any]
    git: str | None


@dataclass(frozen=True)
class RunRecord:
    """One finished or failed run. ``session`` identifies the evaluation that made it, ``reused`` marks pre-training taken from elsewhere,
    ``explained`` a run that wrote explanations beside its predictions, ``shared`` one that other runs may have been made beside. A timing run
    has ``rounds`` in place of ``laps``, and the speeds of the machine before and after them (``calibrate``)."""

    key: RunKey
    session: str
    site: RunSite
    laps: Mapping[str, Lap]
    curve: tuple[CurvePoint, ...]
    notes: Mapping[str, Any]
    size: Size | None
    peak_rss: int
    peak_device: int | None
    wall_s: float
    error: str | None = None
    reused: bool = False
    explained: bool = False
    shared: bool = False
    rounds: tuple[Lap, ...] = ()
    calibrations: tuple[Mapping[str, float], ...] = ()
    processes: int = 1

    @property
    def done(self) -> bool:
        return self.error is None


@dataclass(frozen=True)
class RunFolders:
    """Where one submission's runs on one suite lie under the output folder."""

    root: Path

    def run(self, task: str, seed: int) -> Path:
        """Record and log of one run."""
        return self.root / "runs" / task / f"seed{seed}"

    def timing(self, task: str, seed: int) -> Path:
        """Record and log of a timing run."""
        return self.root / "timing" / task / f"seed{seed}"

    def pretrained(self, seed: int) -> Path:
        """Record, log and state of one pre-training."""
        return self.root / "pretrained" / f"seed{seed}"

    def state(self, seed: int) -> Path:
        """What ``save_pretrained`` wrote."""
        return self.pretrained(seed) / "state"

    def predictions(self) -> Path:
        """Predictions of all tasks: ``<task>/seed<k>.parquet``."""
        return self.root / "predictions"


def write_record(folder: Path, record: RunRecord) -> None:
    """Keep a record."""
    write_json(folder / RECORD, encode(record))


def read_record(folder: Path) -> RunRecord | None:
    """The record in a folder, or None when there is none (or it is of another version of kpi-bench, and so of no use)."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        return decode(RunRecord, read_json(path), str(path), RunError)
    except (RunError, ValueError):
        return None
