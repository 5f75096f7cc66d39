"""Ask a child what a submission's class says of itself: foreign code is not imported where the labels are."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from kpi_bench.errors import SubmissionError
from kpi_bench.harness.config import SubmissionConfig
from kpi_bench.harness.plan import answered_kinds
from kpi_bench.harness.supervise import Limits, run_job
from kpi_bench.harness.worker import ADAPT_ONLY, DATA_PARALLEL, PRETRAINS, Action, Job
from kpi_bench.suites.suite import Suite


@dataclass(frozen=True)
class Inspection:
    """Whether the submission pre-trains for the kinds of task that it answers, whether in several processes, and which parameters
    pre-training does not get (:attr:`kpi_bench.Submission.adapt_only`)."""

    pretrains: bool
    data_parallel: bool
    adapt_only: frozenset[str]


def inspect(
    config: SubmissionConfig, suite: Suite, folder: Path, limits: Limits, *, offline: bool
) -> Inspection:
    """Start the submission in a child that works in ``folder``, which is deleted when all is well.

    Raises:
        SubmissionError: the submission cannot be started.
    """
    job = Job(
        action=Action.INSPECT,
        submission=str(config.folder),
        params={},
        suite="",
        kinds=answered_kinds(config, suite),
        task=None,
        seed=0,
        device="cpu",
        scratch=str(folder / "scratch"),
        cache=str(folder / "cache"),
        pretrained=None,
        output=str(folder / "output"),
        export=str(folder / "export"),
    )
    child = run_job(job, folder, limits=limits, offline=offline)
    if child.error is not None:
        raise SubmissionError(f"{config.name} cannot be started: {child.error}")
    shutil.rmtree(folder, ignore_errors=True)
    notes = child.notes
    return Inspection(
        bool(notes[PRETRAINS]), bool(notes[DATA_PARALLEL]), frozenset(json.loads(str(notes[ADAPT_ONLY])))
    )
