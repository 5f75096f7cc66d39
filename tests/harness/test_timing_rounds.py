"""Timed rounds: new objects in a warm process, apart from the runs, and what becomes of their seconds."""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from submission_factory import PRETRAINING, write_submission

from kpi_bench._io import sha256_file
from kpi_bench.errors import RunError
from kpi_bench.harness.clock import Lap
from kpi_bench.harness.evaluate import Options, evaluate
from kpi_bench.harness.execute import Executed, Order
from kpi_bench.harness.executors.base import Premises, Session
from kpi_bench.harness.executors.local import LocalExecutor
from kpi_bench.harness.plan import plan_runs
from kpi_bench.harness.records import RunKey, RunRecord, RunSite
from kpi_bench.harness.results import Result, Rounds, read_result, result_path
from kpi_bench.harness.rounds import spread, summarise_rounds, unsteady
from kpi_bench.harness.supervise import Limits, Progress
from kpi_bench.harness.worker import Action
from kpi_bench.suites.suite import Suite

SPEEDS = {"matmul_gflops": 100.0, "gather_gb_s": 5.0}
# Each call leaves a line of JSON in the file named by the parameter ``calls``. The first adapt of a process is slow, as compiling would be.
WITNESS = (
    PRETRAINING
    + """
def told(self, what, ctx, **facts):
    facts |= {"what": what, "pid": os.getpid(), "draw": float(np.random.random()), "seed": ctx.seed}
    facts |= {"left": [path.name for path in Path(sys.argv[1]).parent.rglob("*.npy")]}
    facts |= {"scratch": str(ctx.scratch), "empty": not any(ctx.scratch.iterdir()), "cached": (ctx.cache / "kept").exists()}
    with open(self.params["told"], "a") as stream:
        stream.write(json.dumps(facts) + "\\n")

def adapt(self, task, ctx):
    self.told("adapt", ctx, loaded=bool(getattr(self, "state", None)), fresh=not hasattr(self, "adapted"))
    self.adapted = True
    if not os.environ.get("WARM"):
        time.sleep(0.4)
    os.environ["WARM"] = "1"
    (ctx.scratch / "left.bin").write_bytes(b"x")
    (ctx.cache / "kept").write_bytes(b"x")
    ctx.log(1, 0.5, "valid_ndcg@20")

def predict(self, task, queries, ctx):
    if task.spec.kind != "link_prediction":
        return super().predict(task, queries, ctx)
    # Rows are made when they are asked for: the time is in the writing.
    def rows():
        time.sleep(0.2)
        yield from Noise.predict(self, task, queries, ctx)
    return rows()
"""
)


class Recorder:
    """A ``LocalExecutor`` that keeps the orders it was given."""

    def __init__(self) -> None:
        self.orders: list[Order] = []

    @contextmanager
    def session(self, premises: Premises, on_message: Progress) -> Iterator[Session]:
        with LocalExecutor().session(premises, on_message) as session:
            yield _Recording(session, self.orders)


@dataclasses.dataclass
class _Recording:
    inner: Session
    orders: list[Order]
    side_by_side = False

    def submit(self, order: Order) -> None:
        self.orders.append(order)
        self.inner.submit(order)

    def wait(self, seconds: float | None = None) -> tuple[Order, Executed] | None:
        return self.inner.wait(seconds)


@dataclasses.dataclass(frozen=True)
class Timed:
    place: Path
    options: Options
    result: Result
    orders: list[Order]
    told: list[dict[str, object]]


