"""Wherever a run is made, it gives the same; what goes wrong on the way costs that run's time and nothing else."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from submission_factory import PRETRAINING, write_submission

from kpi_bench.errors import KpiBenchError, RunError
from kpi_bench.harness.assemble import common_site, run_flags
from kpi_bench.harness.channel import Message
from kpi_bench.harness.config import SubmissionConfig
from kpi_bench.harness.environment import usable_cores
from kpi_bench.harness.evaluate import Options, Outcome, Report, evaluate
from kpi_bench.harness.executors._node import check_node
from kpi_bench.harness.executors.base import Premises
from kpi_bench.harness.executors.ray import RETRIES, RayExecutor, run_environment
from kpi_bench.harness.records import RunFolders, RunRecord, read_record
from kpi_bench.harness.results import result_files
from kpi_bench.harness.source import source_sha256
from kpi_bench.harness.withhold import file_states, withheld_copy
from kpi_bench.suites.suite import Suite

pytest.importorskip("ray")

QA, REVIEW = "shop_games_qa", "library_review"
# What a result says of the scores, and where it came from; the rest of it are costs.
SCORED = ("submission", "suite", "task", "protocol", "seeds", "metrics", "variants", "slices", "counts", "floors", "predictions", "queries_sha256")  # fmt: skip
# Kills the process that watches its run, once for each task and seed, in the middle of predicting.
KILLS = """
def predict(self, task, queries, ctx):
    mark = Path(self.params["marks"]) / f"{task.spec.name}-{ctx.seed}"
    best = super().predict(task, queries, ctx)
    if not mark.exists():
        mark.write_text(str(os.getpid()))
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(300)
    return best
"""


class Log:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.starts: list[tuple[str | None, int]] = []
        self.messages: list[Message] = []
        self.ends: list[Outcome] = []

    def planned(self, runs: int) -> None:
        self.runs = runs

    def started(self, task: str | None, seed: int) -> None:
        self.starts.append((task, seed))

    def message(self, message: Message) -> None:
        self.messages.append(message)

    def finished(self, outcome: Outcome) -> None:
        self.ends.append(outcome)


def options_for(place: Path, **changes: Any) -> Options:
    options = Options(out=place / "out", results=place / "results", seeds=(0, 1), tasks=(QA,))
    return dataclasses.replace(options, **changes)


def prediction_bytes(place: Path) -> dict[str, bytes]:
    files = sorted((place / "out" / "tiny").rglob("predictions/**/*.parquet"))
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in files}


def scores(place: Path) -> dict[str, dict[str, Any]]:
    found = {path.name: json.loads(path.read_text()) for path in result_files([place / "results"])}
    return {
        f"{name}/{result['task']['name']}": {part: result[part] for part in SCORED}
        for name, result in found.items()
    }


def records(place: Path, name: str, tasks: tuple[str, ...], seeds: tuple[int, ...]) -> list[RunRecord]:
    folders = RunFolders(place / "out" / "tiny" / name)
    read = [read_record(folders.run(task, seed)) for task in tasks for seed in seeds]
    return [record for record in read if record is not None]


def ended(pid: int, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def short_folder() -> Iterator[Path]:
    """Paths of sockets may have 107 bytes: pytest's own folders are too long for Ray."""
    folder = Path(tempfile.mkdtemp(prefix="kb"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def here(short_folder: Path) -> Iterator[RayExecutor]:
    """A cluster of this machine alone."""
    with RayExecutor(temp_dir=short_folder) as executor:
        yield executor


def premises_of(suite: Suite, place: Path) -> Premises:
    config = write_submission(place / "plain")
    copy = withheld_copy(suite, place / "withheld")
    return Premises(place, copy, file_states(copy), config, source_sha256(config), "cpu")


def test_a_run_gets_no_more_threads_than_cpus() -> None:
    given = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "16", "HF_TOKEN": "t", "DGLBACKEND": "pytorch"}
    assert run_environment(4, given) == {
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "4",
        "OPENBLAS_NUM_THREADS": "4",
        "NUMBA_NUM_THREADS": "4",
        "DGLBACKEND": "pytorch",
    }


@pytest.mark.parametrize("odd", ["0", "", "4,2", "\u00b2", "-1"])
def test_what_is_no_number_of_threads_bounds_nothing(odd: str) -> None:
    assert run_environment(2, {"OMP_NUM_THREADS": odd})["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize(
    ("gpus", "given"), [(0.0, True), (0.3, True), (2.0, True), (1.5, False), (1e-5, False)]
)
def test_gpus_that_ray_cannot_share_out_are_refused(gpus: float, given: bool) -> None:
    if given:
        assert RayExecutor(gpus_per_run=gpus).gpus_per_run == gpus
    else:
        with pytest.raises(RunError, match="--gpus-per-run"):
            RayExecutor(gpus_per_run=gpus)


def test_without_ray_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from kpi_bench.cli import main\n"
        "sys.exit(main(['evaluate', '--submission', sys.argv[1], '--suite', 'kpi-mini', '--executor', 'ray']))"
    )
    folder = Path(__file__).parents[2] / "submissions" / "random"
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'kpi-bench[ray]'" in done.stderr
    assert "Traceback" not in done.stderr


