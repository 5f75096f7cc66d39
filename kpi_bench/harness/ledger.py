"""The runs of one row in an output folder: what each depends on, where its files lie, what earlier sessions have left of it."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kpi_bench.errors import SubmissionError
from kpi_bench.harness.assemble import Provenance
from kpi_bench.harness.explanations import paths_file
from kpi_bench.harness.plan import Run
from kpi_bench.harness.records import Register, RowPlace, RunFolders, RunKey, RunRecord, read_record
from kpi_bench.harness.scoring import kept_files
from kpi_bench.harness.worker import Action


@dataclass(frozen=True)
class Ledger:
    """Looks up runs. ``register`` knows which records to believe. ``resume``: keep what is done; ``reuse_pretrained``: take pre-training
    from this folder. ``processes`` make one.

    Pre-training does not get the parameters ``adapt_only``; ``lenders`` are other rows that may have made the same.
    """

    origin: Provenance
    folders: RunFolders
    register: Register
    device: str
    resume: bool
    reuse_pretrained: Path | None
    processes: int = 1
    adapt_only: frozenset[str] = frozenset()
    lenders: tuple[RowPlace, ...] = ()

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
        reuses = run.task is None and self.reuse_pretrained is not None
        if run.task is None and self.reuse_pretrained is not None:
            self._take_over(self.reuse_pretrained, run, key)
        elif run.task is None and self.resume:
            self._borrow(run, key)
        record = self.register.read(self.folder(run))
        if record is None or not record.done or record.key != key or not self._still_there(run, record):
            return None
        # Pre-training taken from elsewhere is this submission's own only while the user says so.
        valid = record.reused if reuses else self.resume and not record.reused
        return record if valid else None

    def lend_no_longer(self, run: Run) -> None:
        """The run is handed over: nobody may take the pre-training that lies where it will be made."""
        if run.task is None:
            self.register.forget(self.folder(run))

    def keep(self, run: Run, record: RunRecord) -> None:
        """Write the record of a run."""
        self.register.write(self.folder(run), record)

    def _take_over(self, source: Path, run: Run, key: RunKey) -> None:
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
        self.register.write(target, dataclasses.replace(record, key=key, reused=True))

    def _borrow(self, run: Run, key: RunKey) -> None:
        """Copy the same pre-training from another row, where this one has not made it."""
        own = self.register.read(self.folder(run))
        if own is not None and own.key == key:
            return
        for place in self.lenders:
            source = place.folders.pretrained(run.seed)
            record = place.register().read(source)
            if (
                record is None
                or not record.done
                or record.reused
                or record.key != key
                or not place.folders.state(run.seed).is_dir()
            ):
                continue
            shutil.rmtree(self.folder(run), ignore_errors=True)
            shutil.copytree(source, self.folder(run))
            self.keep(run, record)
            return

    def _still_there(self, run: Run, record: RunRecord) -> bool:
        output = self.output(run)
        if run.task is None:
            return output.is_dir()
        if run.rounds is not None:
            return True
        # Explanations that the run did not write are none of its own.
        return paths_file(output).is_file() == record.explained and all(
            path.is_file() for path in self.prediction_files(run.task, run.seed)
        )
