"""Records are believed only when the harness wrote them: a submission that finds them can spoil them, not forge them."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import pytest
from submission_factory import PRETRAINING, write_submission

from kpi_bench._io import read_json, write_json
from kpi_bench._schema import encode
from kpi_bench.harness.config import read_config
from kpi_bench.harness.evaluate import Options, evaluate
from kpi_bench.harness.execute import measure_site
from kpi_bench.harness.records import (
    RECORD,
    Register,
    RunFolders,
    RunKey,
    RunRecord,
    RunSite,
    read_record,
)
from kpi_bench.suites.suite import Suite

TASK = "shop_games_qa"
# Once the row has been timed every record that can be found is made better: that of the other seed while it waits, and those of rounds.
FORGER = """
def adapt(self, task, ctx):
    for place in ctx.cache.parent.rglob("run.json"):
        record = json.loads(place.read_text())
        for lap in (*record["laps"].values(), *record["rounds"]):
            lap["wall_s"] = lap["cpu_s"] = 1e-6
        place.write_text(json.dumps(record))
    time.sleep(0.1)
"""


@pytest.fixture
def place(tmp_path: Path) -> RunFolders:
    return RunFolders(tmp_path / "out" / "suite" / "row")


def _record(error: str | None = None) -> RunRecord:
    key = RunKey("m", "0" * 64, {}, "1" * 64, "t", 0, "cpu")
    return RunRecord(key, "s", RunSite({}, {}, None), {}, (), {}, None, 1, None, 1.0, error)


def test_what_was_written_is_read_in_a_later_session(place: RunFolders, tmp_path: Path) -> None:
    path, folder = tmp_path / "out" / "records" / "row.json", place.run("t", 0)
    register = Register(path, place.root)
    assert register.read(folder) is None
    register.write(folder, _record())
    register.write(place.timing("t", 0), _record("broken"))
    for known in (register, Register(path, place.root)):
        assert known.read(folder) == _record()
        assert known.read(place.timing("t", 0)) == _record("broken")
    assert set(read_json(path)) == {"runs/t/seed0", "timing/t/seed0"}
    register.write(folder, _record("again"))
    assert Register(path, place.root).read(folder) == _record("again")


@pytest.mark.parametrize("change", ["edited", "copied", "older", "unregistered"])
def test_a_record_that_was_not_written_is_none(place: RunFolders, tmp_path: Path, change: str) -> None:
    path, folder = tmp_path / "records.json", place.run("t", 0)
    register = Register(path, place.root)
    register.write(folder, _record("first"))
    before = (folder / RECORD).read_bytes()
    register.write(folder, _record())
    register.write(place.run("t", 1), dataclasses.replace(_record(), wall_s=2.0))
    if change == "edited":
        write_json(folder / RECORD, encode(dataclasses.replace(_record(), wall_s=0.5)))
    elif change == "copied":
        (folder / RECORD).write_bytes((place.run("t", 1) / RECORD).read_bytes())
    elif change == "older":
        (folder / RECORD).write_bytes(before)
    else:
        path.unlink()
        register = Register(path, place.root)
    assert read_record(folder) is not None
    assert register.read(folder) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "NaN"])
def test_a_spoilt_register_knows_nothing(place: RunFolders, tmp_path: Path, text: str) -> None:
    path = tmp_path / "records.json"
    path.write_text(text)
    register = Register(path, place.root)
    register.write(place.run("t", 0), _record())
    assert Register(path, place.root).read(place.run("t", 0)) == _record()


def test_a_register_that_was_read_is_not_read_again(place: RunFolders, tmp_path: Path) -> None:
    path, folder = tmp_path / "records.json", place.run("t", 0)
    register = Register(path, place.root)
    register.write(folder, _record())
    path.write_text(json.dumps({"runs/t/seed0": "0" * 64}))
    assert register.read(folder) == _record()
    register.write(place.run("t", 1), _record())
    assert set(Register(path, place.root)._hashes) == {"runs/t/seed0", "runs/t/seed1"}
    assert Register(path, place.root).read(folder) == _record()


def test_forged_records_are_run_again(tiny_suite: Suite, tmp_path: Path) -> None:
    """Seed 1 changes the record of seed 0 after it was written."""
    config = write_submission(tmp_path / "forger", FORGER)
    options = Options(tmp_path / "out", tmp_path / "results", (0, 1), (TASK,))
    report = evaluate(config, tiny_suite, options)
    assert report.failures == []
    forged = read_record(tmp_path / "out" / "tiny" / "forger" / "runs" / TASK / "seed0")
    assert forged is not None
    assert forged.laps["adapt"].wall_s == 1e-6
    options = dataclasses.replace(options, seeds=(0,))
    again = evaluate(config, tiny_suite, options)
    assert [outcome.skipped for outcome in again.outcomes] == [False]
    for result in (*report.results, *again.results):
        assert min(result.timing.phases["adapt"].wall_s) >= 0.1


# Where the class is looked at, before anything is run, all that is known of a row is made better: records, and the register with them.
EARLY = """
import hashlib

