"""Results folders of any size for tests and benchmarks of the site: every kind of task, per-query files that agree with the means.

``draw`` gives submissions of all sorts from a seed; change some with ``dataclasses.replace``; ``write`` makes their files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kpi_bench.evaluators._confusion import f1_from_counts, one_hot
from kpi_bench.evaluators.intervals import t_interval
from kpi_bench.harness.results import SCHEMA_VERSION, queries_path, result_path

SUITE = "kpi-site"
N_QUERIES = 200
MACHINES = ("a1b2c3d4e5f6", "0f1e2d3c4b5a", "99aa88bb77cc")
WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "juniper")


@dataclass(frozen=True)
class Task:
    """A task of the generated suite. Macro-F1 and accuracy have classes, ``mr`` is better when lower."""

    name: str
    kind: str
    metric: str
    n_classes: int = 0


TASKS = (
    Task("amazon_games_qa", "classification", "accuracy", 2),
    Task("amazon_music", "recommendation", "ndcg@20"),
    Task("douban_book", "recommendation", "ndcg@20"),
    Task("douban_music_review", "classification", "macro_f1", 5),
    Task("fb15k", "link_prediction", "mrr"),
    Task("wordnet", "link_prediction", "mr"),
)
"""In the order of a board."""


@dataclass(frozen=True)
class Submission:
    """A row to be written. ``quality`` is the chance that a query is answered well; ``tasks`` are names of those it was run on."""

    name: str
    quality: float
    tasks: tuple[str, ...] = tuple(task.name for task in TASKS)
    seeds: tuple[int, ...] = (0, 1, 2)
    hw: str | None = MACHINES[0]
    """None: each task on another machine."""
    size: str = "small"
    kind: str = "code"
    fidelity: str = "faithful"
    tags: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    description: str = "Made up for tests."
    paper: str = "https://arxiv.org/abs/2405.13085"
    source_url: str = "https://example.org/code"
    version: str = "1.0.0"
    config: str | None = None
    params: Mapping[str, Any] | None = None
    notes: Mapping[str, Sequence[Any]] | None = None
    pretrain_s: float | None = 60.0
    adapt_s: float = 10.0
    parameters: int | None = 1_000_000
    with_curves: bool = True
    with_queries: bool = True
    suite: str = SUITE


def draw(n: int, *, seed: int = 0) -> list[Submission]:
    """``n`` submissions: floors, configs, three machines, one seed, missing tasks, flags, rows without per-query scores. The first four are plain and complete."""
    rng = np.random.default_rng(seed)
    return [_draw_one(number, rng) for number in range(n)]


def write(
    root: Path,
    submissions: Sequence[Submission],
    *,
    tasks: Sequence[Task] = TASKS,
    n_queries: int = N_QUERIES,
) -> list[Path]:
    """Write the results of submissions; returns the paths of the result files."""
    known = {task.name: task for task in tasks}
    return [
        _write_result(root, submission, known[name], len(tasks), place, n_queries)
        for submission in submissions
        for place, name in enumerate(submission.tasks)
    ]


def _draw_one(number: int, rng: np.random.Generator) -> Submission:
    # All numbers are drawn whether they are used or not: row k is the same in a folder of any size.
    quality, pick, missing, costs = (
        rng.uniform(0.15, 0.9),
        rng.random(8),
        rng.random(len(TASKS)),
        rng.lognormal(0, 1.5, 3),
    )
    word = WORDS[number % len(WORDS)]
    if number < 4:
        return Submission(f"{word}-{number:05}", quality, adapt_s=20.0 * costs[1], pretrain_s=60.0 * costs[0])
    floor, config = pick[0] < 0.1, "no-link" if pick[1] < 0.15 else None
    tasks = tuple(
        task.name for task, gone in zip(TASKS, missing, strict=True) if pick[2] > 0.25 or gone > 0.4
    )
    seeds = (0,) if pick[3] < 0.2 else (0, 1, 2)
    flags = [*(["single_seed"] if len(seeds) == 1 else []), *(["verified"] if pick[4] < 0.3 else []), *(["resumed"] if pick[4] > 0.9 else [])]  # fmt: skip
    kind = "predictions" if pick[5] < 0.1 else "code"
    return Submission(
        name=f"{word}-{number:05}" + (f"@{config}" if config else ""),
        quality=0.3 * quality if floor else quality,
        tasks=tasks or ("fb15k",),
        seeds=seeds,
        hw=None if pick[6] < 0.05 else MACHINES[int(pick[6] * 4) % 3],
        size="floor" if floor else ("small", "base", "large")[number % 3],
        kind=kind,
        fidelity="reconstruction" if pick[7] < 0.3 else "faithful",
        tags=("floor",) if floor else tuple(tag for tag, share in (("text", 0.5), ("graph", 0.7)) if pick[7] < share),
        flags=(*flags, *(["self_reported"] if kind == "predictions" else [])),
        config=config,
        params={"dim": 32 * (1 + number % 4), "optimizer": {"name": "adam", "lr": 0.001}},
        pretrain_s=None if floor else 60.0 * costs[0],
        adapt_s=20.0 * costs[1],
        parameters=None if floor else int(1e6 * costs[2]),
        with_curves=not floor,
        with_queries=pick[1] < 0.97,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Shared:
    """What all submissions of a task share: query ids, how hard each is, its class."""

    queries: NDArray[np.int64]
    hardness: NDArray[np.float64]
    labels: NDArray[np.int64]


@cache
def _shared(task: Task, n_queries: int) -> _Shared:
    rng = np.random.default_rng(list(task.name.encode()))
    return _Shared(
        np.arange(n_queries), rng.random(n_queries), rng.integers(0, max(task.n_classes, 1), n_queries)
    )


def _write_result(
    root: Path, submission: Submission, task: Task, n_tasks: int, place: int, n_queries: int
) -> Path:
    path = result_path(root, submission.suite, task.name, submission.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(f"{submission.name}/{task.name}".encode()))
    columns, values = _scores(submission, task, _shared(task, n_queries), rng)
    digest = None
    if submission.with_queries:
        pq.write_table(pa.table(columns), queries_path(path), compression="zstd")
        digest = hashlib.sha256(queries_path(path).read_bytes()).hexdigest()
    hw = submission.hw or MACHINES[place % len(MACHINES)]
    raw = _raw(submission, task, n_tasks, hw, values, n_queries, digest, rng)
    path.write_text(json.dumps(raw, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    return path


def _scores(
    submission: Submission, task: Task, shared: _Shared, rng: np.random.Generator
) -> tuple[dict[str, NDArray[Any]], dict[str, list[float]]]:
    """Columns of the per-query file, and each metric's values by seed, the main metric first."""
    columns: dict[str, NDArray[Any]] = {"query": shared.queries}
    values: dict[str, list[float]] = {task.metric: []}
    for seed in submission.seeds:
        luck = 0.7 * shared.hardness + 0.3 * rng.random(len(shared.queries))
        good = luck < submission.quality
        if task.n_classes:
            predicted = np.where(good, shared.labels, (shared.labels + 1) % task.n_classes)
            columns["label"], columns[f"predicted_seed{seed}"] = shared.labels, predicted
            both = {
                "accuracy": float(good.mean()),
                "macro_f1": _macro_f1(shared.labels, predicted, task.n_classes),
            }
            for name in (task.metric, *sorted(both.keys() - {task.metric})):
                values.setdefault(name, []).append(both[name])
        else:
            gain = np.where(good, 1.0 - 0.5 * luck, 0.05 * (1.0 - luck))
            scores = 1.0 + 100.0 * (1.0 - gain) if task.metric == "mr" else gain
            columns[f"main_seed{seed}"] = scores.astype(np.float32)
            values[task.metric].append(float(scores.mean()))
            other = "recall@20" if task.kind == "recommendation" else "hits@10"
            values.setdefault(other, []).append(float(good.mean()))
    return columns, values


