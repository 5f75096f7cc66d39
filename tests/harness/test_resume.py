"""What is done is not done again, and nothing stale is taken for it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from submission_factory import PRETRAINING, write_submission
from suite_factory import tiny_suite_frames

from kpi_bench._io import write_json
from kpi_bench._schema import encode
from kpi_bench.errors import RunError, SubmissionError
from kpi_bench.harness.channel import Message
from kpi_bench.harness.config import SubmissionConfig, read_config
from kpi_bench.harness.evaluate import Options, Outcome, evaluate, only_user_of
from kpi_bench.harness.records import RECORD, read_record
from kpi_bench.harness.results import read_result, result_path
from kpi_bench.harness.tally import Tally
from kpi_bench.suites.suite import Suite, open_suite
from kpi_bench.suites.writer import write_suite

TASK = "shop_games_qa"


class WouldRunError(Exception):
    """Raised in place of a run."""


class Halt:
    """A listener that stops the evaluation where a child would be started."""

    def planned(self, runs: int) -> None:
        pass

    def started(self, task: str | None, seed: int) -> None:
        raise WouldRunError(f"{task} {seed}")

    def message(self, message: Message) -> None:
        pass

    def finished(self, outcome: Outcome) -> None:
        pass


def would_run(config: SubmissionConfig, suite: Suite, options: Options) -> str | None:
    """The first run that the evaluation would start, None when there is nothing left to do."""
    try:
        evaluate(config, suite, options, Halt())
    except WouldRunError as first:
        return str(first)
    return None


def options_for(place: Path) -> Options:
    return Options(out=place / "out", results=place / "results", seeds=(0,), tasks=(TASK,))


@pytest.fixture(scope="module")
def plain(tiny_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> tuple[SubmissionConfig, Options]:
    """A submission without pre-training, evaluated once."""
    place = tmp_path_factory.mktemp("plain")
    config = write_submission(place / "plain", params={"width": 1})
    assert evaluate(config, tiny_suite, options_for(place)).failures == []
    return config, options_for(place)


@pytest.fixture(scope="module")
def pretrained(
    tiny_suite: Suite, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SubmissionConfig, Options]:
    """A submission with pre-training, evaluated once."""
    place = tmp_path_factory.mktemp("pretrained")
    config = write_submission(place / "taught", PRETRAINING, params={"calls": ""})
    report = evaluate(config, tiny_suite, options_for(place))
    assert report.failures == []
    assert "pretrain" in report.results[0].timing.phases
    return config, options_for(place)


def test_nothing_is_left_to_do(tiny_suite: Suite, plain: tuple[SubmissionConfig, Options]) -> None:
    config, options = plain
    report = evaluate(config, tiny_suite, options, Halt())
    assert [(o.task, o.seed, o.skipped, o.error) for o in report.outcomes] == [(TASK, 0, True, None)]
    assert report.results[0].flags == ("single_seed",)


@pytest.mark.parametrize(
    "change",
    [{"params": {"width": 2}}, {"seeds": (1,)}, {"resume": False}, {"tasks": ("library_review",)}],
    ids=["params", "seed", "no-resume", "task"],
)
def test_a_change_of_what_is_asked_is_a_new_run(
    tiny_suite: Suite, plain: tuple[SubmissionConfig, Options], change: dict[str, object]
) -> None:
    config, options = plain
    assert would_run(config, tiny_suite, dataclasses.replace(options, **change)) is not None  # type: ignore[arg-type]


def test_a_changed_line_of_code_is_a_new_run(
    tiny_suite: Suite, plain: tuple[SubmissionConfig, Options]
) -> None:
    config, options = plain
    module = config.folder / "plain_module.py"
    before = module.read_text()
    try:
        module.write_text(before + "# changed\n")
        assert would_run(config, tiny_suite, options) == f"{TASK} 0"
    finally:
        module.write_text(before)
    assert would_run(config, tiny_suite, options) is None


def test_an_interruption_while_a_run_is_scored_costs_no_run(
    tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    config = write_submission(tmp_path / "scored", tasks=("classification",))
    options = Options(
        out=tmp_path, results=tmp_path / "results", tasks=("shop_games_qa",), seeds=(0,), device="cpu"
    )
    with monkeypatch.context() as patched:
        patched.setattr(Tally, "score", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate(config, tiny_suite, options)
    report = evaluate(config, tiny_suite, options)
    assert [(outcome.skipped, outcome.error) for outcome in report.outcomes] == [(True, None)]
    assert len(report.results) == 1


def test_lost_predictions_are_made_again(
    tiny_suite: Suite, plain: tuple[SubmissionConfig, Options], tmp_path: Path
) -> None:
    config, options = plain
    out = tmp_path / "out"
    shutil.copytree(options.out, out)
    assert would_run(config, tiny_suite, dataclasses.replace(options, out=out)) is None
    (out / "tiny" / "plain" / "predictions" / TASK / "seed0.parquet").unlink()
    assert would_run(config, tiny_suite, dataclasses.replace(options, out=out)) == f"{TASK} 0"


def test_a_record_of_another_version_is_no_record(
    tiny_suite: Suite, plain: tuple[SubmissionConfig, Options], tmp_path: Path
) -> None:
    config, options = plain
    out = tmp_path / "out"
    shutil.copytree(options.out, out)
    record = out / "tiny" / "plain" / "runs" / TASK / "seed0" / "run.json"
    for text in ('{"key": 1}', "{", ""):
        record.write_text(text)
        assert would_run(config, tiny_suite, dataclasses.replace(options, out=out)) == f"{TASK} 0"


def test_a_failed_run_is_tried_again(tiny_suite: Suite, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    methods = """
    def adapt(self, task, ctx):
        if not Path(self.params["gate"]).exists():
            raise FileNotFoundError("no gate")
    """
    config = write_submission(tmp_path / "tried", methods, params={"gate": str(gate)})
    first = evaluate(config, tiny_suite, options_for(tmp_path))
    assert len(first.failures) == 1
    assert first.results == ()
    gate.touch()
    second = evaluate(config, tiny_suite, options_for(tmp_path))
    assert second.failures == []
    assert len(second.results) == 1


def test_reused_pretraining_is_not_repeated(
    tiny_suite: Suite, pretrained: tuple[SubmissionConfig, Options], tmp_path: Path
) -> None:
    config, options = pretrained
    calls = tmp_path / "calls"
    again = dataclasses.replace(
        options_for(tmp_path),
        reuse_pretrained=options.out / "tiny" / "taught" / "pretrained",
        params={"calls": str(calls)},
    )
    report = evaluate(config, tiny_suite, again)
    assert [(o.task, o.skipped, o.error) for o in report.outcomes] == [
        (None, True, None),
        (TASK, False, None),
    ]
    assert calls.read_text().splitlines() == [f"adapt {TASK} 0"]
    (result,) = report.results
    original = read_result(result_path(options.results, "tiny", TASK, "taught"))
    assert set(result.flags) == {"reused_pretrained", "single_seed"}
    assert result.timing.phases["pretrain"] == original.timing.phases["pretrain"]


def test_other_pretraining_makes_earlier_runs_stale(
    tiny_suite: Suite, pretrained: tuple[SubmissionConfig, Options], tmp_path: Path
) -> None:
    config, options = pretrained
    other = tmp_path / "pretrained"
    shutil.copytree(options.out / "tiny" / "taught" / "pretrained", other)
    record = read_record(other / "seed0")
    assert record is not None
    write_json(other / "seed0" / RECORD, encode(dataclasses.replace(record, session="another")))
    out = tmp_path / "out"
    shutil.copytree(options.out, out)
    options = dataclasses.replace(options, out=out)
    assert would_run(config, tiny_suite, options) is None
    assert would_run(config, tiny_suite, dataclasses.replace(options, reuse_pretrained=other)) == f"{TASK} 0"


def test_reuse_refuses_a_missing_seed_and_another_suite(
    tiny_suite: Suite, pretrained: tuple[SubmissionConfig, Options], tmp_path: Path
) -> None:
    config, options = pretrained
    source = options.out / "tiny" / "taught" / "pretrained"
    with pytest.raises(SubmissionError, match="no finished pre-training of seed 3"):
        evaluate(
            config,
            tiny_suite,
            dataclasses.replace(options_for(tmp_path), seeds=(3,), reuse_pretrained=source),
            Halt(),
        )
    write_suite(tmp_path / "suite", tiny_suite_frames(seed=1))
    other = open_suite(tmp_path / "suite")
    with pytest.raises(SubmissionError, match="another suite"):
        evaluate(config, other, dataclasses.replace(options_for(tmp_path), reuse_pretrained=source), Halt())


def test_a_killed_evaluation_continues_where_it_was(tiny_suite: Suite, tmp_path: Path) -> None:
    calls, gate, pid = tmp_path / "calls", tmp_path / "gate", tmp_path / "pid"
    methods = f"""
    def wait(self, task):
        if task.spec.name == "library_review" and not Path({str(gate)!r}).exists():
            Path({str(pid)!r}).write_text(str(os.getpid()))
            time.sleep(300)

    def predict(self, task, queries, ctx):
        self.wait(task)
        return super().predict(task, queries, ctx)
    """
    write_submission(
        tmp_path / "killed", PRETRAINING + "\n" + textwrap.dedent(methods), params={"calls": str(calls)}
    )
    command = [
        *(sys.executable, "-m", "kpi_bench", "evaluate", "--submission", str(tmp_path / "killed")),
        *("--suite", str(tiny_suite.folder), "--tasks", f"{TASK},library_review", "--seeds", "0"),
        *("--out", str(tmp_path / "out"), "--device", "cpu"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not pid.is_file() or not pid.read_text():
            assert process.poll() is None, "the evaluation ended too early"
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert (tmp_path / "out" / "tiny" / "killed" / "runs" / TASK / "seed0" / "run.json").is_file()
    assert _ended(int(pid.read_text())), "the run went on without the harness"
    gate.touch()
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 runs done, 2 of them kept from earlier" in done.stdout
    assert calls.read_text().splitlines() == [
        "pretrain 0",
        f"adapt {TASK} 0",
        "adapt library_review 0",
        "adapt library_review 0",
    ]
    results = {
        name: read_result(result_path(tmp_path / "out" / "results", "tiny", name, "killed"))
        for name in (TASK, "library_review")
    }
    assert results[TASK].flags == ("single_seed",)
    assert results["library_review"].flags == ("resumed", "single_seed")
    assert read_config(tmp_path / "killed").name == results[TASK].submission.name


def _ended(pid: int) -> bool:
    for _ in range(50):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def test_an_output_folder_serves_one_evaluation_at_a_time(tmp_path: Path) -> None:
    with only_user_of(tmp_path / "out"):
        with pytest.raises(RunError, match="another evaluation is using"), only_user_of(tmp_path / "out"):
            pass
        with only_user_of(tmp_path / "elsewhere"):
            pass
    with only_user_of(tmp_path / "out"):
        pass
