"""Boards and comparisons for machines: complete, and not rounded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from kpi_bench._schema import encode
from kpi_bench.evaluators.aggregation import SharedRank
from kpi_bench.leaderboard.compare import Comparison
from kpi_bench.leaderboard.costs import COLUMNS
from kpi_bench.leaderboard.tables import BoardTable, Cell, Row, TaskColumn

MOST_ROWS_IN_PAIRS = 100
"""Of a larger table no p-values are exported: at 1,700 rows a task's would take 200 MB. ``compare`` gives those of any pair."""


def board_dict(board: BoardTable) -> dict[str, Any]:
    """A board as JSON-ready dicts and lists; each cell carries its whole result."""
    return {
        "suite": board.suite,
        "version": board.version,
        "sha256": board.sha256,
        "n_tasks": board.n_tasks,
        "hw_id": board.hw_id,
        "timed": dict(board.timed),
        "tasks": [_task_dict(task) for task in board.tasks],
        "rows": [_row_dict(row) for row in board.rows],
        "notes": list(board.notes),
    }


def boards_json(boards: Sequence[BoardTable]) -> str:
    """``{"boards": [...]}``."""
    return _dumps({"boards": [board_dict(board) for board in boards]})


def comparison_json(comparison: Comparison) -> str:
    """A comparison with all of its fields."""
    return _dumps(encode(comparison))


def boards_csv(boards: Sequence[BoardTable]) -> str:
    """One line a submission and suite: aggregates, ``<task>.<value>`` and ``cost.<column>``, empty where there is none."""
    lines = [_flat(board, row) for board in boards for row in board.rows]
    return pd.DataFrame(lines).convert_dtypes().to_csv(index=False)


def comparison_csv(comparison: Comparison) -> str:
    """One line a task that both have."""
    lines = []
    for task in comparison.tasks:
        line = {"suite": comparison.suite, "a": comparison.a, "b": comparison.b, **encode(task)}
        low, high = line.pop("interval") or (None, None)
        lines.append({**line, "interval_low": low, "interval_high": high})
    return pd.DataFrame(lines).to_csv(index=False)


def _task_dict(task: TaskColumn) -> dict[str, Any]:
    tests = dict(vars(task.tests))
    if len(task.tests.names) > MOST_ROWS_IN_PAIRS:
        tests |= {"p_values": None, "p_adjusted": None}
    else:
        tests |= {name: tests[name].tolist() for name in ("p_values", "p_adjusted")}
    return encode({**vars(task), "tests": tests})  # type: ignore[no-any-return]


def _row_dict(row: Row) -> dict[str, Any]:
    fields = encode({name: value for name, value in vars(row).items() if name not in ("cells", "cost_ranks")})
    return {
        **fields,
        "cells": {task: _cell_dict(cell) for task, cell in row.cells.items()},
        "cost_ranks": {column: _rank_dict(rank) for column, rank in row.cost_ranks.items()},
    }


def _cell_dict(cell: Cell) -> dict[str, Any]:
    return {
        "main": encode(cell.main),
        "rank": None if cell.rank is None else _rank_dict(cell.rank),
        "to_target_s": cell.to_target_s,
        "result": encode(cell.result),
    }


def _rank_dict(rank: SharedRank) -> dict[str, Any]:
    return {"rank": rank.rank, "tied": rank.tied}


def _flat(board: BoardTable, row: Row) -> dict[str, Any]:
    line: dict[str, Any] = {
        "suite": board.suite,
        "suite_sha256": board.sha256,
        "submission": row.name,
        "version": row.version,
        "kind": row.kind,
        "size": row.size,
        "fidelity": row.fidelity,
        "floor": row.floor,
        "seeds_min": row.n_seeds[0],
        "seeds_max": row.n_seeds[1],
        "rounds_min": row.n_rounds[0],
        "rounds_max": row.n_rounds[1],
        "search_trials": row.n_trials,
        "search_s": row.search_s,
        "flags": " ".join(row.flags),
        "hw_id": row.hw_id,
        "mean_rank": row.mean_rank,
        "borda": row.borda,
        "covered": row.covered,
        "n_tasks": board.n_tasks,
    }
    for task in board.tasks:
        cell = row.cells.get(task.name)
        queries = (cell and cell.main.ci95_queries) or (None, None)
        seeds = (cell and cell.main.ci95_seeds) or (None, None)
        values = {
            task.metric: cell.main.mean if cell else None,
            "ci95_queries_low": queries[0],
            "ci95_queries_high": queries[1],
            "ci95_seeds_low": seeds[0],
            "ci95_seeds_high": seeds[1],
            "n_seeds": len(cell.result.seeds) if cell else None,
            "rank": cell.rank.rank if cell and cell.rank else None,
            "rank_tied": cell.rank.tied if cell and cell.rank else None,
            "to_target_s": cell.to_target_s if cell else None,
        }
        line |= {f"{task.name}.{name}": value for name, value in values.items()}
    for column in COLUMNS:
        line[f"cost.{column}"] = getattr(row.costs, column)
        rank = row.cost_ranks.get(column)
        line[f"cost.{column}.rank"] = rank.rank if rank else None
    return line


def _dumps(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
