"""Pre-training in several processes: who does what, what a failure leaves, what is recorded."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from submission_factory import write_submission

from kpi_bench.cli import main
from kpi_bench.errors import SubmissionError
from kpi_bench.harness.environment import usable_cores
from kpi_bench.harness.evaluate import Options, Report, evaluate
from kpi_bench.harness.ranks import THREADS, device_of, thread_shares
from kpi_bench.harness.records import RunFolders, read_record
from kpi_bench.harness.supervise import Limits
from kpi_bench.suites.suite import Suite

# Each rank leaves its facts in the scratch folder that all share; rank 0 waits for them and saves them.
METHODS = """
data_parallel = True

def pretrain(self, graphs, ctx):
    facts = {"rank": ctx.rank, "size": ctx.world_size, "pid": os.getpid(), "parent": os.getppid(), "device": ctx.device}
    facts |= {name: os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")}
    ctx.note("rank", ctx.rank)
    ctx.log(ctx.rank, 0.5)
    path = ctx.scratch / f"{ctx.rank}.json"
    path.with_suffix(".part").write_text(json.dumps(facts))
    path.with_suffix(".part").rename(path)
    self.fail(ctx)
    others = [ctx.scratch / f"{rank}.json" for rank in range(ctx.world_size)]
    while not all(other.is_file() for other in others):
        time.sleep(0.01)
    self.state = [json.loads(other.read_text()) for other in others]

def fail(self, ctx):
    if self.params["fail"] == "raises" and ctx.rank == 1:
        raise ValueError("the planted fault of rank 1")
    if self.params["fail"] == "killed" and ctx.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if self.params["fail"] == "exits" and ctx.rank == 1:
        os._exit(0)
    if self.params["fail"] == "rank 0" and ctx.rank == 0:
        raise ValueError("the planted fault of rank 0")
    if self.params["fail"]:
        with open(self.params["pids"], "a") as stream:
            print(os.getpid(), file=stream)
        time.sleep(60)

def save_pretrained(self, folder):
    (folder / "state.json").write_text(json.dumps(self.state))

def load_pretrained(self, folder):
    self.state = json.loads((folder / "state.json").read_text())

def adapt(self, task, ctx):
    assert (ctx.rank, ctx.world_size) == (0, 1)
    assert "RANK" not in os.environ
    ctx.note("ranks", len(self.state))
"""
TASK = "library_review"


def run(
    tmp_path: Path,
    suite: Suite,
    *,
    processes: int = 2,
    methods: str = METHODS,
    fail: str = "",
    **options: Any,
) -> Report:
    params = {"fail": fail, "pids": str(tmp_path / "pids")}
    config = write_submission(tmp_path / "ranked", methods, params=params)
    settings = Options(
        out=tmp_path / "runs",
        results=tmp_path / "results",
        seeds=(0,),
        tasks=(TASK,),
        limits=Limits(60.0),
        processes=processes,
        **options,
    )
    return evaluate(config, suite, settings)


def folders(tmp_path: Path, suite: Suite) -> RunFolders:
    return RunFolders(tmp_path / "runs" / suite.name / "ranked")


def gone(pid: int) -> bool:
    """Whether the process has ended, or does within two seconds: the kernel takes a moment."""
    for _ in range(200):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


def test_three_processes_pre_train_and_rank_0_saves(
    tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    report = run(tmp_path, tiny_suite, processes=3)
    assert not report.failures
    runs = folders(tmp_path, tiny_suite)
    ranks = json.loads((runs.state(0) / "state.json").read_text())
    assert [(rank["rank"], rank["size"]) for rank in ranks] == [(0, 3), (1, 3), (2, 3)]
    assert len({rank["pid"] for rank in ranks}) == 3
    assert {rank["parent"] for rank in ranks[1:]} == {ranks[0]["pid"]}
    assert [rank["RANK"] for rank in ranks] == [rank["LOCAL_RANK"] for rank in ranks] == ["0", "1", "2"]
    assert {rank["WORLD_SIZE"] for rank in ranks} == {"3"}
    assert {rank["OMP_NUM_THREADS"] for rank in ranks} == {"2"}
    assert len({(rank["MASTER_ADDR"], rank["MASTER_PORT"]) for rank in ranks}) == 1
    assert all(gone(rank["pid"]) for rank in ranks)
    record = read_record(runs.pretrained(0))
    assert record is not None
    assert record.processes == record.key.processes == 3
    assert record.notes == {"rank": 0}  # what the others report is dropped
    assert [point.step for point in record.curve] == [0]
    (result,) = report.results
    assert result.timing.processes == 3
    assert "parallel_pretraining" in result.flags
    assert result.notes["ranks"] == (3,)
    again = run(tmp_path, tiny_suite, processes=3)
    assert all(outcome.skipped for outcome in again.outcomes)
    alone = run(tmp_path, tiny_suite, processes=1)
    assert not any(outcome.skipped for outcome in alone.outcomes)
    assert alone.results[0].timing.processes == 1
    assert "parallel_pretraining" not in alone.results[0].flags


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ("raises", "pretrain failed: rank 1 of 3: ValueError: the planted fault of rank 1"),
        ("killed", "pretrain failed: rank 1 of 3: its process ended with SIGKILL"),
        ("exits", "pretrain failed: rank 1 of 3: its process ended with exit code 0"),
        ("rank 0", "pretrain failed: ValueError: the planted fault of rank 0"),
    ],
)
def test_a_rank_that_fails_ends_the_run_and_leaves_no_process(
    fail: str, message: str, tiny_suite: Suite, tmp_path: Path
) -> None:
    start = time.perf_counter()
    report = run(tmp_path, tiny_suite, processes=3, fail=fail)
    assert time.perf_counter() - start < 40  # the one that did not fail sleeps for longer
    first, blocked = report.outcomes
    assert first.error is not None
    assert first.error.startswith(message)
    assert blocked.blocked
    pids = tmp_path / "pids"
    for pid in map(int, pids.read_text().split() if pids.is_file() else []):
        assert gone(pid)


EXCHANGE = """
data_parallel = True

def pretrain(self, graphs, ctx):
    import torch

    torch.distributed.init_process_group("gloo")
    for step in range(1000):
        total = torch.ones(3)
        torch.distributed.all_reduce(total)
        assert total[0] == ctx.world_size
        if ctx.rank == 1 and step == 5:
            if self.params["fail"] == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("the planted fault of step 5")
"""


@pytest.mark.parametrize(
    ("fail", "message"),
    [("raises", "ValueError: the planted fault of step 5"), ("killed", "its process ended with SIGKILL")],
)
def test_the_fault_is_told_and_not_the_broken_connection_that_follows(
    fail: str, message: str, tiny_suite: Suite, tmp_path: Path
) -> None:
    report = run(tmp_path, tiny_suite, methods=EXCHANGE, processes=3, fail=fail)
    assert report.outcomes[0].error is not None
    assert report.outcomes[0].error.startswith(f"pretrain failed: rank 1 of 3: {message}")


def test_a_submission_has_to_say_that_it_can(tiny_suite: Suite, tmp_path: Path) -> None:
    methods = METHODS.replace("data_parallel = True", "")
    with pytest.raises(SubmissionError, match="ranked pre-trains in one process only, not in --processes 2"):
        run(tmp_path, tiny_suite, methods=methods)
    assert not run(tmp_path, tiny_suite, methods=methods, processes=1).failures


def test_the_command_refuses_no_process(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--submission", "x", "--suite", "kpi-mini", "--processes", "0"])
    assert "--processes" in capsys.readouterr().err


def test_threads_are_divided() -> None:
    assert thread_shares(1, {"OMP_NUM_THREADS": "8"}) == {}
    shares = thread_shares(3, {"OMP_NUM_THREADS": "8", "MKL_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "no"})
    own = str(max(1, usable_cores() // 3))
    assert shares == dict(zip(THREADS, ("2", "1", own, own), strict=True))
    assert device_of("cpu", 3) == "cpu"
    assert device_of("cuda:1", 0) == "cuda:1"
    assert "RANK" not in os.environ
