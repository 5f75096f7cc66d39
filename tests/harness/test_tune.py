"""Searches with real submissions on the tiny suite: what is found, kept, ended, continued and refused."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
from submission_factory import write_submission

from kpi_bench._io import sha256_file
from kpi_bench.cli import main
from kpi_bench.errors import RunError, SubmissionError
from kpi_bench.harness.config import SubmissionConfig, SubmissionKind
from kpi_bench.harness.evaluate import Options, evaluate
from kpi_bench.harness.execute import measure_site
from kpi_bench.harness.results import read_result, result_path
from kpi_bench.harness.tuning.record import BEST, SEARCH, Ended, Search, read_search
from kpi_bench.harness.tuning.search import TuneOptions, search_folder, tune
from kpi_bench.harness.tuning.space import Parameter, read_space
from kpi_bench.suites.suite import Suite, open_suite
from kpi_bench.suites.task import ClassificationTask

TASK = "shop_games_qa"
# Knows the labels of valid, as every submission does, and answers a share of the queries right that depends on its parameters.
DIAL = """
def adapt(self, task, ctx):
    if self.params["mode"] == "broken":
        raise ValueError("no such mode")
    self.labels = dict(zip(task.valid.examples.tolist(), task.valid.labels.tolist()))
    self.share = 1.0 - abs(self.params["dial"] - 0.3)

def predict(self, task, queries, ctx):
    scores = np.zeros((len(queries), task.n_classes))
    for row, example in enumerate(queries.examples.tolist()):
        right = row < int(self.share * len(queries))
        scores[row, (self.labels.get(example, 0) + (not right)) % task.n_classes] = 1.0
    return scores
"""
PARAMS = {"dial": 0.9, "mode": "sound", "other": 3}
SPACE = """
dial = { type = "float", low = 0.0, high = 1.0 }
mode = { type = "categorical", choices = ["sound", "broken"] }
"""


@pytest.fixture(autouse=True, scope="module")
def _calibrated_once() -> Iterator[None]:
    """Each evaluation of a trial would measure the machine's speed anew, for a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kpi_bench.harness.executors.local.measure_site", functools.cache(measure_site))
        yield


def space_for(config: SubmissionConfig, text: str = SPACE) -> dict[str, Parameter]:
    path = config.folder / "space.toml"
    path.write_text(text)
    return read_space(path, config.params)


def accuracy(dial: float, n: int) -> float:
    return int((1.0 - abs(dial - 0.3)) * n) / n


@pytest.fixture(scope="module")
def dial(tmp_path_factory: pytest.TempPathFactory) -> SubmissionConfig:
    return write_submission(
        tmp_path_factory.mktemp("dial") / "dial", DIAL, params=PARAMS, tasks=("classification",)
    )


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> TuneOptions:
    return TuneOptions(out=tmp_path_factory.mktemp("tune"), trials=6, tasks=(TASK,))


@pytest.fixture(scope="module")
def search(tiny_suite: Suite, dial: SubmissionConfig, options: TuneOptions) -> Search:
    return tune(dial, tiny_suite, space_for(dial), options)


def test_every_trial_is_kept_with_its_score_on_valid(tiny_suite: Suite, search: Search) -> None:
    task = tiny_suite.task(TASK)
    assert isinstance(task, ClassificationTask)
    assert [trial.number for trial in search.trials] == list(range(6))
    assert search.trials[0].params == {"dial": 0.9, "mode": "sound"}
    modes = {trial.params["mode"] for trial in search.trials}
    assert modes == {"sound", "broken"}
    for trial in search.trials:
        assert trial.seconds > 0
        if trial.params["mode"] == "broken":
            assert (trial.ended, trial.value, trial.values) == (Ended.FAILED, None, {})
            assert trial.why is not None
            assert "no such mode" in trial.why
        else:
            assert trial.value == pytest.approx(accuracy(trial.params["dial"], len(task.valid)))
            assert trial.values == {TASK: trial.value}
    sound = [trial for trial in search.trials if trial.ended is Ended.FINISHED]
    assert search.best == max(sound, key=lambda trial: (trial.value or 0, -trial.number)).number
    assert search.best != 0
    assert search.suite_sha256 == tiny_suite.manifest.digest


