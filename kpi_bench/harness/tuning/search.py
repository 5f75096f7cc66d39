"""Search for the parameters of a submission: every trial is an evaluation on the suite's valid splits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kpi_bench.errors import RunError
from kpi_bench.harness.config import SubmissionConfig
from kpi_bench.harness.evaluate import DEFAULT_SECONDS, Listener, Options, Report, evaluate_in_steps
from kpi_bench.harness.executors.base import Executor
from kpi_bench.harness.executors.local import LocalExecutor
from kpi_bench.harness.inspection import inspect
from kpi_bench.harness.lock import only_user_of
from kpi_bench.harness.plan import select_tasks
from kpi_bench.harness.records import RowPlace
from kpi_bench.harness.source import source_sha256
from kpi_bench.harness.supervise import Limits, default_memory_limit
from kpi_bench.harness.tuning.follow import Follower, TrialEndedError
from kpi_bench.harness.tuning.lanes import Lanes
from kpi_bench.harness.tuning.objective import Objective, make_objective
from kpi_bench.harness.tuning.pruning import MEDIAN, MedianRule
from kpi_bench.harness.tuning.record import Ended, Plan, Search, Trial, make_search, write_search
from kpi_bench.harness.tuning.space import Space
from kpi_bench.harness.tuning.view import valid_view
from kpi_bench.suites.suite import Suite

PATIENCE_S = 0.25
"""Within this time every trial under way is looked at once."""

Show = Callable[[str], AbstractContextManager[Listener]]
"""A progress display with the given title, for the runs of one trial."""


@dataclass(frozen=True)
class TuneOptions:
    """How to search. ``trials`` counts all that end, those of earlier sessions too; ``seed`` draws them, each is run with ``seeds``.
    ``parallel`` of them are made at once."""

    out: Path
    trials: int
    seed: int = 0
    seeds: tuple[int, ...] = (0,)
    tasks: tuple[str, ...] | None = None
    device: str = "cpu"
    config: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    prune: bool = True
    parallel: int = 1
    offline: bool = True
    limits: Limits = field(default_factory=lambda: Limits(DEFAULT_SECONDS, default_memory_limit()))


def search_folder(out: Path, suite: str, row: str) -> Path:
    """Where the search of a row on a suite lies under an output folder."""
    return out / suite / row


def tune(
    config: SubmissionConfig,
    suite: Suite,
    space: Space,
    options: TuneOptions,
    *,
    show: Show | None = None,
    on_trial: Callable[[Trial], None] | None = None,
    executor: Executor | None = None,
) -> Search:
    """Run trials until ``options.trials`` have ended, ``options.parallel`` at once; their runs are made by ``executor``.

    ``suite`` need not be verified: its test files are not opened. ``on_trial`` is told of every trial as it ends.

    Raises:
        SubmissionError: the submission cannot be started at all, or does not answer the tasks.
        RunError: Optuna is not installed, the folder holds another search or is in use, or the submission's code changed meanwhile.
        SuiteError: a file of the suite is missing or damaged.
    """
    if options.trials < 1:
        raise RunError(f"--trials {options.trials}: at least one is needed")
    executor = executor or LocalExecutor()
    if options.parallel > 1 and isinstance(executor, LocalExecutor):
        raise RunError(
            f"--parallel {options.parallel}: trials are made side by side with --executor ray; here runs are made one after another"
        )
    folder = search_folder(options.out.resolve(), suite.name, config.row_name(options.config))
    with only_user_of(folder):
        search = _Searching(config, suite, space, options, folder, executor)
        return search.run(show, on_trial)


class _Searching:
    """State of one session of a search."""

    def __init__(
        self,
        config: SubmissionConfig,
        suite: Suite,
        space: Space,
        options: TuneOptions,
        folder: Path,
        executor: Executor,
    ) -> None:
        _need_optuna()
        from kpi_bench.harness.tuning.study import OPTUNA, Trials

        self.config, self.suite, self.options = config, suite, options
        self.folder, self.executor = folder, executor
        tasks = tuple(select_tasks(config, suite, options.tasks))
        self.objective: Objective = make_objective(suite, tasks)
        self.view = valid_view(suite, folder.parents[1] / "views")
        self.plan = Plan(
            submission=config.row_name(options.config),
            config=options.config,
            source_sha256=source_sha256(config),
            params=config.resolve_params(suite.name, options.config, options.params),
            space=space,
            suite=suite.name,
            view_sha256=self.view.manifest.digest,
            tasks=tasks,
            seeds=options.seeds,
            seed=options.seed,
            device=options.device,
            pruned_by=MEDIAN if options.prune else None,
            objective=self.objective.description,
            higher_is_better=self.objective.higher_is_better,
            parallel=options.parallel,
        )
        self.parallel = options.parallel > 1
        self.optuna = OPTUNA
        self.trials = Trials(folder, self.plan)
        self.lanes = Lanes(folder, self.view.name, self.plan.submission, options.parallel)
        self.inspection = inspect(
            config, self.view, folder / "inspect", options.limits, offline=options.offline
        )

    def run(self, show: Show | None, on_trial: Callable[[Trial], None] | None) -> Search:
        search = self._search()
        under_way: dict[int, Generator[None, None, Trial]] = {}
        try:
            self._begin(under_way, show)
            while len(search.trials) < self.options.trials:
                for number, steps in list(under_way.items()):
                    try:
                        next(steps)
                    except StopIteration as end:
                        del under_way[number]
                        search = self._search()
                        if on_trial:
                            on_trial(end.value)
                        self._begin(under_way, show)
        finally:
            for steps in under_way.values():
                steps.close()
        return search

    def _begin(self, under_way: dict[int, Generator[None, None, Trial]], show: Show | None) -> None:
        """Begin what may be begun: as many trials as are wanted have the numbers below that."""
        while (begun := self.trials.begin(under_way, self.options.trials)) is not None:
            self._check_code()
            under_way[begun[0]] = self._try(*begun, show)

    def _check_code(self) -> None:
        if source_sha256(self.config) != self.plan.source_sha256:
            raise RunError(
                f"the code of {self.config.name} was changed during the search; undo that, or begin another with another --out"
            )

    def _search(self) -> Search:
        """The search as it stands, written down."""
        search = make_search(self.plan, self.suite.manifest.digest, self.optuna, self.trials.ended())
        write_search(self.folder, search)
        return search

    def _try(self, number: int, params: Mapping[str, Any], show: Show | None) -> Generator[None, None, Trial]:
        """Make a trial in steps, and keep what came of it."""
        rule = MedianRule(self.trials.curves(number)) if self.options.prune else None
        lane = self.lanes.of(number)
        follower = Follower(lane.folders, rule)
        trial = Trial(number, Ended.FINISHED, params, None, {}, 0.0)
        try:
            # Bars of several trials at once cannot be told apart.
            bar = show(f"trial {number} of {self.options.trials}") if show and not self.parallel else None
            with bar or nullcontext() as follower.display:
                report = yield from self._evaluate(params, lane, follower)
        except TrialEndedError as end:
            # Then it may have failed for that reason; not stored, it is made again.
            self._check_code()
            trial = dataclasses.replace(trial, ended=end.ended, why=end.why)
        else:
            values = {result.task.name: result.main.mean for result in report.results}
            trial = dataclasses.replace(trial, value=self.objective.value(values), values=values)
        trial = dataclasses.replace(trial, seconds=follower.seconds())
        # Before the trial is stored as ended: a session that ends in between makes it once more.
        self.lanes.put_away(trial, leads=self._leads(trial))
        self.trials.end(trial, follower.done)
        return trial

    def _evaluate(
        self, params: Mapping[str, Any], lane: RowPlace, follower: Follower
    ) -> Generator[None, None, Report]:
        register = self.lanes.registers[self.lanes.all.index(lane)]
        options = Options(
            out=lane.out,
            results=lane.out / "results",
            seeds=self.options.seeds,
            tasks=self.plan.tasks,
            device=self.options.device,
            config=self.options.config,
            # All of them: [suites] tables of submission.toml are looked up by the suite's name, and the view has another.
            params={**self.plan.params, **params},
            offline=self.options.offline,
            limits=self.options.limits,
            inspection=self.inspection,
            register=register,
            lenders=tuple(other for other in self.lanes.registers if other is not register),
        )
        patience = PATIENCE_S / self.plan.parallel if self.parallel else None
        return evaluate_in_steps(self.config, self.view, options, follower, self.executor, patience)

    def _leads(self, trial: Trial) -> bool:
        """Whether the trial is the best of those that have ended, the first of equals."""
        value = trial.value
        if value is None:
            return False
        others = [(other.value, other.number) for other in self.trials.ended() if other.value is not None]
        return all(
            self.objective.better(value, other) or (value == other and trial.number < number)
            for other, number in others
        )


def _need_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError:
        raise RunError(
            "kpi-bench tune needs Optuna; install it with `pip install 'kpi-bench[tune]'`"
        ) from None