class TestCheckNode:
    """A machine is looked at before it gets runs."""

    @pytest.fixture
    def premises(self, tiny_suite: Suite, tmp_path: Path) -> Premises:
        (tmp_path / "token").write_text("secret")
        return premises_of(tiny_suite, tmp_path)

    def test_a_good_one_is_measured(self, premises: Premises) -> None:
        faults, site = check_node(premises, premises.out / "token", "secret")
        assert faults == []
        assert site is not None
        assert site.hardware["calibration"]["matmul_gflops"] > 0

    def test_another_output_folder_of_the_same_name(self, premises: Premises) -> None:
        for token, secret in (("missing", "secret"), ("token", "another")):
            (fault,), site = check_node(premises, premises.out / token, secret)
            assert f"does not see the output folder {premises.out}" in fault
            assert site is None

    def test_other_files_code_and_version(self, premises: Premises) -> None:
        token = premises.out / "token"
        other = dataclasses.replace(premises, suite_files={}, sha256="0" * 64)
        faults, site = check_node(other, token, "secret")
        assert [part in fault for fault, part in zip(faults, ("times and inodes", "code in"), strict=True)]
        assert site is None
        (fault,), _ = check_node(dataclasses.replace(premises, version="0.0"), token, "secret")
        assert "install 0.0 there" in fault


def test_flags_and_hardware_of_runs_from_several_machines(tiny_suite: Suite, tmp_path: Path) -> None:
    config = write_submission(tmp_path / "plain")
    evaluate(config, tiny_suite, options_for(tmp_path, seeds=(0,)))
    (alone,) = records(tmp_path, "plain", (QA,), (0,))
    elsewhere = dataclasses.replace(
        alone, shared=True, site=dataclasses.replace(alone.site, hardware={"hw_id": "other"})
    )
    assert run_flags([alone], []) == ()
    assert run_flags([alone, elsewhere], []) == run_flags([alone], [elsewhere]) == ("shared_machine",)
    assert common_site([alone, alone]) == alone.site
    mixed = common_site([elsewhere, alone]).hardware
    assert mixed["hw_id"] is None
    assert mixed["hw_ids"] == sorted(["other", alone.site.hardware["hw_id"]])


@pytest.mark.slow
class TestTwoNodes:
    """A cluster of two nodes with one CPU each, joined by its address. Before the tests of ``here``: a process has one cluster at a time."""

    @pytest.fixture
    def cluster(self) -> Iterator[Any]:
        from ray.cluster_utils import Cluster

        folder = tempfile.mkdtemp(prefix="kb")
        size = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        cluster = Cluster(
            initialize_head=True, head_node_args=size | {"temp_dir": folder, "include_dashboard": False}
        )
        cluster.add_node(**size)
        yield cluster
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)

    def test_both_work_and_killed_workers_do_not_matter(
        self, tiny_suite: Suite, tmp_path: Path, cluster: Any
    ) -> None:
        marks = tmp_path / "marks"
        marks.mkdir()
        config = write_submission(
            tmp_path / "kills", PRETRAINING + KILLS, params={"marks": str(marks), "calls": ""}
        )
        tasks, seeds = (QA, "shop_music", "library_links"), (0, 1)
        with RayExecutor(cluster.address) as executor:
            report = evaluate(config, tiny_suite, options_for(tmp_path / "ray", tasks=tasks), None, executor)
        assert report.failures == []
        assert len(list(marks.iterdir())) == 6
        made = records(tmp_path / "ray", "kills", tasks, seeds)
        assert len({record.site.hardware["calibration"]["matmul_gflops"] for record in made}) == 2
        assert not any(record.shared for record in made)
        evaluate(config, tiny_suite, options_for(tmp_path / "local", tasks=tasks))
        assert prediction_bytes(tmp_path / "ray") == prediction_bytes(tmp_path / "local") != {}
        assert scores(tmp_path / "ray") == scores(tmp_path / "local") != {}

    def test_runs_of_a_node_that_is_lost_are_made_on_another(
        self, tiny_suite: Suite, tmp_path: Path, cluster: Any
    ) -> None:
        methods = """
        def adapt(self, task, ctx):
            ctx.note("pid", os.getpid())
            while not Path(self.params["gate"]).exists():
                time.sleep(0.1)
        """
        gate = tmp_path / "gate"

        class Saboteur(Log):
            def message(self, message: Message) -> None:
                super().message(message)
                if len(self.pids()) == 2 and not gate.exists():
                    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
                    # The run on the lost node must not end before its node does.
                    deadline = time.monotonic() + 60
                    while not any(ended(pid) for pid in self.pids()) and time.monotonic() < deadline:
                        time.sleep(0.1)
                    gate.touch()

            def pids(self) -> list[int]:
                return [message["value"] for message in self.messages if message["kind"] == "note"]

        config = write_submission(tmp_path / "waits", methods, params={"gate": str(gate)})
        listener = Saboteur()
        with RayExecutor(cluster.address) as executor:
            report = evaluate(config, tiny_suite, options_for(tmp_path), listener, executor)
        assert report.failures == []
        assert len(listener.starts) == 3
        assert len(listener.ends) == 2
        assert all(ended(pid) for pid in listener.pids())

    def test_the_loss_of_the_last_machine_that_is_large_enough_ends_it(
        self, tiny_suite: Suite, tmp_path: Path, cluster: Any
    ) -> None:
        methods = """
        def adapt(self, task, ctx):
            ctx.note("pid", os.getpid())
            time.sleep(300)
        """
        large = cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20)

        class Saboteur(Log):
            def message(self, message: Message) -> None:
                super().message(message)
                if message["kind"] == "note":
                    cluster.remove_node(large, allow_graceful=False)

        config = write_submission(tmp_path / "waits", methods)
        listener = Saboteur()
        with (
            RayExecutor(cluster.address, cpus_per_run=2) as executor,
            pytest.raises(RunError, match=r"no machine of the Ray cluster has the 2 CPU\(s\)"),
        ):
            evaluate(config, tiny_suite, options_for(tmp_path, seeds=(0,)), listener, executor)
        (pid,) = [message["value"] for message in listener.messages if message["kind"] == "note"]
        assert ended(pid)


