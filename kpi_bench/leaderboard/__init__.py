"""How results are read: a pure function from a results folder to tables, comparisons and text."""

from kpi_bench.leaderboard.compare import Comparison, compare
from kpi_bench.leaderboard.load import Results, StoredResult, load_results
from kpi_bench.leaderboard.readme import update_markdown
from kpi_bench.leaderboard.render import FORMATS, render
from kpi_bench.leaderboard.tables import BoardTable, board
from kpi_bench.leaderboard.views import compare_text, show, update_file

__all__ = [
    "FORMATS",
    "BoardTable",
    "Comparison",
    "Results",
    "StoredResult",
    "board",
    "compare",
    "compare_text",
    "load_results",
    "render",
    "show",
    "update_file",
    "update_markdown",
]
