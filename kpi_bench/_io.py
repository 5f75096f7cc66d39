"""Files written whole or not at all, and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kpi_bench.errors import ResultError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, renamed onto it when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, mark: str) -> Iterator[Path]:
    """Yield a new folder beside ``path`` that takes its place when the block ends without an error.

    What lies at ``path`` may only be replaced when it is an empty folder or holds the file ``mark``; the block has to write that file.

    Raises:
        ResultError: something else is there.
    """
    path = path.absolute()
    if path.exists() and not (path.is_dir() and ((path / mark).is_file() or not any(path.iterdir()))):
        raise ResultError(
            f"{path} holds something else (no {mark} in it); choose a new folder, or remove it first"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as workplace:
        staged = Path(workplace) / "staged"
        staged.mkdir()
        yield staged
        if path.exists():
            path.rename(Path(workplace) / "replaced")
        staged.rename(path)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, two spaces deep, refusing NaN and infinity."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read UTF-8 JSON.

    Raises:
        ValueError: not JSON; NaN and infinity are not.
    """

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON number")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def write_parquet(path: Path, frame: pd.DataFrame, *, schema: pa.Schema | None = None) -> None:
    """Write a frame as zstd Parquet atomically and without pandas metadata, so that equal data gives equal bytes."""
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False).replace_schema_metadata(None)
    write_table(path, table)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as zstd Parquet atomically."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """Hex SHA-256 of UTF-8 text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
