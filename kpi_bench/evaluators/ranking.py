"""Exact ranks and top-k lists from score blocks or from factors, with the tie rules of the evaluation document.

Memory is O(block x columns) whatever the number of rows. Three interchangeable sets of block kernels do the work:
``numba`` (compiled), ``torch`` on the CPU (numpy and BLAS only) and ``torch`` on an accelerator (``device="cuda"``).
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kpi_bench._csr import Csr
from kpi_bench.errors import EvaluationError
from kpi_bench.evaluators import _array_kernels, _keys
from kpi_bench.evaluators._blocks import (
    CELLS,
    Consume,
    check_disjoint,
    check_factors,
    each_factor_block,
    each_given_block,
    on_host,
    refuse_bad,
)
from kpi_bench.evaluators._hash import STEP, mix64

Backend = Literal["auto", "numba", "torch"]
Scores = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TieCounts:
    """For each positive, in CSR order: other candidates scored ``greater`` and ``equal``, int64 ``[nnz]``."""

    greater: Ints
    equal: Ints


@dataclass(frozen=True)
class TopK:
    """Ranked items of each user, best first: ``items`` int64 ``[U, k]`` (-1 behind the last one), ``scores`` float32 ``[U, k]`` (-inf there)."""

    items: Ints
    scores: Scores


@dataclass(frozen=True)
class _Kernels:
    count_block: Callable[..., int]
    rank_block: Callable[..., int]
    select_block: Callable[..., int]


def tie_order(n_items: int, seed: int | str) -> Ints:
    """Position of each item in a fixed pseudo-random permutation, int64 ``[n_items]``.

    Items are ordered by SplitMix64 of (hashed seed + item id): the same on every platform and library version, and the
    relative order of two items does not depend on how many others there are.
    """
    digest = hashlib.sha256(f"kpi-bench tie order {seed}".encode()).digest()
    start = np.frombuffer(digest[:8], "<u8").astype(np.uint64)
    z = mix64(np.arange(1, n_items + 1, dtype=np.uint64) * STEP + start)
    order = np.empty(n_items, dtype=np.int64)
    order[np.argsort(z, kind="stable")] = np.arange(n_items)
    return order


def numba_available() -> bool:
    """Whether the compiled kernels can be used."""
    return importlib.util.find_spec("numba") is not None


def count_ties_from_scores(
    blocks: Iterable[Scores], positives: Csr, filters: Csr, *, backend: Backend = "auto"
) -> TieCounts:
    """Count better and equal candidates of each positive from dense float32 score rows, delivered in order.

    Blocks ``[any, n_columns]`` cover the rows of ``positives`` exactly. Columns in ``filters`` are no candidates, except
    the positive itself (docs/evaluation.md). Raises EvaluationError for NaN, inf, wrong shapes or dtypes.
    """
    counts, consume = _tie_counter(positives, filters, _kernels(backend, "cpu"))
    each_given_block(blocks, positives, consume)
    return counts


def count_ties_from_factors(
    row_vectors: Scores,
    column_vectors: Scores,
    positives: Csr,
    filters: Csr,
    *,
    bias: Scores | None = None,
    backend: Backend = "auto",
    device: str = "cpu",
) -> TieCounts:
    """As ``count_ties_from_scores`` for scores ``row_vectors [Q, d] @ column_vectors [E, d].T + bias [E]``."""
    if bias is not None:  # one more factor: the GEMM adds it for free
        row_vectors = np.column_stack([row_vectors, np.ones(len(row_vectors), np.float32)])
        column_vectors = np.column_stack([column_vectors, np.asarray(bias, np.float32)])
    check_factors(row_vectors, column_vectors, positives)
    counts, consume = _tie_counter(positives, filters, _kernels(backend, device))
    each_factor_block(row_vectors, column_vectors, None, device, consume)
    return counts


def rank_positives_from_factors(
    user_factors: Scores,
    item_factors: Scores,
    positives: Csr,
    exclude: Csr,
    order: Ints,
    *,
    user_ids: Ints | None = None,
    backend: Backend = "auto",
    device: str = "cpu",
) -> Ints:
    """Rank from 1 of each positive item among all items that are not excluded, int64 ``[nnz of the ranked users]``.

    Score descending, then ``order`` ascending. Users are the rows of ``user_factors``, ``positives`` and ``exclude``;
    ``user_ids`` picks some of them, and the result then follows ``positives.select(user_ids)``. Raises EvaluationError
    for NaN or inf and for a positive that is excluded.
    """
    check_factors(user_factors, item_factors, positives)
    if user_ids is not None:
        positives, exclude = positives.select(user_ids), exclude.select(user_ids)
    permutation = np.argsort(order)
    ranks, consume = _ranker(positives, exclude, order, permutation, _kernels(backend, device))
    each_factor_block(user_factors, item_factors, user_ids, device, consume, permutation)
    return ranks


def rank_positives_from_scores(
    blocks: Iterable[Scores], positives: Csr, exclude: Csr, order: Ints, *, backend: Backend = "auto"
) -> Ints:
    """As ``rank_positives_from_factors`` for dense float32 score rows, delivered in order.

    Blocks ``[any, n_items]`` cover the rows of ``positives`` and ``exclude`` exactly.
    """
    permutation = np.argsort(order)
    ranks, consume = _ranker(positives, exclude, order, permutation, _kernels(backend, "cpu"))
    each_given_block(
        blocks, positives, lambda first, block: consume(first, np.take(block, permutation, axis=1))
    )
    return ranks


def top_k_from_factors(
    user_factors: Scores,
    item_factors: Scores,
    exclude: Csr,
    k: int,
    order: Ints,
    *,
    user_ids: Ints | None = None,
    backend: Backend = "auto",
    device: str = "cpu",
) -> TopK:
    """The ``k`` best items of each user by ``user_factors [U, d] @ item_factors [I, d].T``, never an excluded one.

    Score descending, then ``order`` ascending. ``user_ids`` picks rows of ``user_factors`` and ``exclude``; the result
    follows it. Raises EvaluationError for NaN or inf.
    """
    check_factors(user_factors, item_factors, exclude)
    if user_ids is not None:
        exclude = exclude.select(user_ids)
    permutation = np.argsort(order)
    top, consume = _selector(exclude, k, order, permutation, _kernels(backend, device))
    each_factor_block(user_factors, item_factors, user_ids, device, consume, permutation)
    return top


def top_k_from_scores(
    scores: Scores, exclude: Csr, k: int, order: Ints, *, backend: Backend = "auto"
) -> TopK:
    """As ``top_k_from_factors`` for dense float32 scores ``[B, I]``; row b of ``exclude`` belongs to row b of ``scores``."""
    permutation = np.argsort(order)
    top, consume = _selector(exclude, k, order, permutation, _kernels(backend, "cpu"))
    rows = max(1, CELLS // max(1, len(order)))
    pieces = (scores[first : first + rows] for first in range(0, len(scores), rows))
    each_given_block(
        pieces, exclude, lambda first, block: consume(first, np.take(block, permutation, axis=1))
    )
    return top


def _tie_counter(positives: Csr, filters: Csr, kernels: _Kernels) -> tuple[TieCounts, Consume]:
    """Counts to be filled, and what fills them from a block."""
    wanted, known = positives.indices.astype(np.int64), filters.indices.astype(np.int64)
    counts = TieCounts(np.zeros(positives.nnz, np.int64), np.zeros(positives.nnz, np.int64))

    def consume(first: int, block: Any) -> None:
        bad = kernels.count_block(
            block, first, positives.indptr, wanted, filters.indptr, known, counts.greater, counts.equal
        )
        refuse_bad(bad, block, first)

    return counts, consume


def _ranker(
    positives: Csr, exclude: Csr, order: Ints, permutation: Ints, kernels: _Kernels
) -> tuple[Ints, Consume]:
    """Ranks to be filled, and what fills them from a block whose columns are in tie order."""
    check_disjoint(positives, exclude)
    wanted, masked = order[positives.indices], order[exclude.indices]
    ranks = np.zeros(positives.nnz, dtype=np.int64)

    def consume(first: int, block: Any) -> None:
        bad = kernels.rank_block(block, first, positives.indptr, wanted, exclude.indptr, masked, ranks)
        refuse_bad(bad, block, first, permutation)

    return ranks, consume


def _selector(
    exclude: Csr, k: int, order: Ints, permutation: Ints, kernels: _Kernels
) -> tuple[TopK, Consume]:
    """Lists to be filled, and what fills them from a block whose columns are in tie order."""
    if k < 1:
        raise EvaluationError(f"k must be at least 1, got {k}")
    masked = order[exclude.indices]
    shape = (exclude.n_rows, k)
    top = TopK(np.full(shape, -1, dtype=np.int64), np.full(shape, -np.inf, dtype=np.float32))

    def consume(first: int, block: Any) -> None:
        keys = np.full((len(block), k), _keys.EMPTY, dtype=np.int64)
        bad = kernels.select_block(block, first, exclude.indptr, masked, keys)
        refuse_bad(bad, block, first, permutation)
        part = slice(first, first + len(block))
        top.scores[part], columns = _keys.decode(np.sort(keys, axis=1)[:, ::-1])
        top.items[part] = np.where(columns >= 0, permutation[columns], -1)

    return top, consume


def _kernels(backend: Backend, device: str) -> _Kernels:
    """Kernels for a backend name and a device."""
    module: Any
    if backend not in ("auto", "numba", "torch"):
        raise EvaluationError(f"backend must be one of auto, numba, torch; got {backend!r}")
    if not on_host(device):
        if backend == "numba":
            raise EvaluationError(f"backend numba runs on the CPU only, not on device {device!r}; use torch")
        from kpi_bench.evaluators import _device_kernels

        module = _device_kernels
    elif backend == "numba" or (backend == "auto" and numba_available()):
        if not numba_available():
            raise EvaluationError("backend numba needs numba: pip install 'kpi-bench[fast]', or use torch")
        from kpi_bench.evaluators import _numba_kernels

        module = _numba_kernels
    else:
        module = _array_kernels
    return _Kernels(module.count_block, module.rank_block, module.select_block)
