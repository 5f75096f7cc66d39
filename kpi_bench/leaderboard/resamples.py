"""What a row becomes under random swaps and bootstrap draws, so that any two rows can be compared later by subtraction.

``evaluators.comparison`` tests one pair from per-query scores. Both of its statistics are functions of sums over queries: when
every row of a task meets the same swaps and the same resamples, a pair's test needs two rows of sums and no scores. The draws
follow from the seed and the number of queries alone, so rows that were made apart can be paired.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kpi_bench.evaluators._confusion import f1_from_counts, one_hot
from kpi_bench.evaluators._resampling import bootstrap_weights, over_seeds, random_swaps
from kpi_bench.leaderboard.queries import QueryScores, classes_of

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Kind = Literal["mean", "macro_f1"]

N_SWAPS = 2_000
"""The smallest p is 1 / 2001; at .05 its standard error is .005."""
N_RESAMPLES = 1_000
SLACK = 1e-6
"""Sums are float32: a swap that comes so near to what was observed (relative to the sum of a mean, absolute for macro-F1) counts as
extreme. It makes p larger, never smaller."""
_GROUP_CELLS = 8_000_000


@dataclass(frozen=True, eq=False)
class Resamples:
    """A row of a task. Two rows may be paired when ``queries`` (a hash of query ids, and of labels for macro-F1) is equal.

    ``totals`` float64 ``[m]`` are sums over queries of what is averaged over seeds: the score (m = 1), or true positives and then
    predictions by class (m = 2C), for which ``sizes`` float64 ``[C]`` has the examples by class (else empty).
    ``swaps`` float32 ``[m, P]`` are the sums over the queries that each swap exchanges. ``bootstrap`` float32 ``[B]`` is the metric in each
    resample; empty with one query, which has no spread.
    """

    kind: Kind
    queries: str
    totals: Floats
    sizes: Floats
    swaps: Singles
    bootstrap: Singles

    def payload(self) -> dict[str, Any]:
        """JSON-ready; arrays are little-endian float32 in base64, ``swaps`` by swap (``[P]`` or ``[P, 2C]``)."""
        mean = self.kind == "mean"
        return {
            "kind": self.kind,
            "queries": self.queries,
            "totals": float(self.totals[0]) if mean else self.totals.tolist(),
            "sizes": None if mean else self.sizes.tolist(),
            "swaps": _base64(self.swaps.T),
            "bootstrap": _base64(self.bootstrap),
        }


@dataclass(frozen=True, eq=False)
class SwappedSums:
    """Rows of a task under the same swaps: ``totals`` float64 ``[S, m]``, ``swaps`` float32 ``[S, m, P]``, ``sizes`` float64 ``[C]``."""

    kind: Kind
    totals: Floats
    swaps: Singles
    sizes: Floats


def resample_rows(read: Mapping[str, QueryScores], *, seed: int = 0) -> dict[str, Resamples]:
    """Resample the rows of a task, which were scored on the same queries (see ``queries.same_queries``). Linear in rows."""
    if not read:
        return {}
    rows = list(read.values())
    sums = swapped_sums(rows, seed=seed)
    queries = _fingerprint(rows[0], sums.kind)
    bootstraps = _bootstraps(rows, sums, seed)
    return {
        name: Resamples(sums.kind, queries, totals, sums.sizes, swaps, bootstrap)
        for name, totals, swaps, bootstrap in zip(read, sums.totals, sums.swaps, bootstraps, strict=True)
    }


def swapped_sums(rows: Sequence[QueryScores], *, seed: int = 0) -> SwappedSums:
    """Totals, and sums under ``N_SWAPS`` random swaps, of rows that were scored on the same queries."""
    n, n_classes = len(rows[0].queries), classes_of(rows)
    kind: Kind = "mean" if rows[0].scores is not None else "macro_f1"
    width = 1 if kind == "mean" else 2 * n_classes
    totals = np.empty((len(rows), width))
    swaps = np.empty((len(rows), width, N_SWAPS), dtype=np.float32)
    for start, parts in _groups(rows, kind, n_classes):
        stop = start + len(parts) // width
        totals[start:stop] = parts.sum(axis=1).reshape(-1, width)
        _fill(swaps[start:stop].reshape(-1, N_SWAPS), parts, random_swaps(n, N_SWAPS, seed))
    return SwappedSums(kind, totals, swaps, _class_sizes(rows[0], kind, n_classes))


def macro_f1_of(counts: Floats, sizes: Floats) -> Floats:
    """Macro-F1 float64 ``[..., b]`` of counts ``[..., 2C, b]`` (true positives, then predictions), class sizes ``[C, b]`` or ``[C, 1]``."""
    hits, calls = np.split(counts, 2, axis=-2)
    return np.asarray(f1_from_counts(hits, np.broadcast_to(sizes, hits.shape), calls).mean(axis=-2))


def _bootstraps(rows: Sequence[QueryScores], sums: SwappedSums, seed: int) -> Singles:
    """The metric in each resample, float32 ``[S, B]``."""
    n, n_classes = len(rows[0].queries), len(sums.sizes)
    if n < 2:
        return np.empty((len(rows), 0), dtype=np.float32)
    width = sums.totals.shape[1]
    values = np.empty((len(rows), N_RESAMPLES), dtype=np.float32)
    drawn_sizes = np.empty((n_classes, N_RESAMPLES))
    if sums.kind == "macro_f1":
        assert rows[0].labels is not None
        _fill(drawn_sizes, one_hot(rows[0].labels, n_classes).T, bootstrap_weights(n, N_RESAMPLES, seed))
    for start, parts in _groups(rows, sums.kind, n_classes):
        drawn = np.empty((len(parts), N_RESAMPLES))
        _fill(drawn, parts, bootstrap_weights(n, N_RESAMPLES, seed))
        counts = drawn.reshape(-1, width, N_RESAMPLES)
        metric = counts[:, 0] / n if sums.kind == "mean" else macro_f1_of(counts, drawn_sizes)
        values[start : start + len(counts)] = metric
    return values


def _groups(rows: Sequence[QueryScores], kind: Kind, n_classes: int) -> Iterator[tuple[int, Floats]]:
    """Contributions float64 ``[g * m, n]`` of some rows at a time, with the number of the first."""
    width = 1 if kind == "mean" else 2 * n_classes
    size = max(1, _GROUP_CELLS // (width * len(rows[0].queries)))
    for start in range(0, len(rows), size):
        yield start, np.concatenate([_contributions(row, n_classes) for row in rows[start : start + size]])


def _contributions(row: QueryScores, n_classes: int) -> Floats:
    """What a query adds to each sum of a row, averaged over seeds: float64 ``[m, n]``."""
    if row.scores is not None:
        return over_seeds(row.scores, "per-query scores")[None]
    assert row.labels is not None
    assert row.predicted is not None
    guessed = one_hot(row.predicted, n_classes).mean(axis=0)
    return np.concatenate([guessed * one_hot(row.labels, n_classes), guessed], axis=1).T


def _class_sizes(row: QueryScores, kind: Kind, n_classes: int) -> Floats:
    if kind == "mean":
        return np.empty(0)
    assert row.labels is not None
    return np.asarray(one_hot(row.labels, n_classes).sum(axis=0))


def _fill(out: NDArray[Any], parts: Floats, blocks: Iterator[Floats]) -> None:
    """Write the sums of ``parts`` ``[k, n]`` under blocks of weights ``[b, n]`` into ``out`` ``[k, draws]``, added up in float64."""
    start = 0
    for block in blocks:
        out[:, start : start + len(block)] = parts @ block.T
        start += len(block)


def _fingerprint(row: QueryScores, kind: Kind) -> str:
    digest = hashlib.sha256(row.queries.astype("<i8").tobytes())
    if kind == "macro_f1":
        assert row.labels is not None
        digest.update(row.labels.astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def _base64(values: Singles) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode("ascii")
