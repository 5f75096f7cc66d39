"""What goes wrong in a run on Ray costs that run's time and nothing else, and no process stays behind."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from ray_runs import KILLS, QA, Log, ended, options_for, prediction_bytes, scores
from submission_factory import write_submission

from kpi_bench.harness.channel import Message
from kpi_bench.harness.evaluate import evaluate
from kpi_bench.harness.executors._session import RETRIES
from kpi_bench.harness.executors.ray import RayExecutor
from kpi_bench.suites.suite import Suite

pytest.importorskip("ray")


@pytest.mark.slow
def test_a_killed_worker_takes_its_run_along_which_is_made_again(
    tiny_suite: Suite, tmp_path: Path, here: RayExecutor
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    config = write_submission(tmp_path / "kills", KILLS, params={"marks": str(marks)})
    listener = Log()
    report = evaluate(config, tiny_suite, options_for(tmp_path / "ray", seeds=(0,)), listener, here)
    assert report.failures == []
    assert listener.starts == [(QA, 0), (QA, 0)]
    assert ended(int((marks / f"{QA}-0").read_text())), "the run outlived its worker"
    evaluate(config, tiny_suite, options_for(tmp_path / "local", seeds=(0,)))
    assert prediction_bytes(tmp_path / "ray") == prediction_bytes(tmp_path / "local") != {}
    assert scores(tmp_path / "ray") == scores(tmp_path / "local")


@pytest.mark.slow
def test_leaving_a_session_ends_its_runs_and_all_their_processes(
    tiny_suite: Suite, tmp_path: Path, here: RayExecutor
) -> None:
    methods = """
    def adapt(self, task, ctx):
        left = subprocess.Popen(["sleep", "300"], start_new_session=True)
        time.sleep(0.3)
        ctx.note("pids", f"{os.getpid()} {left.pid}")
        time.sleep(300)
    """

    class Stop(Exception):  # noqa: N818
        pass

    class Stopping(Log):
        def message(self, message: Message) -> None:
            super().message(message)
            if message["kind"] == "note":
                raise Stop

    config = write_submission(tmp_path / "slow", methods)
    listener = Stopping()
    with pytest.raises(Stop):
        evaluate(config, tiny_suite, options_for(tmp_path, seeds=(0,)), listener, here)
    pids = [int(pid) for pid in listener.messages[-1]["value"].split()]
    assert len(pids) == 2
    assert all(ended(pid) for pid in pids)


@pytest.mark.slow
def test_a_run_that_kills_its_worker_each_time_fails_alone(
    tiny_suite: Suite, tmp_path: Path, here: RayExecutor
) -> None:
    methods = """
    def adapt(self, task, ctx):
        if ctx.seed == 0:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(300)
    """
    config = write_submission(tmp_path / "kills", methods)
    listener = Log()
    report = evaluate(config, tiny_suite, options_for(tmp_path), listener, here)
    assert Counter(listener.starts) == {(QA, 0): RETRIES + 1, (QA, 1): 1}
    (failure,) = report.failures
    assert failure.seed == 0
    assert f"its worker died {RETRIES + 1} times" in (failure.error or "")
    assert report.results == ()


@pytest.mark.slow
def test_a_run_that_writes_to_the_suite_is_found_out(
    tiny_suite: Suite, tmp_path: Path, here: RayExecutor
) -> None:
    methods = """
    def adapt(self, task, ctx):
        if ctx.seed == 0:
            suite = json.loads(Path(sys.argv[1]).read_text())["suite"]
            (Path(suite) / "tasks" / "shop_games_qa" / "train.parquet").write_bytes(b"gone")
    """
    config = write_submission(tmp_path / "writes", methods)
    options = options_for(tmp_path, seeds=tuple(range(6)))
    report = evaluate(config, tiny_suite, options, None, here)
    assert 0 in {outcome.seed for outcome in report.failures}
    # Those beside it may be spoilt too, which shows; none of them is scored on what it left.
    assert all("copy of the suite" in (outcome.error or "") for outcome in report.failures)
    again = evaluate(config, tiny_suite, dataclasses.replace(options, seeds=tuple(range(1, 6))), None, here)
    assert again.failures == []


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_goes_on_without_the_command(
    tiny_suite: Suite, tmp_path: Path, short_folder: Path, end: signal.Signals
) -> None:
    methods = """
    def adapt(self, task, ctx):
        Path(self.params["pids"], str(os.getpid())).touch()
        time.sleep(300)
    """
    pids = tmp_path / "pids"
    pids.mkdir()
    write_submission(tmp_path / "slow", methods, params={"pids": str(pids)})
    command = [
        *(sys.executable, "-m", "kpi_bench", "evaluate", "--submission", str(tmp_path / "slow")),
        *("--suite", str(tiny_suite.folder), "--tasks", QA, "--seeds", "0,1", "--device", "cpu"),
        *("--out", str(tmp_path / "out"), "--executor", "ray"),
    ]
    environ = os.environ | {"RAY_TMPDIR": str(short_folder)}
    process = subprocess.Popen(
        command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while not any(pids.iterdir()):
            assert process.poll() is None, "the evaluation ended too early"
            assert time.monotonic() < deadline
            time.sleep(0.1)
        # Without Ray's agents: they look only now and then whether their node is still there.
        cluster = [
            child.pid
            for child in psutil.Process(process.pid).children(recursive=True)
            if "Agent" not in " ".join(child.cmdline())
        ]
        assert len(cluster) > 3
        # As a terminal does it: the whole foreground group gets the signal.
        (os.killpg if end is signal.SIGINT else os.kill)(process.pid, end)
        process.wait(60)
    finally:
        process.kill()
    assert all(ended(pid) for pid in [*cluster, *(int(path.name) for path in pids.iterdir())])
