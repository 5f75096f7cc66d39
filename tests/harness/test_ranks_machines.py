"""One pre-training on several machines: the same as on one; a machine that is lost has it made again, a rank that fails ends it."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ray_runs import Log, ended, options_for, prediction_bytes, scores
from submission_factory import PRETRAINING, write_submission

from kpi_bench.errors import RunError
from kpi_bench.harness.clock import Lap
from kpi_bench.harness.config import SubmissionConfig
from kpi_bench.harness.evaluate import Report, evaluate
from kpi_bench.harness.executors._run import joint_record, joint_site
from kpi_bench.harness.executors.ray import RayExecutor
from kpi_bench.harness.ranks import Place, free_port, interface_of
from kpi_bench.harness.records import RunFolders, RunRecord, RunSite, read_record
from kpi_bench.harness.supervise import ELSEWHERE, JobRecord, Limits, run_job
from kpi_bench.harness.worker import Action, Job
from kpi_bench.suites.suite import Suite
from kpi_bench.suites.task import TaskKind

# Ranks add up what each alone knows (or, with ``quick``, only meet); what is saved shows what they were and goes into the predictions.
METHODS = (
    PRETRAINING
    + """
data_parallel = True

def pretrain(self, graphs, ctx):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS")
    facts = {name: os.environ.get(name) for name in names} | {"pid": os.getpid()}
    path = ctx.scratch / f"{ctx.rank}.json"
    path.with_suffix(".part").write_text(json.dumps(facts))
    path.with_suffix(".part").rename(path)
    ctx.log(0, 0.5)
    value = 0.0 if self.params.get("quick") else self.added(ctx)
    others = [ctx.scratch / f"{rank}.json" for rank in range(ctx.world_size)]
    while not all(other.is_file() for other in others):
        time.sleep(0.01)
    self.state = {"value": value, "ranks": [json.loads(other.read_text()) for other in others]}

def added(self, ctx):
    import torch

    torch.distributed.init_process_group("gloo")
    values = torch.full((1000,), 0.1 * (ctx.rank + 1))
    for step in range(20):
        torch.distributed.all_reduce(values)
        values *= 0.3
        if step == 10:
            self.at_step(ctx)
    return values[0].item()

def at_step(self, ctx):
    Path(self.params["marks"], f"rank{ctx.rank} {os.getpid()}").touch()
    if ctx.rank == self.params.get("raises"):
        raise ValueError("the planted fault")
    if ctx.rank == self.params.get("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    waits = self.params.get("waits")
    while waits and not Path(waits).exists():
        time.sleep(0.1)

def predict(self, task, queries, ctx):
    return np.random.default_rng(ctx.seed).random((len(queries), task.n_classes)) * self.state["value"]
"""
)


def write(place: Path, *, marks: Path | None = None, **params: Any) -> SubmissionConfig:
    marks = marks or place / "marks"
    marks.mkdir(parents=True, exist_ok=True)
    return write_submission(
        place / "ranked",
        METHODS,
        params={"calls": "", "marks": str(marks)} | params,
        tasks=("classification",),
    )


def run(place: Path, suite: Suite, executor: RayExecutor | None, n: int, **params: Any) -> Report:
    listener = params.pop("listener", None)
    options = options_for(place, seeds=(0,), processes=n, limits=Limits(100.0))
    return evaluate(write(place, **params), suite, options, listener, executor)


def pretraining(place: Path) -> RunRecord:
    record = read_record(RunFolders(place / "out" / "tiny" / "ranked").pretrained(0))
    assert record is not None
    return record


def ranks(place: Path) -> list[dict[str, str]]:
    state = RunFolders(place / "out" / "tiny" / "ranked").state(0) / "state.json"
    found: list[dict[str, str]] = json.loads(state.read_text())["ranks"]
    return found


def test_what_machines_measured_is_put_together() -> None:
    own = JobRecord({"load": Lap("load", 1.0, 2.0), "pretrain": Lap("pretrain", 10.0, 9.0)}, peak_rss=100)
    other = JobRecord({"load": Lap("load", 3.0, 1.0), "pretrain": Lap("pretrain", 11.0, 5.0)}, peak_rss=40)
    joint = joint_record(own, [other, JobRecord()])
    assert joint.laps == {"load": Lap("load", 3.0, 3.0), "pretrain": Lap("pretrain", 11.0, 14.0)}
    assert joint.peak_rss == 140
    first, second = (
        RunSite({"hw_id": "a", "cores": 2}, {}, None),
        RunSite({"hw_id": "b", "cores": 8}, {}, None),
    )
    assert joint_site([first, second]).hardware == {"hw_id": "a + b", "cores": 2}


def test_a_place_is_what_torchrun_says() -> None:
    place = Place(2, 2, "10.0.0.1", 1234, "eth7")
    assert place.variables(4) == {
        "RANK": "2",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "1234",
        "GLOO_SOCKET_IFNAME": "eth7",
    }
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.1") is None
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port("127.0.0.1")))


class Room:
    """Machines in one process: each has a thread that makes its part."""

    def __init__(self, machines: int) -> None:
        self.machines = machines
        self.here: set[int] = set()
        self.children: dict[int, JobRecord] = {}
        self.changed = threading.Condition()


class Seat:
    """``Partners`` of one of them; only the first machine hears of the others' faults, as in a cluster."""

    def __init__(self, room: Room, number: int) -> None:
        self.room, self.number = room, number

    def ready(self) -> bool:
        self.room.here.add(self.number)
        return len(self.room.here) == self.room.machines

    def failed(self, seconds: float = 0.0) -> bool:
        others = self.room.children
        with self.room.changed:
            return self.number == 0 and self.room.changed.wait_for(
                lambda: any(child.error for child in others.values()), seconds
            )


def make_parts(config: SubmissionConfig, suite: Suite, place: Path, processes: int) -> list[JobRecord]:
    """Pre-train on two machines, without Ray."""
    room, port = Room(2), free_port("127.0.0.1")
    for name in ("scratch", "output", "cache", "export"):
        (place / name).mkdir(exist_ok=True)

    def part(number: int) -> JobRecord:
        count = processes // 2
        job = Job(
            Action.PRETRAIN, str(config.folder), dict(config.params), str(suite.folder), (TaskKind.CLASSIFICATION,), None, 0, "cpu",
            str(place / "scratch"), str(place / "cache"), None, str(place / "output"), str(place / "export"),
            processes=processes, place=Place(number * count, count, "127.0.0.1", port, "lo"),
        )  # fmt: skip
        child = run_job(job, place / f"machine{number}", limits=Limits(60.0), partners=Seat(room, number))
        with room.changed:
            if number:
                room.children[number] = child
                room.changed.notify_all()
        return child

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(part, range(2)))


