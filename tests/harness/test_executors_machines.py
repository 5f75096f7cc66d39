"""The machines of a Ray cluster: looked at before they get runs, lost while they make them."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from ray_runs import KILLS, QA, Log, ended, options_for, prediction_bytes, premises_of, records, scores
from submission_factory import PRETRAINING, write_submission

from kpi_bench.errors import RunError
from kpi_bench.harness.channel import Message
from kpi_bench.harness.evaluate import evaluate
from kpi_bench.harness.executors._node import check_node
from kpi_bench.harness.executors.base import Premises
from kpi_bench.harness.executors.ray import RayExecutor
from kpi_bench.suites.suite import Suite

pytest.importorskip("ray")


class TestCheckNode:
    """A machine is looked at before it gets runs."""

    @pytest.fixture
    def premises(self, tiny_suite: Suite, tmp_path: Path) -> Premises:
        return premises_of(tiny_suite, tmp_path)

    def test_a_good_one_is_measured(self, premises: Premises) -> None:
        faults, site = check_node(premises)
        assert faults == []
        assert site is not None
        assert site.hardware["calibration"]["matmul_gflops"] > 0

    def test_another_output_folder_of_the_same_name(self, premises: Premises) -> None:
        theirs = premises.suite.with_name("theirs")
        shutil.copytree(premises.suite, theirs)
        (fault,), site = check_node(dataclasses.replace(premises, suite=theirs))
        assert "other files, or other times and inodes" in fault
        assert site is None
        shutil.rmtree(theirs)
        (fault,), site = check_node(dataclasses.replace(premises, suite=theirs))
        assert f"does not see the output folder {premises.out}" in fault
        assert site is None

    def test_other_files_code_and_version(self, premises: Premises) -> None:
        other = dataclasses.replace(premises, suite_files={}, sha256="0" * 64)
        faults, site = check_node(other)
        assert [part in fault for fault, part in zip(faults, ("times and inodes", "code in"), strict=True)]
        assert site is None
        (fault,), _ = check_node(dataclasses.replace(premises, version="0.0"))
        assert "install 0.0 there" in fault


@pytest.mark.slow
class TestTwoNodes:
    """A cluster of two nodes with one CPU each, joined by its address."""

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


@pytest.mark.slow
class TestLateMachines:
    """Machines that join when the evaluation is under way are looked at when they get their first run."""

    METHODS = """
    def adapt(self, task, ctx):
        ctx.note("pid", os.getpid())
        while ctx.seed == 0 and not Path(self.params["gate"]).exists():
            time.sleep(0.1)
    """

    class Adding(Log):
        """Adds a machine when the first run is under way on the only one."""

        def __init__(self, cluster: Any, gate: Path, **settings: Any) -> None:
            super().__init__()
            self.cluster, self.gate, self.settings = cluster, gate, settings

        def message(self, message: Message) -> None:
            super().message(message)
            notes = [message["seed"] for message in self.messages if message["kind"] == "note"]
            if notes == [0]:
                self.cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20, **self.settings)
            elif len(notes) == 3:
                self.gate.touch()

    def test_a_good_one_makes_runs(self, tiny_suite: Suite, tmp_path: Path, cluster: Any) -> None:
        cluster.remove_node(next(iter(cluster.worker_nodes)))
        config = write_submission(tmp_path / "waits", self.METHODS, params={"gate": str(tmp_path / "gate")})
        listener = self.Adding(cluster, tmp_path / "gate")
        with RayExecutor(cluster.address) as executor:
            report = evaluate(config, tiny_suite, options_for(tmp_path, seeds=(0, 1, 2)), listener, executor)
        assert report.failures == []
        made = records(tmp_path, "waits", (QA,), (0, 1, 2))
        assert len({record.site.hardware["calibration"]["matmul_gflops"] for record in made}) == 2
        assert made[1].site == made[2].site
        assert len({record.site.hardware["hw_id"] for record in made}) == 1
        assert not any(record.shared for record in made)

    def test_a_bad_one_ends_the_evaluation_with_its_fault(
        self, tiny_suite: Suite, tmp_path: Path, cluster: Any
    ) -> None:
        cluster.remove_node(next(iter(cluster.worker_nodes)))
        older = tmp_path / "older"
        older.mkdir()
        (older / "sitecustomize.py").write_text(
            'import kpi_bench._version\nkpi_bench._version.__version__ = "0.0"\n'
        )
        path = os.pathsep.join([str(older), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        config = write_submission(tmp_path / "waits", self.METHODS, params={"gate": str(tmp_path / "gate")})
        listener = self.Adding(cluster, tmp_path / "gate", env_vars={"PYTHONPATH": path})
        with (
            RayExecutor(cluster.address) as executor,
            pytest.raises(RunError, match=r"cannot make runs:\n  .*: it has kpi-bench 0\.0; install"),
        ):
            evaluate(config, tiny_suite, options_for(tmp_path), listener, executor)
        assert [message["seed"] for message in listener.messages if message["kind"] == "note"] == [0]


@pytest.mark.slow
def test_no_more_runs_at_once_than_there_are_cpus(tiny_suite: Suite, tmp_path: Path, cluster: Any) -> None:
    methods = """
    def adapt(self, task, ctx):
        here = Path(self.params["here"], str(ctx.seed))
        here.touch()
        time.sleep(1)
        ctx.note("beside", len(list(here.parent.iterdir())))
        here.unlink()
    """
    here = tmp_path / "here"
    here.mkdir()
    config = write_submission(tmp_path / "counts", methods, params={"here": str(here)})
    with RayExecutor(cluster.address) as executor:
        report = evaluate(config, tiny_suite, options_for(tmp_path, seeds=tuple(range(6))), None, executor)
    assert report.failures == []
    made = records(tmp_path, "counts", (QA,), tuple(range(6)))
    assert {record.notes["beside"] for record in made} <= {1, 2}
