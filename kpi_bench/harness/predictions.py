"""Predictions on disk: written by the child, checked by the parent before anything is scored.

``<prefix>.parquet`` holds the official split's predictions, ``<prefix>.<variant>.parquet`` a variant's, ``<prefix>.npy`` the score
rows of link prediction (float32 ``[n_queries, n_entities]``), of which ``<prefix>.ranks.parquet`` is kept after scoring.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kpi_bench._io import atomic_path, write_parquet
from kpi_bench._sorted import positions
from kpi_bench.errors import PredictionError
from kpi_bench.evaluators.link_prediction import Ranks
from kpi_bench.evaluators.ranking import TopK
from kpi_bench.harness.protocol import (
    ClassificationQueries,
    LinkPredictionQueries,
    Predictions,
    Queries,
    RecommendationQueries,
)
from kpi_bench.suites.task import ClassificationTask, LinkPredictionTask, RecommendationTask, Task, TaskKind

OFFICIAL = "official"
MUDOK = "mudok"
MUDOK_MASK = ("train",)
RANKED = pa.schema(
    [("user", pa.int64()), ("rank", pa.int64()), ("item", pa.int64()), ("score", pa.float32())]
)


@dataclass(frozen=True, eq=False)
class RankedLists:
    """Recommendation predictions, one row a (user, rank): int64, int64, int64 and float32 ``[n]``."""

    users: NDArray[np.int64]
    ranks: NDArray[np.int64]
    items: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ClassScores:
    """Classification predictions aligned with the queries: float64 ``[n, C]``; ``missing`` marks queries without a row."""

    scores: NDArray[np.float64]
    missing: NDArray[np.bool_]


def prediction_file(prefix: Path, kind: TaskKind, variant: str = OFFICIAL) -> Path:
    """File of one run's predictions."""
    if kind is TaskKind.LINK_PREDICTION:
        return prefix.with_name(f"{prefix.name}.npy")
    middle = "" if variant == OFFICIAL else f".{variant}"
    return prefix.with_name(f"{prefix.name}{middle}.parquet")


def rank_file(prefix: Path) -> Path:
    """File of the ranks that a run's link-prediction scores gave."""
    return prefix.with_name(f"{prefix.name}.ranks.parquet")


def write_ranks(path: Path, ranks: Ranks) -> None:
    """Keep optimistic and pessimistic ranks, in the order of ``LinkPredictionIndex.positives``."""
    write_parquet(path, pd.DataFrame({"optimistic": ranks.optimistic, "pessimistic": ranks.pessimistic}))


def read_ranks(path: Path, n_ranks: int) -> Ranks:
    """Ranks kept by :func:`write_ranks`.

    Raises:
        PredictionError: unreadable, or not ``n_ranks`` rows of 1 <= optimistic <= pessimistic.
    """
    frame = _read(path, ["optimistic", "pessimistic"])
    low, high = _integers(frame, "optimistic", path), _integers(frame, "pessimistic", path)
    if len(low) != n_ranks or (low < 1).any() or (high < low).any():
        raise PredictionError(
            f"{path}: wanted are {n_ranks} rows with 1 <= optimistic <= pessimistic; found {len(low)} rows"
        )
    return Ranks(low, high)


def write_predictions(prefix: Path, variant: str, task: Task, queries: Queries, answer: Predictions) -> Path:
    """Write what ``predict`` returned; only its form is checked here.

    Raises:
        PredictionError: not the type or shape that this kind of task wants.
    """
    path = prediction_file(prefix, task.spec.kind, variant)
    if isinstance(task, RecommendationTask) and isinstance(queries, RecommendationQueries):
        write_parquet(path, _ranked_frame(queries, answer), schema=RANKED)
    elif isinstance(task, ClassificationTask) and isinstance(queries, ClassificationQueries):
        write_parquet(path, _class_frame(queries, answer, task.n_classes))
    elif isinstance(task, LinkPredictionTask) and isinstance(queries, LinkPredictionQueries):
        _write_score_rows(path, answer, len(queries), task.n_entities)
    else:
        raise TypeError(f"{type(queries).__name__} are no queries of a {task.spec.kind} task")
    return path


