"""The tables at the end of a run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from kpi_bench.harness.evaluate import Report
from kpi_bench.harness.results import MetricSummary, Result


def render_report(report: Report, results: Path) -> str:
    """Scores and costs by task, what failed, and where the wall time went."""
    lines = [render_scores(report.results)] if report.results else []
    if report.failures:
        lines.append(f"{len(report.failures)} of {len(report.outcomes)} runs failed:")
        lines += [f"  {o.task or 'pretrain'} seed {o.seed}: {o.error}" for o in report.failures]
    done = [outcome for outcome in report.outcomes if outcome.error is None]
    skipped = sum(outcome.skipped for outcome in done)
    kept = f", {skipped} of them kept from earlier" if skipped else ""
    lines.append(
        f"{report.submission} on {report.suite}: {len(done)} of {len(report.outcomes)} runs done{kept}; {report.wall_s:.1f} s in all"
    )
    if report.side_by_side and report.submission_s > 0:
        lines[-1] += f", for {report.submission_s:.1f} s of the submission's phases side by side"
    elif report.submission_s > 0:
        lines[-1] += f", {report.overhead:.1%} outside of the submission's phases"
    if report.results:
        lines.append(f"results: {results}")
    return "\n".join(lines)


def render_scores(results: Sequence[Result]) -> str:
    """Main metric, its interval over queries, seeds, and costs of each result."""
    rows = [
        [
            result.task.name,
            result.task.main_metric,
            f"{result.main.mean:.4f}",
            _interval(result.main),
            len(result.seeds),
            result.main.n_queries,
            _seconds(result, "pretrain"),
            _seconds(result, "adapt"),
            _seconds(result, "predict"),
            f"{max(result.memory.peak_rss) / 2**20:,.0f}" if result.memory.peak_rss else "",
        ]
        for result in results
    ]
    headers = [
        "task",
        "metric",
        "mean",
        "95% CI (queries)",
        "seeds",
        "queries",
        "pretrain s",
        "adapt s",
        "predict s",
        "peak MB",
    ]
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=("left", "left", *["right"] * 8))


def _interval(summary: MetricSummary) -> str:
    if summary.ci95_queries is None:
        return ""
    low, high = summary.ci95_queries
    return f"{low:.4f} to {high:.4f}"


def _seconds(result: Result, phase: str) -> str:
    timing = result.timing.phases.get(phase)
    return f"{statistics.fmean(timing.wall_s):.2f}" if timing else ""
