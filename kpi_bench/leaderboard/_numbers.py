"""Numbers as people read them. Rounding happens here and nowhere else."""

from __future__ import annotations

from kpi_bench.evaluators.aggregation import SharedRank
from kpi_bench.harness.results import MetricSummary

ABSENT = "-"


def score(value: float) -> str:
    """Four decimals, without the zero before the point where there is one: ``.0857``; two decimals from 10 on."""
    text = f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def signed(value: float) -> str:
    """A difference, with its sign."""
    return ("" if value < 0 else "+") + score(value)


def half_width(summary: MetricSummary) -> str:
    """Half the width of the 95 % interval over queries, empty when there is none."""
    if summary.ci95_queries is None:
        return ""
    low, high = summary.ci95_queries
    return score((high - low) / 2)


def rank(shared: SharedRank | None) -> str:
    """``=2`` for a shared rank, ``2`` for one of its own, empty where nothing could be tested."""
    if shared is None:
        return ""
    return f"={shared.rank}" if shared.tied else str(shared.rank)


def p_value(value: float | None) -> str:
    """Three decimals, ``<.001`` below."""
    if value is None:
        return ABSENT
    return "<.001" if value < 0.001 else score(round(value, 3))[:-1]


def fixed(value: float | None, decimals: int) -> str:
    """A fixed number of decimals, or the sign of absence."""
    return ABSENT if value is None else f"{value:.{decimals}f}"


def cost(column: str, value: float | None) -> str:
    """A value of a cost column (``costs.COLUMNS``): bytes as MB of 10^6, counts as ``12.3k``, seconds with three digits."""
    if value is None:
        return ABSENT
    if column in ("peak_rss", "peak_device", "serving_bytes"):
        return _significant(value / 1e6)
    if column in ("parameters", "kept", "queries_per_s"):
        return _count(value)
    return _significant(value)


def search(trials: int, seconds: float) -> str:
    """The budget of a search for parameters: ``12 trials, 109 s``."""
    return f"{trials} trials, {_significant(seconds)} s" if trials else ABSENT


def _count(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return _significant(value / size) + unit
    return f"{value:.0f}" if value == int(value) else _significant(value)


def _significant(value: float) -> str:
    if value >= 100 or value == 0:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
