"""Search for the parameters of a submission: every trial is an evaluation on the suite's valid splits."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kpi_bench.errors import RunError
from kpi_bench.harness.channel import Message
from kpi_bench.harness.config import SubmissionConfig
from kpi_bench.harness.evaluate import DEFAULT_SECONDS, Listener, Options, Outcome, Report, evaluate
from kpi_bench.harness.executors.base import Executor
from kpi_bench.harness.executors.local import LocalExecutor
from kpi_bench.harness.lock import only_user_of
from kpi_bench.harness.plan import select_tasks
from kpi_bench.harness.records import RunFolders, read_record
from kpi_bench.harness.source import source_sha256
from kpi_bench.harness.supervise import Limits, default_memory_limit
from kpi_bench.harness.tuning.curves import Curve, CurveKey, curves_of
from kpi_bench.harness.tuning.objective import Objective, make_objective
from kpi_bench.harness.tuning.pruning import MEDIAN, MedianRule
from kpi_bench.harness.tuning.record import Ended, Plan, Search, Trial, make_search, write_search
from kpi_bench.harness.tuning.space import Space
from kpi_bench.harness.tuning.view import valid_view
from kpi_bench.suites.suite import Suite

Show = Callable[[str], AbstractContextManager[Listener]]
"""A progress display with the given title, for the runs of one trial."""


@dataclass(frozen=True)
class TuneOptions:
    """How to search. ``trials`` counts all that end, those of earlier sessions too; ``seed`` draws them, each is run with ``seeds``."""

    out: Path
    trials: int
    seed: int = 0
    seeds: tuple[int, ...] = (0,)
    tasks: tuple[str, ...] | None = None
    device: str = "cpu"
    config: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    prune: bool = True
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
    """Run trials until ``options.trials`` have ended, one after another; the runs of a trial are made by ``executor``.

    ``suite`` need not be verified: its test files are not opened. ``on_trial`` is told of every trial as it ends.

    Raises:
        SubmissionError: the submission cannot be started at all, or does not answer the tasks.
        RunError: Optuna is not installed, the folder holds another search or is in use, or the submission's code changed meanwhile.
        SuiteError: a file of the suite is missing or damaged.
    """
    if options.trials < 1:
        raise RunError(f"--trials {options.trials}: at least one is needed")
    folder = search_folder(options.out.resolve(), suite.name, config.row_name(options.config))
    with only_user_of(folder):
        search = _Searching(config, suite, space, options, folder, executor or LocalExecutor())
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
        )
        self.folders = RunFolders(folder / "trial" / self.view.name / self.plan.submission)
        self.pretrains: bool | None = None
        self.optuna = OPTUNA
        self.trials = Trials(folder, self.plan)
        self.rule = MedianRule() if options.prune else None
        if self.rule:
            for curves in self.trials.curves():
                self.rule.learn(curves)

    def run(self, show: Show | None, on_trial: Callable[[Trial], None] | None) -> Search:
        search = self._search()
        while len(search.trials) < self.options.trials:
            self._check_code()
            number, params = self.trials.begin()
            trial = self._try(number, params, show)
            search = self._search()
            if on_trial:
                on_trial(trial)
        return search

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

    def _try(self, number: int, params: Mapping[str, Any], show: Show | None) -> Trial:
        follower = _Follower(self)
        trial = Trial(number, Ended.FINISHED, params, None, {}, 0.0)
        try:
            if show is None:
                report = self._evaluate(params, follower)
            else:
                with show(f"trial {number} of {self.options.trials}") as follower.display:
                    report = self._evaluate(params, follower)
        except TrialEndedError as end:
            # Then it may have failed for that reason; not stored, it is made again.
            self._check_code()
            trial = dataclasses.replace(trial, ended=end.ended, why=end.why)
        else:
            values = {result.task.name: result.main.mean for result in report.results}
            trial = dataclasses.replace(trial, value=self.objective.value(values), values=values)
        trial = dataclasses.replace(trial, seconds=follower.seconds())
        # A run more than tasks and seeds is a pre-training; that does not depend on parameters.
        self.pretrains = follower.runs > len(self.plan.tasks) * len(self.plan.seeds)
        self._put_away(trial)
        self.trials.end(trial, follower.done)
        if self.rule and trial.ended is Ended.FINISHED:
            self.rule.learn(follower.done)
        return trial

    def _evaluate(self, params: Mapping[str, Any], follower: _Follower) -> Report:
        options = Options(
            out=self.folder / "trial",
            results=self.folder / "trial" / "results",
            seeds=self.options.seeds,
            tasks=self.plan.tasks,
            device=self.options.device,
            config=self.options.config,
            # All of them: [suites] tables of submission.toml are looked up by the suite's name, and the view has another.
            params={**self.plan.params, **params},
            offline=self.options.offline,
            limits=self.options.limits,
            pretrains=self.pretrains,
        )
        return evaluate(self.config, self.view, options, follower, self.executor)

    def _leads(self, trial: Trial) -> bool:
        before = [other.value for other in self.trials.ended() if other.value is not None]
        value = trial.value
        return value is not None and all(self.objective.better(value, other) for other in before)

    def _put_away(self, trial: Trial) -> None:
        """Keep the best trial's predictions and a failed one's logs; the next trial begins with nothing but the cache.

        It is done before the trial is stored as ended: a session that ends in between makes the trial once more.
        """
        place = self.folders.root
        if self._leads(trial):
            shutil.rmtree(self.folder / "best", ignore_errors=True)
            self.folders.predictions().rename(self.folder / "best")
        if trial.ended is Ended.FAILED:
            for log in sorted(place.rglob("run.log")):
                target = self.folder / "failed" / f"trial{trial.number}" / log.relative_to(place)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(log, target)
        for name in ("runs", "pretrained", "predictions"):
            shutil.rmtree(place / name, ignore_errors=True)
        shutil.rmtree(self.folder / "trial" / "results", ignore_errors=True)


class TrialEndedError(Exception):
    """Raised through an evaluation to end it; the executor ends the children that are under way."""

    def __init__(self, ended: Ended, why: str) -> None:
        super().__init__(why)
        self.ended = ended
        self.why = why


class _Follower:
    """Follows the runs of one trial; ends it when one of them fails or falls behind. A ``Listener``.

    ``done`` are the learning curves of the runs that have ended.
    """

    def __init__(self, searching: _Searching) -> None:
        self.display: Listener | None = None
        self.runs = 0
        self._rule = searching.rule
        self._folders = searching.folders
        self.done: dict[CurveKey, Curve] = {}
        self._running: dict[CurveKey, dict[int, float]] = {}
        self._begun: dict[tuple[str | None, int], float] = {}
        self._seconds = 0.0

    def seconds(self) -> float:
        """Wall time of the trial's runs together, those that were cut short included."""
        now = time.perf_counter()
        return self._seconds + sum(now - begun for begun in self._begun.values())

    def planned(self, runs: int) -> None:
        self.runs = runs
        if self.display:
            self.display.planned(runs)

    def started(self, task: str | None, seed: int) -> None:
        self._begun[task, seed] = time.perf_counter()
        if self.display:
            self.display.started(task, seed)

    def message(self, message: Message) -> None:
        if self.display:
            self.display.message(message)
        if message["kind"] != "curve" or message["task"] is None or self._rule is None:
            return
        key = CurveKey(str(message["task"]), int(message["seed"]), str(message["metric"]))
        step, value = int(message["step"]), float(message["value"])
        self._running.setdefault(key, {})[step] = value
        if self._rule.behind(self.done, self._running):
            raise TrialEndedError(
                Ended.PRUNED,
                f"{key.task} seed {key.seed}: {key.metric} {value:.4g} at step {step}, below the median of the finished trials",
            )

    def finished(self, outcome: Outcome) -> None:
        self._begun.pop((outcome.task, outcome.seed), None)
        self._seconds += outcome.seconds
        if self.display:
            self.display.finished(outcome)
        if outcome.error is not None:
            raise TrialEndedError(
                Ended.FAILED, f"{outcome.task or 'pretrain'} seed {outcome.seed}: {outcome.error}"
            )
        if outcome.task is None:
            return
        for key in [key for key in self._running if (key.task, key.seed) == (outcome.task, outcome.seed)]:
            del self._running[key]
        # From the record, since a run of an earlier session is not heard again.
        record = read_record(self._folders.run(outcome.task, outcome.seed))
        self.done |= curves_of(outcome.task, outcome.seed, record.curve if record else ())


def _need_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError:
        raise RunError(
            "kpi-bench tune needs Optuna; install it with `pip install 'kpi-bench[tune]'`"
        ) from None
