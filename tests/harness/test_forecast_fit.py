"""Extrapolation from a few sizes, on costs whose law is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpi_bench.harness.forecast.extrapolate import forecast_runs, limit_warnings
from kpi_bench.harness.forecast.fit import Figure, Sample, extrapolate
from kpi_bench.harness.forecast.measure import Costs, RunCost
from kpi_bench.harness.forecast.record import Forecast, Probe, RunForecast, read_forecast, write_forecast
from kpi_bench.harness.forecast.render import render_forecast
from kpi_bench.harness.supervise import Limits

Law = Callable[[float], float]

SHARES = (1 / 16, 1 / 8, 1 / 4)


def sampled(law: Law, shares: Sequence[float] = SHARES) -> list[Sample]:
    return [Sample(share, law(share)) for share in shares]


@pytest.mark.parametrize(
    "law",
    [
        lambda x: 7.0,
        lambda x: 40 * x,
        lambda x: 3 + 20 * x,
        lambda x: 60 * x * math.log(1000 * x),
        lambda x: 100 * x**2,
        lambda x: 50 * x**1.5,
    ],
    ids=["constant", "linear", "affine", "n log n", "quadratic", "x^1.5"],
)
def test_the_whole_is_in_the_range_and_the_middle_is_near(law: Law) -> None:
    figure = extrapolate(sampled(law), 0.01)
    assert figure.low <= law(1.0) <= figure.high
    assert abs(math.log(figure.mid / law(1.0))) < math.log(1.35)


def test_ranges_hold_what_they_promise_for_noisy_costs() -> None:
    """80 % ranges over laws and noise as the prior has them, within what 100 draws can tell."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        exponent, fixed, noise = rng.normal(1.0, 0.25), rng.random(), rng.choice([0.02, 0.05, 0.1])

        def law(x: float, exponent: float = exponent, fixed: float = fixed, noise: float = noise) -> float:
            return 10 * (fixed / 4 + (1 - fixed) * x**exponent) * math.exp(noise * rng.standard_normal())

        figure = extrapolate(sampled(law), 0.01)
        hits += figure.low <= law(1.0) <= figure.high
    assert 0.75 <= hits / 100 <= 0.98


def test_an_exponent_is_named_only_where_the_sizes_show_one() -> None:
    shown = extrapolate(sampled(lambda x: 100 * x**2, (1 / 32, *SHARES)), 0.001)
    assert shown.exponent is not None
    assert shown.exponent[0] <= 2.0 <= shown.exponent[1] + 0.1
    assert extrapolate(sampled(lambda x: 5.0), 0.01).exponent is None
    assert extrapolate(sampled(lambda x: 100 * x**2, SHARES[:2]), 0.01).exponent is None
    noisy = [Sample(share, value) for share, value in zip(SHARES, (1.0, 3.0, 2.2), strict=True)]
    assert extrapolate(noisy, 0.01).exponent is None


def test_times_at_the_clock_s_resolution_say_little_and_stay_small() -> None:
    figure = extrapolate(sampled(lambda x: 0.0), 0.02)
    assert 0.0 < figure.low < figure.mid < figure.high < 1.0


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0.0, 1e6), min_size=2, max_size=4),
    st.floats(1e-3, 1e3),
)
def test_ranges_are_ordered_finite_and_scale_with_the_unit(values: list[float], unit: float) -> None:
    samples = [Sample(2.0 ** (i - 5), value) for i, value in enumerate(values)]
    figure = extrapolate(samples, 0.02)
    assert 0 < figure.low <= figure.mid <= figure.high < math.inf
    scaled = extrapolate([Sample(s.share, s.value * unit) for s in samples], 0.02 * unit)
    np.testing.assert_allclose(
        [scaled.low, scaled.mid, scaled.high],
        [unit * v for v in (figure.low, figure.mid, figure.high)],
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [Sample(0.1, 1.0)],
        [Sample(0.1, 1.0), Sample(0.1, 2.0)],
        [Sample(0.0, 1.0), Sample(0.1, 2.0)],
        [Sample(0.1, -1.0), Sample(0.2, 2.0)],
        [Sample(0.1, math.nan), Sample(0.2, 2.0)],
    ],
)
def test_what_is_no_pair_of_sizes_is_refused(samples: list[Sample]) -> None:
    with pytest.raises(ValueError, match="two sizes"):
        extrapolate(samples, 0.01)


# ---------------------------------------------------------------------------------------------------------------- runs


def cost(
    share: float,
    adapt: float,
    *,
    steps: int | None = None,
    wall: float | None = None,
    memory: int = 500 * 2**20,
) -> RunCost:
    curves = {} if steps is None else {"adapt": ("valid_ndcg@20", steps)}
    return RunCost(share, {"adapt": (adapt if wall is None else wall, adapt)}, memory, None, curves)


