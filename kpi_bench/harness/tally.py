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
from kpi_bench.harness.original import Original
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
        self._hashes: dict[int, dict[str, str]] = {}

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
        files = self._ledger.prediction_files(self._task.spec.name, seed)
        self._hashes[seed] = {path.name: sha256_file(path) for path in files}
        return None

    def original(self, seed: int) -> Original:
        """A run that was scored, for a timing run to be held against; it may be sent to another machine, so it brings what scoring needs."""
        run = self._runs[seed]
        graph = {}
        if run.record.explained:
            graph[self._task.spec.kg] = self._ledger.origin.suite.graph(self._task.spec.kg)
        scorer = make_scorer(self._task, graph.__getitem__)
        return Original(run.record, self._task, scorer, run.scores, self._hashes[seed])

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
        hashes = {name: sha256 for seed in seeds for name, sha256 in self._hashes[seed].items()}
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
