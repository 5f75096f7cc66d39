"""Frozen text features of many texts: computed once, kept on disk under a hash of all they depend on, and memory-mapped.

A cache entry is ``<key>.npy`` (float32 ``[n, dim]``, C order) with ``<key>.json`` (encoder, seconds) beside it. The table is renamed into
place last and whole, so processes that make the same entry at the same time replace each other's equal files, and one that is
killed leaves no more than a hidden temporary file.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.common.text_encoder import Progress, TextEncoder
from kpi_bench.errors import SubmissionError

_FORMAT = 1  # Part of each key: raise it with any change of code that changes features.


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """``vectors``: float32 ``[n, dim]`` on the CPU, pages of a file that processes share and the system may drop and read again (a
    write stays in the process). ``cached``: found, not computed. ``seconds``: what computing took, also when it was found."""

    vectors: Tensor
    cached: bool
    seconds: float


def text_features(
    texts: Sequence[str],
    encoder: TextEncoder,
    *,
    cache: Path | None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> TextFeatures:
    """Frozen features of ``texts``, row by row, from the folder ``cache`` where it has them; memory grows by a block, not by the table.

    Without ``cache`` the table is a temporary file that is gone with the tensor. ``progress`` wraps the blocks while they are computed
    (``lambda blocks: ctx.progress(blocks, "text features")``).

    Raises:
        SubmissionError: the disk has no room for the table, or the encoder has no such features.
    """
    shape = (len(texts), encoder.dim)
    if cache is None:
        with tempfile.TemporaryFile() as stream:
            seconds = _compute(stream, shape, texts, encoder, device, progress)
            return TextFeatures(_open(stream, shape), False, seconds)
    key = _key(texts, encoder.identity(device))
    table, facts = cache / f"{key}.npy", cache / f"{key}.json"
    found = _find(table, facts, shape)
    if found is not None:
        return found
    cache.mkdir(parents=True, exist_ok=True)
    with _renamed(table) as stream:
        seconds = _compute(stream, shape, texts, encoder, device, progress)
        vectors = _open(stream, shape)
        with _renamed(facts) as note:
            note.write(json.dumps({"encoder": encoder.name, "seconds": seconds}).encode())
    return TextFeatures(vectors, False, seconds)


def _key(texts: Sequence[str], identity: dict[str, str | int]) -> str:
    """Hex SHA-256 of the encoder's identity and of the texts in order."""
    digest = hashlib.sha256(json.dumps([_FORMAT, identity], sort_keys=True).encode())
    for text in texts:
        data = text.encode()
        digest.update(f";{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()


def _find(table: Path, facts: Path, shape: tuple[int, int]) -> TextFeatures | None:
    """The entry, or None where one of its files is missing, truncated or not what was written here."""
    try:
        seconds = float(json.loads(facts.read_bytes())["seconds"])
        with table.open("rb") as stream:
            header = _header(shape)
            size = os.fstat(stream.fileno()).st_size
            if size != len(header) + _n_bytes(shape) or stream.read(len(header)) != header:
                return None
            return TextFeatures(_open(stream, shape), True, seconds)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _compute(
    stream: IO[bytes],
    shape: tuple[int, int],
    texts: Sequence[str],
    encoder: TextEncoder,
    device: str,
    progress: Progress | None,
) -> float:
    """Fill the file; seconds it took."""
    start = time.perf_counter()
    header = _header(shape)
    stream.write(header)
    stream.flush()
    _reserve(stream, len(header) + _n_bytes(shape))
    encoder.fill(_mapped(stream, shape, "r+"), texts, device, progress)
    return time.perf_counter() - start


def _reserve(stream: IO[bytes], size: int) -> None:
    # Blocks on disk, not a sparse file: a disk that fills up while a map is written kills the process.
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, size)
        else:
            stream.truncate(size)
    except OSError as error:
        raise SubmissionError(
            f"text features need a file of {size / 2**20:,.0f} MB and cannot have it ({error.strerror}): free space in the cache "
            f"folder, or in {tempfile.gettempdir()} where there is no cache"
        ) from error


def _open(stream: IO[bytes], shape: tuple[int, int]) -> Tensor:
    # Copy-on-write: torch has no read-only tensors and warns about arrays that are; pages that nobody writes stay shared.
    return torch.from_numpy(_mapped(stream, shape, "c"))


def _mapped(stream: IO[bytes], shape: tuple[int, int], mode: str) -> NDArray[np.float32]:
    # The mapping outlives the stream, and the name of the file.
    return np.memmap(stream, np.float32, mode, offset=len(_header(shape)), shape=shape)  # type: ignore[call-overload,no-any-return]


def _header(shape: tuple[int, int]) -> bytes:
    """The bytes in front of a table's values, by which it is also recognised."""
    header = io.BytesIO()
    layout = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, layout)
    return header.getvalue()


def _n_bytes(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1] * 4


@contextmanager
def _renamed(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file beside ``path``, renamed onto it when the block ends without an error, else removed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "r+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
