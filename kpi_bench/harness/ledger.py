"""The runs of one row in an output folder: what each depends on, where its files lie, what earlier sessions have left of it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kpi_bench._io import sha256_file
from kpi_bench.errors import SubmissionError
from kpi_bench.harness.assemble import Provenance
from kpi_bench.harness.plan import Run
from kpi_bench.harness.records import Register, RunFolders, RunKey, RunRecord, read_record
from kpi_bench.harness.scoring import kept_files
from kpi_bench.harness.worker import Action


@dataclass(frozen=True)
class Ledger:
    """Looks up runs. ``register`` knows which records to believe. ``resume``: keep what is done; ``reuse_pretrained``: take pre-training
    from this folder. ``processes`` make one.

    Pre-training does not get the parameters ``adapt_only``; ``lenders`` are the registers of other rows
    that may have made the same.
    """

    origin: Provenance
    folders: RunFolders
    register: Register
    device: str
    resume: bool
    reuse_pretrained: Path | None
    processes: int = 1
    adapt_only: frozenset[str] = frozenset()
    lenders: tuple[Register, ...] = ()

    def folder(self, run: Run) -> Path:
        """Record and log of a run."""
        if run.task is None:
            return self.folders.pretrained(run.seed)
        of_task = self.folders.run if run.rounds is None else self.folders.timing
        return of_task(run.task, run.seed)

    def output(self, run: Run) -> Path:
        """What a run hands back: the folder of the pre-trained state, or the prefix of prediction files (of a timing run, for a moment)."""
        if run.task is None:
            return self.folders.state(run.seed)
        if run.rounds is not None:
            return self.folder(run) / "answers" / f"seed{run.seed}"
        return self.prefix(run.task, run.seed)

    def prefix(self, task: str, seed: int) -> Path:
        """Prefix of the prediction files of a task and seed."""
        return self.folders.predictions() / task / f"seed{seed}"

    def prediction_files(self, task: str, seed: int) -> list[Path]:
        """Files from which a run can be scored again."""
        return kept_files(self.origin.suite.task(task), self.prefix(task, seed))

    def key(self, run: Run, pretraining: RunRecord | None, original: RunRecord | None = None) -> RunKey:
        """What the run depends on; ``pretraining`` is the one that it starts from, ``original`` the run that a timing run repeats."""
        config = self.origin.config
        return RunKey(
            # What pre-trains is the submission with these parameters, whichever config has them.
            config.name if run.task is None else config.row_name(self.origin.config_name),
            self.origin.sha256,
            self.params_of(run.action),
            self.origin.suite.manifest.digest,
            run.task,
            run.seed,
            self.device,
            pretraining.session if pretraining else None,
            rounds=run.rounds,
            original=original.session if original else None,
            processes=self.processes_of(run),
        )

    def params_of(self, action: Action) -> dict[str, Any]:
        """The parameters that a run gets: pre-training none of those that are for adapting alone."""
        hidden = self.adapt_only if action is Action.PRETRAIN else ()
        return {name: value for name, value in self.origin.params.items() if name not in hidden}

    def processes_of(self, run: Run) -> int:
        """How many processes make a run."""
        return self.processes if run.action is Action.PRETRAIN else 1

    def kept(self, run: Run, key: RunKey) -> RunRecord | None:
        """The record of the run when it need not be run again.

        Raises:
            SubmissionError: pre-training is to be taken from elsewhere, and is not there or not of this suite.
        """
        if run.task is None and self.reuse_pretrained is not None:
            return self._take_over(self.reuse_pretrained, run, key)
        if not self.resume:
            return None
        record = self.register.read(self.folder(run))
        # Pre-training taken from elsewhere is this submission's own only while the user says so.
        if record is not None and _stands(record, key) and record.outputs == self.outputs(run):
            return record
        return self._borrow(run, key) if run.task is None else None

    def lend_no_longer(self, run: Run) -> None:
        """The run is handed over: nobody may take the pre-training that lies where it will be made."""
        if run.task is None:
            self.register.forget(self.folder(run))

    def keep(self, run: Run, record: RunRecord) -> None:
        """Write the record of a run."""
        self.register.write(self.folder(run), record)

    def outputs(self, run: Run) -> dict[str, str]:
        """Hashes of what lies where the run hands back its files, as its record has them; the rounds of a timing run leave none."""
        if run.task is None:
            return _hashes_below(self.output(run))
        files = self.prediction_files(run.task, run.seed) if run.rounds is None else []
        return {path.name: sha256_file(path) for path in files if path.is_file()}

    def off_record(self, runs: Iterable[Run]) -> int:
        """How many of the runs have a record that would count were it on the register."""
        found = 0
        for run in runs:
            folder = self.folder(run)
            record = read_record(folder) if self.register.read(folder) is None else None
            if record is not None:
                key = dataclasses.replace(record.key, pretraining=None, original=None)
                found += _stands(dataclasses.replace(record, key=key), self.key(run, None))
        return found

    def _take_over(self, source: Path, run: Run, key: RunKey) -> RunRecord:
        """Copy pre-training that another evaluation left of the same suite and seed; ``load_pretrained`` finds out if it fits."""
        seed, origin, target = run.seed, source / f"seed{run.seed}", self.folder(run)
        record = read_record(origin)
        if record is None or not record.done:
            raise SubmissionError(
                f"--reuse-pretrained {source}: there is no finished pre-training of seed {seed} in {origin}"
            )
        if record.key.suite_sha256 != key.suite_sha256:
            raise SubmissionError(
                f"--reuse-pretrained {source}: seed {seed} was pre-trained on another suite than {self.origin.suite.name}"
            )
        if origin.resolve() != target.resolve():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(origin, target)
        if self.outputs(run) != record.outputs:
            raise SubmissionError(
                f"--reuse-pretrained {source}: the state of seed {seed} is not the one that was saved; pre-train it again"
            )
        record = dataclasses.replace(record, key=key, reused=True)
        self.keep(run, record)
        return record

    def _borrow(self, run: Run, key: RunKey) -> RunRecord | None:
        """Copy the same pre-training from another row, where this one has none of its own."""
        for lender in self.lenders:
            source = lender.folders.pretrained(run.seed)
            record = lender.read(source)
            if record is None or not _stands(record, key):
                continue
            shutil.rmtree(self.folder(run), ignore_errors=True)
            shutil.copytree(source, self.folder(run))
            if self.outputs(run) == record.outputs:
                self.keep(run, record)
                return record
        return None


def _stands(record: RunRecord, key: RunKey) -> bool:
    """Whether the run has been done here, and was the one with this key."""
    return record.done and not record.reused and record.key == key


def _hashes_below(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
