"""What is kept of every run, so that an interrupted evaluation continues where it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kpi_bench._io import read_json, sha256_file, sha256_text, write_json
from kpi_bench._schema import decode, encode
from kpi_bench._version import __version__
from kpi_bench.errors import RunError
from kpi_bench.harness.clock import Lap
from kpi_bench.harness.results import CurvePoint, Size

RECORD = "run.json"


@dataclass(frozen=True)
class RunKey:
    """What a run depends on. A record with an equal key need not be run again. ``task`` is None for pre-training.

    ``pretraining`` is the session of the pre-training that the run started from, None without one; ``rounds`` how many a timing run has,
    ``original`` the session of the run that it repeats; ``processes`` how many pre-trained together.
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
    original: str | None = None
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
    has ``rounds`` in place of ``laps``, and the speeds of the machine before and after them (``calibrate``); it is ``inexact`` when a
    round has not answered the same as the run, but as well. ``outputs``: the SHA-256 of each file that the run handed back, by its path
    in the state's folder or its name among the task's predictions."""

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
    inexact: bool = False
    processes: int = 1
    outputs: Mapping[str, str] = field(default_factory=dict)

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

    def scratch(self, folder: Path) -> Path:
        """Where the child of the run with this folder works; the name tells nobody which run that is."""
        return self.root / "scratch" / sha256_text(folder.relative_to(self.root).as_posix())[:12]

    def predictions(self) -> Path:
        """Predictions of all tasks: ``<task>/seed<k>.parquet``."""
        return self.root / "predictions"


class Register:
    """The records that the harness itself has written below one folder, by their hashes: any other file in their place counts for nothing.

    It is read once, and lies apart from the runs: a submission finds the records of its row from ``ctx.cache``, and what it leaves there
    must not pass for a measurement. Nothing keeps it from looking for the register, too: this is no sandbox.
    """

    def __init__(self, path: Path, root: Path) -> None:
        """``path`` is the register's file, ``root`` the folder of the row."""
        self._path, self._root = path, root
        self.folders = RunFolders(root)
        try:
            found = read_json(path)
        except (FileNotFoundError, ValueError):
            found = None
        self._hashes: dict[str, str] = found if isinstance(found, dict) else {}

    def write(self, folder: Path, record: RunRecord) -> None:
        """Keep a record."""
        write_json(folder / RECORD, encode(record))
        self._hashes[self._name(folder)] = sha256_file(folder / RECORD)
        write_json(self._path, self._hashes)

    def forget(self, folder: Path) -> None:
        """Believe the record in a folder no longer: its run is made again."""
        if self._hashes.pop(self._name(folder), None) is not None:
            write_json(self._path, self._hashes)

    def read(self, folder: Path) -> RunRecord | None:
        """The record in a folder; None when there is none, or not the one that was written."""
        path = folder / RECORD
        if not path.is_file() or sha256_file(path) != self._hashes.get(self._name(folder)):
            return None
        return read_record(folder)

    def _name(self, folder: Path) -> str:
        return folder.relative_to(self._root).as_posix()


@dataclass(frozen=True)
class RowPlace:
    """Where the runs of a row on a suite lie, in which output folder."""

    out: Path
    suite: str
    row: str

    @property
    def folders(self) -> RunFolders:
        return RunFolders(self.out / self.suite / self.row)

    def register(self) -> Register:
        """The register of their records, as it is now."""
        return Register(self.out / "records" / self.suite / f"{self.row}.json", self.folders.root)


def read_record(folder: Path) -> RunRecord | None:
    """The record in a folder, or None when there is none (or it is of another version of kpi-bench, and so of no use)."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        return decode(RunRecord, read_json(path), str(path), RunError)
    except (RunError, ValueError):
        return None
