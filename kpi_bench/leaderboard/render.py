"""Boards for people: a terminal, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kpi_bench.errors import ResultError
from kpi_bench.leaderboard import _grid, _numbers
from kpi_bench.leaderboard._grid import Grid, latex_text
from kpi_bench.leaderboard.costs import BY_ROUNDS, COLUMNS, HIGHER_IS_BETTER
from kpi_bench.leaderboard.export import boards_csv, boards_json
from kpi_bench.leaderboard.tables import BoardTable, Cell, Row

FORMATS = ("table", "markdown", "csv", "latex", "json")

_DrawCell = Callable[[Cell], str]
_DrawName = Callable[[Row], str]

_MARKS = {
    "·": "floor: what a method must beat",
    "~": "reconstruction: its paper leaves parts open",
    "¹": "1 seed",
}
COST_HEADERS = {
    "pretrain_s": "pretrain s",
    "adapt_predict_s": "adapt+predict s",
    "amortised_s": "s a task",
    "cpu_s": "CPU s",
    "gpu_s": "GPU s",
    "peak_rss": "RSS MB",
    "peak_device": "device MB",
    "parameters": "params",
    "kept": "kept",
    "serving_bytes": "serving MB",
    "queries_per_s": "queries/s",
    "to_target_s": "s to target",
}


def render(boards: Sequence[BoardTable], fmt: str, *, sort: str = "mean_rank") -> str:
    """Draw boards; only here and in ``_numbers`` is anything rounded, and never in csv and json.

    Raises:
        ResultError: an unknown format or sort key; the message lists the allowed ones.
    """
    check_format(fmt)
    ordered = [sort_rows(board, sort) for board in boards]
    if fmt == "json":
        return boards_json(ordered)
    if fmt == "csv":
        return boards_csv(ordered)
    draw = {"table": render_table, "markdown": render_markdown, "latex": render_latex}[fmt]
    return "\n\n".join(draw(board) for board in ordered)


def check_format(fmt: str) -> None:
    """Raise ResultError unless ``fmt`` is known."""
    if fmt not in FORMATS:
        raise ResultError(f"unknown format {fmt!r}; must be one of {', '.join(FORMATS)}")


def sort_rows(board: BoardTable, sort: str) -> BoardTable:
    """Rows by ``mean_rank`` (complete rows first), ``borda``, ``name``, a task or a cost column, best first, absent last.

    Raises:
        ResultError: an unknown key.
    """
    if sort == "mean_rank":
        return board
    tasks = {task.name: task for task in board.tasks}
    if sort not in ("name", "borda", *tasks, *COLUMNS):
        allowed = ", ".join(["mean_rank", "borda", "name", *tasks, *COLUMNS])
        raise ResultError(f"cannot sort by {sort!r}; must be one of {allowed}")

    def value(row: Row) -> float | None:
        if sort == "borda":
            return None if row.borda is None else -row.borda
        if sort in tasks:
            cell = row.cells.get(sort)
            return None if cell is None else cell.main.mean * (-1 if tasks[sort].higher_is_better else 1)
        cost = getattr(row.costs, sort)
        return None if cost is None else cost * (-1 if sort in HIGHER_IS_BETTER else 1)

    def key(row: Row) -> tuple[bool, float, str]:
        found = 0.0 if sort == "name" else value(row)
        return (found is None, found or 0.0, row.name)

    return BoardTable(**{**vars(board), "rows": tuple(sorted(board.rows, key=key))})


def render_table(board: BoardTable) -> str:
    """Two tables for a terminal of 140 columns (six tasks): quality, then cost and provenance; notes below."""
    quality = _quality(board, _plain_cell, _marked_name)
    cost = _cost(board, _marked_name)
    parts = [_title(board), _grid.terminal(quality), _grid.terminal(cost, header_width=9), _legend(board)]
    if board.notes:
        parts.append("Notes:\n" + "\n".join(f"- {note}" for note in board.notes))
    return "\n\n".join(parts)


def render_markdown(board: BoardTable) -> str:
    """The same two tables in Markdown, the best of each task in bold."""

    def cell(of_task: Cell) -> str:
        text = _plain_cell(of_task)
        return f"**{text}**" if of_task.rank and of_task.rank.rank == 1 else text

    def name(row: Row) -> str:
        labels = _labels(row)
        return f"{row.name} ({', '.join(labels)})" if labels else row.name

    parts = [
        _title(board),
        _grid.markdown(_quality(board, cell, name)),
        _grid.markdown(_cost(board, name)),
        _legend(board, marks=False),
    ]
    if board.notes:
        parts.append("\n".join(f"- {note}" for note in board.notes))
    return "\n\n".join(parts)


def render_latex(board: BoardTable) -> str:
    """The quality table as a booktabs tabular: best rows in bold, ranks as superscripts ("=2" is shared), floors in italics."""

    def cell(of_task: Cell) -> str:
        value, half = _numbers.score(of_task.main.mean), _numbers.half_width(of_task.main)
        best = of_task.rank is not None and of_task.rank.rank == 1
        text = rf"\textbf{{{value}}}" if best else value
        text += rf"$_{{\pm {half}}}$" if half else ""
        rank = _numbers.rank(of_task.rank)
        return text + (rf"\textsuperscript{{{rank}}}" if rank else "")

    def name(row: Row) -> str:
        text = rf"\textit{{{latex_text(row.name)}}}" if row.floor else latex_text(row.name)
        labels = [label for label in _labels(row) if label != "floor"]
        return f"{text} ({latex_text(', '.join(labels))})" if labels else text

    grid = _quality(board, cell, name)
    return _grid.latex(Grid(tuple(latex_text(header) for header in grid.headers), grid.rows))


def _title(board: BoardTable) -> str:
    return f"{board.suite} {board.version} (digest {board.sha256[:12]}), {board.n_tasks} tasks"


def _labels(row: Row) -> list[str]:
    """What a reader must know of a row before reading its numbers."""
    labels = ["floor"] if row.floor else []
    if row.fidelity == "reconstruction":
        labels.append("reconstruction")
    if row.n_seeds[0] == 1:
        labels.append("1 seed")
    return labels


def _marked_name(row: Row) -> str:
    marks = ("~" if row.fidelity == "reconstruction" else "") + ("¹" if row.n_seeds[0] == 1 else "")
    return ("· " if row.floor else "") + row.name + (f" {marks}" if marks else "")


def _plain_cell(cell: Cell) -> str:
    half = _numbers.half_width(cell.main)
    value = _numbers.score(cell.main.mean) + (f"±{half}" if half else "")
    return f"{value} {_numbers.rank(cell.rank)}".rstrip()


def _quality(board: BoardTable, draw: _DrawCell, name: _DrawName) -> Grid:
    rows = [
        (
            name(row),
            _numbers.fixed(row.mean_rank, 2),
            f"{row.covered}/{board.n_tasks}",
            _numbers.fixed(row.borda, 2),
            *(draw(row.cells[t.name]) if t.name in row.cells else _numbers.ABSENT for t in board.tasks),
        )
        for row in board.rows
    ]
    if any(task.chance is not None for task in board.tasks):
        chances = (
            _numbers.ABSENT if task.chance is None else _numbers.score(task.chance) for task in board.tasks
        )
        rows.append(("(chance)", "", "", "", *chances))
    headers = (f"{task.name}\n{task.metric}" for task in board.tasks)
    return Grid(("submission", "mean\nrank", "tasks", "Borda", *headers), tuple(rows))


def _cost(board: BoardTable, name: _DrawName) -> Grid:
    # Where nothing was pruned, kept repeats params; a terminal has no room for that.
    pruned = any(row.costs.kept not in (None, row.costs.parameters) for row in board.rows)
    columns = [column for column in COLUMNS if column != "kept" or pruned]
    rows = []
    for row in board.rows:
        costs = (_cost_cell(board, row, column) for column in columns)
        seeds = "-".join(str(n) for n in sorted(set(row.n_seeds)))
        rounds = "-".join(str(n) for n in sorted(set(row.n_rounds))) if any(row.n_rounds) else _numbers.ABSENT
        flags = ", ".join(flag for flag in row.flags if flag != "single_seed")
        hardware = (row.hw_id or "mixed")[:8] + ("" if _comparable_hardware(board, row) else "†")
        search = _numbers.search(row.n_trials, row.search_s)
        rows.append((name(row), *costs, hardware, seeds, rounds, search, row.size, flags or _numbers.ABSENT))
    headers = (
        "submission",
        *(COST_HEADERS[column] for column in columns),
        "hardware",
        "seeds",
        "rounds",
        "search",
        "size",
        "flags",
    )
    return Grid(headers, tuple(rows)).without_empty_columns(_numbers.ABSENT)


def _cost_cell(board: BoardTable, row: Row, column: str) -> str:
    value = getattr(row.costs, column)
    text = _numbers.cost(column, value)
    if value is None:
        return text
    rank = row.cost_ranks.get(column)
    if rank is None or not board.compares(row, column):
        return f"({text})"
    return f"{text}*" if rank.rank == 1 else text


def _comparable_hardware(board: BoardTable, row: Row) -> bool:
    return row.hw_id is not None and row.hw_id == board.hw_id


def _apart_by_rounds(board: BoardTable) -> str:
    """What sets rows of the same hardware apart; empty where nothing does."""
    here = [row for row in board.rows if row.cost_ranks and row.hw_id == board.hw_id]
    if len({row.timed for row in here}) < 2:
        return ""
    columns = ", ".join(
        COST_HEADERS[c] for c in BY_ROUNDS if any(getattr(r.costs, c) is not None for r in here)
    )
    apart = (
        "without timed rounds, as most have"
        if board.timed[board.hw_id or ""]
        else "with timed rounds, as most have none"
    )
    return f"; {columns}: or a row {apart}"


def _legend(board: BoardTable, *, marks: bool = True) -> str:
    lines = [
        "±: half of the 95 % bootstrap interval over queries. =2: rank shared: the paired test, corrected for all pairs, cannot separate.",
        "mean rank: over tasks, only when all are covered. Borda: share of the other rows beaten, mean over tasks.",
    ]
    names = " ".join(_marked_name(row) for row in board.rows)
    if marks:
        lines += [", ".join(f"{mark} {text}" for mark, text in _MARKS.items() if mark in names)]
    cells = [_cost_cell(board, row, column) for row in board.rows for column in COLUMNS]
    if any(cell.startswith("(") for cell in cells):
        lines.append(
            "(cost): not compared: not all tasks, or other hardware (†) than "
            + (board.hw_id or "any")[:8]
            + _apart_by_rounds(board)
        )
    lines.append("Costs are means over seeds; *: the lowest (queries/s: the highest). MB = 10^6 bytes.")
    if any(row.n_rounds[1] for row in board.rows):
        lines.append(
            "rounds: adapt and predict are medians over so many timed rounds of one seed, everything warm; from 0 or -: means over the runs."
        )
    if any(row.n_trials for row in board.rows):
        lines.append(
            "search: trials of `kpi-bench tune` that chose the parameters, on valid, and the seconds of their runs."
        )
    references = {task.target.reference for task in board.tasks if task.target is not None}
    if any(row.costs.to_target_s is not None for row in board.rows):
        lines.append(
            f"s to target: of adapt, until the score on valid is the median best of {', '.join(sorted(references))}; -: never, or not logged."
        )
    return "\n".join(line for line in lines if line)
