"""What a run cost, as the parent measures it. Seconds are compared with bounds that a busy machine keeps."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from submission_factory import write_submission

from kpi_bench.harness.clock import ProcessMeter
from kpi_bench.harness.evaluate import Options, evaluate
from kpi_bench.harness.results import Result, Size, read_result, result_path
from kpi_bench.suites.suite import Suite

METHODS = """
def adapt(self, task, ctx):
    self.calls = 0
    for step in range(3):
        time.sleep(0.15)
        ctx.log(step, 0.1 * step, "ndcg@20")
    held = np.ones(25 * 2**20)
    ctx.note("bytes_held", held.nbytes)
    ctx.note("encoder", "none")
    del held
    ctx.note("scratch_was_empty", not any(ctx.scratch.iterdir()))
    (ctx.scratch / "cache.bin").write_bytes(b"123")
    list(ctx.progress(range(3), "thinking"))

def predict(self, task, queries, ctx):
    self.calls += 1
    if self.calls > 1:
        # The second, unmasked, question serves a variant's scores: it is not on the clock.
        time.sleep(2.0)
        return super().predict(task, queries, ctx)
    burn = "import time; end = time.process_time() + 0.6\\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-S", "-c", burn], check=True)
    return super().predict(task, queries, ctx)

def parameters(self):
    return {"total": 123, "trainable": 23, "kept": 45}

def export(self, folder):
    (folder / "weights").mkdir()
    (folder / "weights" / "a.bin").write_bytes(b"x" * 1000)
    (folder / "b.bin").write_bytes(b"x" * 24)
"""


@pytest.fixture(scope="module")
def measured(tiny_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    place = tmp_path_factory.mktemp("clocks")
    options = Options(out=place / "out", results=place / "results", seeds=(0,), tasks=("shop_music",))
    report = evaluate(write_submission(place / "timed", METHODS), tiny_suite, options)
    assert report.failures == []
    return report.results[0], place


def test_sleeping_takes_wall_time_and_little_cpu_time(measured: tuple[Result, Path]) -> None:
    adapt = measured[0].timing.phases["adapt"]
    assert 0.45 <= adapt.wall_s[0] < 30
    assert 0 <= adapt.cpu_s[0] < adapt.wall_s[0]


def test_cpu_time_of_child_processes_counts(measured: tuple[Result, Path]) -> None:
    predict = measured[0].timing.phases["predict"]
    assert 0.5 <= predict.cpu_s[0] < 30
    assert predict.wall_s[0] >= 0.5


def test_what_the_harness_asks_for_its_own_ends_is_off_the_clock(measured: tuple[Result, Path]) -> None:
    timing = measured[0].timing
    assert timing.harness_s[0] >= 2.0
    assert set(timing.phases) == {"load", "adapt", "predict", "score"}
    assert timing.phases["score"].wall_s[0] > 0


def test_no_gpu_seconds_on_a_cpu(measured: tuple[Result, Path]) -> None:
    assert {phase.gpu_s for phase in measured[0].timing.phases.values()} == {None}
    assert measured[0].memory.peak_device is None


def test_peak_memory_sees_an_allocation_that_is_gone_at_the_end(measured: tuple[Result, Path]) -> None:
    result = measured[0]
    assert result.notes["bytes_held"] == (200 * 2**20,)
    assert result.memory.peak_rss[0] > 200 * 2**20


def test_curve_points_have_rising_seconds_from_the_start_of_their_phase(
    measured: tuple[Result, Path],
) -> None:
    (curve,) = measured[0].timing.curves
    assert [(p.step, p.value, p.metric, p.phase) for p in curve] == [
        (0, 0.0, "ndcg@20", "adapt"),
        (1, 0.1, "ndcg@20", "adapt"),
        (2, 0.2, "ndcg@20", "adapt"),
    ]
    seconds = [p.seconds for p in curve]
    assert seconds == sorted(seconds)
    assert seconds[0] >= 0.14
    assert seconds[2] - seconds[0] >= 0.25
    assert seconds[2] <= measured[0].timing.phases["adapt"].wall_s[0]


def test_notes_size_and_throughput(measured: tuple[Result, Path]) -> None:
    result = measured[0]
    assert result.notes["encoder"] == ("none",)
    assert result.size == Size(parameters=123, trainable=23, serving_bytes=1024, kept=45)
    rate = result.main.n_queries / result.timing.phases["predict"].wall_s[0]
    assert result.timing.queries_per_s == pytest.approx((rate,))


def test_scratch_is_empty_at_first_and_gone_at_last(measured: tuple[Result, Path]) -> None:
    result, place = measured
    assert result.notes["scratch_was_empty"] == (True,)
    run = place / "out" / "tiny" / "timed" / "runs" / "shop_music" / "seed0"
    assert (run / "job.json").is_file()
    assert list((run.parents[2] / "scratch").iterdir()) == []


def test_the_cache_is_shared_by_the_runs_of_a_row(tiny_suite: Suite, tmp_path: Path) -> None:
    methods = """
def adapt(self, task, ctx):
    kept = ctx.cache / "features.bin"
    ctx.note("found", kept.exists())
    kept.write_bytes(b"123")
"""
    options = Options(out=tmp_path / "out", results=tmp_path / "results", seeds=(0, 1), tasks=("shop_music",))
    report = evaluate(write_submission(tmp_path / "caching", methods), tiny_suite, options)
    assert report.results[0].notes["found"] == (False, True)


def test_the_result_on_disk_is_the_one_reported(measured: tuple[Result, Path]) -> None:
    result, place = measured
    assert read_result(result_path(place / "results", "tiny", "shop_music", "timed")) == result


def test_meter_counts_a_tree_and_ends_it() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', 'import time; time.sleep(60)'], check=True)"
    process = subprocess.Popen([sys.executable, "-S", "-c", script])
    try:
        meter = ProcessMeter(process.pid)
        first = meter.read()
        assert meter.sample_memory() > 0
        assert meter.read().wall > first.wall
        assert meter.read().cpu >= first.cpu >= 0
        time.sleep(0.5)
        meter.kill()
        assert process.wait(10) != 0
        assert meter.sample_memory() == 0
        assert meter.peak_rss > 0
    finally:
        process.kill()
        process.wait()
