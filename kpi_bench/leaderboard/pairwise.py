"""All pairs of a table tested at once.

A board of S rows has S(S-1)/2 pairs over the same queries. One set of random swaps serves them all (``resamples``): a swap exchanges the same
queries in every pair, so the statistics of all pairs have their joint distribution, as it is when nothing differs. The step-down maximum of
Westfall and Young (Resampling-Based Multiple Testing, 1993, algorithm 2.8; Romano and Wolf, 2005) corrects with it: pairs
that move together cost little, and the smallest p does not depend on the number of pairs. What it assumes is in docs/evaluation.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from kpi_bench.leaderboard import _pair_arrays
from kpi_bench.leaderboard.queries import QueryScores
from kpi_bench.leaderboard.resamples import SLACK, SwappedSums, macro_f1_of, swapped_sums

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

ALPHA = 0.05
"""Rows whose adjusted p-value is not below this share a rank."""
_BLOCK_CELLS = 65_536
_PART_CELLS = 4_000_000
_COMPILE_FROM = 10_000
"""Fewest pairs for which loading the compiled kernels takes less time than they save."""


@dataclass(frozen=True, eq=False)
class TaskTests:
    """Every pair of a task's table, float64 ``[S, S]`` over ``names`` (sorted); symmetric, 1 on the diagonal.

    ``p_values`` are those of the paired permutation test by itself, ``p_adjusted`` those after correction for all pairs of the table.
    ``n_permutations`` is 0 when there is nothing to test.
    """

    test: str
    n_queries: int
    n_permutations: int
    names: tuple[str, ...]
    p_values: Floats
    p_adjusted: Floats

    def separated(self, a: str, b: str) -> bool:
        """Whether the test tells two rows apart."""
        return bool(self.p_adjusted[bisect_left(self.names, a), bisect_left(self.names, b)] < ALPHA)


def paired_tests(read: Mapping[str, QueryScores], *, seed: int = 0) -> TaskTests:
    """Test all pairs of rows that were scored on the same queries.

    The statistic is that of ``evaluators.comparison``: the difference of means of per-query scores, or of macro-F1.
    """
    names = tuple(sorted(read))
    p_values, p_adjusted = np.ones((2, len(names), len(names)))
    if len(names) < 2:
        return TaskTests("none", 0, 0, names, p_values, p_adjusted)
    sums = swapped_sums([read[name] for name in names], seed=seed)
    what = "per-query scores" if sums.kind == "mean" else "macro-F1"
    left, right = np.triu_indices(len(names), 1)
    raw, adjusted = _step_down(sums, left, right)
    for matrix, values in ((p_values, raw), (p_adjusted, adjusted)):
        matrix[left, right] = matrix[right, left] = values
    return TaskTests(
        test=f"paired permutation of {what}",
        n_queries=len(read[names[0]].queries),
        n_permutations=sums.swaps.shape[-1],
        names=names,
        p_values=p_values,
        p_adjusted=p_adjusted,
    )


def _step_down(sums: SwappedSums, left: Integers, right: Integers) -> tuple[Floats, Floats]:
    """Raw and adjusted p-values of pairs of rows.

    Statistics are divided by their root mean square over the swaps and the observed arrangement, which is one of them. ``SLACK`` is
    added to it: otherwise, where rows differ by less than float32 sums can tell, a rare step of rounding would set the maximum.
    """
    observed, slack = _observed(sums, left, right)
    kernels, n_permutations = _kernels(len(left)), sums.swaps.shape[-1]
    squares = observed**2
    for part in _parts(sums):
        for block, values in _blocks(np.arange(len(left)), left, right, part, kernels):
            squares[block] += np.einsum("bp,bp->b", values, values)
    scale = np.sqrt(squares / (n_permutations + 1) + slack**2)
    inverse = 1.0 / np.maximum(scale, np.finfo(np.float64).tiny)
    least = observed - slack
    order = np.argsort(least * inverse, kind="stable")
    extreme, exceeded = np.ones((2, len(left)))
    for part in _parts(sums):
        largest = np.zeros(part.swaps.shape[-1])
        for block, values in _blocks(order, left, right, part, kernels):
            reached = np.empty((2, len(block)), dtype=np.int64)
            kernels.step(values, least[block], inverse[block], largest, *reached)
            extreme[block] += reached[0]
            exceeded[block] += reached[1]
    # A pair is not rejected before one that is more significant.
    exceeded[order[::-1]] = np.maximum.accumulate(exceeded[order[::-1]])
    return extreme / (n_permutations + 1), exceeded / (n_permutations + 1)


def _observed(sums: SwappedSums, left: Integers, right: Integers) -> tuple[Floats, Floats]:
    """Sizes of the differences that were observed, and how near to them counts as equal, by pair."""
    if sums.kind == "mean":
        totals = sums.totals[:, 0]
        slack = SLACK * (np.abs(totals[left]) + np.abs(totals[right]))
    else:
        totals = macro_f1_of(sums.totals[:, :, None], sums.sizes[:, None])[:, 0]
        slack = np.full(len(left), SLACK)
    return np.abs(totals[left] - totals[right]), slack


def _kernels(n_pairs: int) -> ModuleType:
    if n_pairs >= _COMPILE_FROM and find_spec("numba") is not None:
        from kpi_bench.leaderboard import _pair_kernels

        return _pair_kernels
    return _pair_arrays


def _parts(sums: SwappedSums) -> Iterator[SwappedSums]:
    """The same with some of the swaps at a time, of a size that stays in the cache while all pairs are walked."""
    rows, width, n_permutations = sums.swaps.shape
    size = max(1, _PART_CELLS // (rows * width))
    for start in range(0, n_permutations, size):
        yield replace(sums, swaps=np.ascontiguousarray(sums.swaps[:, :, start : start + size]))


def _blocks(
    order: Integers, left: Integers, right: Integers, sums: SwappedSums, kernels: ModuleType
) -> Iterator[tuple[Integers, Floats]]:
    """Numbers of some pairs at a time, in ``order``, and the sizes of their differences under the swaps, float64 ``[b, P]``."""
    n_permutations = sums.swaps.shape[-1]
    size = max(1, _BLOCK_CELLS // n_permutations)
    values = np.empty((size, n_permutations))
    for start in range(0, len(order), size):
        block = order[start : start + size]
        pairs = left[block], right[block], values[: len(block)]
        if sums.kind == "mean":
            kernels.mean_differences(sums.totals, sums.swaps, *pairs)
        else:
            kernels.macro_f1_differences(sums.totals, sums.swaps, sums.sizes, *pairs)
        yield block, values[: len(block)]