def _ranked_frame(queries: RecommendationQueries, answer: Predictions) -> pd.DataFrame:
    if not isinstance(answer, TopK):
        raise PredictionError(
            f"predict returned {type(answer).__name__}; a recommendation task wants kpi_bench.TopK(items, scores)"
        )
    items, scores = np.asarray(answer.items), np.asarray(answer.scores)
    if (
        items.shape != scores.shape
        or items.ndim != 2
        or len(items) != len(queries)
        or items.shape[1] > queries.k
    ):
        raise PredictionError(
            f"TopK has items {items.shape} and scores {scores.shape}; wanted is ({len(queries)}, at most {queries.k}) for both"
        )
    given = items >= 0
    ranks = np.broadcast_to(np.arange(1, items.shape[1] + 1), items.shape)
    users = np.broadcast_to(queries.users[:, None], items.shape)
    return pd.DataFrame(
        {"user": users[given], "rank": ranks[given], "item": items[given], "score": scores[given]}
    )


def _class_frame(queries: ClassificationQueries, answer: Predictions, n_classes: int) -> pd.DataFrame:
    scores = np.asarray(answer)
    if scores.shape != (len(queries), n_classes):
        raise PredictionError(
            f"predict returned scores of shape {scores.shape}; wanted is ({len(queries)}, {n_classes})"
        )
    columns = {f"score_{c}": scores[:, c].astype(np.float64) for c in range(n_classes)}
    return pd.DataFrame({"example": queries.examples, **columns})


def _write_score_rows(path: Path, answer: Predictions, n_queries: int, n_entities: int) -> None:
    if isinstance(answer, TopK):
        raise PredictionError(
            "predict returned TopK; a link-prediction task wants blocks of float32 rows [rows, n_entities]"
        )
    row = 0
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (n_queries, n_entities)}
        np.lib.format.write_array_header_1_0(stream, header)
        for block in answer:
            rows = np.ascontiguousarray(block, dtype=np.float32)
            if rows.ndim != 2 or rows.shape[1] != n_entities:
                raise PredictionError(
                    f"predict gave a block of shape {rows.shape} at row {row}; wanted is (rows, {n_entities})"
                )
            row += len(rows)
            stream.write(rows.data)
        if row != n_queries:
            raise PredictionError(f"predict gave {row} score rows for {n_queries} queries")


def read_ranked_lists(path: Path, task: RecommendationTask, queries: RecommendationQueries) -> RankedLists:
    """Read and check recommendation predictions. Users may be missing and lists may be short: the scorer counts them.

    Raises:
        PredictionError: lists every broken rule with its count and first offender.
    """
    frame = _read(path, RANKED.names)
    user, rank, item = (_integers(frame, name, path) for name in ("user", "rank", "item"))
    score: NDArray[np.float32] = _numbers(frame, ["score"], path)[:, 0].astype(np.float32)
    problems: list[str] = []

    def check(wrong: NDArray[np.bool_], rule: str) -> bool:
        if wrong.any():
            first = int(np.argmax(wrong))
            problems.append(
                f"{rule}: {np.count_nonzero(wrong)} row(s), first at row {first}: user {user[first]}, rank {rank[first]}, item {item[first]}"
            )
        return not wrong.any()

    asked = np.zeros(task.n_users, dtype=bool)
    asked[queries.users] = True
    in_range = (user >= 0) & (user < task.n_users)
    known_user = check(~(in_range & asked[np.where(in_range, user, 0)]), "user was not asked about")
    known_item = check((item < 0) | (item >= task.n_items), f"item is outside 0..{task.n_items - 1}")
    check(~np.isfinite(score), "score is NaN, infinite or beyond float32")
    check((rank < 1) | (rank > queries.k), f"rank is outside 1..{queries.k}")
    if known_user and known_item:
        # One sort of all pairs answers both questions; rows are looked at one by one only where a rule is broken.
        pairs = user * task.n_items + item
        ordered = np.sort(pairs)
        if (ordered[1:] == ordered[:-1]).any():
            check(pd.Series(pairs).duplicated().to_numpy(), "item is returned twice for the user")
        masked = queries.users[queries.exclude.row_ids()] * task.n_items + queries.exclude.indices
        returned = masked[positions(ordered, masked) >= 0]
        if len(returned):
            check(np.isin(pairs, returned), "item is excluded for the user (it is in the masked splits)")
    else:
        check(
            pd.DataFrame({"u": user, "i": item}).duplicated().to_numpy(),
            "item is returned twice for the user",
        )
    order = _by_user_and_rank(user, rank)
    users, ranks, scores = user[order], rank[order], score[order]
    first_of_user = np.ones(len(user), dtype=bool)
    np.not_equal(users[1:], users[:-1], out=first_of_user[1:])
    wrong = np.zeros(len(user), dtype=bool)
    wrong[order] = ranks != np.where(first_of_user, 1, np.concatenate([[0], ranks])[: len(ranks)] + 1)
    if check(wrong, "ranks of the user are not 1, 2, 3, ..."):
        rising = np.zeros(len(user), dtype=bool)
        rising[1:] = ~first_of_user[1:] & (scores[1:] > scores[:-1])
        wrong[order] = rising
        check(wrong, "score is higher than at the rank before")
    refuse(str(path), problems)
    return RankedLists(user, rank, item, score)


