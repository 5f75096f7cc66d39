"""Comparisons for people."""

from __future__ import annotations

from kpi_bench.leaderboard import _grid, _numbers
from kpi_bench.leaderboard._grid import Grid, latex_text
from kpi_bench.leaderboard.compare import Comparison, CostComparison, TaskComparison
from kpi_bench.leaderboard.export import comparison_csv, comparison_json
from kpi_bench.leaderboard.render import COST_HEADERS, check_format


def render_comparison(comparison: Comparison, fmt: str) -> str:
    """Draw a comparison in any format of ``render.FORMATS``.

    Raises:
        ResultError: an unknown format.
    """
    check_format(fmt)
    if fmt == "json":
        return comparison_json(comparison)
    if fmt == "csv":
        return comparison_csv(comparison)
    grid = _task_grid(comparison)
    if fmt == "latex":
        rows = (tuple(latex_text(cell) for cell in row) for row in grid.rows)
        return _grid.latex(Grid(tuple(latex_text(header) for header in grid.headers), tuple(rows)))
    draw = _grid.terminal if fmt == "table" else _grid.markdown
    title = f"{comparison.a} against {comparison.b} on {comparison.suite} (digest {comparison.sha256[:12]})"
    parts = [title, draw(grid) if grid.rows else "They share no task.", _legend(comparison)]
    if comparison.cost is not None:
        parts += [draw(_cost_grid(comparison, comparison.cost)), _cost_legend(comparison.cost)]
    if comparison.notes:
        parts.append("Notes:\n" + "\n".join(f"- {note}" for note in comparison.notes))
    return "\n\n".join(parts)


def _task_grid(comparison: Comparison) -> Grid:
    headers = (
        "task", "metric", comparison.a, comparison.b, "difference [95% CI]", "p", "p (Holm)", "McNemar p", "better", "queries", "seeds",
    )  # fmt: skip
    return Grid(headers, tuple(_task_row(task) for task in comparison.tasks)).without_empty_columns(
        _numbers.ABSENT
    )


def _task_row(task: TaskComparison) -> tuple[str, ...]:
    difference = _numbers.signed(task.difference)
    if task.interval is not None:
        difference += f" [{_numbers.signed(task.interval[0])}, {_numbers.signed(task.interval[1])}]"
    seeds = str(task.seeds_a) if task.seeds_a == task.seeds_b else f"{task.seeds_a} / {task.seeds_b}"
    untold = "not tested" if task.p_value is None else "not separated"
    return (
        task.task,
        task.metric,
        _numbers.score(task.mean_a),
        _numbers.score(task.mean_b),
        difference,
        _numbers.p_value(task.p_value),
        _numbers.p_value(task.p_adjusted),
        _numbers.p_value(task.mcnemar_p),
        task.winner or untold,
        str(task.n_queries),
        seeds,
    )


def _cost_grid(comparison: Comparison, cost: CostComparison) -> Grid:
    rows = []
    for column, header in COST_HEADERS.items():
        a, b = getattr(cost.costs_a, column), getattr(cost.costs_b, column)
        ratio = cost.ratios.get(column)
        text = _numbers.ABSENT if ratio is None else f"{ratio:.2f}×"
        rows.append((header, _numbers.cost(column, a), _numbers.cost(column, b), text))
    known = tuple(row for row in rows if row[1:3] != (_numbers.ABSENT, _numbers.ABSENT))
    return Grid(("cost", comparison.a, comparison.b, "ratio"), known)


def _legend(comparison: Comparison) -> str:
    lines = [f"difference: {comparison.a} - {comparison.b}. p (Holm): corrected over the tasks above."]
    for name, tasks in ((comparison.a, comparison.only_a), (comparison.b, comparison.only_b)):
        if tasks:
            lines.append(f"Only {name} has: {', '.join(tasks)}.")
    return "\n".join(lines)


def _cost_legend(cost: CostComparison) -> str:
    over = "Costs over the tasks that both have"
    seconds = "Adapt and predict: " + (
        "medians of timed rounds." if cost.by_rounds else "means over the runs."
    )
    if cost.hw_id is None:
        return f"{over}; run on different hardware: only sizes have a ratio. {seconds}"
    return f"{over}, on hardware {cost.hw_id[:8]}. {seconds}"
