"""Pictures of a board as SVG, for a README: drawn from the specs of the page's plots, without a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10

import altair as alt
import vl_convert

from kpi_bench.errors import ResultError
from kpi_bench.leaderboard import _numbers
from kpi_bench.leaderboard.costs import HIGHER_IS_BETTER
from kpi_bench.leaderboard.render import COST_HEADERS
from kpi_bench.leaderboard.site.charts import (
    ACCENT,
    BACKGROUND,
    COMPARED,
    FRONT,
    LINE,
    MUTED,
    NOT_COMPARED,
    TEXT,
    WARN,
    Rows,
    Spec,
    compiled,
    dots,
    pareto,
    point_labels,
)
from kpi_bench.leaderboard.tables import BoardTable, Row, TaskColumn

_COLOURS = {
    TEXT: ("#1f2328", "#e6edf3"),
    MUTED: ("#59636e", "#9198a1"),
    LINE: ("#d1d9e0", "#3d444d"),
    ACCENT: ("#0b57a4", "#6cb0ff"),
    WARN: ("#a04100", "#f0a35e"),
    BACKGROUND: ("#ffffff", "#0d1117"),
}
"""Light and dark, for pictures, which have no page around them."""
PICTURE_ROWS = 40
"""A picture shows no more rows than this, the first of the board."""


def board_picture(board: BoardTable) -> str:
    """A board as SVG, light or dark as the reader prefers: for each task its rows by score, with interval, chance and rank."""
    rows = board.rows[:PICTURE_ROWS]
    panels = [_task_panel(rows, task) for task in board.tasks]
    shown = (
        "" if len(rows) == len(board.rows) else f", the first {len(rows)} of {len(board.rows)} submissions"
    )
    spec = compiled(alt.concat(*panels, columns=3, spacing=36))
    return svg(spec, f"Scores on {board.suite} {board.version} by task{shown}")


def pareto_picture(board: BoardTable, cost: str = "amortised_s") -> str:
    """Mean rank against a cost as SVG, with the front among rows whose costs may be compared.

    Raises:
        ResultError: no row has both a mean rank and that cost.
    """
    points = pareto_points(board, cost)
    if not points:
        raise ResultError(f"{board.suite}: no submission has a mean rank and {COST_HEADERS[cost]}")
    front = sorted((point for point in points if point["state"] == FRONT), key=lambda point: point["cost"])
    spec = compiled(pareto().properties(width=640, height=380))
    spec["marks"].append(point_labels(in_browser=False))
    filled = {
        "points": points,
        "front": front,
        "x_title": f"{COST_HEADERS[cost]} (log scale)",
        "y_title": "mean rank (up is better)",
        "x_ticks": log_ticks([point["cost"] for point in points]),
        "x_reverse": cost in HIGHER_IS_BETTER,
        "y_reverse": True,
    }
    for entry in (*spec["data"], *spec["signals"]):
        if entry["name"] in filled:
            entry["values" if entry in spec["data"] else "value"] = filled[entry["name"]]
    return svg(spec, f"Mean rank on {board.suite} {board.version} against {COST_HEADERS[cost]}")


def pareto_points(board: BoardTable, cost: str) -> Rows:
    """Rows of the dataset ``points``: mean rank against a cost column, without rows that lack either or cost nothing."""
    points: Rows = []
    for row in board.rows:
        value = getattr(row.costs, cost)
        if row.mean_rank is None or not value:
            continue
        comparable = board.compares(row, cost)
        points.append(
            {
                "name": row.name,
                "kind": _kind(row),
                "state": COMPARED if comparable else NOT_COMPARED,
                "cost": value,
                "value": row.mean_rank,
                "cost_text": _numbers.cost(cost, value),
                "value_text": _numbers.fixed(row.mean_rank, 2),
            }
        )
    sign = -1.0 if cost in HIGHER_IS_BETTER else 1.0
    compared = [(sign * p["cost"], p["value"]) for p in points if p["state"] == COMPARED]
    for point in points:
        mine = sign * point["cost"], point["value"]
        beaten = any(other != mine and other[0] <= mine[0] and other[1] <= mine[1] for other in compared)
        if point["state"] == COMPARED and not beaten:
            point["state"] = FRONT
    return points


def log_ticks(values: Sequence[float]) -> list[float]:
    """Ticks around positive values: powers of ten, finer where they span less than two decades."""
    low, high = min(values), max(values)
    if low == high:
        return [low]
    steps: Sequence[int] = range(1, 10) if high < 5 * low else (1, 2, 5) if high < 100 * low else (1,)
    return [step * 10.0**power for power in range(floor(log10(low)), ceil(log10(high)) + 1) for step in steps]


def _task_panel(rows: Sequence[Row], task: TaskColumn) -> alt.LayerChart:
    shown = [(row, cell) for row in rows if (cell := row.cells.get(task.name)) is not None]
    shown.sort(key=lambda pair: (pair[1].main.mean * (-1 if task.higher_is_better else 1), pair[0].name))
    points: Rows = []
    for row, cell in shown:
        low, high = cell.main.ci95_queries or (cell.main.mean, cell.main.mean)
        best = cell.rank is not None and cell.rank.rank == 1
        points.append(
            {
                "name": f"· {row.name}" if row.floor else row.name,
                "value": cell.main.mean,
                "lo": low,
                "hi": high,
                "text": _numbers.score(cell.main.mean),
                "rank": _numbers.rank(cell.rank),
                "mark": "best" if best else "floor" if row.floor else "other",
            }
        )
    chance = [] if task.chance is None else [{"value": task.chance, "text": _numbers.score(task.chance)}]
    chart = dots(points, chance, f"{task.metric} ({'right' if task.higher_is_better else 'left'} is better)")
    return chart.properties(width=230, title=task.name)


def _kind(row: Row) -> str:
    return "floor" if row.floor else "reconstruction" if row.fidelity == "reconstruction" else "submission"


def svg(spec: Spec, title: str) -> str:
    """Draw a spec with the light colours, on a background, and let a reader's preference turn them dark."""
    text = json.dumps(spec)
    for variable, (light, _) in _COLOURS.items():
        text = text.replace(variable, light)
    # A reader's fonts may be wider than those that the text was measured with.
    frame = {
        "background": _COLOURS[BACKGROUND][0],
        "padding": {"left": 28, "top": 12, "right": 20, "bottom": 12},
    }
    svg: str = vl_convert.vega_to_svg(json.loads(text) | frame, allowed_base_urls=[])
    dark = "".join(
        f'[{part}="{light}"]{{{part}:{dark}}}'
        for light, dark in _COLOURS.values()
        for part in ("fill", "stroke")
    )
    style = f"<title>{escape(title)}</title><style>@media (prefers-color-scheme:dark){{{dark}}}</style>"
    return re.sub(r"(<svg[^>]*>)", lambda match: match[1] + style, svg, count=1) + "\n"
