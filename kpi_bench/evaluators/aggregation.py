"""Ranks on a board: shared where a test cannot separate rows, and aggregates over tasks that never hide a gap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from math import isfinite
from typing import NamedTuple

from kpi_bench.errors import EvaluationError


class SharedRank(NamedTuple):
    """A place on the board; ``tied`` when other rows share it (shown as "=2")."""

    rank: int
    tied: bool


@dataclass(frozen=True)
class Aggregate:
    """One number over tasks: ``value`` is None when any task is missing; ``covered`` of ``total`` tasks have a score."""

    value: float | None
    covered: int
    total: int


TaskScores = Mapping[str, Mapping[str, float]]
"""Task -> row -> score; a row without a score in a task is simply absent there."""


def shared_ranks(
    scores: Mapping[str, float], separated: Callable[[str, str], bool], *, higher_is_better: bool = True
) -> dict[str, SharedRank]:
    """Rank of each row, shared by rows that the test cannot separate.

    Rows are walked from best to worst. The first leads a group; each following row joins it until one is separated from the
    leader, which then leads the next group. A row's rank is the place of its leader (1, 1, 3, ...). "Not separated" is not
    transitive: comparing with the leader only keeps groups from growing by chains, and a row is told apart from its own leader
    alone, so neighbours of two groups may be inseparable. Rows of exactly equal score stay together, whatever their names.
    ``separated`` is called as (leader, row). Raises EvaluationError for a score that is not finite.
    """
    _require_finite(scores, "shared ranks")
    sign = -1.0 if higher_is_better else 1.0
    ordered = sorted(scores, key=lambda name: (sign * scores[name], name))
    groups: list[list[str]] = []
    leaders: list[str] = []
    for _, block in groupby(ordered, key=lambda name: scores[name]):
        rows = list(block)
        if groups and any(not separated(leader, row) for leader in leaders for row in rows):
            groups[-1].extend(rows)
        else:
            groups.append(rows)
            leaders = list(rows)
    ranks: dict[str, SharedRank] = {}
    for group in groups:
        rank = len(ranks) + 1
        ranks.update({name: SharedRank(rank, len(group) > 1) for name in group})
    return ranks


def mean_rank(scores: TaskScores, higher_is_better: Mapping[str, bool]) -> dict[str, Aggregate]:
    """Mean over tasks of a row's rank (1 is best, ties share the mean rank) among the rows that cover every task.

    Rows with a missing task are not opponents here: otherwise a submission to one task would move the others' mean ranks.
    """
    complete = {name for name in _names(scores) if all(name in rows for rows in scores.values())}

    def rank(task: str, name: str) -> float:
        rows = {other: value for other, value in scores[task].items() if other in complete}
        return 1.0 + (len(rows) - 1) - _beaten(rows, name, higher_is_better[task])

    return _aggregate(scores, rank)


def borda(scores: TaskScores, higher_is_better: Mapping[str, bool]) -> dict[str, Aggregate]:
    """Mean over tasks of the share of a task's other rows that a row beats (ties half), from 0 to 1.

    All rows of a task are opponents, also those that miss another task. None when a task has no opponent.
    """

    def share(task: str, name: str) -> float | None:
        opponents = len(scores[task]) - 1
        return _beaten(scores[task], name, higher_is_better[task]) / opponents if opponents else None

    return _aggregate(scores, share)


def _beaten(rows: Mapping[str, float], name: str, higher_is_better: bool) -> float:
    """How many of the other rows this one beats, ties half."""
    own = rows[name]
    worse = sum(value < own if higher_is_better else value > own for value in rows.values())
    return worse + (sum(value == own for value in rows.values()) - 1) / 2.0


def _aggregate(scores: TaskScores, of: Callable[[str, str], float | None]) -> dict[str, Aggregate]:
    """Mean of ``of(task, row)`` over tasks for every row, None where a task or a part is missing."""
    for task, rows in scores.items():
        _require_finite(rows, f"task {task}")
    aggregates: dict[str, Aggregate] = {}
    for name in _names(scores):
        covered = sum(name in rows for rows in scores.values())
        parts = [of(task, name) for task in scores] if covered == len(scores) else [None]
        known = [part for part in parts if part is not None]
        value = sum(known) / len(known) if len(known) == len(parts) else None
        aggregates[name] = Aggregate(value, covered, len(scores))
    return aggregates


def _names(scores: TaskScores) -> list[str]:
    return sorted({name for rows in scores.values() for name in rows})


def _require_finite(scores: Mapping[str, float], where: str) -> None:
    bad = [name for name, value in scores.items() if not isfinite(value)]
    if bad:
        raise EvaluationError(
            f"{where}: {len(bad)} score(s) are NaN or infinite, the first is that of {bad[0]}"
        )
