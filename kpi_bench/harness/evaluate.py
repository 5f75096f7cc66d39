"""Evaluate a submission on a suite: pre-train, adapt, predict, score, for every seed and task."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kpi_bench.errors import SubmissionError
from kpi_bench.harness.assemble import Provenance
from kpi_bench.harness.channel import Message
from kpi_bench.harness.config import SubmissionConfig
from kpi_bench.harness.execute import Executed, Order
from kpi_bench.harness.executors.base import Executor, Session
from kpi_bench.harness.executors.local import LocalExecutor
from kpi_bench.harness.inspection import Inspection, inspect
from kpi_bench.harness.ledger import Ledger
from kpi_bench.harness.lock import only_user_of
from kpi_bench.harness.orders import Orders
from kpi_bench.harness.plan import Run, plan_runs, select_tasks
from kpi_bench.harness.records import Register, RowPlace, RunRecord
from kpi_bench.harness.results import Result, SearchInfo
from kpi_bench.harness.source import source_sha256
from kpi_bench.harness.supervise import Limits, default_memory_limit
from kpi_bench.harness.tally import Tally
from kpi_bench.harness.worker import Action
from kpi_bench.suites.suite import Suite

DEFAULT_SECONDS = 4 * 3600.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How to evaluate. ``results`` is the results folder to write to; ``limits`` bound each run of the child. With ``rounds``, adapt and
    predict of each task are timed so many times more with the first seed (:mod:`kpi_bench.harness.rounds`). ``tuned`` is the search that found ``params``.
    ``inspection``: what the submission's class says of itself, where that is known; otherwise a child is asked. ``register``: the row's,
    and ``lenders``: those of other rows that may have made the same pre-training, beside the submission's other configs; where code of
    the submission has run in this process's session they were read before that.
    ``processes`` pre-train together (:mod:`kpi_bench.harness.ranks`)."""

    out: Path
    results: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    tasks: tuple[str, ...] | None = None
    device: str = "cpu"
    config: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = True
    reuse_pretrained: Path | None = None
    offline: bool = True
    limits: Limits = field(default_factory=lambda: Limits(DEFAULT_SECONDS, default_memory_limit()))
    rounds: int | None = None
    tuned: SearchInfo | None = None
    inspection: Inspection | None = None
    register: Register | None = None
    lenders: tuple[Register, ...] = ()
    processes: int = 1


@dataclass(frozen=True)
class Outcome:
    """What came of one run (``task`` None: a pre-training).

    ``skipped``: it was done in an earlier session. ``blocked``: it was not started, as what it builds on (pre-training; of a timing run, the run itself) failed.
    """

    task: str | None
    seed: int
    seconds: float
    error: str | None = None
    skipped: bool = False
    blocked: bool = False


@dataclass(frozen=True)
class Report:
    """End of an evaluation: results written, every run's outcome, and where the wall time went (``side_by_side``: of several runs at once)."""

    submission: str
    suite: str
    results: tuple[Result, ...]
    outcomes: tuple[Outcome, ...]
    wall_s: float
    submission_s: float
    side_by_side: bool = False

    @property
    def failures(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.error is not None]

    @property
    def overhead(self) -> float:
        """Share of the wall time that was not the submission's own phases (load, pretrain, adapt, predict)."""
        return max(0.0, 1.0 - self.submission_s / self.wall_s) if self.wall_s > 0 else 0.0


class Listener(Protocol):
    """Follows an evaluation, for a progress display. A message carries ``task`` and ``seed`` of its run: several may be under way."""

    def planned(self, runs: int) -> None: ...

    def started(self, task: str | None, seed: int) -> None: ...

    def message(self, message: Message) -> None: ...

    def finished(self, outcome: Outcome) -> None: ...


