"""The comparison of plans with what was measured: sums over tasks, and the table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks.plan_truth import measured_rows, row_entry, summed, table
from kpi_bench.harness.forecast.check import Check, Checked
from kpi_bench.harness.forecast.fit import Figure
from kpi_bench.harness.forecast.record import Forecast, Probe, RunForecast
from kpi_bench.harness.results import read_result, result_files, write_result

REPOSITORY = Path(__file__).parents[2]


def seconds(task: str, what: str, low: float, mid: float, high: float, actual: float) -> Checked:
    return Checked(task, what, "s", Figure(low, mid, high, None, ()), actual)


def test_tasks_are_added_up_and_of_memory_the_largest_counts() -> None:
    check = Check(
        (
            seconds("a", "adapt CPU", 1.0, 2.0, 3.0, 2.5),
            Checked("a", "peak memory", "bytes", Figure(1e8, 2e8, 3e8, None, ()), 4e8),
            seconds("b", "adapt CPU", 2.0, 3.0, 5.0, 7.5),
            seconds("b", "score CPU", 0.01, 0.02, 0.03, 0.2),
            Checked("b", "peak memory", "bytes", Figure(2e8, 5e8, 6e8, None, ()), 3e8),
        ),
        ("other hardware: a",),
    )
    adapt, memory, _ = summed(check)
    assert (adapt.figure.low, adapt.figure.mid, adapt.figure.high, adapt.actual) == (3.0, 5.0, 8.0, 10.0)
    assert (adapt.factor, adapt.within) == (2.0, False)
    assert (memory.figure.mid, memory.actual, memory.within) == (5e8, 4e8, True)
    forecast = Forecast(
        "s", None, "c" * 64, {}, "tiny", "1", "d" * 64, "cpu", {}, (0,), 60.0, (Probe(0.5, 3.0, 0.1, True),),
        (RunForecast("a", {}, None, None, "failed"),), (),
    )  # fmt: skip
    entry = row_entry(forecast, check)
    assert (entry["tasks"], entry["not_forecast"]) == (["a", "b"], {"a": "failed"})
    text = table({"s": entry})
    assert "5.00 s" in text
    assert "3.00 s to 8.00 s" in text
    # What takes less than a second is shown and not counted.
    assert "- CPU time: 0 of 1 in the range; off by a factor of 2.00 (median), 2.00 at worst" in text
    assert "- peak memory: 1 of 1 in the range" in text
    assert "- s: other hardware: a" in text


@pytest.mark.parametrize("hw_id", ["here", "elsewhere"])
def test_results_of_this_machine_and_suite_alone_count(tmp_path: Path, hw_id: str) -> None:
    (path, *_) = result_files([REPOSITORY / "leaderboard" / "results" / "wn18rr"])
    result = read_result(path)
    made = dataclasses.replace(result, hardware={**result.hardware, "hw_id": "here"})
    written = write_result(tmp_path, made)
    found = measured_rows(tmp_path, result.suite.sha256, hw_id)
    assert found == ({result.submission.name: [written]} if hw_id == "here" else {})
    assert measured_rows(tmp_path, "0" * 64, hw_id) == {}
