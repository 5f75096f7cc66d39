"""What an evaluation has to run, and what must be done before what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kpi_bench.errors import RunError, SubmissionError
from kpi_bench.harness.config import SubmissionConfig, SubmissionKind
from kpi_bench.harness.worker import Action
from kpi_bench.suites.suite import Suite
from kpi_bench.suites.task import TaskKind


@dataclass(frozen=True)
class Run:
    """One child to be run: pre-training of a seed (``task`` None), adapting to a task and predicting it with one seed, or timing that
    in ``rounds``.

    ``after`` is the run that has to succeed first.
    """

    action: Action
    task: str | None
    seed: int
    after: Run | None = None
    rounds: int | None = None

    @property
    def pretraining(self) -> Run | None:
        """The pre-training that the run starts from."""
        before = self.after
        return before.pretraining if before is not None and before.action is not Action.PRETRAIN else before


def plan_runs(
    tasks: Sequence[str], seeds: Sequence[int], pretrains: bool, rounds: int | None = None
) -> tuple[Run, ...]:
    """Pre-training of every seed, then task by task every seed and, with ``rounds``, the first seed's timing: the order of runs that are
    made one after another.

    Raises:
        RunError: no seed, one that is there twice, or no round.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise RunError(f"seeds {list(seeds)}: at least one is needed, and each once")
    if rounds is not None and rounds < 1:
        raise RunError(f"{rounds} timed rounds: at least one is needed, or None for no timing")
    before = {seed: Run(Action.PRETRAIN, None, seed) for seed in seeds} if pretrains else {}
    after: list[Run] = []
    for task in tasks:
        adapting = [Run(Action.ADAPT, task, seed, before.get(seed)) for seed in seeds]
        after += adapting
        if rounds is not None:
            after.append(Run(Action.TIME, task, seeds[0], adapting[0], rounds))
    return (*before.values(), *after)


def select_tasks(config: SubmissionConfig, suite: Suite, wanted: Sequence[str] | None) -> list[str]:
    """Tasks of the suite that are wanted and that the submission says it answers.

    Raises:
        SubmissionError: it holds ready-made predictions, a task is asked for by name that it does not answer, or none is left.
    """
    if config.submission.kind is not SubmissionKind.CODE:
        raise SubmissionError(
            f"{config.name} is a predictions submission: score it with `kpi-bench score {config.folder}`"
        )
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
