"""Evaluate a submission on a suite: pre-train, adapt, predict, score, for every seed and task."""

from __future__ import annotations

import dataclasses
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kpi_bench._io import sha256_file
from kpi_bench.errors import KpiBenchError, SubmissionError
from kpi_bench.harness.assemble import Provenance, ScoredRun, assemble_result, write_with_queries
from kpi_bench.harness.channel import Message
from kpi_bench.harness.clock import Lap
from kpi_bench.harness.config import SubmissionConfig, SubmissionKind
from kpi_bench.harness.environment import calibrate, environment, git_revision, hardware
from kpi_bench.harness.explanations import paths_file
from kpi_bench.harness.lock import only_user_of
from kpi_bench.harness.records import RunFolders, RunKey, RunRecord, RunSite, read_record, write_record
from kpi_bench.harness.results import Result
from kpi_bench.harness.scoring import Scorer, kept_files, make_scorer
from kpi_bench.harness.source import source_sha256
from kpi_bench.harness.supervise import Limits, default_memory_limit, run_job
from kpi_bench.harness.withhold import file_states, withheld_copy
from kpi_bench.harness.worker import PRETRAINS, Action, Job
from kpi_bench.suites.suite import Suite
from kpi_bench.suites.task import TaskKind

DEFAULT_SECONDS = 4 * 3600.0


@dataclass(frozen=True)
class Options:
    """How to evaluate. ``results`` is the results folder to write to; ``limits`` bound each run of the child."""

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


@dataclass(frozen=True)
class Outcome:
    """What came of one run (``task`` None: a pre-training).

    ``skipped``: it was done in an earlier session. ``blocked``: it was not started, as its pre-training failed.
    """

    task: str | None
    seed: int
    seconds: float
    error: str | None = None
    skipped: bool = False
    blocked: bool = False


@dataclass(frozen=True)
class Report:
    """End of an evaluation: results written, every run's outcome, and where the wall time went."""

    submission: str
    suite: str
    results: tuple[Result, ...]
    outcomes: tuple[Outcome, ...]
    wall_s: float
    submission_s: float

    @property
    def failures(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.error is not None]

    @property
    def overhead(self) -> float:
        """Share of the wall time that was not the submission's own phases (load, pretrain, adapt, predict)."""
        return max(0.0, 1.0 - self.submission_s / self.wall_s) if self.wall_s > 0 else 0.0


class Listener(Protocol):
    """Follows an evaluation, for a progress display."""

    def planned(self, runs: int) -> None: ...

    def started(self, task: str | None, seed: int) -> None: ...

    def message(self, message: Message) -> None: ...

    def finished(self, outcome: Outcome) -> None: ...


def evaluate(
    config: SubmissionConfig, suite: Suite, options: Options, listener: Listener | None = None
) -> Report:
    """Run and score ``config`` on ``suite``; a failing run never stops the others.

    Raises:
        SubmissionError: the submission cannot be started at all (no such class, parameter or task; nothing it answers).
        RunError: another evaluation is using the output folder.
    """
    return _Evaluation(config, suite, options, listener).run()


def select_tasks(config: SubmissionConfig, suite: Suite, wanted: Sequence[str] | None) -> list[str]:
    """Tasks of the suite that are wanted and that the submission says it answers.

    Raises:
        SubmissionError: a task is asked for by name that it does not answer, or none is left.
    """
    kinds = config.submission.tasks
    specs = [suite.manifest.task(name) for name in (wanted or suite.task_names())]
    refused = [spec.name for spec in specs if spec.kind not in kinds]
    if wanted and refused:
        raise SubmissionError(
            f"{config.name} answers {', '.join(kinds)} tasks only; not {', '.join(refused)}"
        )
    chosen = [spec.name for spec in specs if spec.kind in kinds]
    if not chosen:
        raise SubmissionError(
            f"{config.name} answers {', '.join(kinds)} tasks; suite {suite.name} has none of these"
        )
    return chosen


def answered_kinds(config: SubmissionConfig, suite: Suite) -> tuple[TaskKind, ...]:
    """Kinds of the suite's tasks that the submission answers, sorted."""
    return tuple(sorted({spec.kind for spec in suite.manifest.tasks} & set(config.submission.tasks)))