def test_ray_gives_what_local_gives_and_goes_on_where_it_stopped(
    tiny_suite: Suite, tmp_path: Path, here: RayExecutor
) -> None:
    methods = (
        PRETRAINING
        + """
def adapt(self, task, ctx):
    for step in range(500):
        ctx.log(step, step / 500)
    if task.spec.name == "library_review":
        raise ValueError("no such review")
"""
    )
    listener = Log()
    made: dict[str, tuple[SubmissionConfig, Report]] = {}
    for name, executor in (("local", None), ("ray", here)):
        config = write_submission(tmp_path / name / "taught", methods, params={"calls": ""})
        options = options_for(tmp_path / name, seeds=(0,), tasks=(QA, REVIEW))
        heard = listener if executor else None
        made[name] = config, evaluate(config, tiny_suite, options, heard, executor)
    reports = [report for _, report in made.values()]
    for report in reports:
        assert [(o.task, o.error is None) for o in report.outcomes] == [
            (None, True),
            (QA, True),
            (REVIEW, False),
        ]
        assert "adapt failed: ValueError: no such review" in (report.failures[0].error or "")
    assert [report.side_by_side for report in reports] == [False, True]
    assert prediction_bytes(tmp_path / "ray") == prediction_bytes(tmp_path / "local") != {}
    assert scores(tmp_path / "ray") == scores(tmp_path / "local") != {}
    (result,) = reports[1].results
    assert result.hardware["hw_id"] is not None
    assert ("shared_machine" in result.flags) == (usable_cores() > 1)

    # Nothing is told twice, and every point of the curves comes through.
    assert listener.runs == 3
    assert sorted(listener.starts, key=str) == sorted(((o.task, o.seed) for o in listener.ends), key=str)
    points = [m for m in listener.messages if m["kind"] == "curve" and m["task"] == QA]
    assert [point["step"] for point in points] == list(range(500))

    # Either executor keeps what the other has done.
    for name, executor in (("local", here), ("ray", None)):
        config, _ = made[name]
        again = evaluate(config, tiny_suite, options_for(tmp_path / name, seeds=(0,)), None, executor)
        assert [outcome.skipped for outcome in again.outcomes] == [True, True]


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


def test_what_the_cluster_cannot_do_is_said_at_once(
    tiny_suite: Suite, tmp_path: Path, here: RayExecutor
) -> None:
    premises = premises_of(tiny_suite, tmp_path)
    wide = RayExecutor(cpus_per_run=4096)
    with (
        pytest.raises(RunError, match=r"4096 CPU\(s\).*there are .* CPUs, 0 GPUs"),
        wide.session(premises, print),
    ):
        pass
    blind, on_gpu = RayExecutor(gpus_per_run=0.0), dataclasses.replace(premises, device="cuda:0")
    with pytest.raises(RunError, match="--gpus-per-run 0"), blind.session(on_gpu, print):
        pass
    other = dataclasses.replace(premises, sha256="0" * 64)
    with pytest.raises(RunError, match="submission's code in"), here.session(other, print):
        pass
    assert [path.name for path in tmp_path.glob(".seen-*")] == []
    assert here.resolve_device("auto") == "cpu"
    assert here.resolve_device("cuda") == "cuda:0"
    with pytest.raises(KpiBenchError, match="Ray chooses the GPU"):
        here.resolve_device("cuda:1")


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
            suite = json.loads((ctx.scratch.parent / "job.json").read_text())["suite"]
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
