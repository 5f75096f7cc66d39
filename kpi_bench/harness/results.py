"""Result files: one JSON a (submission, suite, task), strict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kpi_bench._io import write_json
from kpi_bench._schema import encode, read_versioned
from kpi_bench.errors import ResultError

SCHEMA_VERSION = 1

VERIFIED = "verified"
FLAGS = {
    VERIFIED: "the stored predictions of every task were scored again, with the same outcome",
    "self_reported": "scored from predictions made elsewhere: nobody re-ran it, and its costs are unknown",
    "single_seed": "at least one task was run with one seed: another run may give another figure",
    "resumed": "its runs were made in several sessions; time lost to an interruption is not counted",
    "reused_pretrained": "pre-training was taken over from an earlier run, not run again",
    "shared_machine": "its runs shared a machine with others: wall times were taken beside them",
    "parallel_pretraining": "several processes pre-trained together: the wall time of pre-training is that of all of them at once",
    "inexact_rounds": "a timed round on a GPU answered otherwise than the run did; its main metric lies in the run's 95 % interval over queries, which is a weak check",
    "unsteady": "the machine's speed changed by more than 20 % while adapt and predict were timed again",
}
"""What a result or a row may be flagged as, and what it means."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class HarnessVersion:
    """The code that produced the result."""

    version: str
    git: str | None


@dataclass(frozen=True)
class SubmissionInfo:
    """The submission as it was run. ``sha256`` covers its code, ``params`` are the resolved parameters."""

    name: str
    version: str
    kind: str
    description: str
    source_url: str
    paper: str
    sha256: str
    params: Mapping[str, Any]
    config: str | None
    size: str
    tags: tuple[str, ...]
    fidelity: str
    fidelity_notes: str


@dataclass(frozen=True)
class SuiteInfo:
    """The suite scored on; ``sha256`` is its digest, ``repo`` and ``revision`` are set when it came from the Hub."""

    name: str
    version: str
    sha256: str
    repo: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class TaskInfo:
    """The task; ``n_tasks`` is the number of tasks of the suite, over which pre-training is amortised."""

    name: str
    kind: str
    main_metric: str
    n_tasks: int


@dataclass(frozen=True)
class ProtocolInfo:
    """How scoring was done, in words that name the rule."""

    ties: str
    mask: tuple[str, ...]
    k: tuple[int, ...]
    filter: str | None


@dataclass(frozen=True)
class MetricSummary:
    """One metric over seeds. ``ci95_seeds``: t interval; ``ci95_queries``: bootstrap over queries of the seed mean."""

    mean: float
    per_seed: tuple[float, ...]
    ci95_seeds: Interval | None
    ci95_queries: Interval | None
    higher_is_better: bool
    n_queries: int
    n_excluded: int


@dataclass(frozen=True)
class PhaseTiming:
    """Seconds of one phase, one value a seed. ``gpu_s`` is wall time during which a GPU was held; null on a CPU."""

    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    gpu_s: tuple[float, ...] | None = None


@dataclass(frozen=True)
class RoundTiming:
    """Seconds of one phase in each timed round, their median and interquartile range (linear between order statistics); the warm-up's
    stand apart. ``gpu_s`` as in :class:`PhaseTiming`."""

    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    gpu_s: tuple[float, ...] | None
    median_wall_s: float
    iqr_wall_s: float
    warm_up_wall_s: float
    warm_up_cpu_s: float


@dataclass(frozen=True)
class Rounds:
    """``adapt`` and ``predict`` of one seed, repeated in one process where everything is warm (docs/timing.md).

    ``phases`` by name; ``queries`` is what each round answers; ``calibration`` holds the speeds of the machine right before and after.
    """

    seed: int
    phases: Mapping[str, RoundTiming]
    queries: int
    calibration: tuple[Mapping[str, float], Mapping[str, float]]


@dataclass(frozen=True)
class CurvePoint:
    """A point of the learning curve: seconds into adapt (or pretrain), the submission's step, its score on valid."""

    seconds: float
    step: int
    value: float
    metric: str
    phase: str


@dataclass(frozen=True)
class Timing:
    """Phases (load, pretrain, adapt, predict, score), learning curves and throughput by seed; ``harness_s`` is a run's wall time outside of its phases.

    ``rounds`` is null where the phases were not timed again, and absent from results made before that could be asked for.
    ``processes`` pre-trained together; absent from results made when it was always one.
    """

    phases: Mapping[str, PhaseTiming]
    curves: tuple[tuple[CurvePoint, ...], ...]
    queries_per_s: tuple[float, ...]
    harness_s: tuple[float, ...]
    rounds: Rounds | None = None
    processes: int = 1


@dataclass(frozen=True)
class Memory:
    """Peaks in bytes, one value a seed: resident set of the process tree, and device memory (null on a CPU)."""

    peak_rss: tuple[int, ...]
    peak_device: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Size:
    """Parameters in all, those trained in adapt, bytes on disk of what must be shipped to serve, and the non-zero parameters that
    serving needs; null where unknown. ``kept`` is absent from results made before it was counted."""

    parameters: int | None = None
    trainable: int | None = None
    serving_bytes: int | None = None
    kept: int | None = None


