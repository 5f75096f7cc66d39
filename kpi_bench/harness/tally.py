"""Score the runs of one task as they end, and make a result of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from kpi_bench.errors import KpiBenchError
from kpi_bench.harness.assemble import ScoredRun, assemble_result, write_with_queries
from kpi_bench.harness.clock import Lap
from kpi_bench.harness.ledger import Ledger
from kpi_bench.harness.original import Original
from kpi_bench.harness.plan import Run
from kpi_bench.harness.records import RunRecord
from kpi_bench.harness.results import Result
from kpi_bench.harness.scoring import make_scorer
from kpi_bench.suites.task import RecommendationTask


class Tally:
    """The scored runs of one task, and what scoring them shares (test labels, indices)."""

    def __init__(self, ledger: Ledger, task: str) -> None:
        suite = ledger.origin.suite
        self._ledger = ledger
        self._task = suite.task(task)
        self._scorer = make_scorer(self._task, suite.graph)
        self._runs: dict[int, ScoredRun] = {}

    def score(self, run: Run, record: RunRecord) -> RunRecord:
        """Score a run that is done; returns its record with what keeps its predictions from being scored, or with their hashes."""
        seed = record.key.seed
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            scores = self._scorer.score(self._ledger.prefix(self._task.spec.name, seed))
        except KpiBenchError as error:
            return dataclasses.replace(record, error=f"its predictions cannot be scored: {error}")
        lap = Lap("score", time.perf_counter() - wall, time.process_time() - cpu)
        if not record.outputs:
            # Not before: of link prediction the ranks are what is kept.
            record = dataclasses.replace(record, outputs=self._ledger.outputs(run))
        self._runs[seed] = ScoredRun(record, scores, lap)
        return record

    def original(self, seed: int) -> Original:
        """A run that was scored, for a timing run to be held against; it may be sent to another machine, so it brings what scoring needs."""
        run, scorer = self._runs[seed], self._scorer
        if isinstance(self._task, RecommendationTask):
            # Not the scorer of the runs, which brings the suite.
            kg = self._task.spec.kg
            graphs = {kg: self._ledger.origin.suite.graph(kg)} if run.record.explained else None
            scorer = make_scorer(self._task, graphs.__getitem__ if graphs else None)
        return Original(run.record, self._task, scorer, run.scores)

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
        hashes = {name: sha256 for seed in seeds for name, sha256 in self._runs[seed].record.outputs.items()}
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
