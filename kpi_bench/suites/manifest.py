"""``suite.json``: what a suite consists of, with hashes and row counts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kpi_bench._io import read_json, sha256_text, write_json
from kpi_bench._schema import decode, encode
from kpi_bench.errors import SuiteError
from kpi_bench.suites.task import KgSpec, TaskSpec

SCHEMA_VERSION = 1
MANIFEST = "suite.json"
_ROWS = 1 << 14


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
    """SHA-256 of a table's column names and values, independent of how Parquet encodes them.

    Raises:
        ValueError: a text is not UTF-8.
    """
    digest = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(f"{name}:{column.type}:{len(column)}\n".encode())
        if pa.types.is_integer(column.type) and column.null_count == 0:
            for chunk in column.chunks:
                digest.update(np.ascontiguousarray(chunk.to_numpy(), dtype="<i8").data)
            continue
        # The JSON of the whole column, a piece at a time.
        digest.update(b"[")
        for start in range(0, len(column), _ROWS):
            digest.update(b", " if start else b"")
            digest.update(_items(pa.concat_arrays(column.slice(start, _ROWS).chunks)))
        digest.update(b"]")
    return digest.hexdigest()


def _items(values: pa.Array) -> bytes:
    """UTF-8 of what ``json.dumps`` writes between the brackets of a list."""
    if pa.types.is_string(values.type) and values.null_count == 0:
        values.validate(full=True)
        _, offsets, data = values.buffers()
        ends = np.frombuffer(offsets, np.int32)[[values.offset, values.offset + len(values)]]
        text = np.frombuffer(data or b"", np.uint8)[slice(*ends)]
        if not ((text < ord(" ")) | (text == ord('"')) | (text == ord("\\"))).any():
            # Nothing to escape: a tenth of the time.
            whole = pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)
            joined: bytes = pc.binary_join(whole, '", "')[0].as_buffer().to_pybytes()
            return b'"' + joined + b'"'
    return json.dumps(values.to_pylist(), ensure_ascii=False)[1:-1].encode("utf-8")


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