@dataclass(frozen=True)
class PredictionsInfo:
    """Where the predictions lie relative to the result's run folder, and their hashes by file."""

    path: str
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class SearchInfo:
    """The search that chose the parameters (`kpi-bench tune`): its budget, and what it looked at; ``best`` is the number of the trial taken.

    ``trials`` are all that were begun (finished, pruned, failed), ``seconds`` the wall time of their runs together. ``value`` is what
    the best trial reached on the valid splits of ``tasks``. ``source_sha256`` is the code that was searched for.
    """

    trials: int
    finished: int
    pruned: int
    failed: int
    seconds: float
    sampler: str
    pruner: str | None
    seed: int
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    parameters: tuple[str, ...]
    objective: str
    value: float
    best: int
    space_sha256: str
    suite_sha256: str
    source_sha256: str


@dataclass(frozen=True)
class VariantScores:
    """Metrics of a variant of the task (``dedup``, ``cold``, ``mudok``): mean over seeds and per-seed values."""

    metrics: Mapping[str, MetricSummary]


@dataclass(frozen=True)
class Result:
    """One submission on one task of one suite. The classes above say what each field holds.

    ``search`` is None where the parameters are those of ``submission.toml`` or the command line, and absent from older results.
    """

    run_id: str
    created: str
    kpi_bench: HarnessVersion
    submission: SubmissionInfo
    suite: SuiteInfo
    task: TaskInfo
    protocol: ProtocolInfo
    seeds: tuple[int, ...]
    metrics: Mapping[str, MetricSummary]
    variants: Mapping[str, VariantScores]
    slices: Mapping[str, Mapping[str, float]]
    counts: Mapping[str, float]
    floors: Mapping[str, float]
    timing: Timing
    memory: Memory
    size: Size
    hardware: Mapping[str, Any]
    environment: Mapping[str, Any]
    notes: Mapping[str, tuple[Any, ...]]
    predictions: PredictionsInfo
    queries_sha256: str | None
    flags: tuple[str, ...] = field(default_factory=tuple)
    schema_version: int = SCHEMA_VERSION
    search: SearchInfo | None = None

    @property
    def main(self) -> MetricSummary:
        """The summary of the task's main metric."""
        return self.metrics[self.task.main_metric]

    @property
    def key(self) -> str:
        """``suite/task/submission``: the name of its file."""
        return f"{self.suite.name}/{self.task.name}/{self.submission.name}"


def result_path(root: Path, suite: str, task: str, submission: str) -> Path:
    """Where a result lies under a results folder."""
    return root / suite / task / f"{submission}.json"


def predictions_place(task: str) -> str:
    """Where the predictions of a task lie in a submission's folder under an output folder."""
    return f"predictions/{task}"


def predictions_folder(out: Path, result: Result) -> Path:
    """Where a result's predictions lie under an output folder. Not taken from the result itself: that could lead anywhere."""
    return out / result.suite.name / result.submission.name / predictions_place(result.task.name)


def result_files(paths: Sequence[Path]) -> list[Path]:
    """Result files named one by one, and those under folders; each once, in order."""
    found = [file for path in paths for file in (sorted(path.rglob("*.json")) if path.is_dir() else [path])]
    return list(dict.fromkeys(found))


def queries_path(result: Path) -> Path:
    """The per-query scores beside a result file, from which paired tests are made."""
    return result.with_suffix(".queries.parquet")


def write_result(root: Path, result: Result) -> Path:
    """Write a result at its place.

    Raises:
        ResultError: a number is not finite.
    """
    path = result_path(root, result.suite.name, result.task.name, result.submission.name)
    try:
        write_json(path, encode(result))
    except ValueError as error:
        raise ResultError(f"{path}: the result holds a number that is not finite: {error}") from error
    return path


def read_result(path: Path) -> Result:
    """Read and check one result file.

    Raises:
        ResultError: not JSON, another schema version, an unknown or missing key, a wrong type, a main metric that is absent,
            lists whose length is not the number of seeds, or a place that contradicts the content.
    """
    try:
        result = read_versioned(Result, path, SCHEMA_VERSION, ResultError)
    except OverflowError as error:
        raise ResultError(f"{path}: holds a number beyond floating point: {error}") from error
    if not result.seeds or len(set(result.seeds)) < len(result.seeds):
        raise ResultError(f"{path}: seeds are {list(result.seeds)}; wanted is at least one, each once")
    if not isinstance(result.hardware.get("hw_id"), str | None):
        raise ResultError(f"{path}: hardware.hw_id is no text")
    if result.task.main_metric not in result.metrics:
        raise ResultError(f"{path}: metrics lack the main metric {result.task.main_metric!r}")
    parts = {"metrics": result.metrics} | {
        f"variants.{name}.metrics": variant.metrics for name, variant in result.variants.items()
    }
    for part, metrics in parts.items():
        for name, summary in metrics.items():
            if len(summary.per_seed) != len(result.seeds):
                raise ResultError(
                    f"{path}: {part}.{name}.per_seed has {len(summary.per_seed)} values for {len(result.seeds)} seeds"
                )
    expected = f"{result.key}.json"
    if path.resolve().parts[-3:] != tuple(expected.split("/")):
        raise ResultError(f"{path}: its content belongs at .../{expected}")
    return result
