"""Runs that differ in parameters of adapting alone share a pre-training, which cannot have read these."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from submission_factory import PRETRAINING, write_submission

from kpi_bench.harness.channel import Message
from kpi_bench.harness.config import SubmissionConfig, read_config
from kpi_bench.harness.evaluate import Options, Outcome, evaluate
from kpi_bench.harness.execute import measure_site
from kpi_bench.harness.inspection import Inspection
from kpi_bench.harness.records import RowPlace
from kpi_bench.harness.tuning.search import TuneOptions, tune
from kpi_bench.harness.tuning.space import Kind, Parameter
from kpi_bench.suites.suite import Suite

TASK = "shop_games_qa"
METHODS = (
    'adapt_only = frozenset({"width", "never declared"})\n'
    + PRETRAINING
    + """
def predict(self, task, queries, ctx):
    return Noise.predict(self, task, queries, ctx) + self.params["width"]
"""
)
CONFIGS = """
[configs.wide]
width = 2
[configs.deep]
depth = 2
[configs.wider]
width = 3
"""
SAID = Inspection(pretrains=True, data_parallel=False, adapt_only=frozenset({"width", "never declared"}))


class StoppedError(Exception):
    """Raised in place of a run."""


class Stop:
    """A listener that ends the evaluation where a child would be started."""

    def planned(self, runs: int) -> None:
        pass

    def started(self, task: str | None, seed: int) -> None:
        raise StoppedError(task)

    def message(self, message: Message) -> None:
        pass

    def finished(self, outcome: Outcome) -> None:
        pass


@pytest.fixture(autouse=True, scope="module")
def _calibrated_once() -> Iterator[None]:
    """Each evaluation would measure the machine's speed anew, for a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kpi_bench.harness.executors.local.measure_site", functools.cache(measure_site))
        yield


def written(place: Path, methods: str = METHODS) -> tuple[SubmissionConfig, Path]:
    """A submission with two configs, and the file of its calls."""
    calls = place / "calls"
    params = {"width": 1, "depth": 1, "calls": str(calls)}
    config = write_submission(place / "taught", methods, params=params, tasks=("classification",))
    with (config.folder / "submission.toml").open("a") as stream:
        stream.write(CONFIGS)
    return read_config(config.folder), calls


def options_for(place: Path, config: str | None = None) -> Options:
    return Options(
        out=place / "out",
        results=place / "results",
        seeds=(0,),
        tasks=(TASK,),
        config=config,
        inspection=SAID,
    )


def made(calls: Path) -> list[str]:
    """What has been called since the last time."""
    lines = calls.read_text().splitlines()
    calls.write_text("")
    return [line.split()[0] for line in lines]


def begins(config: SubmissionConfig, suite: Suite, options: Options) -> str | None:
    """The task of the first run that would be started, None for a pre-training."""
    with pytest.raises(StoppedError) as stopped:
        evaluate(config, suite, options, Stop())
    (task,) = stopped.value.args
    assert task is None or isinstance(task, str)
    return task


def test_pretraining_does_not_get_what_is_for_adapting_alone(tiny_suite: Suite, tmp_path: Path) -> None:
    methods = METHODS.replace('self.called(f"pretrain', 'self.params["width"]; self.called(f"pretrain')
    config, _ = written(tmp_path, methods)
    asked = dataclasses.replace(options_for(tmp_path), inspection=None)
    first, second = evaluate(config, tiny_suite, asked).outcomes
    assert "pretrain failed: KeyError: 'width'" in (first.error or "")
    assert second.blocked


def test_configs_share_it_and_no_other_row_takes_it(tiny_suite: Suite, tmp_path: Path) -> None:
    config, calls = written(tmp_path)
    (first,) = evaluate(config, tiny_suite, options_for(tmp_path)).results
    assert made(calls) == ["pretrain", "adapt"]
    report = evaluate(config, tiny_suite, options_for(tmp_path, "wide"))
    assert made(calls) == ["adapt"]
    assert [outcome.skipped for outcome in report.outcomes] == [True, False]
    (wide,) = report.results
    # What it cost counts for each row, and the parameters of both are whole.
    assert wide.timing.phases["pretrain"] == first.timing.phases["pretrain"]
    assert (wide.submission.params["width"], first.submission.params["width"]) == (2, 1)
    # Made anew with other parameters, and where it is asked for.
    assert begins(config, tiny_suite, options_for(tmp_path, "deep")) is None
    assert (
        begins(config, tiny_suite, dataclasses.replace(options_for(tmp_path, "wide"), resume=False)) is None
    )
    # The row that is to make it again lends it no longer, the other does.
    assert begins(config, tiny_suite, options_for(tmp_path, "wider")) == TASK


def test_a_forged_pretraining_is_not_lent(tiny_suite: Suite, tmp_path: Path) -> None:
    config, _ = written(tmp_path)
    evaluate(config, tiny_suite, options_for(tmp_path))
    place = RowPlace(tmp_path / "out", "tiny", "taught")
    record = place.folders.pretrained(0) / "run.json"
    sound = record.read_text()
    record.write_text(sound.replace(": ", ":  ", 1))
    assert begins(config, tiny_suite, options_for(tmp_path, "wide")) is None
    record.write_text(sound)
    assert begins(config, tiny_suite, options_for(tmp_path, "wide")) == TASK


def test_trials_share_it(tiny_suite: Suite, tmp_path: Path) -> None:
    config, calls = written(tmp_path)
    space = {"width": Parameter(Kind.INT, 1, 2**40)}
    search = tune(config, tiny_suite, space, TuneOptions(out=tmp_path / "out", trials=2, tasks=(TASK,)))
    assert [trial.why for trial in search.trials] == [None] * 2
    assert made(calls) == ["pretrain", "adapt", "adapt"]
