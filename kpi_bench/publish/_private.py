"""Look into files for what must not be published."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kpi_bench._io import read_json
from kpi_bench._secrets import find_private


def private_in_json(path: Path, shown: str) -> list[str]:
    """``file: field: why`` for a JSON file."""
    return [f"{shown}: {where}: {why}" for where, why in find_private(read_json(path))]


def private_in_text(path: Path, shown: str) -> list[str]:
    """``file: line n: why`` for a UTF-8 text."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [f"{shown}: line {n}: {why}" for n, line in enumerate(lines, 1) for _, why in find_private(line)]


def private_in_parquet(path: Path, shown: str) -> list[str]:
    """``file: place: why`` for the column names and the metadata of a Parquet file, where writers leave paths; rows are not searched."""
    try:
        schema = pq.read_schema(path)
    except pa.ArrowInvalid as error:
        return [f"{shown}: no Parquet file ({error})"]
    fields = [schema.field(name) for name in schema.names]
    metadata = {
        "metadata": _text(schema.metadata),
        "columns": {field.name: _text(field.metadata) for field in fields},
    }
    return [f"{shown}: {where}: {why}" for where, why in find_private(metadata)]


def _text(metadata: dict[bytes, bytes] | None) -> dict[str, str]:
    return {
        key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for key, value in (metadata or {}).items()
    }