def costs(*runs: RunCost) -> list[Costs]:
    return [Costs({"a": run}, {}, True) for run in runs]


def test_early_stopping_is_no_growth() -> None:
    """20 seconds a step at the whole, and runs that stop after 10, 40 and 20 steps."""
    (run,) = forecast_runs(
        ["a"],
        costs(*(cost(x, 20 * x * steps, steps=steps) for x, steps in zip(SHARES, (10, 40, 20), strict=True))),
    )
    phase = run.phases["adapt"]
    assert phase.steps == (10, 40, 20)
    assert phase.steps_assumed == (10, 20, 40)
    assert phase.cpu is not None
    assert phase.cpu.mid == pytest.approx(400, rel=0.1)
    assert phase.cpu.low < 200 < 800 < phase.cpu.high


def test_another_task_s_curve_tells_how_long_one_can_be() -> None:
    measured = [Costs({"a": cost(x, x, steps=8), "b": cost(x, x, steps=40)}, {}, True) for x in SHARES]
    first, second = forecast_runs(["a", "b"], measured)
    assert first.phases["adapt"].steps_assumed == (8, 8, 40)
    assert second.phases["adapt"].steps_assumed == (40, 40, 40)


def test_steps_that_count_batches_are_growth() -> None:
    (run,) = forecast_runs(["a"], costs(*(cost(x, 30 * x, steps=round(1600 * x)) for x in SHARES)))
    assert run.phases["adapt"].steps_assumed is None
    assert run.phases["adapt"].cpu.mid == pytest.approx(30, rel=0.1)
    assert "the steps follow the size" in render_forecast(forecast_of(run))


def test_other_work_on_the_machine_is_no_growth() -> None:
    walls = (2.0, 5.0, 40.0)
    (run,) = forecast_runs(
        ["a"], costs(*(cost(x, 32 * x, wall=w) for x, w in zip(SHARES, walls, strict=True)))
    )
    phase = run.phases["adapt"]
    assert phase.cpu.mid == pytest.approx(32, rel=0.1)
    assert phase.wall.mid == pytest.approx(1.25 * phase.cpu.mid)
    assert phase.wall.high == pytest.approx(5.0 * phase.cpu.high)
    assert [sample.value for sample in phase.wall.samples] == list(walls)


def test_a_run_measured_once_is_not_forecast() -> None:
    measured = [Costs({"a": cost(1 / 16, 1.0)}, {}, True), Costs({}, {"a": "it broke"}, True)]
    (run,) = forecast_runs(["a"], measured)
    assert (run.phases, run.why) == ({}, "it broke")
    assert forecast_runs(["b"], measured)[0].why == "0 size(s) measured, of two needed"


def forecast_of(*runs: RunForecast, warnings: tuple[str, ...] = ()) -> Forecast:
    return Forecast(
        submission="m", config=None, source_sha256="0", params={}, suite="tiny", suite_version="1", suite_sha256="1",
        device="cpu", hardware={"hw_id": "h", "cores": 2, "gpu": {"memory_gib": 1}}, seeds=(0, 1, 2), budget_s=300.0,
        probes=(Probe(1 / 8, 3.0, 0.5, True), Probe(1 / 4, 4.0, 0.5, False)), runs=runs, warnings=warnings,
    )  # fmt: skip


def test_warnings_say_how_sure_they_are() -> None:
    gib = 2**30
    runs = forecast_runs(["a"], costs(*(cost(x, 100 * x, memory=round(16 * gib * x)) for x in SHARES)))
    forecast = forecast_of(*runs)
    assert limit_warnings(forecast, Limits(1000.0, 64 * gib), 64 * gib) == ()
    found = limit_warnings(forecast, Limits(20.0, 8 * gib), 64 * gib)
    assert [line.split(":")[1].split(" --")[0] for line in found] == [" wall time exceeds", " memory exceeds"]
    (line,) = limit_warnings(forecast, Limits(None, None), 18 * gib)
    assert "may exceed this machine's memory" in line
    (line,) = limit_warnings(forecast, Limits(None, None), 16 * gib)
    assert "is expected to exceed" in line


def test_a_forecast_is_read_as_it_was_written(tmp_path: Path) -> None:
    runs = forecast_runs(["a"], costs(*(cost(x, 30 * x, steps=20) for x in SHARES)))
    forecast = forecast_of(*runs, warnings=("a: careful",))
    write_forecast(tmp_path / "f.json", forecast)
    assert read_forecast(tmp_path / "f.json") == forecast
    text = render_forecast(forecast)
    assert "warning: a: careful" in text
    assert "not to its end" in text
    low, mid, high = forecast.seconds()
    figure = forecast.runs[0].phases["adapt"].wall
    assert (low, mid, high) == pytest.approx((3 * figure.low, 3 * figure.mid, 3 * figure.high))
    assert isinstance(figure, Figure)
