"""What a submission's page says about one task, in words and rounded numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from kpi_bench.evaluators.intervals import Interval
from kpi_bench.harness.results import VERIFIED, MetricSummary, PhaseTiming, Result, RoundTiming
from kpi_bench.leaderboard import _numbers
from kpi_bench.leaderboard.tables import Cell

VARIANT_MEANINGS = {
    "mudok": "train alone is masked, valid items stay candidates: how the MuDoK authors score",
    "dedup": "without test rows whose text occurs word for word in train or valid",
    "cold": "only rows whose entity never occurs in train",
}


@dataclass(frozen=True)
class Meaning:
    """A term and what it means; no meaning for a term that is not ours."""

    term: str
    meaning: str


@dataclass(frozen=True)
class Score:
    """A metric in texts; empty where there is none. ``queries`` and ``seeds`` are the two 95 % intervals."""

    metric: str
    higher: bool
    mean: str
    queries: str
    seeds: str
    per_seed: tuple[str, ...]
    chance: str
    n_queries: int
    n_excluded: int


@dataclass(frozen=True)
class Variant:
    """Another way of scoring the same predictions. ``main`` is the task's main metric there."""

    name: Meaning
    main: Score | None
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Slice:
    """A part of the test queries; ``values`` by metric, ``main`` that of the task's main metric."""

    name: str
    n_queries: str
    main: str
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Phase:
    """Seconds of a phase: the mean and by seed, or of its timed rounds the median and each; no GPU seconds on a CPU."""

    name: str
    wall: str
    wall_by_seed: tuple[str, ...]
    cpu: str
    cpu_by_seed: tuple[str, ...]
    gpu: str
    gpu_by_seed: tuple[str, ...]


@dataclass(frozen=True)
class TaskFacts:
    """One task. Memory in MB and throughput by seed; ``sizes`` by name; ``notes`` by key, a value by seed."""

    name: str
    kind: str
    seeds: tuple[int, ...]
    rank: str
    main: Score
    scores: tuple[Score, ...]
    variants: tuple[Variant, ...]
    slices: tuple[Slice, ...]
    counts: tuple[tuple[str, str], ...]
    phases: tuple[Phase, ...]
    rss: tuple[str, ...]
    device: tuple[str, ...]
    throughput: tuple[str, ...]
    harness: tuple[str, ...]
    sizes: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, tuple[str, ...]], ...]
    predictions: tuple[tuple[str, str], ...]
    has_curve: bool
    verified: bool


def task_facts(cell: Cell) -> TaskFacts:
    """What the page says about the task of a cell."""
    result = cell.result
    main = result.task.main_metric
    rounds = result.timing.rounds.phases if result.timing.rounds else {}
    return TaskFacts(
        name=result.task.name,
        kind=result.task.kind.replace("_", " "),
        seeds=result.seeds,
        rank=_numbers.rank(cell.rank),
        main=_score(main, cell.main, result.floors),
        scores=tuple(
            _score(name, value, result.floors) for name, value in result.metrics.items() if name != main
        ),
        variants=tuple(
            _variant(name, variant.metrics, main) for name, variant in sorted(result.variants.items())
        ),
        slices=tuple(_slice(name, values, main) for name, values in result.slices.items()),
        counts=tuple((name, f"{value:g}") for name, value in result.counts.items()),
        phases=(
            *(_phase(name, timing) for name, timing in result.timing.phases.items()),
            *(_phase(f"{name} in rounds", timed, median) for name, timed in rounds.items()),
        ),
        rss=_by_seed("peak_rss", result.memory.peak_rss),
        device=_by_seed("peak_device", result.memory.peak_device or ()),
        throughput=_by_seed("queries_per_s", result.timing.queries_per_s),
        harness=_by_seed("cpu_s", result.timing.harness_s),
        sizes=_sizes(result),
        notes=tuple((key, tuple(map(plain, values))) for key, values in result.notes.items()),
        predictions=tuple(sorted(result.predictions.sha256.items())),
        has_curve=any(result.timing.curves),
        verified=VERIFIED in result.flags,
    )


def plain(value: Any) -> str:
    """A JSON value as people read it: texts bare, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _score(name: str, summary: MetricSummary, floors: Mapping[str, float]) -> Score:
    return Score(
        metric=name,
        higher=summary.higher_is_better,
        mean=_numbers.score(summary.mean),
        queries=_interval(summary.ci95_queries),
        seeds=_interval(summary.ci95_seeds),
        per_seed=tuple(map(_numbers.score, summary.per_seed)),
        chance=_numbers.score(floors[name]) if name in floors else "",
        n_queries=summary.n_queries,
        n_excluded=summary.n_excluded,
    )


def _variant(name: str, metrics: Mapping[str, MetricSummary], main: str) -> Variant:
    # A chance level holds for the protocol of the task itself.
    scores = {metric: _score(metric, summary, {}) for metric, summary in metrics.items()}
    return Variant(Meaning(name, VARIANT_MEANINGS.get(name, "")), scores.get(main), tuple(scores.values()))


def _slice(name: str, values: Mapping[str, float], main: str) -> Slice:
    return Slice(
        name=name,
        n_queries=f"{values['n_queries']:.0f}" if "n_queries" in values else "",
        main=_numbers.score(values[main]) if main in values else "",
        values=tuple(
            (metric, _numbers.score(value)) for metric, value in values.items() if metric != "n_queries"
        ),
    )


def _phase(
    name: str, timing: PhaseTiming | RoundTiming, middle: Callable[[Sequence[float]], float] = fmean
) -> Phase:
    columns = (timing.wall_s, timing.cpu_s, timing.gpu_s or ())
    wall, cpu, gpu = (_numbers.cost("cpu_s", middle(seconds)) if seconds else "" for seconds in columns)
    walls, cpus, gpus = (_by_seed("cpu_s", seconds) for seconds in columns)
    return Phase(name, wall, walls, cpu, cpus, gpu, gpus)


def _sizes(result: Result) -> tuple[tuple[str, str], ...]:
    size = result.size
    listed: Iterable[tuple[str, str, float | None]] = (
        ("parameters", "parameters", size.parameters),
        ("trained in adapt", "parameters", size.trainable),
        ("kept to serve", "kept", size.kept),
        ("serving MB", "serving_bytes", size.serving_bytes),
    )
    return tuple((label, _numbers.cost(column, value)) for label, column, value in listed)


def _by_seed(column: str, values: Sequence[float]) -> tuple[str, ...]:
    return tuple(_numbers.cost(column, value) for value in values)


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{_numbers.score(interval[0])} to {_numbers.score(interval[1])}"
