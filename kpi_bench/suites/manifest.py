"""``suite.json``: what a suite consists of, with hashes and row counts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from kpi_bench._io import read_json, sha256_text, write_json
from kpi_bench._schema import decode, encode
from kpi_bench.errors import SuiteError
from kpi_bench.suites.task import KgSpec, TaskSpec

SCHEMA_VERSION = 1
MANIFEST = "suite.json"


@dataclass(frozen=True)
class FileEntry:
    """One file of a suite: hash of its bytes, size, rows, and a hash of its values alone.

    ``content`` does not change when the same rows are written by another Parquet writer; ``sha256`` does.
    """

    sha256: str
    bytes: int
    rows: int
    content: str


@dataclass(frozen=True)
class Manifest:
    """The parsed ``suite.json``. ``withheld`` marks the copy handed to submissions, which has no test labels."""

    name: str
    version: str
    description: str
    licence: str
    sources: tuple[str, ...]
    kgs: tuple[KgSpec, ...]
    tasks: tuple[TaskSpec, ...]
    files: Mapping[str, FileEntry]
    schema_version: int = SCHEMA_VERSION
    withheld: bool = False

    @property
    def digest(self) -> str:
        """Identity of the suite: SHA-256 over name, version, KGs, tasks and the values of every file."""
        core = {
            "name": self.name,
            "version": self.version,
            "kgs": [encode(kg) for kg in self.kgs],
            "tasks": [encode(task) for task in self.tasks],
            "contents": {path: entry.content for path, entry in sorted(self.files.items())},
        }
        return sha256_text(json.dumps(core, sort_keys=True, ensure_ascii=False))

    def task(self, name: str) -> TaskSpec:
        """The entry of one task.

        Raises:
            SuiteError: no such task; the message lists those there are.
        """
        for spec in self.tasks:
            if spec.name == name:
                return spec
        raise SuiteError(
            f"suite {self.name} has no task {name!r}; it has {', '.join(t.name for t in self.tasks)}"
        )


def content_hash(table: pa.Table) -> str:
    """SHA-256 of a table's column names and values, independent of how Parquet encodes them."""
    digest = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(f"{name}:{column.type}:{len(column)}\n".encode())
        if pa.types.is_integer(column.type) and column.null_count == 0:
            digest.update(column.to_numpy().astype(np.int64).astype("<i8").tobytes())
        else:
            digest.update(json.dumps(column.to_pylist(), ensure_ascii=False).encode("utf-8"))
    return digest.hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``suite.json`` atomically."""
    write_json(folder / MANIFEST, encode(manifest))


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``suite.json``.

    Raises:
        SuiteError: missing, not JSON, another schema version, or a key that is unknown or absent.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise SuiteError(
            f"{folder} is no suite: it has no {MANIFEST}. Build one with `kpi-bench data build RECIPE --raw DIR --out DIR`."
        )
    try:
        raw = read_json(path)
    except ValueError as error:
        raise SuiteError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(raw, dict) or raw.get("schema_version") != SCHEMA_VERSION:
        found = raw.get("schema_version") if isinstance(raw, dict) else type(raw).__name__
        raise SuiteError(
            f"{path}: schema_version is {found!r}; this version of kpi-bench reads {SCHEMA_VERSION}"
        )
    return decode(Manifest, raw, str(path), SuiteError)