def test_two_parents_watch_the_ranks_of_one_run(
    tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    first, second = make_parts(write(tmp_path, quick=True), tiny_suite, tmp_path, 2)
    assert (first.error, second.error) == (None, None)
    assert set(first.laps) == set(second.laps) == {"load", "pretrain"}
    assert [point.step for point in first.curve] == [0]
    assert second.curve == []
    state = json.loads((tmp_path / "output" / "state.json").read_text())
    assert [one["RANK"] for one in state["ranks"]] == ["0", "1"]
    assert [one["LOCAL_RANK"] for one in state["ranks"]] == ["0", "0"]
    assert {one["LOCAL_WORLD_SIZE"] for one in state["ranks"]} == {"1"}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["raises", "killed"])
@pytest.mark.parametrize("rank", range(4))
def test_the_fault_is_told_where_it_happened(
    fault: str, rank: int, tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    first, second = make_parts(write(tmp_path, **{fault: rank}), tiny_suite, tmp_path, 4)
    cause = second if rank > 1 else first
    assert cause.error is not None
    if fault == "raises":
        who = "" if rank == 0 else f"rank {rank} of 4: "
        assert cause.error.startswith(f"pretrain failed: {who}ValueError: the planted fault")
    elif rank % 2:
        assert cause.error.startswith(f"pretrain failed: rank {rank} of 4: its process ended with SIGKILL")
        assert not cause.echo
    else:
        assert cause.error.startswith("pretrain crashed: the process was ended by SIGKILL")
        assert not cause.echo
    if rank > 1:
        assert first.error is not None
        assert first.error.startswith(ELSEWHERE)
    assert all(ended(int(path.name.split()[1])) for path in (tmp_path / "marks").iterdir())


@pytest.mark.slow
class TestOnRay:
    """Nodes of two CPUs each."""

    @pytest.fixture
    def wide(self, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Two of them, beside the two of one CPU."""
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        for _ in range(2):
            cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20)
        return cluster

    def test_all_give_the_same(self, tiny_suite: Suite, tmp_path: Path, wide: Any) -> None:
        layouts = {"one": None, "two": 2, "four": 1}
        made = {}
        for name, per_node in layouts.items():
            if name == "one":
                wide.add_node(num_cpus=4, object_store_memory=80 * 2**20)
            with RayExecutor(wide.address, processes_per_node=per_node) as executor:
                made[name] = run(tmp_path / name, tiny_suite, executor, 4, marks=tmp_path / "marks")
        made["local"] = run(tmp_path / "local", tiny_suite, None, 4, marks=tmp_path / "marks")
        for name, report in made.items():
            assert report.failures == []
            found = ranks(tmp_path / name)
            assert [one["RANK"] for one in found] == ["0", "1", "2", "3"]
            count = {"two": 2, "four": 1}.get(name, 4)
            assert [one["LOCAL_RANK"] for one in found] == [str(rank % count) for rank in range(4)]
            assert {one["LOCAL_WORLD_SIZE"] for one in found} == {str(count)}
            assert {one["OMP_NUM_THREADS"] for one in found} == {"1"}
            assert prediction_bytes(tmp_path / name) == prediction_bytes(tmp_path / "local") != {}
            assert scores(tmp_path / name) == scores(tmp_path / "local")
            record = pretraining(tmp_path / name)
            assert record.processes == 4
            machines = {"two": 2, "four": 4}.get(name, 1)
            assert len(record.site.hardware["hw_id"].split(" + ")) == machines
            (result,) = report.results
            assert (result.hardware["hw_id"] is None) == (machines > 1)
        # Four processes of torch on one machine, on two, on four: all of them count.
        rss = {name: pretraining(tmp_path / name).peak_rss for name in made}
        assert max(rss.values()) < 1.5 * min(rss.values())

    @pytest.mark.parametrize(
        "lost", ["machine of rank 0", "machine of rank 2", "parent of rank 0", "parent of rank 2"]
    )
    def test_a_lost_machine_or_worker_has_the_run_made_again(
        self, lost: str, tiny_suite: Suite, tmp_path: Path, wide: Any
    ) -> None:
        import psutil

        wide.add_node(num_cpus=2, object_store_memory=80 * 2**20)
        marks, gate = tmp_path / "run" / "marks", tmp_path / "gate"
        first: list[int] = []

        def pids(rank: int) -> list[int]:
            return [int(path.name.split()[1]) for path in marks.glob(f"rank{rank} *")]

        def sabotage() -> None:
            while not all(pids(rank) for rank in range(4)):
                time.sleep(0.1)
            first.extend(pid for rank in range(4) for pid in pids(rank))
            victim = psutil.Process(pids(int(lost[-1]))[0]).parent()
            assert victim is not None
            if lost.startswith("parent"):
                victim.kill()
            else:
                raylet = victim.parent()
                assert raylet is not None
                (node,) = [
                    node
                    for node in wide.worker_nodes
                    if raylet.pid
                    in {process.process.pid for kind in node.all_processes.values() for process in kind}
                ]
                wide.remove_node(node, allow_graceful=False)
            gate.touch()

        saboteur = threading.Thread(target=sabotage, daemon=True)
        saboteur.start()
        listener = Log()
        with RayExecutor(wide.address, processes_per_node=2) as executor:
            report = run(tmp_path / "run", tiny_suite, executor, 4, waits=str(gate), listener=listener)
        saboteur.join(1)
        assert report.failures == []
        assert listener.starts.count((None, 0)) == 2
        assert len(list(marks.iterdir())) == 8
        assert all(ended(pid) for rank in range(4) for pid in pids(rank))
        state = RunFolders(tmp_path / "run" / "out" / "tiny" / "ranked").state(0) / "state.json"
        assert json.loads(state.read_text())["value"] == pytest.approx(0.3 * 1.2**19, rel=1e-4)

    @pytest.mark.parametrize("fault", [{"raises": 3}, {"raises": 0}, {"killed": 2}, {"killed": 1}])
    def test_a_rank_that_fails_ends_the_run(
        self, fault: dict[str, int], tiny_suite: Suite, tmp_path: Path, wide: Any
    ) -> None:
        listener = Log()
        with RayExecutor(wide.address, processes_per_node=2) as executor:
            report = run(tmp_path, tiny_suite, executor, 4, listener=listener, **fault)
        error, blocked = report.outcomes[0].error, report.outcomes[1]
        assert blocked.blocked
        assert error is not None
        wanted = {
            "raises 3": "pretrain failed: rank 3 of 4: ValueError: the planted fault",
            "raises 0": "pretrain failed: ValueError: the planted fault",
            "killed 2": "pretrain crashed: the process was ended by SIGKILL",
            "killed 1": "pretrain failed: rank 1 of 4: its process ended with SIGKILL",
        }
        ((kind, rank),) = fault.items()
        assert wanted[f"{kind} {rank}"] in error
        assert error.startswith("pretrain") == (rank < 2)
        assert listener.starts == [(None, 0)]
        assert all(ended(int(path.name.split()[1])) for path in (tmp_path / "marks").iterdir())

    def test_what_cannot_be_is_refused(self, tiny_suite: Suite, tmp_path: Path, wide: Any) -> None:
        for per_node, fault in (
            (3, "--processes-per-node 3: 4 processes"),
            (None, r"no machine of the Ray cluster has the 4 CPU\(s\)"),
        ):
            with (
                RayExecutor(wide.address, processes_per_node=per_node) as executor,
                pytest.raises(RunError, match=fault),
            ):
                run(tmp_path, tiny_suite, executor, 4)
        with (
            RayExecutor(wide.address, cpus_per_run=2, processes_per_node=1) as executor,
            pytest.raises(RunError, match=r"only 2 \(wanted 4\) machine of the Ray cluster"),
        ):
            run(tmp_path, tiny_suite, executor, 4)
