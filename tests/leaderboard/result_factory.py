"""Results with per-query files for tests: complete, small and made from a seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kpi_bench._io import sha256_file, write_parquet
from kpi_bench.evaluators._confusion import f1_from_counts, one_hot
from kpi_bench.harness.results import (
    HarnessVersion,
    Memory,
    MetricSummary,
    PhaseTiming,
    PredictionsInfo,
    ProtocolInfo,
    Result,
    Size,
    SubmissionInfo,
    SuiteInfo,
    TaskInfo,
    Timing,
    VariantScores,
    queries_path,
    read_result,
    result_path,
    write_result,
)

SUITE = "kpi-test"
DIGEST = "a" * 64
TASKS = ("amazon_music", "douban_book", "amazon_games_qa", "douban_music_review")
_KINDS = {
    "amazon_games_qa": ("classification", "accuracy", 2),
    "douban_music_review": ("classification", "macro_f1", 5),
    "fb15k": ("link_prediction", "mr", 0),
}


@dataclass(frozen=True)
class Maker:
    """Writes results of submissions into ``root``; a quality is the chance that a query is answered well."""

    root: Path
    n_queries: int = 300
    n_tasks: int = len(TASKS)

    def submission(
        self,
        name: str,
        quality: float,
        *,
        tasks: Sequence[str] = TASKS,
        seeds: Sequence[int] = (0, 1, 2),
        noise: int = 0,
        **changes: Any,
    ) -> None:
        """Write a result for each task. Submissions of equal ``noise`` and quality have equal scores."""
        for task in tasks:
            self.result(name, task, quality, seeds=seeds, noise=noise, **changes)

    def result(
        self,
        name: str,
        task: str,
        quality: float,
        *,
        seeds: Sequence[int] = (0,),
        noise: int = 0,
        with_queries: bool = True,
        queries: NDArray[np.int64] | None = None,
        tags: tuple[str, ...] = (),
        fidelity: str = "faithful",
        size: str = "small",
        digest: str = DIGEST,
        created: str = "2026-01-01T00:00:00+00:00",
        hw_id: str = "hw-one",
        pretrain_s: float | None = 60.0,
        adapt_s: float = 10.0,
        flags: tuple[str, ...] = (),
        code: str = "c" * 64,
        kept: int | None = 1_234_567,
    ) -> Path:
        """Write one result and its per-query file; returns the result's path."""
        kind, metric, n_classes = _KINDS.get(task, ("recommendation", "ndcg@20", 0))
        frame, values, counts = self._scores(task, metric, quality, seeds, noise, n_classes)
        if queries is not None:
            frame["query"] = queries
        phases = {"adapt": _seconds(adapt_s, seeds), "predict": _seconds(1.0, seeds)}
        if pretrain_s is not None:
            phases["pretrain"] = _seconds(pretrain_s, seeds)
        main = _summary(values, higher=metric != "mr", n=self.n_queries)
        result = Result(
            run_id=f"{name}-{task}",
            created=created,
            kpi_bench=HarnessVersion("0.1.0", None),
            submission=SubmissionInfo(
                name=name,
                version="1",
                kind="code",
                description="",
                source_url="",
                paper="",
                sha256=code,
                params={"dim": 32},
                config=None,
                size=size,
                tags=tags,
                fidelity=fidelity,
                fidelity_notes="",
            ),
            suite=SuiteInfo(SUITE, "1.0", digest),
            task=TaskInfo(task, kind, metric, self.n_tasks),
            protocol=ProtocolInfo("realistic", ("train", "valid"), (20,), None),
            seeds=tuple(seeds),
            metrics={metric: main},
            variants={"dedup": VariantScores({metric: main})},
            slices={"cold": {metric: 0.1, "n_queries": 5}},
            counts=counts,
            floors={metric: 0.01},
            timing=Timing(
                phases, tuple(() for _ in seeds), tuple(1000.0 for _ in seeds), (0.1,) * len(seeds)
            ),
            memory=Memory((500_000_000,) * len(seeds)),
            size=Size(1_234_567, 1_000, 5_000_000, kept),
            hardware={"hw_id": hw_id, "cpu": "test"},
            environment={"python": "3.11"},
            notes={},
            predictions=PredictionsInfo(f"predictions/{task}", {}),
            queries_sha256=None,
            flags=flags,
        )
        path = result_path(self.root, SUITE, task, name)
        if with_queries:
            write_parquet(queries_path(path), frame)
            result = dataclasses.replace(result, queries_sha256=sha256_file(queries_path(path)))
        return write_result(self.root, result)

    def change(self, name: str, task: str, change: Callable[[Result], Result]) -> Result:
        """Write a result again, changed; its per-query file stays."""
        result = change(read_result(result_path(self.root, SUITE, task, name)))
        write_result(self.root, result)
        return result

    def _scores(
        self, task: str, metric: str, quality: float, seeds: Sequence[int], noise: int, n_classes: int
    ) -> tuple[pd.DataFrame, list[float], Mapping[str, float]]:
        """Per-query columns, and the metric by seed that they give. Queries have a difficulty that all submissions share."""
        shared = np.random.default_rng([1, len(task)])
        hardness = shared.random(self.n_queries)
        columns: dict[str, NDArray[Any]] = {"query": np.arange(self.n_queries)}
        labels = shared.integers(0, max(n_classes, 1), self.n_queries)
        values: list[float] = []
        for seed in seeds:
            rng = np.random.default_rng([2, len(task), seed, noise])
            good = 0.7 * hardness + 0.3 * rng.random(self.n_queries) < quality
            if n_classes:
                columns["label"] = labels
                predicted = np.where(good, labels, (labels + 1) % n_classes)
                columns[f"predicted_seed{seed}"] = predicted
                values.append(_classification(metric, labels, predicted, n_classes))
            else:
                gain = np.where(good, 0.5 + 0.5 * hardness, 0.0)
                scores = gain if metric != "mr" else 1.0 + 100.0 * (1.0 - gain)
                columns[f"main_seed{seed}"] = scores.astype(np.float32)
                values.append(float(scores.mean()))
        counts = {"n_queries": self.n_queries} | ({"n_classes": n_classes} if n_classes else {})
        return pd.DataFrame(columns), values, counts


def with_timing(**fields: Any) -> Callable[[Result], Result]:
    """A change of a result that replaces parts of its timing."""
    return lambda result: dataclasses.replace(result, timing=dataclasses.replace(result.timing, **fields))


def _classification(metric: str, labels: NDArray[Any], predicted: NDArray[Any], n_classes: int) -> float:
    if metric == "accuracy":
        return float((labels == predicted).mean())
    actual, guessed = one_hot(labels, n_classes), one_hot(predicted, n_classes)
    f1 = f1_from_counts((actual * guessed).sum(axis=0), actual.sum(axis=0), guessed.sum(axis=0))
    return float(f1.mean())


def _summary(values: list[float], *, higher: bool, n: int) -> MetricSummary:
    mean = float(np.mean(values))
    seeds = (mean - 0.02, mean + 0.02) if len(values) > 1 else None
    return MetricSummary(mean, tuple(values), seeds, (mean - 0.0123, mean + 0.0123), higher, n, 0)


def _seconds(value: float, seeds: Sequence[int]) -> PhaseTiming:
    return PhaseTiming((value,) * len(seeds), (2.0 * value,) * len(seeds))