class _Evaluation:
    """State of one evaluation."""

    def __init__(
        self, config: SubmissionConfig, suite: Suite, options: Options, listener: Listener | None
    ) -> None:
        if config.submission.kind is not SubmissionKind.CODE:
            raise SubmissionError(
                f"{config.name} is a predictions submission: score it with `kpi-bench score {config.folder}`"
            )
        self.config, self.suite, self.options, self.listener = config, suite, options, listener
        self.params = config.resolve_params(suite.name, options.config, options.params)
        self.tasks = select_tasks(config, suite, options.tasks)
        # Not those of the selected tasks: a row whose tasks are run one by one must pre-train as it does when they are run together.
        self.kinds = answered_kinds(config, suite)
        self.pretrains = False
        self.sha256 = source_sha256(config)
        self.session = uuid.uuid4().hex[:12]
        self.name = config.row_name(options.config)
        self.folders = RunFolders(options.out / suite.name / self.name)
        self.outcomes: list[Outcome] = []
        self.submission_s = 0.0

    def run(self) -> Report:
        with only_user_of(self.options.out):
            return self._run()

    def _run(self) -> Report:
        start = time.perf_counter()
        fingerprint = {**hardware(self.options.device), "calibration": calibrate()}
        self.site = RunSite(fingerprint, environment(), git_revision())
        self.withheld = self._withheld_copy()
        self.pretrains = self._inspect()
        if self.listener:
            self.listener.planned(len(self.options.seeds) * (len(self.tasks) + int(self.pretrains)))
        pretraining = {seed: self._pretrain(seed) for seed in self.options.seeds} if self.pretrains else {}
        results = []
        for task in self.tasks:
            result = self._task(task, pretraining)
            if result is not None:
                results.append(result)
        return Report(
            self.name,
            self.suite.name,
            tuple(results),
            tuple(self.outcomes),
            time.perf_counter() - start,
            self.submission_s,
        )

    def _withheld_copy(self) -> Path:
        return withheld_copy(self.suite, self.options.out.resolve() / "withheld").resolve()

    def _pretrain(self, seed: int) -> RunRecord:
        folder = self.folders.pretrained(seed)
        if self.options.reuse_pretrained is not None:
            self._copy_pretrained(self.options.reuse_pretrained, seed)
        record, outcome = self._run_once(self._key(None, seed), folder, self.folders.state(seed))
        self._finish(outcome)
        return record

    def _copy_pretrained(self, source: Path, seed: int) -> None:
        """Take over pre-training that another evaluation left of the same suite and seed; ``load_pretrained`` finds out if it fits."""
        origin = source / f"seed{seed}"
        record = read_record(origin)
        if record is None or not record.done:
            raise SubmissionError(
                f"--reuse-pretrained {source}: there is no finished pre-training of seed {seed} in {origin}"
            )
        if record.key.suite_sha256 != self.suite.manifest.digest:
            raise SubmissionError(
                f"--reuse-pretrained {source}: seed {seed} was pre-trained on another suite than {self.suite.name}"
            )
        target = self.folders.pretrained(seed)
        if origin.resolve() != target.resolve():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(origin, target)
        write_record(target, dataclasses.replace(record, key=self._key(None, seed), reused=True))

    def _task(self, task: str, pretraining: Mapping[int, RunRecord]) -> Result | None:
        scorer = make_scorer(self.suite.task(task), self.suite.graph)
        runs: list[ScoredRun] = []
        for seed in self.options.seeds:
            before = pretraining.get(seed)
            if before is not None and not before.done:
                self._finish(
                    Outcome(task, seed, 0.0, f"not run: pre-training of seed {seed} failed", blocked=True)
                )
                continue
            scored = self._run_and_score(task, seed, before, scorer)
            if scored is not None:
                runs.append(scored)
        if len(runs) < len(self.options.seeds):
            return None
        return self._write_result(
            task, scorer, runs, [pretraining[seed] for seed in self.options.seeds if seed in pretraining]
        )

    def _run_and_score(
        self, task: str, seed: int, before: RunRecord | None, scorer: Scorer
    ) -> ScoredRun | None:
        prefix, folder = self._prefix(task, seed), self.folders.run(task, seed)
        key = self._key(task, seed, before.session if before else None)
        record, outcome = self._run_once(key, folder, prefix)
        scored = None
        if record.done:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                scores = scorer.score(prefix)
                lap = Lap("score", time.perf_counter() - wall, time.process_time() - cpu)
                scored = ScoredRun(record, scores, lap)
            except KpiBenchError as error:
                failed = dataclasses.replace(record, error=f"its predictions cannot be scored: {error}")
                write_record(folder, failed)
                outcome = Outcome(task, seed, record.wall_s, failed.error)
        self._finish(outcome)
        return scored

    def _run_once(self, key: RunKey, folder: Path, output: Path) -> tuple[RunRecord, Outcome]:
        task, seed = key.task, key.seed
        earlier = read_record(folder)
        valid = (
            earlier is not None and earlier.done and earlier.key == key and self._still_there(earlier, output)
        )
        if (
            earlier is not None
            and valid
            and (earlier.reused if self._reuses(key) else self._resumes(earlier))
        ):
            return earlier, Outcome(task, seed, earlier.wall_s, skipped=True)
        if self.listener:
            self.listener.started(task, seed)
        record = self._execute(key, folder, output)
        write_record(folder, record)
        self.submission_s += sum(lap.wall_s for lap in record.laps.values())
        return record, Outcome(task, seed, record.wall_s, record.error)

    def _reuses(self, key: RunKey) -> bool:
        return key.task is None and self.options.reuse_pretrained is not None

    def _resumes(self, earlier: RunRecord) -> bool:
        # Pre-training taken from elsewhere is this submission's own only while the user says so.
        return self.options.resume and not earlier.reused

    def _inspect(self) -> bool:
        """Whether the submission pre-trains, asked of a child: foreign code is not imported where the labels are."""
        folder = self.folders.root / "inspect"
        job = self._job(Action.INSPECT, None, 0, folder, folder / "output")
        child = run_job(job, folder, limits=self.options.limits, offline=self.options.offline)
        if child.error is not None:
            raise SubmissionError(f"{self.config.name} cannot be started: {child.error}")
        shutil.rmtree(folder, ignore_errors=True)
        return bool(child.notes[PRETRAINS])

    def _job(self, action: Action, task: str | None, seed: int, folder: Path, output: Path) -> Job:
        scratch, export = folder / "scratch", folder / "export"
        cache = self.folders.root / "cache"
        for path in (scratch, cache, export):
            path.mkdir(parents=True, exist_ok=True)
        state = self.folders.state(seed) if self.pretrains and task is not None else None
        return Job(
            action=action,
            submission=str(self.config.folder),
            params=self.params,
            suite=str(self.withheld),
            kinds=self.kinds,
            task=task,
            seed=seed,
            device=self.options.device,
            scratch=str(scratch.resolve()),
            cache=str(cache.resolve()),
            pretrained=str(state.resolve()) if state is not None else None,
            output=str(output.resolve()),
            export=str(export.resolve()),
        )

    def _execute(self, key: RunKey, folder: Path, output: Path) -> RunRecord:
        task, seed = key.task, key.seed
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(output, ignore_errors=True)
        # With a dot in front: what a killed child was writing.
        for stale in (*output.parent.glob(f"{output.name}.*"), *output.parent.glob(f".{output.name}.*")):
            stale.unlink()
        action = Action.PRETRAIN if task is None else Action.ADAPT
        job = self._job(action, task, seed, folder, output)
        (output if task is None else output.parent).mkdir(parents=True, exist_ok=True)
        on_message = self.listener.message if self.listener else None
        before = file_states(self.withheld)
        child = run_job(
            job, folder, limits=self.options.limits, offline=self.options.offline, on_message=on_message
        )
        if source_sha256(self.config) != self.sha256:
            child.error = child.error or "its code was changed while it ran; run it again"
        if file_states(self.withheld) != before:
            child.error = (
                child.error
                or f"it changed its copy of the suite ({self.withheld}); scratch is the place to write"
            )
            self.withheld = self._withheld_copy()
        shutil.rmtree(job.scratch, ignore_errors=True)
        return RunRecord(
            key=key,
            session=self.session,
            site=self.site,
            laps=child.laps,
            curve=tuple(child.curve),
            notes=child.notes,
            size=child.size,
            peak_rss=child.peak_rss,
            peak_device=child.peak_device,
            wall_s=child.wall_s,
            error=child.error,
            explained=paths_file(output).is_file(),
        )

    def _still_there(self, record: RunRecord, output: Path) -> bool:
        if record.key.task is None:
            return output.is_dir()
        # Explanations that the run did not write are none of its own.
        return paths_file(output).is_file() == record.explained and all(
            path.is_file() for path in kept_files(self.suite.task(record.key.task), output)
        )

    def _key(self, task: str | None, seed: int, pretraining: str | None = None) -> RunKey:
        return RunKey(
            self.name,
            self.sha256,
            self.params,
            self.suite.manifest.digest,
            task,
            seed,
            self.options.device,
            pretraining,
        )

    def _finish(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if self.listener:
            self.listener.finished(outcome)

    def _write_result(
        self, task: str, scorer: Scorer, runs: Sequence[ScoredRun], pretraining: Sequence[RunRecord]
    ) -> Result:
        result, queries = assemble_result(
            Provenance(self.config, self.params, self.options.config, self.sha256, self.suite),
            self.suite.task(task),
            scorer.protocol,
            runs,
            pretraining,
            {
                path.name: sha256_file(path)
                for run in runs
                for path in kept_files(self.suite.task(task), self._prefix(task, run.record.key.seed))
            },
        )
        return write_with_queries(self.options.results, result, queries)

    def _prefix(self, task: str, seed: int) -> Path:
        return self.folders.predictions() / task / f"seed{seed}"