def test_what_a_search_leaves_on_disk(
    tiny_suite: Suite, search: Search, options: TuneOptions, dial: SubmissionConfig
) -> None:
    folder = search_folder(options.out, "tiny", "dial")
    assert read_search(folder / SEARCH) == search
    assert f"dial = {search.best_trial.params['dial']}" in (folder / BEST).read_text()  # type: ignore[union-attr]
    # The best trial's predictions and no others; the logs of failed runs.
    kept = [path.relative_to(folder).as_posix() for path in folder.rglob("seed*.parquet")]
    assert kept == [f"best/{TASK}/seed0.parquet"]
    failed = [trial.number for trial in search.trials if trial.ended is Ended.FAILED]
    assert sorted(path.name for path in (folder / "failed").iterdir()) == [f"trial{n}" for n in failed]
    assert "no such mode" in next((folder / "failed").rglob("run.log")).read_text()
    # No test label is anywhere below the output folder.
    hidden = {sha256_file(path) for path in tiny_suite.folder.glob("tasks/*/test.parquet")}
    assert hidden.isdisjoint(sha256_file(path) for path in options.out.rglob("*") if path.is_file())


def test_trials_need_no_test_file(
    tiny_suite: Suite, search: Search, dial: SubmissionConfig, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_suite.folder, bare)
    for path in bare.glob("tasks/*/test.parquet"):
        path.unlink()
    again = tune(
        dial,
        open_suite(bare),
        space_for(dial),
        TuneOptions(out=tmp_path / "out", trials=2, tasks=(TASK,)),
    )
    assert [(t.params, t.values) for t in again.trials] == [(t.params, t.values) for t in search.trials[:2]]


