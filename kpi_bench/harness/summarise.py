"""From the runs of one submission on one task to a result: means, intervals, timing, per-query scores."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from kpi_bench.evaluators.evaluation import Evaluation
from kpi_bench.evaluators.intervals import Interval, bootstrap_macro_f1, bootstrap_means, t_interval
from kpi_bench.evaluators.metrics import metric
from kpi_bench.harness.clock import Lap
from kpi_bench.harness.records import RunRecord
from kpi_bench.harness.results import Memory, MetricSummary, PhaseTiming, Timing
from kpi_bench.harness.scoring import RunScores

CHILD_PHASES = ("load", "pretrain", "adapt", "predict")


def summarise_metrics(
    evaluations: Sequence[Evaluation], runs: Sequence[RunScores] = (), n_classes: int = 0
) -> dict[str, MetricSummary]:
    """Mean over seeds of every metric that all seeds have, with the t interval over seeds and the bootstrap over queries.

    ``runs`` and ``n_classes`` serve the bootstrap of macro-F1, which is no mean over queries.
    """
    by_query = _query_intervals(evaluations)
    if runs and runs[0].labels is not None:
        predicted = np.stack([run.predicted for run in runs if run.predicted is not None])
        by_query["macro_f1"] = bootstrap_macro_f1(runs[0].labels, predicted, n_classes)
    first = evaluations[0]
    summaries = {}
    for name in first.values:
        if all(name in evaluation.values for evaluation in evaluations):
            values = [evaluation.values[name] for evaluation in evaluations]
            summaries[name] = MetricSummary(
                mean=statistics.fmean(values),
                per_seed=tuple(values),
                ci95_seeds=t_interval(values),
                ci95_queries=by_query.get(name),
                higher_is_better=metric(name).higher_is_better,
                n_queries=first.counts["n_queries"],
                n_excluded=first.counts.get("n_excluded", 0),
            )
    return summaries


def _query_intervals(evaluations: Sequence[Evaluation]) -> dict[str, Interval | None]:
    names = [name for name in evaluations[0].per_query if all(name in e.per_query for e in evaluations)]
    if not names:
        return {}
    stacked = np.stack([np.stack([e.per_query[name] for name in names], axis=1) for e in evaluations])
    return dict(zip(names, bootstrap_means(stacked.mean(axis=0)), strict=True))


def mean_values(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over seeds of each value that all seeds have."""
    shared = [name for name in tables[0] if all(name in table for table in tables)]
    return {name: statistics.fmean(table[name] for table in tables) for name in shared}


def mean_slices(evaluations: Sequence[Evaluation]) -> dict[str, dict[str, float]]:
    """Mean over seeds of each slice's metrics."""
    names = [name for name in evaluations[0].slices if all(name in e.slices for e in evaluations)]
    return {name: mean_values([e.slices[name] for e in evaluations]) for name in names}


def query_scores(main_metric: str, seeds: Sequence[int], runs: Sequence[RunScores]) -> pd.DataFrame | None:
    """Per-query scores of the main metric by seed, and labels where there are classes; None when neither exists.

    Columns: ``query``, ``main_seed<k>`` and, for classification, ``label`` and ``predicted_seed<k>`` (-1: no prediction).
    """
    official = [run.official for run in runs]
    columns: dict[str, np.ndarray] = {"query": official[0].queries}
    if runs[0].labels is not None:
        columns["label"] = runs[0].labels
    for seed, run in zip(seeds, runs, strict=True):
        if main_metric in run.official.per_query:
            columns[f"main_seed{seed}"] = run.official.per_query[main_metric].astype(np.float32)
        if run.predicted is not None:
            columns[f"predicted_seed{seed}"] = run.predicted
    return pd.DataFrame(columns) if len(columns) > 1 else None


def summarise_timing(
    runs: Sequence[RunRecord], pretraining: Sequence[RunRecord], scoring: Sequence[Lap]
) -> Timing:
    """Phases, curves and throughput by seed. ``pretrain`` comes from the pre-training runs, ``scoring`` is the parent's own work."""
    cuda = bool(runs) and not runs[0].key.device.startswith("cpu")
    phases = {}
    for name in CHILD_PHASES:
        laps = [
            record.laps[name]
            for record in (pretraining if name == "pretrain" else runs)
            if name in record.laps
        ]
        if laps:
            wall = tuple(lap.wall_s for lap in laps)
            phases[name] = PhaseTiming(wall, tuple(lap.cpu_s for lap in laps), wall if cuda else None)
    phases["score"] = PhaseTiming(
        tuple(lap.wall_s for lap in scoring), tuple(lap.cpu_s for lap in scoring), None
    )
    rates = tuple(
        lap.queries / lap.wall_s for run in runs if (lap := run.laps["predict"]).queries and lap.wall_s > 0
    )
    curves = [run.curve for run in runs]
    if pretraining:
        curves = [(*before.curve, *curve) for before, curve in zip(pretraining, curves, strict=True)]
    outside = tuple(run.wall_s - sum(lap.wall_s for lap in run.laps.values()) for run in runs)
    processes = max((record.processes for record in pretraining), default=1)
    return Timing(phases, tuple(curves), rates, outside, processes=processes)


def summarise_memory(runs: Sequence[RunRecord], pretraining: Sequence[RunRecord]) -> Memory:
    """Peaks by seed over pre-training and the run itself."""
    pairs = list(zip(runs, pretraining, strict=True)) if pretraining else [(run,) for run in runs]
    devices = [[record.peak_device for record in pair if record.peak_device is not None] for pair in pairs]
    return Memory(
        peak_rss=tuple(max(record.peak_rss for record in pair) for pair in pairs),
        peak_device=tuple(max(peaks) for peaks in devices) if all(devices) else None,
    )


def summarise_notes(runs: Sequence[RunRecord]) -> dict[str, tuple[object, ...]]:
    """Notes by key, one value a seed (None where a seed has none)."""
    keys = sorted({key for run in runs for key in run.notes})
    return {key: tuple(run.notes.get(key) for run in runs) for key in keys}
