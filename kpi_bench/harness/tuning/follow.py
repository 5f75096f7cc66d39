"""Follow the runs of one trial, and end it when it is worth no more time."""

from __future__ import annotations

import time

from kpi_bench.harness.channel import Message
from kpi_bench.harness.evaluate import Listener, Outcome
from kpi_bench.harness.records import RunFolders, read_record
from kpi_bench.harness.tuning.curves import Curve, CurveKey, curves_of
from kpi_bench.harness.tuning.pruning import MedianRule
from kpi_bench.harness.tuning.record import Ended


class TrialEndedError(Exception):
    """Raised through an evaluation to end it; the executor ends the children that are under way."""

    def __init__(self, ended: Ended, why: str) -> None:
        super().__init__(why)
        self.ended = ended
        self.why = why


class Follower:
    """Follows the runs of one trial; ends it when one of them fails or falls behind ``rule``. A ``Listener``, which tells ``display``.

    ``done`` are the learning curves of the runs that have ended.
    """

    def __init__(self, folders: RunFolders, rule: MedianRule | None) -> None:
        self.display: Listener | None = None
        self.done: dict[CurveKey, Curve] = {}
        self._folders = folders
        self._rule = rule
        self._running: dict[CurveKey, dict[int, float]] = {}
        self._begun: dict[tuple[str | None, int], float] = {}
        self._seconds = 0.0

    def seconds(self) -> float:
        """Wall time of the trial's runs together, those that were cut short included; not of a pre-training that it found."""
        now = time.perf_counter()
        return self._seconds + sum(now - begun for begun in self._begun.values())

    def planned(self, runs: int) -> None:
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
        if outcome.task is not None or not outcome.skipped:
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