@pytest.fixture(scope="module")
def timed(tiny_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Timed:
    place = tmp_path_factory.mktemp("rounds")
    told = place / "told.jsonl"
    options = Options(
        out=place / "out",
        results=place / "results",
        seeds=(1, 0),
        tasks=("library_links",),
        limits=Limits(100.0, 8 * 2**30),
        rounds=3,
    )
    recorder = Recorder()
    config = write_submission(place / "witness", WITNESS, params={"calls": "", "told": str(told)})
    report = evaluate(config, tiny_suite, options, executor=recorder)
    assert report.failures == []
    lines = [json.loads(line) for line in told.read_text().splitlines()]
    return Timed(place, options, report.results[0], recorder.orders, lines)


def _rounds(result: Result) -> Rounds:
    assert result.timing.rounds is not None
    return result.timing.rounds


def test_rounds_stand_beside_the_runs_with_the_warm_up_apart(timed: Timed) -> None:
    rounds, phases = _rounds(timed.result), timed.result.timing.phases
    assert rounds.seed == 1, "the first seed as it was given"
    assert "inexact_rounds" not in timed.result.flags
    assert set(rounds.phases) == {"adapt", "predict"}
    for of_phase in rounds.phases.values():
        assert len(of_phase.wall_s) == len(of_phase.cpu_s) == 3
        assert of_phase.gpu_s is None
        assert of_phase.median_wall_s == statistics.median(of_phase.wall_s)
    assert len(phases["adapt"].wall_s) == len(timed.result.timing.curves) == 2
    assert rounds.phases["adapt"].warm_up_wall_s >= 0.4
    assert min(phases["adapt"].wall_s) >= 0.4
    assert rounds.phases["adapt"].median_wall_s < 0.4
    assert min(rounds.phases["predict"].wall_s) >= 0.2, "link prediction: writing is part of predicting"


def test_a_round_has_new_objects_in_a_process_that_is_warm(timed: Timed) -> None:
    adapts = timed.told
    assert [call["seed"] for call in adapts] == [1, 0, 1, 1, 1, 1]
    runs, rounds = adapts[:2], adapts[2:]
    assert len({call["pid"] for call in rounds}) == 1
    assert len({call["pid"] for call in adapts}) == 3
    assert all(call["empty"] and call["fresh"] and call["loaded"] for call in adapts)
    assert len({call["scratch"] for call in rounds}) == 4
    assert not any(call["left"] for call in rounds), "what a round answered is looked at before the next"
    assert {call["draw"] for call in rounds} == {runs[0]["draw"]}, "the round does the run's work again"
    assert all(call["cached"] for call in rounds), "what the run left in the cache is found"


def test_scratch_does_not_tell_a_round_from_a_run(timed: Timed) -> None:
    root = timed.options.out.resolve() / timed.result.suite.name / "witness" / "scratch"
    assert list(root.iterdir()) == []
    for call in timed.told:
        place = Path(str(call["scratch"]))
        assert place.parents[1] == root
        assert re.fullmatch("[0-9a-f]{12}", place.parent.name)
        assert re.fullmatch("tmp[a-z0-9_]{8}", place.name)


def test_a_timing_run_has_as_much_time_as_its_rounds(timed: Timed) -> None:
    limits = {order.run.action: order.limits.seconds for order in timed.orders}
    assert limits == {Action.PRETRAIN: 100.0, Action.ADAPT: 100.0, Action.TIME: 400.0}


def test_nothing_is_left_of_what_rounds_answered(timed: Timed) -> None:
    root = timed.options.out / timed.result.suite.name / "witness"
    folder = root / "timing" / "library_links" / "seed1"
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {"run.json", "run.log", "job.json"}
    hashes = timed.result.predictions.sha256
    found = {path.name: sha256_file(path) for path in (root / "predictions" / "library_links").iterdir()}
    assert found == dict(hashes)


def test_calibration_is_taken_before_and_after(timed: Timed) -> None:
    before, after = _rounds(timed.result).calibration
    assert set(before) == set(after) == set(timed.result.hardware["calibration"])
    assert before != after
    assert ("unsteady" in timed.result.flags) == unsteady(_rounds(timed.result))


def test_resuming_keeps_rounds_and_runs(
    timed: Timed, tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_submission(
        timed.place / "witness", WITNESS, params={"calls": "", "told": str(timed.place / "told.jsonl")}
    )

    def again(rounds: int | None) -> tuple[list[Action], Result]:
        recorder = Recorder()
        options = dataclasses.replace(timed.options, rounds=rounds, results=tmp_path)
        report = evaluate(config, tiny_suite, options, executor=recorder)
        assert report.failures == []
        path = result_path(tmp_path, tiny_suite.name, "library_links", "witness")
        assert read_result(path) == report.results[0]
        return [order.run.action for order in recorder.orders], report.results[0]

    made, result = again(3)
    assert made == []
    assert _rounds(result) == _rounds(timed.result)
    made, result = again(None)
    assert made == []
    assert result.timing.rounds is None
    assert not {"resumed", "unsteady"} & set(result.flags)
    assert result.timing.phases["adapt"] == timed.result.timing.phases["adapt"]
    made, result = again(1)
    assert made == [Action.TIME]
    assert [len(phase.wall_s) for phase in _rounds(result).phases.values()] == [1, 1]
    assert _rounds(result).phases["adapt"].iqr_wall_s == 0.0
    assert "resumed" in result.flags


def test_a_round_that_fails_costs_the_rounds_alone(tiny_suite: Suite, tmp_path: Path) -> None:
    methods = """
    count = 0

    def adapt(self, task, ctx):
        Method.count += 1
        if Method.count == 3:
            raise ValueError("I can be fitted twice")
    """
    config = write_submission(tmp_path / "shy", methods)
    options = Options(tmp_path / "out", tmp_path / "results", (0,), ("shop_games_qa",), rounds=4)
    report = evaluate(config, tiny_suite, options)
    assert [outcome.error is None for outcome in report.outcomes] == [True, False]
    assert "adapt of timing round 2 failed: ValueError: I can be fitted twice" in str(
        report.failures[0].error
    )
    assert report.results[0].timing.rounds is None
    assert report.results[0].flags == ("single_seed",)


@pytest.mark.parametrize(
    "lie",
    [
        'self.channel.send({"kind": "done"}); os._exit(0)',
        'self._ask = lambda message: message["kind"] == "answered" or ask(message)',
    ],
    ids=["ends early", "tells no answers"],
)
def test_a_child_that_leaves_rounds_out_is_not_believed(tiny_suite: Suite, tmp_path: Path, lie: str) -> None:
    methods = f"""
    def adapt(self, task, ctx):
        import gc
        workers = [one for one in gc.get_objects() if type(one).__name__ == "Worker"]
        for self in workers:
            if self.job.action == "time" and not os.environ.get("LIED"):
                os.environ["LIED"] = "1"
                ask = self._ask
                {lie}
    """
    config = write_submission(tmp_path / "sly", methods)
    options = Options(tmp_path / "out", tmp_path / "results", (0,), ("shop_games_qa",), rounds=2)
    report = evaluate(config, tiny_suite, options)
    assert [outcome.error is None for outcome in report.outcomes] == [True, False]
    assert "wanted are adapt, predict and answers of 2 rounds and the warm-up" in str(
        report.failures[0].error
    )
    assert report.results[0].timing.rounds is None


def test_what_failed_is_not_timed(tiny_suite: Suite, tmp_path: Path) -> None:
    config = write_submission(tmp_path / "broken", "def adapt(self, task, ctx):\n    raise ValueError('no')")
    options = Options(tmp_path / "out", tmp_path / "results", (0,), ("shop_games_qa",), rounds=2)
    report = evaluate(config, tiny_suite, options)
    assert report.results == ()
    assert [(o.blocked, (o.error or "").startswith("not timed")) for o in report.outcomes] == [
        (False, False),
        (True, True),
    ]


def test_the_plan_times_a_task_after_its_runs() -> None:
    plan = plan_runs(["a", "b"], [4, 5], True, 7)
    assert [(run.action.value, run.task, run.seed, run.rounds) for run in plan] == [
        ("pretrain", None, 4, None),
        ("pretrain", None, 5, None),
        ("adapt", "a", 4, None),
        ("adapt", "a", 5, None),
        ("time", "a", 4, 7),
        ("adapt", "b", 4, None),
        ("adapt", "b", 5, None),
        ("time", "b", 4, 7),
    ]
    assert [run.pretraining for run in plan] == [
        None,
        None,
        plan[0],
        plan[1],
        plan[0],
        plan[0],
        plan[1],
        plan[0],
    ]
    alone = plan_runs(["a"], [0], False, 1)
    assert [run.pretraining for run in alone] == [None, None]
    assert alone[1].after == alone[0]


@pytest.mark.parametrize(("seeds", "rounds"), [((), None), ((0, 1, 0), None), ((0,), 0)])
def test_a_plan_without_seeds_or_rounds_is_refused(seeds: tuple[int, ...], rounds: int | None) -> None:
    with pytest.raises(RunError, match="at least one"):
        plan_runs(["a"], seeds, False, rounds)


def _record(device: str, laps: list[Lap], before: dict[str, float], after: dict[str, float]) -> RunRecord:
    key = RunKey("m", "0" * 64, {}, "1" * 64, "t", 2, device, rounds=len(laps) // 2 - 1)
    return RunRecord(
        key, "s", RunSite({"hw_id": "h"}, {}, None), {}, (), {}, None, 1, None, 1.0,
        rounds=tuple(laps), calibrations=(before, after),
    )  # fmt: skip


@pytest.mark.parametrize(("device", "gpu"), [("cpu", None), ("cuda:0", (1.0, 4.0, 2.0))])
def test_summary_of_rounds(device: str, gpu: tuple[float, ...] | None) -> None:
    laps = []
    for number, seconds in enumerate((9.0, 1.0, 4.0, 2.0)):
        laps.append(Lap("adapt", seconds, 2 * seconds, round=number))
        laps.append(Lap("predict", seconds / 10, seconds / 10, 50, round=number))
    rounds = summarise_rounds(_record(device, laps, SPEEDS, SPEEDS))
    assert (rounds.seed, rounds.queries) == (2, 50)
    adapt = rounds.phases["adapt"]
    assert (adapt.wall_s, adapt.cpu_s, adapt.gpu_s) == ((1.0, 4.0, 2.0), (2.0, 8.0, 4.0), gpu)
    assert (adapt.median_wall_s, adapt.iqr_wall_s) == (2.0, 1.5)
    assert (adapt.warm_up_wall_s, adapt.warm_up_cpu_s) == (9.0, 18.0)


@pytest.mark.parametrize(
    ("factor", "flagged"), [(1.0, False), (1.19, False), (1 / 1.19, False), (1.21, True), (1 / 1.21, True)]
)
@pytest.mark.parametrize("kernel", list(SPEEDS))
def test_unsteady_either_way_and_for_any_kernel(factor: float, flagged: bool, kernel: str) -> None:
    after = SPEEDS | {kernel: SPEEDS[kernel] * factor}
    assert unsteady(Rounds(0, {}, 1, (SPEEDS, after))) is flagged


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=30))
def test_spread_is_that_of_the_standard_library(seconds: list[float]) -> None:
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    assert spread(seconds) == (pytest.approx(middle), pytest.approx(high - low, abs=1e-6))