def _by_user_and_rank(user: NDArray[np.int64], rank: NDArray[np.int64]) -> NDArray[np.int64] | slice:
    """Order of the rows by user, then rank; sorting and copies are spared where they already are."""
    rising = (user[1:] > user[:-1]) | ((user[1:] == user[:-1]) & (rank[1:] >= rank[:-1]))
    return slice(None) if rising.all() else np.lexsort((rank, user))


def read_class_scores(path: Path, task: ClassificationTask, queries: ClassificationQueries) -> ClassScores:
    """Read and check classification predictions; examples may be missing: they count as wrong.

    Raises:
        PredictionError: lists every broken rule with its count and first offender.
    """
    names = [f"score_{c}" for c in range(task.n_classes)]
    frame = _read(path, ["example", *names])
    examples = _integers(frame, "example", path)
    values = _numbers(frame, names, path)
    problems: list[str] = []

    def check(wrong: NDArray[np.bool_], rule: str) -> None:
        if wrong.any():
            first = int(np.argmax(wrong))
            problems.append(
                f"{rule}: {np.count_nonzero(wrong)} row(s), first at row {first}: example {examples[first]}"
            )

    check(~np.isin(examples, queries.examples), "example was not asked about")
    check(frame["example"].duplicated().to_numpy(), "example occurs before")
    check(np.count_nonzero(~np.isfinite(values), axis=1) > 0, "score is NaN or infinite")
    refuse(str(path), problems)
    position = pd.Index(queries.examples).get_indexer(pd.Index(examples))
    scores = np.zeros((len(queries), task.n_classes))
    scores[position] = values
    missing = np.ones(len(queries), dtype=bool)
    missing[position] = False
    return ClassScores(scores, missing)


def read_score_rows(path: Path, task: LinkPredictionTask, n_queries: int) -> NDArray[np.float32]:
    """Map link-prediction score rows, float32 ``[n_queries, n_entities]``; the ranking kernel refuses NaN and infinity.

    Raises:
        PredictionError: the file is missing, no NumPy array, or has another shape.
    """
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise PredictionError(f"{path}: cannot be read: {error}") from error
    if not isinstance(rows, np.ndarray):
        raise PredictionError(f"{path}: an archive of arrays; wanted is one float32 array")
    if rows.shape != (n_queries, task.n_entities) or rows.dtype != np.float32:
        raise PredictionError(
            f"{path}: {rows.dtype} {rows.shape}; wanted is float32 ({n_queries}, {task.n_entities})"
        )
    scores: NDArray[np.float32] = rows
    return scores


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    try:
        frame: pd.DataFrame = pq.read_table(path).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise PredictionError(f"{path}: cannot be read as Parquet: {error}") from error
    if sorted(frame.columns) != sorted(columns):
        raise PredictionError(
            f"{path}: columns are {', '.join(frame.columns)}; wanted are {', '.join(columns)}"
        )
    return frame


def _integers(frame: pd.DataFrame, column: str, path: Path) -> NDArray[np.int64]:
    if not pd.api.types.is_integer_dtype(frame[column]):
        raise PredictionError(f"{path}: {column} is {frame[column].dtype}; wanted is int64 without nulls")
    values: NDArray[np.int64] = frame[column].to_numpy(dtype=np.int64)
    return values


def _numbers(frame: pd.DataFrame, columns: list[str], path: Path) -> NDArray[np.float64]:
    wrong = [name for name in columns if not pd.api.types.is_numeric_dtype(frame[name])]
    if wrong:
        raise PredictionError(f"{path}: {wrong[0]} is {frame[wrong[0]].dtype}; wanted is a number")
    values: NDArray[np.float64] = frame[columns].to_numpy(dtype=np.float64)
    return values


def refuse(where: str, problems: list[str], *, what: str = "predictions") -> None:
    """Raise PredictionError with all ``problems``, if there are any."""
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise PredictionError(f"{where}: {what} break {len(problems)} rule(s):\n{listed}")