row = Path.cwd().parents[1]
for path in (row.parents[1] / "records" / row.parent.name).glob("*.json") if Path.cwd().parent.name == "inspect" else ():
    known = json.loads(path.read_text())
    for name in known:
        place = row.parent / path.stem / name / "run.json"
        record = json.loads(place.read_text())
        for lap in record["laps"].values():
            lap["wall_s"] = 1e-6
        place.write_text(json.dumps(record))
        known[name] = hashlib.sha256(place.read_bytes()).hexdigest()
    path.write_text(json.dumps(known))
"""


@pytest.mark.parametrize("wide", [False, True], ids=["own", "of another config"])
def test_the_register_is_read_before_a_submission_runs(
    tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wide: bool
) -> None:
    monkeypatch.setattr("kpi_bench.harness.executors.local.measure_site", functools.cache(measure_site))
    methods = PRETRAINING.replace(
        "def pretrain(",
        "def pretrain(self, graphs, ctx):\n    time.sleep(0.1)\n    self.learn(graphs, ctx)\n\ndef learn(",
    )
    methods = 'adapt_only = frozenset({"width"})\n' + methods
    config = write_submission(tmp_path / "early", methods, params={"calls": "", "width": 1})
    module = config.folder / "early_module.py"
    module.write_text(module.read_text() + EARLY)
    with (config.folder / "submission.toml").open("a") as stream:
        stream.write("[configs.wide]\nwidth = 2\n")
    config = read_config(config.folder)
    options = Options(tmp_path / "out", tmp_path / "results", (0,), (TASK,))
    evaluate(config, tiny_suite, options)
    again = evaluate(config, tiny_suite, dataclasses.replace(options, config="wide" if wide else None))
    forged = read_record(tmp_path / "out" / "tiny" / "early" / "pretrained" / "seed0")
    assert forged is not None
    assert (forged.laps["pretrain"].wall_s == 1e-6) == wide, "its own is made again"
    assert [outcome.skipped for outcome in again.outcomes] == [False, False]
    assert again.results[0].timing.phases["pretrain"].wall_s[0] >= 0.1


@pytest.mark.slow
def test_forged_rounds_are_timed_again(tiny_suite: Suite, tmp_path: Path) -> None:
    """A run of another task finds the rounds of the first; resuming must not believe them."""
    config = write_submission(tmp_path / "forger", FORGER)
    options = Options(tmp_path / "out", tmp_path / "results", (0,), (TASK,), rounds=2)
    first = evaluate(config, tiny_suite, options)
    evaluate(config, tiny_suite, dataclasses.replace(options, tasks=("library_review",), rounds=None))
    forged = read_record(tmp_path / "out" / "tiny" / "forger" / "timing" / TASK / "seed0")
    assert forged is not None
    assert {lap.wall_s for lap in forged.rounds} == {1e-6}
    again = evaluate(config, tiny_suite, options)
    assert [outcome.skipped for outcome in again.outcomes] == [False, False]
    for report in (first, again):
        rounds = report.results[0].timing.rounds
        assert rounds is not None
        assert min(rounds.phases["adapt"].wall_s) >= 0.1


@pytest.mark.slow
def test_rounds_are_made_again_with_the_run_that_they_repeat(tiny_suite: Suite, tmp_path: Path) -> None:
    config = write_submission(tmp_path / "plain")
    options = Options(tmp_path / "out", tmp_path / "results", (0,), (TASK,), rounds=1)
    evaluate(config, tiny_suite, options)
    assert [outcome.skipped for outcome in evaluate(config, tiny_suite, options).outcomes] == [True, True]
    (tmp_path / "out" / "tiny" / "plain" / "predictions" / TASK / "seed0.parquet").unlink()
    assert [outcome.skipped for outcome in evaluate(config, tiny_suite, options).outcomes] == [False, False]
