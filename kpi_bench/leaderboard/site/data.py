"""What the site's scripts read: a board, its plots and its submissions as compact JSON-ready values.

Numbers are rounded to six significant digits: they are for reading, and exact ones are in ``board.csv`` and the result files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from kpi_bench.harness.results import VERIFIED, Result
from kpi_bench.leaderboard import _numbers
from kpi_bench.leaderboard.costs import BY_ROUNDS, COLUMNS, HARDWARE_FREE, HIGHER_IS_BETTER, Costs, costs_of
from kpi_bench.leaderboard.render import COST_HEADERS
from kpi_bench.leaderboard.resamples import Resamples
from kpi_bench.leaderboard.tables import BoardTable, Cell, Row, TaskColumn

HARDWARE_DIGITS = 8
PLOTTED_PHASES = ("pretrain", "adapt", "predict")
_BYTES = ("peak_rss", "peak_device", "serving_bytes")
_UNITS = {"parameters": "", "kept": "", "queries_per_s": "1/s", **dict.fromkeys(_BYTES, "MB")}


def board_payload(board: BoardTable) -> dict[str, Any]:
    """The table: what is shown, sorted and filtered. A cell is ``[mean, low, high, rank, tied, seeds, to_target_s]``, the interval that over queries."""
    return {
        "suite": board.suite,
        "version": board.version,
        "digest": board.sha256[:12],
        "n_tasks": board.n_tasks,
        "hw": _short(board.hw_id),
        "timed": {_short(hw_id): timed for hw_id, timed in board.timed.items()},
        "tasks": [_task(task) for task in board.tasks],
        "costs": [
            {
                "key": column,
                "label": COST_HEADERS[column],
                "unit": _UNITS.get(column, "s"),
                "hardware_free": column in HARDWARE_FREE,
                "by_rounds": column in BY_ROUNDS,
                "higher": column in HIGHER_IS_BETTER,
            }
            for column in COLUMNS
        ],
        "hardware": _hardware(board),
        "rows": [_row(board, row) for row in board.rows],
        "notes": list(board.notes),
    }


def plots_payload(board: BoardTable) -> dict[str, Any]:
    """Seconds by phase and scores by slice of every row; rows and tasks are places in :func:`board_payload`."""
    phases: list[list[Any]] = []
    slices: list[list[Any]] = []
    for number, row in enumerate(board.rows):
        for place, task in enumerate(board.tasks):
            if (cell := row.cells.get(task.name)) is None:
                continue
            recorded = cell.result.timing.phases
            phases += [
                [number, place, phase, fmean(recorded[phase].wall_s)]
                for phase in PLOTTED_PHASES
                if phase in recorded and recorded[phase].wall_s
            ]
            slices += [[number, place, *of_slice] for of_slice in slices_of(cell.result)]
    return {"phases": phases, "slices": slices}


def submission_payload(board: BoardTable, row: Row, resamples: Mapping[str, Resamples]) -> dict[str, Any]:
    """A submission in full, with what a comparison with any other needs; ``resamples`` by task.

    ``of_runs`` are the costs without timed rounds, where ``costs`` are with them: what compares with a row that has none.
    """
    return {
        "name": row.name,
        "suite": board.suite,
        "hw": _short(row.hw_id),
        "costs": [_cost(row.costs, column) for column in COLUMNS],
        "of_runs": _costs_of_runs(row) if row.timed else None,
        "tasks": {
            task.name: _of_task(cell, resamples.get(task.name))
            for task in board.tasks
            if (cell := row.cells.get(task.name)) is not None
        },
    }


def compare_payload(board: BoardTable) -> dict[str, Any]:
    """What the comparison page knows before it is told which two: names, tasks and cost columns as in :func:`board_payload`."""
    whole = board_payload(board)
    names = [row.name for row in board.rows]
    return {
        "suite": board.suite,
        "names": names,
        **{key: whole[key] for key in ("tasks", "costs", "hardware")},
    }


def slices_of(result: Result) -> list[tuple[str, str, float, int]]:
    """Family, group, value of the main metric and number of queries of each slice that has one."""
    metric = result.task.main_metric
    found = []
    for name, values in result.slices.items():
        family, _, group = name.rpartition("/") if "/" in name else name.rpartition("_")
        if metric in values:
            found.append((family, group, values[metric], int(values.get("n_queries", 0))))
    return found


def script_json(value: Any) -> str:
    """JSON that may stand inside of a script element, whatever its texts hold; floats with six significant digits.

    Raises:
        ValueError: NaN or infinity.
    """
    text = json.dumps(_rounded(value), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _task(task: TaskColumn) -> dict[str, Any]:
    return {
        "name": task.name,
        "kind": task.kind,
        "metric": task.metric,
        "higher": task.higher_is_better,
        "chance": task.chance,
        "n_queries": task.tests.n_queries,
        "test": task.tests.test,
        "target": None if task.target is None else [task.target.reference, task.target.value],
    }


def _row(board: BoardTable, row: Row) -> dict[str, Any]:
    ranks = [row.cost_ranks.get(column) for column in COLUMNS]
    return {
        "name": row.name,
        "version": row.version,
        "kind": row.kind,
        "size": row.size,
        "fidelity": row.fidelity,
        "floor": row.floor,
        "tags": list(row.tags),
        "flags": list(row.flags),
        "seeds": list(row.n_seeds),
        "rounds": list(row.n_rounds),
        "search": [row.n_trials, _numbers.search(row.n_trials, row.search_s)],
        "mean_rank": row.mean_rank,
        "borda": row.borda,
        "covered": row.covered,
        "hw": _short(row.hw_id),
        "verified": VERIFIED in row.flags,
        "description": row.description,
        "cells": [_cell(row.cells.get(task.name)) for task in board.tasks],
        "costs": [_cost(row.costs, column) for column in COLUMNS],
        "cost_ranks": [rank.rank if rank else None for rank in ranks],
    }


def _cell(cell: Cell | None) -> list[Any] | None:
    if cell is None:
        return None
    low, high = cell.main.ci95_queries or (None, None)
    rank, tied = (cell.rank.rank, int(cell.rank.tied)) if cell.rank else (None, 0)
    return [cell.main.mean, low, high, rank, tied, len(cell.result.seeds), cell.to_target_s]


def _cost(costs: Costs, column: str) -> float | None:
    value: float | None = getattr(costs, column)
    return value / 1e6 if value is not None and column in _BYTES else value


def _costs_of_runs(row: Row) -> list[float | None]:
    of_runs = costs_of([cell.result for cell in row.cells.values()], by_rounds=False)
    return [_cost(of_runs if column in BY_ROUNDS else row.costs, column) for column in COLUMNS]


def _of_task(cell: Cell, resamples: Resamples | None) -> dict[str, Any]:
    result, main = cell.result, cell.main
    return {
        "metric": result.task.main_metric,
        "higher": main.higher_is_better,
        "kind": result.task.kind,
        "mean": main.mean,
        "per_seed": list(main.per_seed),
        "seeds": list(result.seeds),
        "ci_queries": main.ci95_queries,
        "ci_seeds": main.ci95_seeds,
        "n_queries": main.n_queries,
        "phases": {phase: list(timing.wall_s) for phase, timing in result.timing.phases.items()},
        "curves": [
            [[point.seconds, point.step, point.value, point.metric, point.phase] for point in curve]
            for curve in result.timing.curves
        ],
        "slices": [list(of_slice) for of_slice in slices_of(result)],
        "resamples": None if resamples is None else resamples.payload(),
    }


def _hardware(board: BoardTable) -> dict[str, str]:
    """Each machine of the board in words."""
    words: dict[str, str] = {}
    for row in board.rows:
        if row.hw_id is not None and row.hw_id[:HARDWARE_DIGITS] not in words:
            words[row.hw_id[:HARDWARE_DIGITS]] = hardware_words(
                next(iter(row.cells.values())).result.hardware
            )
    return dict(sorted(words.items()))


def hardware_words(hardware: Mapping[str, Any]) -> str:
    """A machine in words, of what a result says about it."""
    parts = [
        str(hardware.get("cpu") or "unknown CPU"),
        *(f"{hardware[key]} {unit}" for key, unit in (("cores", "cores"), ("blas_threads", "BLAS threads"), ("ram_gib", "GiB")) if hardware.get(key)),
        str(hardware.get("gpu") or "no GPU"),
    ]  # fmt: skip
    return ", ".join(parts)


def _short(hw_id: str | None) -> str | None:
    return hw_id[:HARDWARE_DIGITS] if hw_id else None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        # Differences are taken between totals.
        return {key: item if key == "resamples" else _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
