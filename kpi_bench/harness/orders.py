"""What each run of an evaluation is told: its job, its folders and limits, and the copy of the suite that it reads."""

from __future__ import annotations

import dataclasses
import uuid
from pathlib import Path

from kpi_bench.harness.child_environment import import_path
from kpi_bench.harness.execute import Order
from kpi_bench.harness.executors.base import Premises
from kpi_bench.harness.ledger import Ledger
from kpi_bench.harness.original import Original
from kpi_bench.harness.plan import Run, answered_kinds
from kpi_bench.harness.records import RunRecord
from kpi_bench.harness.supervise import Limits
from kpi_bench.harness.withhold import file_states, withheld_copy
from kpi_bench.harness.worker import Action, Job


class Orders:
    """Writes the orders of one evaluation in the output folder ``out``."""

    def __init__(self, ledger: Ledger, out: Path, limits: Limits, *, offline: bool) -> None:
        self._ledger = ledger
        self._origin = ledger.origin
        self._out = out.resolve()
        self._limits = limits
        self._offline = offline
        # Not those of the selected tasks: a row whose tasks are run one by one must pre-train as it does when they are run together.
        self._kinds = answered_kinds(self._origin.config, self._origin.suite)
        self._session = uuid.uuid4().hex[:12]
        self._search = import_path()
        self._states: dict[int, dict[str, tuple[int, ...]]] = {}
        self.copy_suite()

    def copy_suite(self) -> None:
        """Make the suite's copy, or find it whole; children read it, nobody writes to it."""
        self.copy = withheld_copy(self._origin.suite, self._out / "withheld")
        self.suite_files = file_states(self.copy)

    def premises(self) -> Premises:
        """What all of the orders take for granted."""
        return Premises(
            self._out,
            self.copy,
            self.suite_files,
            self._origin.config,
            self._origin.sha256,
            self._ledger.device,
        )

    def order(self, run: Run, pretraining: RunRecord | None, original: Original | None = None) -> Order:
        """The order of a run; ``pretraining`` is the record of the one that it starts from, ``original`` the run that a timing run repeats."""
        folder, limits = self._ledger.folder(run), self._limits
        state = self._ledger.folders.state(run.seed) if pretraining is not None else None
        if state is not None and run.seed not in self._states:
            # As its hashes were just taken; what a run does to it later is seen.
            self._states[run.seed] = file_states(state)
        job = self._job(run.action, run.task, run.seed, folder, self._ledger.output(run), state)
        job = dataclasses.replace(job, processes=self._ledger.processes_of(run))
        if run.rounds is not None:
            job = dataclasses.replace(job, rounds=run.rounds)
            if limits.seconds is not None:
                limits = dataclasses.replace(limits, seconds=limits.seconds * (1 + run.rounds))
        return Order(
            run=run,
            key=self._ledger.key(run, pretraining, original.record if original else None),
            session=self._session,
            config=self._origin.config,
            job=job,
            folder=folder,
            limits=limits,
            offline=self._offline,
            suite_files=self.suite_files,
            state_files=self._states[run.seed] if state is not None else {},
            search=self._search,
            original=original,
        )

    def _job(
        self, action: Action, task: str | None, seed: int, folder: Path, output: Path, state: Path | None
    ) -> Job:
        return Job(
            action=action,
            submission=str(self._origin.config.folder),
            params=self._ledger.params_of(action),
            suite=str(self.copy),
            kinds=self._kinds,
            task=task,
            seed=seed,
            device=self._ledger.device,
            scratch=str(self._ledger.folders.scratch(folder)),
            cache=str(self._ledger.folders.root / "cache"),
            pretrained=str(state) if state is not None else None,
            output=str(output),
            export=str(folder / "export"),
        )
