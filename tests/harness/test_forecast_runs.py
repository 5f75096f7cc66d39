"""Forecasts from real runs: submissions whose costs are known, on shrunken copies of a real suite."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from submission_factory import write_submission

from kpi_bench.cli import main
from kpi_bench.errors import RunError
from kpi_bench.harness.evaluate import Options, evaluate
from kpi_bench.harness.forecast.check import check_forecast
from kpi_bench.harness.forecast.fit import Figure
from kpi_bench.harness.forecast.probes import PlanOptions, first_shares, make_forecast
from kpi_bench.harness.forecast.record import read_forecast
from kpi_bench.harness.forecast.render import render_check, render_forecast
from kpi_bench.harness.supervise import Limits
from kpi_bench.suites.load import mini_folder
from kpi_bench.suites.suite import Suite, open_suite

TASK = "amazon_games_qa"

# adapt: a millisecond of CPU time and 0.1 MB for each example, logged as an epoch of ten.
COSTLY = """
def pretrain(self, graphs, ctx):
    self.burn(1e-4 * sum(graph.n_triples for graph in graphs.values()))

def save_pretrained(self, folder):
    (folder / "state").write_text("x")

def load_pretrained(self, folder):
    pass

def burn(self, seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

def adapt(self, task, ctx):
    self.table = np.ones(len(task.train) * 12500)
    for epoch in range(10):
        self.burn(1e-4 * len(task.train))
        ctx.log(epoch + 1, 0.5, "valid_accuracy")
"""


def options(**changes: Any) -> PlanOptions:
    given = {"tasks": (TASK,), "seeds": (3,), "shares": (1 / 8, 1 / 4), "limits": Limits(600.0, None)}
    return PlanOptions(**{**given, **changes})


@pytest.fixture(scope="module")
def mini() -> Suite:
    return open_suite(mini_folder(), source="kpi-mini")


@pytest.mark.slow
def test_forecast_of_known_costs_and_its_check(mini: Suite, tmp_path: Path) -> None:
    config = write_submission(tmp_path / "costly", COSTLY)
    scratch, probes = tmp_path / "scratch", []
    scratch.mkdir()
    forecast = make_forecast(config, mini, options(scratch=scratch), on_probe=probes.append)
    assert list(scratch.iterdir()) == []
    assert tuple(probes) == forecast.probes
    assert [probe.complete for probe in probes] == [True, True]
    pretraining, run = forecast.runs
    whole = len(mini.task(TASK).train)
    triples = sum(mini.graph(name).n_triples for name in mini.graph_names())
    assert run.phases["adapt"].cpu.mid == pytest.approx(1e-3 * whole, rel=0.35)
    assert run.phases["adapt"].steps_assumed == (10, 10, 10)
    assert pretraining.phases["pretrain"].cpu.low <= 1e-4 * triples <= pretraining.phases["pretrain"].cpu.high
    assert run.memory.low < 60 * 2**20 + whole * 1e5 < run.memory.high
    assert "ends at step 10; at the sizes measured: 10, 10" in render_forecast(forecast)

    settings = Options(out=tmp_path / "out", results=tmp_path / "results", seeds=(3,), tasks=(TASK,))
    evaluate(config, mini, settings)
    check = check_forecast(forecast, [tmp_path / "results"])
    assert all(doubt.startswith("other code of kpi-bench") for doubt in check.doubts)
    older = check_forecast(dataclasses.replace(forecast, git="0" * 40), [tmp_path / "results"])
    assert older.doubts == (f"other code of kpi-bench, or uncommitted changes: {TASK}",)
    found = {(entry.task, entry.what): entry for entry in check.checked}
    assert 0.6 < found[TASK, "adapt CPU"].factor < 1.6
    assert 0.4 < found[None, "pretrain CPU"].factor < 2.5
    assert 0.5 < found[TASK, "peak memory"].factor < 2.0
    assert "off by a factor of" in render_check(check)


@pytest.mark.slow
def test_a_task_that_fails_is_named_and_the_others_are_forecast(mini: Suite, tmp_path: Path) -> None:
    config = write_submission(
        tmp_path / "fussy",
        """
        def adapt(self, task, ctx):
            if task.spec.name != "amazon_games_qa":
                raise RuntimeError("too few examples for me")
        """,
    )
    forecast = make_forecast(config, mini, options(tasks=(TASK, "amazon_movie_review"), scratch=tmp_path))
    fine, fussy = forecast.runs
    assert fine.phases
    assert not fussy.phases
    assert "too few examples for me" in fussy.why
    assert any(line.startswith("amazon_movie_review: no forecast") for line in forecast.warnings)


@pytest.mark.slow
def test_a_budget_that_is_too_small_ends_it_with_a_word(mini: Suite, tmp_path: Path) -> None:
    config = write_submission(
        tmp_path / "endless",
        """
        def adapt(self, task, ctx):
            for step in range(10_000):
                ctx.log(step, 0.5)
                time.sleep(0.05)
        """,
    )
    with pytest.raises(RunError, match=r"only 0 fitted into 6 s .* raise --budget-seconds"):
        make_forecast(config, mini, options(budget_s=6.0, scratch=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["endless"]


@pytest.mark.slow
def test_the_command_writes_what_it_can_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_submission(tmp_path / "plain", params={"sleep": 0.0})
    arguments = [
        "--submission",
        "plain",
        "--suite",
        "kpi-mini",
        "--tasks",
        TASK,
        "--device",
        "cpu",
        "--seeds",
        "0",
    ]
    assert main(["plan", *arguments, "--shares", "1/8,0.25", "--param", "sleep=1.0"]) == 0
    shown = capsys.readouterr().out
    assert "plain on kpi-mini, 1 seed" in shown
    forecast = read_forecast(tmp_path / "forecast.json")
    assert forecast.params == {"sleep": 1.0}
    assert [probe.share for probe in forecast.probes] == [0.125, 0.25]
    assert main(["evaluate", *arguments]) == 0
    assert main(["plan", "--check", "runs/results", "forecast.json"]) == 0
    assert "note: other parameters (sleep): amazon_games_qa" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "kpi-mini"], "needs --submission and --suite"),
        (["--check", "nowhere", "nothing.json"], "cannot be read as JSON"),
        (["--submission", "s", "--suite", "kpi-mini", "--shares", "1/4"], "two shares or more"),
        (["--submission", "s", "--suite", "kpi-mini", "--shares", "1/4,1/8"], "smallest first"),
        (["--submission", "s", "--suite", "kpi-mini", "--shares", "1/4,2"], "between 0 and 1"),
        (["--submission", "s", "--suite", "kpi-mini", "--shares", "1/0,1/2"], "is no share"),
        (["--submission", "s", "--suite", "kpi-mini", "--shares", "nan,1/2"], "between 0 and 1"),
    ],
)
def test_wrong_commands_are_refused(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["plan", *arguments])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert said in capsys.readouterr().err
    assert list(Path.cwd().iterdir()) == []


def test_a_check_without_a_result_of_the_row_says_so(tmp_path: Path) -> None:
    from test_forecast_fit import cost, costs, forecast_of

    from kpi_bench.harness.forecast.extrapolate import forecast_runs

    forecast = forecast_of(*forecast_runs(["a"], costs(cost(0.1, 1.0), cost(0.2, 2.0))))
    assert isinstance(forecast.runs[0].memory, Figure)
    with pytest.raises(RunError, match="no result of m on tiny 1"):
        check_forecast(forecast, [tmp_path])


def test_the_first_copy_of_a_huge_suite_is_small_enough(mini: Suite) -> None:
    manifest = mini.manifest
    assert first_shares(manifest) == (1 / 16, 1 / 8, 1 / 4)
    huge = {path: dataclasses.replace(entry, rows=10_000_000) for path, entry in manifest.files.items()}
    first, second, third = first_shares(dataclasses.replace(manifest, files=huge))
    counted = sum(not path.endswith("entities.parquet") for path in huge)
    assert first * counted * 10_000_000 <= 200_000 < 2 * first * counted * 10_000_000
    assert (second, third) == (2 * first, 4 * first)
