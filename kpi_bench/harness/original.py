"""The run that a timing run repeats: rounds count only while they answer what it answered."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kpi_bench._io import sha256_file
from kpi_bench.errors import KpiBenchError
from kpi_bench.harness.predictions import MUDOK, prediction_file
from kpi_bench.harness.records import RunRecord
from kpi_bench.harness.scoring import RunScores, Scorer, kept_files
from kpi_bench.harness.summarise import summarise_metrics
from kpi_bench.suites.task import ClassificationTask, Task, TaskKind

EXPLAINED = "explained@20"


@dataclass(frozen=True, eq=False)
class Original:
    """A run that was scored: its record, its ``scores``, and ``hashes`` of its prediction files by name; ``scorer`` scores others of its task."""

    record: RunRecord
    task: Task
    scorer: Scorer
    scores: RunScores
    hashes: Mapping[str, str]

    def fault(self, prefix: Path) -> str | None:
        """What keeps the predictions at ``prefix``, which is named as the run's, from standing for the run's; None when nothing does.

        Files that equal the run's always do (of link prediction the ranks are compared, not the scores). Others do when the main metric,
        and the share of explained items where the run explains, lies in the 95 % bootstrap interval over queries of the run alone.
        """
        is_ranked = self.task.spec.kind is TaskKind.LINK_PREDICTION
        if not is_ranked and self.equals(prefix):
            return None
        try:
            scores = self.scorer.score(prefix)
        except KpiBenchError as error:
            return f"what it answers cannot be scored: {error}"
        return None if is_ranked and self.equals(prefix) else self._difference(scores)

    def equals(self, prefix: Path) -> bool:
        """Whether the files at ``prefix`` are the run's, byte for byte; to be asked after :meth:`fault`, which ranks."""
        made = {path.name: sha256_file(path) for path in kept_files(self.task, prefix) if path.is_file()}
        # A round does not predict for the variant.
        variant = prediction_file(prefix, self.task.spec.kind, MUDOK).name
        return made == {name: sha256 for name, sha256 in self.hashes.items() if name != variant}

    def _difference(self, scores: RunScores) -> str | None:
        own, found = self.scores.official.values, scores.official.values
        for name in (self.task.spec.main_metric, EXPLAINED):
            if name not in own:
                continue
            low, high = self._interval(name)
            if name not in found or not low <= found[name] <= high:
                reached = f"has {name} {found[name]:.4f}" if name in found else f"has no {name}"
                return f"what it answers {reached}; the run it repeats has {own[name]:.4f}, 95 % interval {low:.4f} to {high:.4f}"
        return None

    def _interval(self, name: str) -> tuple[float, float]:
        """Where a metric may lie; it is the run's own value alone where the bootstrap says nothing."""
        official, n_classes = self.scores.official, 0
        if isinstance(self.task, ClassificationTask):
            n_classes = self.task.n_classes
        per_query = {name: official.per_query[name]} if name in official.per_query else {}
        alone = dataclasses.replace(official, values={name: official.values[name]}, per_query=per_query)
        summary = summarise_metrics([alone], [self.scores], n_classes)[name]
        low, high = summary.ci95_queries or (summary.mean, summary.mean)
        return min(low, summary.mean), max(high, summary.mean)
