"""Score blocks: made by GEMM from factors, or checked as they are delivered, and handed to a block kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from kpi_bench._csr import Csr
from kpi_bench.errors import EvaluationError

Scores = NDArray[np.float32]
Ints = NDArray[np.int64]
Consume = Callable[[int, Any], None]
"""Called with the number of a block's first row and the block, which it may overwrite."""

CELLS = 1 << 21
"""Scores of one CPU block, 8 MiB: two of them stay in a server's L3 cache between the GEMM and the kernel."""
_ROWS = 8
"""Fewest rows of a block, whatever its columns: a product of two rows reads the whole table for each."""
_DEVICE_CELLS = 1 << 24


def each_factor_block(
    row_vectors: Scores,
    column_vectors: Scores,
    row_ids: Ints | None,
    device: str,
    consume: Consume,
    columns: Ints | None = None,
) -> None:
    """Call ``consume`` with blocks of ``row_vectors[row_ids] @ column_vectors[columns].T``, in any order.

    On the CPU blocks are spread over as many threads as BLAS has, each with one BLAS thread: while Python or a kernel runs,
    the idle workers of a many-threaded BLAS spin, which on two cores costs as much CPU time as the kernels. numpy's BLAS
    is used because on these shapes it is as fast as torch's MKL on Intel and faster on AMD.
    """
    n_rows = len(row_vectors) if row_ids is None else len(row_ids)

    def rows(first: int, size: int) -> Scores:
        part = slice(first, first + size)
        return row_vectors[part] if row_ids is None else row_vectors[row_ids[part]]

    # For a few rows it is less work to move their scores than the table.
    moved = None
    if columns is not None and on_host(device) and n_rows < column_vectors.shape[1]:
        moved = columns
    elif columns is not None:
        column_vectors = column_vectors[columns]
    if not on_host(device):
        import torch

        table = torch.from_numpy(np.ascontiguousarray(column_vectors)).to(device)
        size = max(1, _DEVICE_CELLS // max(1, len(column_vectors)))
        for first in range(0, n_rows, size):
            consume(first, torch.from_numpy(np.ascontiguousarray(rows(first, size))).to(device) @ table.T)
        return
    size = min(max(_ROWS, CELLS // max(1, len(column_vectors))), max(1, n_rows))
    blas = _numpy_blas()
    workers = max((library.num_threads for library in blas.lib_controllers), default=1)
    buffers: SimpleQueue[Scores] = SimpleQueue()
    for _ in range(workers):
        buffers.put(np.empty((size, len(column_vectors)), np.float32))

    def score(first: int) -> None:
        buffer = buffers.get()
        try:
            left = rows(first, size)
            block = np.matmul(left, column_vectors.T, out=buffer[: len(left)])
            consume(first, block if moved is None else np.take(block, moved, axis=1))
        finally:
            buffers.put(buffer)

    starts = range(0, n_rows, size)
    with blas.limit(limits=1):
        if len(starts) == 1:  # no threads to start
            score(0)
            return
        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(score, starts):
                pass  # draws each result, so that the first bad block raises


def each_given_block(blocks: Iterable[Scores], rows: Csr, consume: Consume) -> None:
    """Check shape and dtype of score blocks that cover ``rows`` in order, and call ``consume`` with each."""
    first = 0
    for given in blocks:
        block = np.asarray(given)
        if block.dtype not in (np.float32, np.float16):
            raise EvaluationError(
                f"scores must be float32, got {block.dtype} (a narrowing cast would create ties)"
            )
        if block.ndim != 2 or block.shape[1] != rows.n_columns:
            raise EvaluationError(f"scores must be [rows, {rows.n_columns}], got {list(block.shape)}")
        if first + len(block) > rows.n_rows:
            raise EvaluationError(f"scores have more than the {rows.n_rows} rows asked for")
        consume(first, np.ascontiguousarray(block, dtype=np.float32))
        first += len(block)
    if first != rows.n_rows:
        raise EvaluationError(f"scores have {first} rows where {rows.n_rows} were asked for")


def check_factors(row_vectors: Scores, column_vectors: Scores, rows: Csr) -> None:
    """Refuse factors that are not float32 or do not give scores of the shape of ``rows``."""
    for name, array in (("row", row_vectors), ("column", column_vectors)):
        if array.ndim != 2 or array.dtype != np.float32:
            raise EvaluationError(
                f"{name} vectors must be float32 [n, d], got {array.dtype} {list(array.shape)}"
            )
    shape = (len(row_vectors), len(column_vectors))
    if shape != (rows.n_rows, rows.n_columns) or row_vectors.shape[1] != column_vectors.shape[1]:
        raise EvaluationError(
            f"vectors {list(row_vectors.shape)} and {list(column_vectors.shape)} do not give"
            f" the {rows.n_rows} x {rows.n_columns} scores asked for"
        )


def check_disjoint(positives: Csr, exclude: Csr) -> None:
    """Refuse positives that the mask removes: they would have no rank."""
    width = max(positives.n_columns, 1)
    wanted = positives.row_ids() * width + positives.indices
    masked = exclude.row_ids() * width + exclude.indices
    both = np.intersect1d(wanted, masked, assume_unique=True)
    if len(both):
        user, item = divmod(int(both[0]), width)
        raise EvaluationError(
            f"{len(both)} positives are excluded from the ranking; the first is item {item} in row {user}"
        )


def refuse_bad(bad: int, block: Any, first: int, permutation: Ints | None = None) -> None:
    """Raise for NaN or inf, with the count and the first index; ``permutation`` gives the true column ids."""
    if not bad:
        return
    scores = block if isinstance(block, np.ndarray) else block.cpu().numpy()
    wrong = ~np.isfinite(scores)
    row = int(np.argmax(wrong.any(axis=1)))
    columns = np.flatnonzero(wrong[row])
    column = int((columns if permutation is None else permutation[columns]).min())
    raise EvaluationError(
        f"{bad} scores in rows {first}..{first + len(scores) - 1} are NaN or infinite;"
        f" the first is in row {first + row}, column {column}"
    )


def on_host(device: str) -> bool:
    """Whether a torch device name means the CPU; asked without importing torch, which floors never need."""
    return device.partition(":")[0] == "cpu"


@cache
def _numpy_blas() -> ThreadpoolController:
    """The BLAS libraries that are loaded with numpy. Looking for them takes longer than scoring a user does."""
    return ThreadpoolController().select(user_api="blas")
