"""Score the runs of one task as they end, and make a result of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from kpi_bench._io import sha256_file
from kpi_bench.errors import KpiBenchError
from kpi_bench.harness.assemble import ScoredRun, assemble_result, write_with_queries
from kpi_bench.harness.clock import Lap
from kpi_bench.harness.ledger import Ledger
from kpi_bench.harness.records import RunRecord
from kpi_bench.harness.results import Result
from kpi_bench.harness.scoring import make_scorer


class Tally:
    """The scored runs of one task, and what scoring them shares (test labels, indices)."""

    def __init__(self, ledger: Ledger, task: str) -> None:
        suite = ledger.origin.suite
        self._ledger = ledger
        self._task = suite.task(task)
        self._scorer = make_scorer(self._task, suite.graph)
        self._runs: dict[int, ScoredRun] = {}

    def score(self, record: RunRecord) -> str | None:
        """Score a run that is done; returns what keeps its predictions from being scored, None when nothing does."""
        seed = record.key.seed
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            scores = self._scorer.score(self._ledger.prefix(self._task.spec.name, seed))
        except KpiBenchError as error:
            return f"its predictions cannot be scored: {error}"
        lap = Lap("score", time.perf_counter() - wall, time.process_time() - cpu)
        self._runs[seed] = ScoredRun(record, scores, lap)
        return None

    def write(
        self,
        results: Path,
        seeds: Sequence[int],
        pretraining: Sequence[RunRecord],
        timing: RunRecord | None = None,
    ) -> Result | None:
        """Write the result over ``seeds`` under ``results``, with the rounds of ``timing`` where it was done; None when a seed was not scored."""
        if not set(seeds) <= set(self._runs):
            return None
        hashes = {
            path.name: sha256_file(path)
            for seed in seeds
            for path in self._ledger.prediction_files(self._task.spec.name, seed)
        }
        result, queries = assemble_result(
            self._ledger.origin,
            self._task,
            self._scorer.protocol,
            [self._runs[seed] for seed in seeds],
            pretraining,
            hashes,
            timing if timing is not None and timing.done else None,
        )
        return write_with_queries(results, result, queries)
