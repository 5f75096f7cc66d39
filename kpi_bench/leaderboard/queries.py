"""Per-query scores of a result: what paired tests are made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kpi_bench.errors import ResultError
from kpi_bench.evaluators._confusion import f1_from_counts, one_hot
from kpi_bench.harness.results import Result
from kpi_bench.leaderboard.load import StoredResult
from kpi_bench.suites.task import TaskKind

MOST_CLASSES = 1_000
TOLERANCE = 1e-4
"""How far (relative, absolute below 1) per-query scores may miss the stated mean: they may be float32."""


@dataclass(frozen=True, eq=False)
class QueryScores:
    """Scores of a task's main metric by query, in ascending order of query id.

    ``scores`` is float64 ``[S, n]`` for a metric that is a mean over queries, else None. Classification has ``labels``
    int64 ``[n]`` and ``predicted`` int64 ``[S, n]`` (-1: nothing predicted), from which macro-F1 is tested over ``n_classes``
    classes: ``counts.n_classes`` of the result where it has one (a class may be in no row), else those that are seen.
    """

    queries: NDArray[np.int64]
    scores: NDArray[np.float64] | None
    labels: NDArray[np.int64] | None
    predicted: NDArray[np.int64] | None
    n_classes: int = 0


def read_queries(stored: StoredResult) -> QueryScores | None:
    """Read a result's per-query file; None when it has none, or when the main metric is none that a paired test knows.

    Classification is tested on accuracy and macro-F1 (from labels and predictions), the other kinds on any ``main_seed<k>``.

    Raises:
        ResultError: a column is missing, a query is repeated, a score is not finite, or the scores do not give the stated metric.
    """
    if stored.queries is None:
        return None
    result, where = stored.result, str(stored.queries)
    try:
        table = pq.read_table(stored.queries)
    except (OSError, pa.ArrowException) as error:
        raise ResultError(f"{where}: cannot be read as Parquet: {error}") from error
    classification = result.task.kind == TaskKind.CLASSIFICATION
    if classification and result.task.main_metric not in ("accuracy", "macro_f1"):
        return None
    columns = [f"{'predicted' if classification else 'main'}_seed{seed}" for seed in result.seeds]
    needed = ["query", *(["label"] if classification else []), *columns]
    absent = [name for name in needed if name not in table.column_names]
    if absent:
        raise ResultError(f"{where}: missing column(s) {', '.join(absent)}")
    queries = _integers(table, "query", where)
    order = np.argsort(queries, kind="stable")
    queries = queries[order]
    if len(queries) == 0 or bool((queries[1:] == queries[:-1]).any()):
        raise ResultError(f"{where}: queries are empty or repeated: each counts once")
    if classification:
        labels = _integers(table, "label", where)[order]
        predicted = np.stack([_integers(table, name, where)[order] for name in columns])
        read = _of_classes(queries, labels, predicted, result, where)
    else:
        scores = np.stack([_floats(table, name, where)[order] for name in columns])
        read = QueryScores(queries, scores, None, None)
    _check_means(read, result, where)
    return read


def classes_of(read: Iterable[QueryScores]) -> int:
    """Number of classes of a task: the largest that a result states or shows."""
    return max((scores.n_classes for scores in read), default=0)


def same_queries(read: Mapping[str, QueryScores]) -> tuple[dict[str, QueryScores], list[str]]:
    """Keep the submissions that were scored on the queries (and labels) that most were; name the others."""

    def fingerprint(scores: QueryScores) -> bytes:
        return scores.queries.tobytes() + (b"" if scores.labels is None else scores.labels.tobytes())

    marks = {name: fingerprint(scores) for name, scores in read.items()}
    if not marks:
        return {}, []
    common, _ = Counter(marks.values()).most_common(1)[0]
    return {name: read[name] for name in read if marks[name] == common}, [
        name for name in read if marks[name] != common
    ]


def _integers(table: pa.Table, name: str, where: str) -> NDArray[np.int64]:
    _check_type(table, name, pa.types.is_integer(table[name].type), where)
    return np.asarray(table[name].to_numpy(), dtype=np.int64)


def _floats(table: pa.Table, name: str, where: str) -> NDArray[np.float64]:
    _check_type(table, name, pa.types.is_floating(table[name].type), where)
    values = np.asarray(table[name].to_numpy(), dtype=np.float64)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ResultError(f"{where}: {bad} value(s) of {name} are NaN or infinite")
    return values


def _check_type(table: pa.Table, name: str, fits: bool, where: str) -> None:
    column = table[name]
    if not fits or column.null_count:
        raise ResultError(f"{where}: column {name} is {column.type} with {column.null_count} null(s)")


def _of_classes(
    queries: NDArray[np.int64],
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    result: Result,
    where: str,
) -> QueryScores:
    if int(labels.min()) < 0 or int(predicted.min()) < -1:
        raise ResultError(f"{where}: classes must not be negative (-1 only where nothing was predicted)")
    seen = 1 + max(int(labels.max()), int(predicted.max()))
    n_classes = max(seen, int(result.counts.get("n_classes", seen)))
    if n_classes > MOST_CLASSES:
        raise ResultError(f"{where}: {n_classes} classes; a task has at most {MOST_CLASSES}")
    accuracy = result.task.main_metric == "accuracy"
    scores = (predicted == labels).astype(np.float64) if accuracy else None
    return QueryScores(queries, scores, labels, predicted, n_classes)


def _check_means(read: QueryScores, result: Result, where: str) -> None:
    """The scores must reproduce the result's metric: otherwise a test would be about something else."""
    stated = np.asarray(result.main.per_seed)
    if read.scores is not None:
        found = read.scores.mean(axis=1)
    else:
        assert read.labels is not None
        assert read.predicted is not None
        actual, guessed = one_hot(read.labels, read.n_classes), one_hot(read.predicted, read.n_classes)
        sizes = np.broadcast_to(actual.sum(axis=0), (len(guessed), read.n_classes))
        found = f1_from_counts((guessed * actual).sum(axis=1), sizes, guessed.sum(axis=1)).mean(axis=1)
    worst = float(np.max(np.abs(found - stated) / np.maximum(1.0, np.abs(stated))))
    if worst > TOLERANCE:
        raise ResultError(
            f"{where}: the scores give {result.task.main_metric} {found.tolist()} a seed, the result states {stated.tolist()}"
        )
