"""What a run hands back is on its record: changed by another run or from outside it counts for nothing."""

from __future__ import annotations

import dataclasses
import functools
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from submission_factory import write_submission

from kpi_bench._io import sha256_file
from kpi_bench.errors import SubmissionError
from kpi_bench.harness.config import SubmissionConfig, read_config
from kpi_bench.harness.evaluate import Options, Report, evaluate
from kpi_bench.harness.execute import measure_site
from kpi_bench.harness.inspection import Inspection
from kpi_bench.harness.records import RowPlace, RunFolders, read_record
from kpi_bench.suites.suite import Suite

TASK = "shop_games_qa"
PLAIN = Inspection(pretrains=False, data_parallel=False, adapt_only=frozenset())
TAUGHT = Inspection(pretrains=True, data_parallel=False, adapt_only=frozenset({"width"}))
# Beside its state it keeps a table made from a parameter that is for adapting alone.
LAZY = """
adapt_only = frozenset({"width"})

def pretrain(self, graphs, ctx):
    pass

def save_pretrained(self, folder):
    (folder / "state.json").write_text("{}")

def load_pretrained(self, folder):
    self.folder = folder

def adapt(self, task, ctx):
    table = self.folder / "table.npy"
    if self.params["keeps"] and not table.is_file():
        np.save(table, np.full(1, self.params["width"]))
"""
# Seed 1 turns over what seed 0 has predicted.
MEDDLER = """
def adapt(self, task, ctx):
    if ctx.seed == 1:
        import pandas as pd
        place = ctx.cache.parent / "predictions" / task.spec.name / "seed0.parquet"
        frame = pd.read_parquet(place)
        frame.iloc[:, 1:] = 1.0 - frame.iloc[:, 1:].to_numpy()
        frame.to_parquet(place)
"""


@pytest.fixture(autouse=True, scope="module")
def _calibrated_once() -> Iterator[None]:
    """Each evaluation would measure the machine's speed anew, for a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kpi_bench.harness.executors.local.measure_site", functools.cache(measure_site))
        yield


def _options(place: Path, inspection: Inspection, seeds: tuple[int, ...] = (0,)) -> Options:
    return Options(place / "out", place / "results", seeds, (TASK,), inspection=inspection)


def _ends(report: Report) -> list[tuple[str | None, int, bool, bool]]:
    return [(o.task, o.seed, o.skipped, o.error is None) for o in report.outcomes]


def _lazy(place: Path, *, keeps: bool) -> SubmissionConfig:
    params = {"width": 1, "keeps": keeps}
    config = write_submission(place / "lazy", LAZY, params=params, tasks=("classification",))
    with (config.folder / "submission.toml").open("a") as stream:
        stream.write("[configs.wide]\nwidth = 2\n")
    return read_config(config.folder)


def test_a_run_that_changes_the_state_fails_and_nobody_starts_from_it(
    tiny_suite: Suite, tmp_path: Path
) -> None:
    config = _lazy(tmp_path, keeps=True)
    options = dataclasses.replace(_options(tmp_path, TAUGHT), tasks=(TASK, "library_review"))
    pretraining, first, second = evaluate(config, tiny_suite, options).outcomes
    state = RunFolders(tmp_path.resolve() / "out" / "tiny" / "lazy").state(0)
    assert pretraining.error is None
    assert f"it changed the pre-trained state ({state})" in str(first.error)
    assert second.error == f"not run: {state} was changed before"
    wide = dataclasses.replace(_options(tmp_path, TAUGHT), config="wide")
    assert [o.skipped for o in evaluate(config, tiny_suite, wide).outcomes] == [False, False]


def test_a_state_that_was_changed_is_neither_kept_nor_lent_nor_reused(
    tiny_suite: Suite, tmp_path: Path
) -> None:
    config, options = _lazy(tmp_path, keeps=False), _options(tmp_path, TAUGHT)
    assert _ends(evaluate(config, tiny_suite, options)) == [(None, 0, False, True), (TASK, 0, False, True)]
    folders = RunFolders(tmp_path / "out" / "tiny" / "lazy")
    record = read_record(folders.pretrained(0))
    assert record is not None
    assert record.outputs == {"state.json": sha256_file(folders.state(0) / "state.json")}
    (folders.state(0) / "state.json").write_text("{} ")
    reusing = dataclasses.replace(options, out=tmp_path / "b", reuse_pretrained=folders.root / "pretrained")
    with pytest.raises(SubmissionError, match="the state of seed 0 is not the one that was saved"):
        evaluate(config, tiny_suite, reusing)
    wide = evaluate(config, tiny_suite, dataclasses.replace(options, config="wide"))
    assert _ends(wide) == [(None, 0, False, True), (TASK, 0, False, True)]
    # Now the other config has it, and it is a function of the same parameters.
    assert _ends(evaluate(config, tiny_suite, options)) == [(None, 0, True, True), (TASK, 0, False, True)]


def test_predictions_that_another_run_has_changed_are_made_again(tiny_suite: Suite, tmp_path: Path) -> None:
    config = write_submission(tmp_path / "meddler", MEDDLER, tasks=("classification",))
    options = _options(tmp_path, PLAIN, (0, 1))
    first = evaluate(config, tiny_suite, options)
    found = tmp_path / "out" / "tiny" / "meddler" / "predictions" / TASK / "seed0.parquet"
    assert first.results[0].predictions.sha256["seed0.parquet"] != sha256_file(found)
    again = evaluate(config, tiny_suite, dataclasses.replace(options, seeds=(0,)))
    assert _ends(again) == [(TASK, 0, False, True)]
    assert again.results[0].predictions.sha256["seed0.parquet"] == sha256_file(found)
    assert again.results[0].main.per_seed == first.results[0].main.per_seed[:1]


def test_runs_that_are_not_on_record_are_told_of_once(
    tiny_suite: Suite, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, options = _lazy(tmp_path, keeps=False), _options(tmp_path, TAUGHT)
    evaluate(config, tiny_suite, options)
    place = RowPlace(tmp_path / "out", "tiny", "lazy")
    copied = tmp_path / "copied"
    shutil.copytree(options.out, copied)
    with caplog.at_level(logging.WARNING, "kpi_bench"):
        report = evaluate(config, tiny_suite, dataclasses.replace(options, out=copied))
        assert [outcome.skipped for outcome in report.outcomes] == [True, True]
        assert caplog.messages == []
        shutil.rmtree(copied / "records")
        report = evaluate(config, tiny_suite, dataclasses.replace(options, out=copied))
    assert [outcome.skipped for outcome in report.outcomes] == [False, False]
    assert caplog.messages == [
        "lazy on tiny: 2 finished runs are not on record and are made again (docs/timing.md)"
    ]
    assert (tmp_path / "out" / "records" / "tiny" / "lazy.json").is_file()
    assert place.register().read(place.folders.pretrained(0)) is not None