def evaluate(
    config: SubmissionConfig,
    suite: Suite,
    options: Options,
    listener: Listener | None = None,
    executor: Executor | None = None,
) -> Report:
    """Run and score ``config`` on ``suite``; a failing run never stops the others. Without ``executor`` runs are made here, one by one.

    Raises:
        SubmissionError: the submission cannot be started at all (no such class, parameter or task; nothing it answers).
        RunError: another evaluation is using the output folder, the executor can make no runs, or seeds or rounds are none.
    """
    steps = evaluate_in_steps(config, suite, options, listener, executor or LocalExecutor(), None)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            report: Report = end.value
            return report


def evaluate_in_steps(
    config: SubmissionConfig,
    suite: Suite,
    options: Options,
    listener: Listener | None,
    executor: Executor,
    patience: float | None,
) -> Generator[None, None, Report]:
    """:func:`evaluate` for several evaluations in one process: yields whenever no run has ended within ``patience`` seconds, and returns the
    report. Closing it ends the runs that are under way.
    """
    evaluation = _Evaluation(config, suite, options, listener)
    with only_user_of(options.out):
        return (yield from evaluation.run(executor, patience))


class _Evaluation:
    """State of one evaluation: what is left to run, what came of the rest."""

    def __init__(
        self, config: SubmissionConfig, suite: Suite, options: Options, listener: Listener | None
    ) -> None:
        self.suite, self.options, self.listener = suite, options, listener
        self.tasks = select_tasks(config, suite, options.tasks)
        self.name = config.row_name(options.config)
        self.origin = Provenance(
            config,
            config.resolve_params(suite.name, options.config, options.params),
            options.config,
            source_sha256(config),
            suite,
            options.tuned,
        )
        self.records: dict[Run, RunRecord] = {}
        self.outcomes: dict[Run, Outcome] = {}
        self.tallies: dict[str, Tally] = {}
        self.results: dict[str, Result] = {}
        self.submission_s = 0.0

    def run(self, executor: Executor, patience: float | None) -> Generator[None, None, Report]:
        start = time.perf_counter()
        options = self.options
        self.ledger = self._open_ledger()
        self.orders = Orders(self.ledger, options.out, options.limits, offline=options.offline)
        self.plan = plan_runs(self.tasks, options.seeds, self.inspection.pretrains, options.rounds)
        if self.listener:
            self.listener.planned(len(self.plan))
        if options.resume and (lost := self.ledger.off_record(self.plan)):
            logger.warning(
                "%s on %s: %d finished runs are not on record and are made again (docs/timing.md)",
                self.name,
                self.suite.name,
                lost,
            )
        with executor.session(self.orders.premises(), self._tell) as session:
            yield from self._make_runs(session, patience)
        return Report(
            self.name,
            self.suite.name,
            tuple(self.results[task] for task in self.tasks if task in self.results),
            tuple(self.outcomes[run] for run in self.plan),
            time.perf_counter() - start,
            self.submission_s,
            session.side_by_side,
        )

    def _open_ledger(self) -> Ledger:
        options, config = self.options, self.origin.config
        place = RowPlace(options.out.resolve(), self.suite.name, self.name)
        rows = {config.row_name(name) for name in (None, *config.configs)} - {self.name}
        # All are read before code of the submission runs for the first time, which is when it is inspected.
        register = options.register or place.register()
        lenders = [dataclasses.replace(place, row=row).register() for row in sorted(rows)]
        self.inspection = self._inspect()
        return Ledger(
            self.origin,
            place.folders,
            register,
            options.device,
            options.resume,
            options.reuse_pretrained,
            options.processes,
            self.inspection.adapt_only,
            (*lenders, *options.lenders),
        )

    def _inspect(self) -> Inspection:
        options, config = self.options, self.origin.config
        folder = options.out.resolve() / self.suite.name / self.name / "inspect"
        found = options.inspection or inspect(
            config, self.suite, folder, options.limits, offline=options.offline
        )
        if options.processes > 1 and not found.data_parallel:
            raise SubmissionError(
                f"{config.name} pre-trains in one process only, not in --processes {options.processes}: "
                f"{config.submission.entry} does not declare data_parallel = True (docs/scale.md)"
            )
        return found

    def _make_runs(self, session: Session, patience: float | None) -> Iterator[None]:
        """Hand over runs as they become ready, in the plan's order, and settle each that ends."""
        waiting, running = list(self.plan), 0
        while waiting or running:
            kept: list[tuple[Run, RunRecord]] = []
            for run in [run for run in waiting if run.after is None or run.after in self.outcomes]:
                if running and not session.side_by_side:
                    break
                waiting.remove(run)
                if run.after is not None and self.outcomes[run.after].error is not None:
                    self._block(run)
                    continue
                order = self._order(run)
                record = self.ledger.kept(run, order.key)
                if record is None:
                    self.ledger.lend_no_longer(run)
                    session.submit(order)
                    running += 1
                else:
                    kept.append((run, record))
            # Scored when the others are under way already.
            for run, record in kept:
                self._settle(run, record, skipped=True)
            if running:
                while (ended := session.wait(patience)) is None:
                    yield
                running -= 1
                if self._take(*ended):
                    waiting.insert(0, ended[0].run)

    def _order(self, run: Run) -> Order:
        pretraining = self.records[run.pretraining] if run.pretraining else None
        original = None
        if run.action is Action.TIME and run.task is not None:
            original = self.tallies[run.task].original(run.seed)
        return self.orders.order(run, pretraining, original)

    def _take(self, order: Order, executed: Executed) -> bool:
        """Take in a run that has ended; True when it has to be handed over again."""
        record = executed.record
        if executed.suite_changed:
            self.orders.copy_suite()
            if not executed.begun and order.suite_files != self.orders.suite_files:
                return True
        self.submission_s += sum(lap.wall_s for lap in (*record.laps.values(), *record.rounds))
        self._settle(order.run, record)
        return False

    def _settle(self, run: Run, record: RunRecord, *, skipped: bool = False) -> None:
        """Score a run that is done, and tell what came of it."""
        if record.done and not skipped:
            record = dataclasses.replace(record, outputs=self.ledger.outputs(run))
        if run.task is not None and run.action is Action.ADAPT and record.done:
            if record.outputs and not skipped:
                # An interruption while it is scored then costs no run; of links what is kept is made by scoring.
                self.ledger.keep(run, record)
            if run.task not in self.tallies:
                self.tallies[run.task] = Tally(self.ledger, run.task)
            record = self.tallies[run.task].score(run, record)
            skipped = skipped and record.done
        if not skipped:
            self.ledger.keep(run, record)
        self.records[run] = record
        self._finish(run, Outcome(run.task, run.seed, record.wall_s, record.error, skipped=skipped))

    def _block(self, run: Run) -> None:
        what = f"not run: pre-training of seed {run.seed}"
        why = f"{what if run.action is Action.ADAPT else f'not timed: the run of seed {run.seed}'} failed"
        self._finish(run, Outcome(run.task, run.seed, 0.0, why, blocked=True))

    def _finish(self, run: Run, outcome: Outcome) -> None:
        self.outcomes[run] = outcome
        if self.listener:
            self.listener.finished(outcome)
        if run.task is not None and all(
            other in self.outcomes for other in self.plan if other.task == run.task
        ):
            self._write_result(run.task)

    def _write_result(self, task: str) -> None:
        # Dropped with it are the labels and indices that scoring the task's runs shared.
        tally = self.tallies.pop(task, None)
        pretraining = [
            self.records[run] for run in self.plan if run.action is Action.PRETRAIN and run in self.records
        ]
        timed = [run for run in self.plan if run.task == task and run.action is Action.TIME]
        timing = next((self.records[run] for run in timed if run in self.records), None)
        result = tally.write(self.options.results, self.options.seeds, pretraining, timing) if tally else None
        if result is not None:
            self.results[task] = result

    def _tell(self, message: Message) -> None:
        if self.listener is None:
            return
        if message["kind"] == "started":
            self.listener.started(message["task"], message["seed"])
        else:
            self.listener.message(message)
