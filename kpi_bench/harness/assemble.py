"""Put a result together from scored runs."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from kpi_bench._io import sha256_file, write_parquet
from kpi_bench._version import __version__
from kpi_bench.harness.clock import Lap
from kpi_bench.harness.config import SubmissionConfig
from kpi_bench.harness.records import RunRecord, RunSite
from kpi_bench.harness.results import (
    HarnessVersion,
    Memory,
    MetricSummary,
    PredictionsInfo,
    ProtocolInfo,
    Result,
    SearchInfo,
    Size,
    SubmissionInfo,
    SuiteInfo,
    TaskInfo,
    Timing,
    VariantScores,
    predictions_place,
    queries_path,
    result_path,
    write_result,
)
from kpi_bench.harness.rounds import summarise_rounds, unsteady
from kpi_bench.harness.scoring import RunScores
from kpi_bench.harness.summarise import (
    mean_slices,
    mean_values,
    query_scores,
    summarise_memory,
    summarise_metrics,
    summarise_notes,
    summarise_timing,
)
from kpi_bench.suites.suite import Suite
from kpi_bench.suites.task import ClassificationTask, Task


@dataclass(frozen=True)
class ScoredRun:
    """A finished run with its scores and what scoring took."""

    record: RunRecord
    scores: RunScores
    scoring: Lap


@dataclass(frozen=True)
class Provenance:
    """What the runs of a result have in common: submission, parameters, code hash and suite; ``search`` found the parameters."""

    config: SubmissionConfig
    params: Mapping[str, Any]
    config_name: str | None
    sha256: str
    suite: Suite
    search: SearchInfo | None = None


@dataclass(frozen=True)
class Costs:
    """Everything of a result that was measured beside the scores."""

    timing: Timing
    memory: Memory
    size: Size
    notes: Mapping[str, tuple[Any, ...]]
    site: RunSite
    flags: tuple[str, ...]


def assemble_result(
    origin: Provenance,
    task: Task,
    protocol: ProtocolInfo,
    runs: Sequence[ScoredRun],
    pretraining: Sequence[RunRecord],
    prediction_hashes: Mapping[str, str],
    timing: RunRecord | None = None,
) -> tuple[Result, pd.DataFrame | None]:
    """A result over the seeds of ``runs``, and its per-query scores; ``timing`` is a finished timing run."""
    records = [run.record for run in runs]
    timed = [timing] if timing is not None else []
    rounds = summarise_rounds(timing) if timing is not None else None
    of_phases = summarise_timing(records, pretraining, [run.scoring for run in runs])
    costs = Costs(
        timing=dataclasses.replace(of_phases, rounds=rounds),
        memory=summarise_memory(records, pretraining),
        size=records[0].size or Size(),
        notes=summarise_notes(records),
        site=common_site([*pretraining, *timed, *records]),
        flags=(
            *run_flags([*records, *timed], pretraining),
            *(("unsteady",) if rounds is not None and unsteady(rounds) else ()),
            *(("inexact_rounds",) if timing is not None and timing.inexact else ()),
        ),
    )
    seeds = tuple(record.key.seed for record in records)
    return scored_result(
        origin, task, protocol, seeds, [run.scores for run in runs], costs, prediction_hashes
    )


@dataclass(frozen=True)
class Scored:
    """The part of a result that follows from its predictions and the suite alone; the fields are those of :class:`Result`."""

    suite: SuiteInfo
    task: TaskInfo
    protocol: ProtocolInfo
    seeds: tuple[int, ...]
    metrics: Mapping[str, MetricSummary]
    variants: Mapping[str, VariantScores]
    slices: Mapping[str, Mapping[str, float]]
    counts: Mapping[str, float]
    floors: Mapping[str, float]


def summarise_scores(
    suite: Suite, task: Task, protocol: ProtocolInfo, seeds: tuple[int, ...], scores: Sequence[RunScores]
) -> tuple[Scored, pd.DataFrame | None]:
    """Scores of runs, one a seed, as a result states them, and the per-query scores."""
    official = [run.official for run in scores]
    n_classes = task.n_classes if isinstance(task, ClassificationTask) else 0
    variants = {
        name: [run.variants[name] for run in scores]
        for name in scores[0].variants
        if all(name in run.variants for run in scores)
    }
    manifest = suite.manifest
    scored = Scored(
        suite=SuiteInfo(manifest.name, manifest.version, manifest.digest, suite.repo, suite.revision),
        task=TaskInfo(task.spec.name, task.spec.kind, task.spec.main_metric, len(manifest.tasks)),
        protocol=protocol,
        seeds=seeds,
        metrics=summarise_metrics(official, scores, n_classes),
        variants={
            name: VariantScores(summarise_metrics(evaluations)) for name, evaluations in variants.items()
        },
        slices=mean_slices(official),
        counts=mean_values([{**evaluation.counts} for evaluation in official])
        | ({"n_classes": n_classes} if n_classes else {}),
        floors=dict(official[0].chance),
    )
    return scored, query_scores(task.spec.main_metric, seeds, scores)


def scored_result(
    origin: Provenance,
    task: Task,
    protocol: ProtocolInfo,
    seeds: tuple[int, ...],
    scores: Sequence[RunScores],
    costs: Costs,
    prediction_hashes: Mapping[str, str],
) -> tuple[Result, pd.DataFrame | None]:
    """A result from scores, however they came about."""
    scored, queries = summarise_scores(origin.suite, task, protocol, seeds, scores)
    head = origin.config.submission
    result = Result(
        run_id=uuid.uuid4().hex,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        kpi_bench=HarnessVersion(__version__, costs.site.git),
        submission=SubmissionInfo(
            name=origin.config.row_name(origin.config_name),
            version=head.version,
            kind=head.kind,
            description=head.description,
            source_url=head.url,
            paper=head.paper,
            sha256=origin.sha256,
            params=origin.params,
            config=origin.config_name,
            size=origin.config_name or head.size,
            tags=head.tags,
            fidelity=origin.config.fidelity.level,
            fidelity_notes=origin.config.fidelity.notes,
        ),
        **vars(scored),
        timing=costs.timing,
        memory=costs.memory,
        size=costs.size,
        hardware=costs.site.hardware,
        environment=costs.site.environment,
        notes=costs.notes,
        predictions=PredictionsInfo(predictions_place(task.spec.name), prediction_hashes),
        queries_sha256=None,
        flags=(*costs.flags, *(("single_seed",) if len(seeds) == 1 else ())),
        search=origin.search,
    )
    return result, queries


def write_with_queries(root: Path, result: Result, queries: pd.DataFrame | None) -> Result:
    """Write the per-query scores, then the result that carries their hash; returns the result as written."""
    if queries is not None:
        place = result_path(root, result.suite.name, result.task.name, result.submission.name)
        write_parquet(queries_path(place), queries)
        result = dataclasses.replace(result, queries_sha256=sha256_file(queries_path(place)))
    write_result(root, result)
    return result


def common_site(records: Sequence[RunRecord]) -> RunSite:
    """Where the last run was made. When they were made on different hardware, and so cannot be compared in cost, ``hw_id`` is null and
    ``hw_ids`` lists the machines."""
    site = records[-1].site
    machines = sorted({str(record.site.hardware["hw_id"]) for record in records})
    if len(machines) > 1:
        return dataclasses.replace(site, hardware={**site.hardware, "hw_id": None, "hw_ids": machines})
    return site


def run_flags(records: Sequence[RunRecord], pretraining: Sequence[RunRecord]) -> tuple[str, ...]:
    """``resumed`` when the parts come from several sessions, ``reused_pretrained`` when pre-training was taken over, ``shared_machine``
    when wall times were taken where other runs may have been made at the same time, ``parallel_pretraining`` when several processes
    pre-trained together."""
    reused = any(record.reused for record in pretraining)
    own = [record.session for record in (*records, *pretraining) if not record.reused]
    flags = {
        "resumed": len(set(own)) > 1,
        "reused_pretrained": reused,
        "shared_machine": any(record.shared for record in (*records, *pretraining)),
        "parallel_pretraining": any(record.processes > 1 for record in pretraining),
    }
    return tuple(flag for flag, holds in flags.items() if holds)
