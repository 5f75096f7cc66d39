"""Wherever a run is made, it gives the same."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from ray_runs import QA, REVIEW, Log, options_for, prediction_bytes, premises_of, records, scores
from submission_factory import PRETRAINING, write_submission

from kpi_bench.errors import KpiBenchError, RunError
from kpi_bench.harness.assemble import common_site, run_flags
from kpi_bench.harness.config import SubmissionConfig
from kpi_bench.harness.environment import usable_cores
from kpi_bench.harness.evaluate import Report, evaluate
from kpi_bench.harness.executors._session import run_environment
from kpi_bench.harness.executors.ray import RayExecutor
from kpi_bench.suites.suite import Suite

pytest.importorskip("ray")


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