def test_nothing_is_run_again_and_more_trials_go_on(
    tiny_suite: Suite, search: Search, options: TuneOptions, dial: SubmissionConfig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(options.out, out)
    told: list[int] = []
    more = tune(
        dial,
        tiny_suite,
        space_for(dial),
        dataclasses.replace(options, out=out, trials=7),
        on_trial=lambda trial: told.append(trial.number),
    )
    assert told == [6]
    assert more.trials[:6] == search.trials


def test_another_search_in_the_same_folder_is_refused(
    tiny_suite: Suite, search: Search, options: TuneOptions, dial: SubmissionConfig, tmp_path: Path
) -> None:
    narrow = space_for(dial, SPACE.replace("high = 1.0", "high = 0.5"))
    with pytest.raises(RunError, match="space differs in dial"):
        tune(dial, tiny_suite, narrow, options)
    with pytest.raises(RunError, match="params differs in other"):
        tune(dial, tiny_suite, space_for(dial), dataclasses.replace(options, params={"other": 4}))
    moved = tmp_path / "dial"
    shutil.copytree(dial.folder, moved)
    with (moved / "dial_module.py").open("a") as stream:
        stream.write("# changed\n")
    changed = dataclasses.replace(dial, folder=moved)
    with pytest.raises(RunError, match="source_sha256 is"):
        tune(changed, tiny_suite, space_for(changed), options)
    with pytest.raises(SubmissionError, match="answers classification tasks only"):
        tune(dial, tiny_suite, space_for(dial), dataclasses.replace(options, tasks=("shop_music",)))


def test_a_tuned_result_states_the_search(
    tiny_suite: Suite, search: Search, options: TuneOptions, dial: SubmissionConfig, tmp_path: Path
) -> None:
    path = search_folder(options.out, "tiny", "dial") / SEARCH
    arguments = ["evaluate", "--submission", str(dial.folder), "--suite", str(tiny_suite.folder)]
    arguments += ["--tasks", TASK, "--seeds", "0", "--out", str(tmp_path), "--tuned", str(path)]
    assert main([*arguments, "--param", "other=4"]) == 2
    assert main(arguments) == 0
    result = read_result(result_path(tmp_path / "results", "tiny", TASK, "dial"))
    assert search.best_trial is not None
    assert result.submission.params == {**PARAMS, **search.best_trial.params}
    assert result.search is not None
    assert result.search == search.tuned("dial", None, tiny_suite.manifest.digest)[1]
    assert (result.search.trials, result.search.best) == (6, search.best)
    assert result.search.source_sha256 == result.submission.sha256
    untuned = Options(out=tmp_path / "plain", results=tmp_path / "plain", seeds=(0,), tasks=(TASK,))
    (plain,) = evaluate(dial, tiny_suite, untuned).results
    assert plain.search is None


def test_the_command(
    tiny_suite: Suite, dial: SubmissionConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space_for(dial)
    arguments = ["tune", "--submission", str(dial.folder), "--suite", str(tiny_suite.folder)]
    arguments += ["--tasks", TASK, "--space", str(dial.folder / "space.toml"), "--out", str(tmp_path)]
    assert main([*arguments, "--trials", "2", "--param", "dial=0.4"]) == 0
    said = capsys.readouterr().out
    assert "trial 0: finished 0." in said
    assert "[suites.tiny.params]" in said
    assert f"--tuned {tmp_path}/tiny/dial/search.json" in said
    assert read_search(tmp_path / "tiny" / "dial" / SEARCH).trials[0].params["dial"] == 0.4


def test_a_search_in_which_nothing_finishes(
    tiny_suite: Suite, dial: SubmissionConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space_for(dial)
    arguments = ["tune", "--submission", str(dial.folder), "--suite", str(tiny_suite.folder)]
    arguments += ["--tasks", TASK, "--space", str(dial.folder / "space.toml"), "--out", str(tmp_path)]
    assert main([*arguments, "--trials", "1", "--param", "mode=broken"]) == 1
    assert "no trial finished" in capsys.readouterr().out


def test_code_that_changes_during_a_trial_ends_the_search_not_the_trial(
    tiny_suite: Suite, tmp_path: Path
) -> None:
    methods = """
def adapt(self, task, ctx):
    with open(self.params["code"], "a") as stream:
        print("# changed", file=stream)
"""
    code = tmp_path / "edits" / "edits_module.py"
    params = {"x": 0.5, "code": str(code)}
    config = write_submission(tmp_path / "edits", methods, params=params, tasks=("classification",))
    space = space_for(config, 'x = { type = "float", low = 0.0, high = 1.0 }')
    with pytest.raises(RunError, match="the code of edits was changed during the search"):
        tune(config, tiny_suite, space, TuneOptions(out=tmp_path / "out", trials=2, tasks=(TASK,)))
    assert read_search(search_folder(tmp_path / "out", "tiny", "edits") / SEARCH).trials == ()


def test_ready_made_predictions_are_not_searched_for(
    tiny_suite: Suite, dial: SubmissionConfig, tmp_path: Path
) -> None:
    head = dataclasses.replace(dial.submission, kind=SubmissionKind.PREDICTIONS)
    ready = dataclasses.replace(dial, submission=head)
    with pytest.raises(SubmissionError, match="score it with `kpi-bench score"):
        tune(ready, tiny_suite, space_for(dial), TuneOptions(out=tmp_path, trials=1))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]


def test_optuna_is_asked_for_where_it_is_missing(
    tiny_suite: Suite, dial: SubmissionConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RunError, match=r"pip install 'kpi-bench\[tune\]'"):
        tune(dial, tiny_suite, space_for(dial), TuneOptions(out=tmp_path, trials=1))
    with pytest.raises(RunError, match="at least one"):
        tune(dial, tiny_suite, space_for(dial), TuneOptions(out=tmp_path, trials=0))


# Answers with the labels of valid: perfect where valid is asked for, train alone is masked, and other known triples are filtered.
ORACLE = """
def predict(self, task, queries, ctx):
    if isinstance(task, RecommendationTask):
        liked = np.zeros((task.n_users, task.n_items), dtype=np.float32)
        liked[task.valid.users, task.valid.items] = 1.0
        best = top_k_from_scores(liked[queries.users], queries.exclude, queries.k, queries.tie_order)
        return TopK(best.items, best.scores)
    if isinstance(task, ClassificationTask):
        labels = dict(zip(task.valid.examples.tolist(), task.valid.labels.tolist()))
        return np.array([np.eye(task.n_classes)[labels[e]] for e in queries.examples.tolist()])
    return self.rows(task, queries)

def rows(self, task, queries):
    h, r, t = task.valid.heads, task.valid.relations, task.valid.tails
    for entity, relation, direction in zip(queries.entities, queries.relations, queries.directions):
        row = np.zeros((1, task.n_entities), dtype=np.float32)
        given, asked = (t, h) if direction else (h, t)
        row[0, asked[(given == entity) & (r == relation)]] = 1.0
        yield row
"""


def test_valid_is_what_every_kind_of_task_asks_for(tiny_suite: Suite, tmp_path: Path) -> None:
    config = write_submission(tmp_path / "oracle", ORACLE, params={"unused": 0.5})
    space = space_for(config, 'unused = { type = "float", low = 0.0, high = 1.0 }')
    search = tune(config, tiny_suite, space, TuneOptions(out=tmp_path / "out", trials=1))
    assert search.trials[0].why is None
    assert search.trials[0].values == dict.fromkeys(tiny_suite.task_names(), pytest.approx(1.0))
    assert search.trials[0].value == pytest.approx(1.0)
    assert search.plan.objective.startswith("geometric mean of shop_music ndcg@20, ")


# Reports what it will reach, and hangs when that is less than the median of what the finished trials reached.
SLOW = """
def adapt(self, task, ctx):
    import statistics
    self.share = 1.0 - abs(self.params["dial"] - 0.3)
    with open(self.params["pids"], "a") as stream:
        print(os.getpid(), file=stream)
    ctx.log(1, self.share, "accuracy")
    done = Path(self.params["done"])
    reached = [float(line) for line in done.read_text().splitlines()] if done.exists() else []
    if len(reached) >= 2 and self.share < statistics.median(reached):
        time.sleep(100)
    with done.open("a") as stream:
        print(self.share, file=stream)
"""


def test_a_pruned_trial_is_killed_at_once(
    tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kpi_bench.harness.tuning.pruning.MIN_TRIALS", 2)
    pids, done = tmp_path / "pids", tmp_path / "done"
    params = {"dial": 0.3, "pids": str(pids), "done": str(done)}
    config = write_submission(tmp_path / "slow", SLOW, params=params, tasks=("classification",))
    space = space_for(config, 'dial = { type = "float", low = 0.3, high = 1.0 }')
    begun = time.perf_counter()
    search = tune(config, tiny_suite, space, TuneOptions(out=tmp_path / "out", trials=4, tasks=(TASK,)))
    assert time.perf_counter() - begun < 60
    ended = [trial.ended for trial in search.trials]
    assert ended[:2] == [Ended.FINISHED, Ended.FINISHED]
    assert Ended.PRUNED in ended
    shares = [1 - abs(trial.params["dial"] - 0.3) for trial in search.trials]
    for trial in search.trials[2:]:
        before = [shares[t.number] for t in search.trials[: trial.number] if t.ended is Ended.FINISHED]
        behind = shares[trial.number] < statistics.median(before)
        assert trial.ended is (Ended.PRUNED if behind else Ended.FINISHED)
        assert (trial.value is None, "shop_games_qa seed 0: accuracy" in (trial.why or "")) == (
            behind,
            behind,
        )
    assert len(pids.read_text().split()) == 4
    assert not any(psutil.pid_exists(int(pid)) for pid in pids.read_text().split())


# The third call waits for a file, so that the test can end the harness in the middle of a trial.
WAITING = DIAL.replace(
    "def adapt(self, task, ctx):",
    """def adapt(self, task, ctx):
    with open(self.params["calls"], "a") as stream:
        print(os.getpid(), file=stream)
    waits = len(Path(self.params["calls"]).read_text().splitlines()) == 3
    while waits and not Path(self.params["calls"] + ".go").exists():
        time.sleep(0.05)""",
)


@pytest.mark.slow
def test_a_killed_search_goes_on_as_if_nothing_had_happened(tiny_suite: Suite, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    config = write_submission(
        tmp_path / "waiting",
        WAITING,
        params={"dial": 0.9, "mode": "sound", "calls": str(calls)},
        tasks=("classification",),
    )
    space = space_for(config)
    arguments = ["--submission", str(config.folder), "--suite", str(tiny_suite.folder), "--tasks", TASK]
    arguments += ["--space", str(config.folder / "space.toml"), "--trials", "4", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "kpi_bench", "tune", *arguments, "--out", str(tmp_path / "killed")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not calls.exists() or len(calls.read_text().splitlines()) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = int(calls.read_text().splitlines()[2])
    process.send_signal(signal.SIGKILL)
    process.wait()
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    Path(f"{calls}.go").touch()
    settings = TuneOptions(out=tmp_path / "killed", trials=4, tasks=(TASK,))
    told: list[int] = []
    continued = tune(config, tiny_suite, space, settings, on_trial=lambda trial: told.append(trial.number))
    straight = tune(config, tiny_suite, space, dataclasses.replace(settings, out=tmp_path / "straight"))
    assert told == [2, 3]
    assert [dataclasses.replace(t, seconds=0, why=None) for t in continued.trials] == [
        dataclasses.replace(t, seconds=0, why=None) for t in straight.trials
    ]
    assert continued.best == straight.best


@pytest.mark.slow
def test_any_executor_runs_the_trials(tiny_suite: Suite, tmp_path: Path) -> None:
    ray = pytest.importorskip("kpi_bench.harness.executors.ray")
    pytest.importorskip("ray")
    config = write_submission(
        tmp_path / "slow",
        SLOW,
        params={"dial": 0.3, "pids": str(tmp_path / "pids"), "done": str(tmp_path / "done")},
        tasks=("classification",),
    )
    space = space_for(config, 'dial = { type = "float", low = 0.3, high = 1.0 }')
    settings = TuneOptions(out=tmp_path / "local", trials=4, tasks=(TASK,))
    # Socket paths are limited to 107 bytes.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="kb") as short:
        patch.setattr("kpi_bench.harness.tuning.pruning.MIN_TRIALS", 2)
        local = tune(config, tiny_suite, space, settings)
        (tmp_path / "done").unlink()
        with ray.RayExecutor(temp_dir=Path(short)) as executor:
            remote = tune(
                config,
                tiny_suite,
                space,
                dataclasses.replace(settings, out=tmp_path / "remote"),
                executor=executor,
            )
            pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
            assert not any(psutil.pid_exists(pid) for pid in pids)
    assert [dataclasses.replace(t, seconds=0) for t in remote.trials] == [
        dataclasses.replace(t, seconds=0) for t in local.trials
    ]
    assert Ended.PRUNED in [trial.ended for trial in remote.trials]


# Notes when it adapts, and is the slower the less it finds, so that trials end in another order than they begin.
TIMED = DIAL.replace(
    "def adapt(self, task, ctx):",
    """def adapt(self, task, ctx):
    with open(self.params["calls"], "a") as stream:
        print(os.getpid(), "begins", file=stream)
    time.sleep(8 * abs(self.params["dial"] - 0.3))
    with open(self.params["calls"], "a") as stream:
        print(os.getpid(), "ends", file=stream)""",
)


@pytest.mark.slow
def test_trials_side_by_side(tiny_suite: Suite, tmp_path: Path) -> None:
    ray = pytest.importorskip("kpi_bench.harness.executors.ray")
    pytest.importorskip("ray")
    calls = tmp_path / "calls"
    params = {"dial": 0.9, "mode": "sound", "calls": str(calls)}
    config = write_submission(tmp_path / "timed", TIMED, params=params, tasks=("classification",))
    space = space_for(config)
    settings = TuneOptions(out=tmp_path / "straight", trials=5, tasks=(TASK,), parallel=2)

    def stop(trial: object) -> None:
        raise KeyboardInterrupt

    with tempfile.TemporaryDirectory(prefix="kb") as short, ray.RayExecutor(temp_dir=Path(short)) as executor:
        straight = tune(config, tiny_suite, space, settings, executor=executor)
        said = [line.split()[1] for line in calls.read_text().splitlines()]
        interrupted = dataclasses.replace(settings, out=tmp_path / "interrupted")
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                tune(config, tiny_suite, space, interrupted, executor=executor, on_trial=stop)
            pids = {int(line.split()[0]) for line in calls.read_text().splitlines()}
            assert not any(psutil.pid_exists(pid) for pid in pids)
        continued = tune(config, tiny_suite, space, interrupted, executor=executor)
    assert any(pair == ("begins", "begins") for pair in itertools.pairwise(said))
    assert [dataclasses.replace(t, seconds=0, why=None) for t in continued.trials] == [
        dataclasses.replace(t, seconds=0, why=None) for t in straight.trials
    ]
    assert continued.best == straight.best
    # Of the best trial alone, whichever ended last.
    task = tiny_suite.task(TASK)
    assert isinstance(task, ClassificationTask)
    scores = pd.read_parquet(tmp_path / "straight" / "tiny" / "timed" / "best" / TASK / "seed0.parquet")
    labels = dict(zip(task.valid.examples.tolist(), task.valid.labels.tolist(), strict=True))
    answers = scores.set_index("example").to_numpy().argmax(axis=1)
    right = [answer == labels[example] for answer, example in zip(answers, scores["example"], strict=True)]
    assert straight.best_trial is not None
    assert straight.best_trial.value == pytest.approx(sum(right) / len(right))


def test_trials_side_by_side_are_refused_where_runs_are_made_one_by_one(
    tiny_suite: Suite, dial: SubmissionConfig, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="--parallel 2: trials are made side by side with --executor ray"):
        tune(dial, tiny_suite, space_for(dial), TuneOptions(out=tmp_path, trials=1, parallel=2))


@pytest.mark.slow
def test_of_trials_side_by_side_one_is_pruned_and_the_others_go_on(
    tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("kpi_bench.harness.executors.ray")
    pytest.importorskip("ray")
    monkeypatch.setattr("kpi_bench.harness.tuning.pruning.MIN_TRIALS", 2)
    methods = """
def adapt(self, task, ctx):
    with open(self.params["pids"], "a") as stream:
        print(os.getpid(), file=stream)
    ctx.log(1, 1.0 - abs(self.params["dial"] - 0.3), "accuracy")
    time.sleep(4)
"""
    pids = tmp_path / "pids"
    config = write_submission(
        tmp_path / "logs", methods, params={"dial": 0.3, "pids": str(pids)}, tasks=("classification",)
    )
    space = space_for(config, 'dial = { type = "float", low = 0.3, high = 1.0 }')
    settings = TuneOptions(out=tmp_path / "out", trials=6, seed=4, tasks=(TASK,), parallel=2)
    with tempfile.TemporaryDirectory(prefix="kb") as short, ray.RayExecutor(temp_dir=Path(short)) as executor:
        search = tune(config, tiny_suite, space, settings, executor=executor)
        assert not any(psutil.pid_exists(int(pid)) for pid in pids.read_text().split())
    shares = [1 - abs(trial.params["dial"] - 0.3) for trial in search.trials]
    for trial in search.trials:
        # Those it was drawn from, whatever else has ended.
        known = [t for t in search.trials[: max(0, trial.number - 1)] if t.ended is Ended.FINISHED]
        reached = [shares[t.number] for t in known]
        behind = len(known) >= 2 and shares[trial.number] < statistics.median(reached)
        assert trial.ended is (Ended.PRUNED if behind else Ended.FINISHED)
    assert Ended.PRUNED in [trial.ended for trial in search.trials]
