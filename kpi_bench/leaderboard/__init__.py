"""How results are read: a pure function from a results folder to tables, comparisons and text."""

from kpi_bench.leaderboard.check import Check, check_results
from kpi_bench.leaderboard.compare import Comparison, compare
from kpi_bench.leaderboard.load import Results, StoredResult, load_results
from kpi_bench.leaderboard.readme import update_markdown
from kpi_bench.leaderboard.render import FORMATS, render
from kpi_bench.leaderboard.render_check import check_markdown, render_check
from kpi_bench.leaderboard.tables import BoardTable, board
from kpi_bench.leaderboard.views import compare_text, show, update_file

__all__ = [
    "FORMATS",
    "BoardTable",
    "Check",
    "Comparison",
    "Results",
    "StoredResult",
    "board",
    "check_markdown",
    "check_results",
    "compare",
    "compare_text",
    "load_results",
    "render",
    "render_check",
    "show",
    "update_file",
    "update_markdown",
]
