"""The run that a timing run repeats: rounds count only while they answer what it answered."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from kpi_bench._io import sha256_file
from kpi_bench.errors import KpiBenchError
from kpi_bench.harness.explanations import paths_file
from kpi_bench.harness.predictions import MUDOK, prediction_file
from kpi_bench.harness.records import RunRecord
from kpi_bench.harness.scoring import RunScores, Scorer, kept_files
from kpi_bench.harness.summarise import summarise_metrics
from kpi_bench.suites.task import ClassificationTask, Task, TaskKind

EXPLAINED = "explained@20"


@dataclass(frozen=True, eq=False)
class Original:
    """A run that was scored: its record with the hashes of its predictions, and its ``scores``; ``scorer`` scores others of its task."""

    record: RunRecord
    task: Task
    scorer: Scorer
    scores: RunScores

    def compare(self, prefix: Path) -> tuple[str | None, bool]:
        """What keeps the predictions at ``prefix``, which is named as the run's, from standing for the run's (None: nothing does), and
        whether they are equal to the run's, byte for byte (of link prediction the ranks are compared, not the scores).

        On a CPU only equal ones stand for the run's. A GPU adds up in any order: there others do, too, when the main metric, and the
        share of explained items where the run explains, lies in the 95 % bootstrap interval over queries of the run alone.
        """
        scores = None
        try:
            if self.task.spec.kind is TaskKind.LINK_PREDICTION:
                scores = self.scorer.score(prefix)
            other = self._other_files(prefix)
            if not other:
                return None, True
            if self.record.key.device.startswith("cpu"):
                return (
                    f"it answers otherwise than the run that it repeats ({', '.join(other)}); on a CPU it must be the same, byte for byte: "
                    "seed what adapt and predict draw, and keep nothing between instances (docs/timing.md)"
                ), False
            if paths_file(prefix).is_file() != self.record.explained:
                does, run = (
                    ("does not explain", "does") if self.record.explained else ("explains", "does not")
                )
                return f"it {does} its answers, the run that it repeats {run}", False
            return self._difference(scores or self.scorer.score(prefix)), False
        except KpiBenchError as error:
            return f"what it answers cannot be scored: {error}", False

    def _other_files(self, prefix: Path) -> list[str]:
        """Names of files that only one of the two has, or that differ."""
        made = {path.name: sha256_file(path) for path in kept_files(self.task, prefix) if path.is_file()}
        # A round does not predict for the variant.
        variant = prediction_file(prefix, self.task.spec.kind, MUDOK).name
        own = {name: sha256 for name, sha256 in self.record.outputs.items() if name != variant}
        return sorted(name for name in made.keys() | own.keys() if made.get(name) != own.get(name))

    def _difference(self, scores: RunScores) -> str | None:
        own, found = self.scores.official.values, scores.official.values
        for name in (self.task.spec.main_metric, EXPLAINED):
            if name not in own:
                continue
            interval = self._interval(name)
            low, high = interval or (own[name], own[name])
            if not low <= found[name] <= high:
                bound = (
                    f"95 % interval {low:.4f} to {high:.4f}"
                    if interval
                    else f"and rounds must have the same: {name} has no scores by query, so no interval"
                )
                return f"what it answers has {name} {found[name]:.4f}; the run that it repeats has {own[name]:.4f}, {bound}"
        return None

    def _interval(self, name: str) -> tuple[float, float] | None:
        """Where a metric may lie; None where there are no scores by query to draw from."""
        official, n_classes = self.scores.official, 0
        if isinstance(self.task, ClassificationTask):
            n_classes = self.task.n_classes
        per_query = {name: official.per_query[name]} if name in official.per_query else {}
        alone = dataclasses.replace(official, values={name: official.values[name]}, per_query=per_query)
        summary = summarise_metrics([alone], [self.scores], n_classes)[name]
        if summary.ci95_queries is None:
            return None
        low, high = summary.ci95_queries
        return min(low, summary.mean), max(high, summary.mean)
