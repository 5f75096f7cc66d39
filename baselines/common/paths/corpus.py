"""Paths on disk: an Arrow file of one record batch, so that readers map it into memory as one array."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kpi_bench.errors import SubmissionError

COLUMN = "path"
Paths = NDArray[np.int32]


@dataclass(frozen=True)
class WrittenPaths:
    """How many rows went into a file, and how many were all -1 and did not."""

    kept: int
    dropped: int


def write_paths(file: Path, blocks: Iterable[Paths]) -> WrittenPaths:
    """Write int32 ``[any, w]`` blocks, in order, as one FixedSizeList<int32>[w] column ``path``; whole or not at all.

    Rows of -1 alone are dropped. Memory is that of a block: rows go to a scratch file beside ``file`` first, since an Arrow record
    batch states its length ahead of its rows.

    Raises:
        SubmissionError: there is no block, or one is not int32 of the first one's width.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as folder:
        scratch, whole = Path(folder) / "rows", Path(folder) / "arrow"
        written, width = _write_rows(scratch, blocks)
        rows = pa.py_buffer(b"") if written.kept == 0 else pa.memory_map(str(scratch)).read_buffer()
        values = pa.Array.from_buffers(pa.int32(), written.kept * width, [None, rows])
        column = pa.FixedSizeListArray.from_arrays(values, width)
        batch = pa.RecordBatch.from_arrays([column], names=[COLUMN])
        options = pa.ipc.IpcWriteOptions(allow_64bit=True)
        with pa.ipc.new_file(str(whole), batch.schema, options=options) as writer:
            writer.write_batch(batch)
        whole.chmod(0o644)
        whole.replace(file)
    return written


def read_paths(file: Path) -> Paths:
    """The rows of a file of :func:`write_paths`, int32 ``[n, w]``: a read-only view of the mapped file, nothing is read ahead.

    Raises:
        SubmissionError: the file is absent or is no such file.
    """
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(file)))
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
    except (OSError, pa.ArrowInvalid) as error:
        raise SubmissionError(
            f"{file} cannot be read as paths: {error}. Write it with write_paths"
        ) from error
    kind = reader.schema.field(COLUMN).type if COLUMN in reader.schema.names else pa.null()
    if not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.int32() or len(batches) != 1:
        raise SubmissionError(
            f"{file} must hold one batch with a column {COLUMN!r} of int32 lists of one length; found {len(batches)} of {reader.schema}"
        )
    column = batches[0].column(COLUMN)
    if column.null_count or column.flatten().null_count:
        raise SubmissionError(f"{file} has nulls among its paths; write it with write_paths")
    rows: Paths = column.flatten().to_numpy(zero_copy_only=True).reshape(len(column), kind.list_size)
    return rows


def _write_rows(scratch: Path, blocks: Iterable[Paths]) -> tuple[WrittenPaths, int]:
    """The rows that are kept, one after the other, and their width."""
    width, kept, dropped = 0, 0, 0
    with scratch.open("wb") as stream:
        for block in blocks:
            width = width or (block.shape[1] if block.ndim == 2 else 0)
            if block.dtype != np.int32 or block.ndim != 2 or block.shape[1] != width or width == 0:
                raise SubmissionError(
                    f"paths must be int32 [any, {width or 'width'}]; got {block.dtype} {list(block.shape)}"
                )
            real = (block != -1).any(axis=1)
            rows = block if real.all() else block[real]
            stream.write(np.ascontiguousarray(rows).data)
            kept += len(rows)
            dropped += len(block) - len(rows)
    if width == 0:
        raise SubmissionError("no block of paths to write; give at least one, of no rows if need be")
    return WrittenPaths(kept, dropped), width