def _macro_f1(labels: NDArray[np.int64], predicted: NDArray[np.int64], n_classes: int) -> float:
    actual, guessed = one_hot(labels, n_classes), one_hot(predicted, n_classes)
    return float(
        f1_from_counts((actual * guessed).sum(axis=0), actual.sum(axis=0), guessed.sum(axis=0)).mean()
    )


def _raw(
    submission: Submission,
    task: Task,
    n_tasks: int,
    hw: str,
    values: Mapping[str, list[float]],
    n_queries: int,
    queries_sha256: str | None,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """A result as JSON, as ``harness.results`` writes it."""
    s, n_seeds = submission, len(submission.seeds)

    def metrics(shift: float = 0.0) -> dict[str, Any]:
        return {
            name: _summary([v * (1.0 - shift) for v in of], name, n_queries) for name, of in values.items()
        }

    main = float(np.mean(values[task.metric]))
    phases = {"load": 0.3, "adapt": s.adapt_s, "predict": 0.1 * s.adapt_s, "score": 0.05}
    phases |= {} if s.pretrain_s is None else {"pretrain": s.pretrain_s}
    code = s.kind == "code"
    return {
        "run_id": f"{s.name}-{task.name}",
        "created": "2026-11-01T00:00:00+00:00",
        "kpi_bench": {"version": "0.1.0", "git": None},
        "submission": {
            "name": s.name, "version": s.version, "kind": s.kind, "description": s.description, "source_url": s.source_url,
            "paper": s.paper, "sha256": hashlib.sha256(s.name.encode()).hexdigest(), "params": s.params or {}, "config": s.config,
            "size": s.size, "tags": s.tags, "fidelity": s.fidelity, "fidelity_notes": "",
        },
        "suite": {"name": s.suite, "version": "1.0.0", "sha256": "5" * 64, "repo": None, "revision": None},
        "task": {"name": task.name, "kind": task.kind, "main_metric": task.metric, "n_tasks": n_tasks},
        "protocol": {"ties": "realistic", "mask": ["train", "valid"], "k": [20], "filter": None},
        "seeds": s.seeds,
        "metrics": metrics(),
        "variants": {"dedup": {"metrics": metrics(0.02)}} if task.kind != "link_prediction" else {},
        "slices": _slices(task, main, n_queries),
        "counts": {"n_queries": n_queries} | ({"n_classes": task.n_classes} if task.n_classes else {}),
        "floors": {task.metric: 1.0 / task.n_classes} if task.n_classes else {task.metric: 50.5 if task.metric == "mr" else 0.004},
        "timing": {
            "phases": {name: _phase(seconds, n_seeds, rng) for name, seconds in phases.items() if code or name in ("load", "score")},
            "curves": [_curve(s, task, main) for _ in s.seeds],
            "queries_per_s": [n_queries / (0.1 * s.adapt_s)] * n_seeds if code else [],
            "harness_s": [0.4] * n_seeds,
        },
        "memory": {"peak_rss": [int(4e8 + 1e6 * s.adapt_s)] * n_seeds if code else [], "peak_device": None},
        "size": {"parameters": s.parameters, "trainable": s.parameters and s.parameters // 10, "serving_bytes": s.parameters and 4 * s.parameters, "kept": s.parameters and s.parameters // 2},
        "hardware": {"cpu": "AMD EPYC (family 26, model 2)", "cores": 2, "ram_gib": 24, "blas_threads": 1, "device": "cpu", "gpu": None, "hw_id": hw},
        "environment": {"python": "3.11.7", "numpy": "2.4.6", "torch": "2.13.0"},
        "notes": s.notes or {"best_epoch": [3] * n_seeds},
        "predictions": {"path": f"predictions/{task.name}", "sha256": {f"seed{seed}.parquet": "7" * 64 for seed in s.seeds}},
        "queries_sha256": queries_sha256,
        "flags": s.flags,
        "schema_version": SCHEMA_VERSION,
    }  # fmt: skip


def _summary(per_seed: list[float], name: str, n_queries: int) -> dict[str, Any]:
    mean = float(np.mean(per_seed))
    half = min(abs(mean), 0.9 / n_queries**0.5 * max(1.0, abs(mean)))
    high = mean + half if name == "mr" else min(mean + half, 1.0)
    return {
        "mean": mean,
        "per_seed": per_seed,
        "ci95_seeds": t_interval(per_seed),
        "ci95_queries": [max(mean - half, 1.0 if name == "mr" else 0.0), high],
        "higher_is_better": name != "mr",
        "n_queries": n_queries,
        "n_excluded": 0,
    }


def _slices(task: Task, main: float, n_queries: int) -> dict[str, dict[str, float]]:
    names: tuple[str, ...]
    if task.kind == "recommendation":
        names = ("activity_low", "activity_mid", "activity_high", "cold_items")
    elif task.kind == "link_prediction":
        bins = ("0", "1-9", "10-99", "100-999", "1000+")
        names = tuple(
            f"{family}/{group}" for family in ("relation_frequency", "entity_frequency") for group in bins
        )
    else:
        return {}
    step = 0.5 / len(names)
    return {
        name: {task.metric: main * (0.5 + step * place), "n_queries": n_queries // len(names)}
        for place, name in enumerate(names)
    }


def _phase(seconds: float, n_seeds: int, rng: np.random.Generator) -> dict[str, Any]:
    wall = [float(seconds * scale) for scale in rng.uniform(0.95, 1.05, n_seeds)]
    return {"wall_s": wall, "cpu_s": [1.5 * value for value in wall], "gpu_s": None}


def _curve(submission: Submission, task: Task, main: float) -> list[dict[str, Any]]:
    if not submission.with_curves:
        return []
    return [
        {
            "seconds": submission.adapt_s * step / 12,
            "step": step,
            "value": main * (1.0 + 1.0 / step if task.metric == "mr" else 1.0 - 0.5 / step),
            "metric": f"valid_{task.metric}",
            "phase": "adapt",
        }
        for step in range(1, 13)
    ]
