"""Execute one run: clear what an earlier attempt left, run the child, look at what it must not have touched."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kpi_bench.harness.config import SubmissionConfig
from kpi_bench.harness.environment import calibrate, environment, git_revision, hardware
from kpi_bench.harness.explanations import paths_file
from kpi_bench.harness.original import Original
from kpi_bench.harness.plan import Run
from kpi_bench.harness.records import RunKey, RunRecord, RunSite
from kpi_bench.harness.source import source_sha256
from kpi_bench.harness.supervise import JobRecord, Limits, Progress, run_job
from kpi_bench.harness.withhold import file_states
from kpi_bench.harness.worker import Job


@dataclass(frozen=True)
class Order:
    """One run as it is handed to whoever executes it. Paths are absolute: any process that sees the same files can.

    ``session`` identifies the evaluation, ``folder`` takes record and log. ``suite_files`` are the states (:func:`file_states`)
    of the suite's copy when it was made, ``state_files`` those of the pre-trained state before any run started from it, ``search`` the
    folders that the child imports from. A timing run is held against its ``original``.
    """

    run: Run
    key: RunKey
    session: str
    config: SubmissionConfig
    job: Job
    folder: Path
    limits: Limits
    offline: bool
    suite_files: Mapping[str, tuple[int, ...]]
    state_files: Mapping[str, tuple[int, ...]]
    search: tuple[str, ...]
    original: Original | None = None


@dataclass(frozen=True)
class Executed:
    """The record of a run. ``suite_changed``: the suite's copy is not what was handed over and has to be made anew; ``begun`` is False
    when that was so before the run."""

    record: RunRecord
    suite_changed: bool = False
    begun: bool = True


def measure_site(device: str) -> RunSite:
    """What runs of this process run on, with a calibration made now (about a second)."""
    return RunSite({**hardware(device), "calibration": calibrate()}, environment(), git_revision())


def execute(
    order: Order,
    site: RunSite,
    on_message: Progress | None = None,
    *,
    shared: bool = False,
    run: Callable[..., JobRecord] = run_job,
) -> Executed:
    """Make one run and wait for its end; a submission that fails is not raised, it is the record's ``error``.

    ``shared``: other runs may be made on this machine at the same time. ``run`` is called as :func:`run_job` is.
    """
    job = order.job
    output, suite = Path(job.output), Path(job.suite)
    if _changed(suite, order.suite_files):
        return Executed(_record(order, site, _not_run(suite), shared), True, False)
    state = Path(job.pretrained) if job.pretrained is not None else None
    if state is not None and _changed(state, order.state_files):
        return Executed(_record(order, site, _not_run(state), shared))
    _clear(order.folder, output)
    shutil.rmtree(job.scratch, ignore_errors=True)
    for place in (job.scratch, job.cache, job.export, output if job.task is None else output.parent):
        Path(place).mkdir(parents=True, exist_ok=True)
    before = (calibrate(),) if job.rounds else ()
    rounds = _Rounds(order.original, output) if order.original is not None else None
    try:
        child = run(
            job,
            order.folder,
            limits=order.limits,
            offline=order.offline,
            on_message=on_message,
            search=order.search,
            check=rounds.check if rounds is not None else None,
        )
    finally:
        shutil.rmtree(job.scratch, ignore_errors=True)
        if job.rounds:
            # A round that was cut short leaves a part of its answers.
            shutil.rmtree(output.parent, ignore_errors=True)
    if rounds is not None:
        child.error = child.error or rounds.missing(child, job.rounds)
    calibrations = (*before, calibrate()) if before and child.error is None else ()
    if source_sha256(order.config) != order.key.source_sha256:
        child.error = child.error or "its code was changed while it ran; run it again"
    changed, who = _changed(suite, order.suite_files), "it, or a run beside it," if shared else "it"
    if changed:
        child.error = (
            child.error or f"{who} changed its copy of the suite ({suite}); scratch is the place to write"
        )
    if state is not None and _changed(state, order.state_files):
        child.error = child.error or f"{who} changed the pre-trained state ({state}), from which others start"
    record = _record(order, site, child, shared)
    inexact = rounds is not None and not rounds.exact
    return Executed(dataclasses.replace(record, calibrations=calibrations, inexact=inexact), changed)


class _Rounds:
    """Looks at what one round after another answers, which is gone afterwards; ``exact`` while all have answered what the run did."""

    def __init__(self, original: Original, answers: Path) -> None:
        self.exact = True
        self._checked = 0
        self._original, self._answers = original, answers

    def check(self) -> str | None:
        """What keeps the latest round from counting."""
        fault, exact = self._original.compare(self._answers)
        self.exact = self.exact and exact
        self._checked += 1
        shutil.rmtree(self._answers.parent, ignore_errors=True)
        return fault

    def missing(self, child: JobRecord, rounds: int) -> str | None:
        """What a child that ended well has left out of ``rounds`` and the warm-up."""
        wanted = [(phase, number) for number in range(rounds + 1) for phase in ("adapt", "predict")]
        if self._checked == rounds + 1 and [(lap.phase, lap.round) for lap in child.rounds] == wanted:
            return None
        return (
            f"wanted are adapt, predict and answers of {rounds} rounds and the warm-up; the process ended after "
            f"{len(child.rounds)} phases and the answers of {self._checked}"
        )


def failed(order: Order, error: str) -> Executed:
    """What is left of a run that nobody could see the end of."""
    nowhere = RunSite({"hw_id": None}, {}, None)
    return Executed(_record(order, nowhere, JobRecord(error=error), shared=False))


def _record(order: Order, site: RunSite, child: JobRecord, shared: bool) -> RunRecord:
    return RunRecord(
        key=order.key,
        session=order.session,
        site=site,
        laps=child.laps,
        curve=tuple(child.curve),
        notes=child.notes,
        size=child.size,
        peak_rss=child.peak_rss,
        peak_device=child.peak_device,
        wall_s=child.wall_s,
        error=child.error,
        explained=paths_file(Path(order.job.output)).is_file(),
        shared=shared,
        rounds=tuple(child.rounds),
        processes=order.job.processes,
    )


def _not_run(place: Path) -> JobRecord:
    return JobRecord(error=f"not run: {place} was changed before")


def _changed(folder: Path, states: Mapping[str, tuple[int, ...]]) -> bool:
    try:
        return file_states(folder) != states
    except FileNotFoundError:
        # It is being made anew at this moment, as another run has changed it.
        return True


def _clear(folder: Path, output: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(output, ignore_errors=True)
    # With a dot in front: what a killed child was writing.
    for stale in (*output.parent.glob(f"{output.name}.*"), *output.parent.glob(f".{output.name}.*")):
        stale.unlink()
