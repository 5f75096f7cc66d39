"""Look into files for what must not be published."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kpi_bench._io import read_json
from kpi_bench._secrets import find_private

# Rows read at a time, and findings of one file that are listed.
ROWS, MOST = 4096, 5


def private_in_json(path: Path, shown: str) -> list[str]:
    """``file: field: why`` for a JSON file."""
    return [f"{shown}: {where}: {why}" for where, why in find_private(read_json(path))]


def private_in_text(path: Path, shown: str) -> list[str]:
    """``file: line n: why`` for a UTF-8 text."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [f"{shown}: line {n}: {why}" for n, line in enumerate(lines, 1) for _, why in find_private(line)]


def private_in_parquet(path: Path, shown: str, *, rows: bool = False) -> list[str]:
    """``file: place: why`` for the column names and the metadata of a Parquet file, where writers leave paths; with ``rows`` also for
    the first :data:`MOST` in its texts. Batches bound the memory; rows of numbers alone are not read."""
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            metadata = {
                "metadata": _text(schema.metadata),
                "columns": {field.name: _text(field.metadata) for field in schema},
            }
            found = [f"{shown}: {where}: {why}" for where, why in find_private(metadata)]
            if rows:
                found += [f"{shown}: {line}" for line in islice(_in_rows(file), MOST)]
            return found
    except (pa.ArrowException, OSError) as error:
        return [f"{shown}: no readable Parquet file ({error})"]


def _in_rows(file: pq.ParquetFile) -> Iterator[str]:
    """``column, row j: why`` for texts; a name that must not be shown itself is left out."""
    if all(_is_number(field.type) for field in file.schema_arrow):
        return
    start = 0
    for batch in file.iter_batches(batch_size=ROWS):
        for field, column in zip(batch.schema, batch.columns, strict=True):
            if _is_number(field.type):
                continue
            name = "a column" if find_private(field.name) else f"column {field.name}"
            for row, value in enumerate(column.to_pylist(), start):
                shown = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
                yield from (f"{name}, row {row}: {why}" for _, why in find_private(shown))
        start += len(batch)


def _is_number(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return all(_is_number(kind.field(i).type) for i in range(kind.num_fields))
    return bool(pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind))


def _text(metadata: dict[bytes, bytes] | None) -> dict[str, str]:
    return {
        key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for key, value in (metadata or {}).items()
    }
