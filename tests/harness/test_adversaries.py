"""Submissions that go wrong, or try to look where they should not: each costs its own run and no other."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from submission_factory import write_submission

from kpi_bench.harness.evaluate import Options, Outcome, Report, evaluate
from kpi_bench.harness.records import RunFolders, RunRecord, read_record
from kpi_bench.harness.report import render_report
from kpi_bench.harness.supervise import Limits
from kpi_bench.suites.suite import Suite
from kpi_bench.suites.task import ClassificationTask, LinkPredictionTask, RecommendationTask

TASK = "shop_music"
LIMIT = 1000 * 2**20
SECRETS = {
    "HF_TOKEN": "hf_secret_of_the_tests",
    "HUGGING_FACE_HUB_TOKEN": "hf_secret_of_the_tests",
    "AWS_SECRET_ACCESS_KEY": "aws_secret_of_the_tests",
    "GITHUB_TOKEN": "ghp_secret_of_the_tests",
}

# One seed each, in this order. What every method does is in METHODS.
FAULTS = (
    "good", "raises", "raises_in_predict", "exits", "is_killed", "segfaults", "dies_beside_a_fork", "leaks", "nan",
    "masked", "diverges", "pretends_to_be_done", "leaves_a_process", "writes", "short", "spies", "prints", "good",
)  # fmt: skip
METHODS = """
def fault(self, ctx):
    return self.params["faults"][ctx.seed]

def adapt(self, task, ctx):
    fault = self.fault(ctx)
    if fault == "raises":
        raise ZeroDivisionError("the loss is gone")
    if fault == "exits":
        os._exit(3)
    if fault == "is_killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "segfaults":
        ctypes.string_at(0)
    if fault == "dies_beside_a_fork":
        if os.fork() == 0:
            time.sleep(120)
        os._exit(4)
    if fault == "leaks":
        kept = []
        while len(kept) < 100:
            kept.append(np.ones(2**21))
            time.sleep(0.01)
    if fault == "diverges":
        ctx.log(7, float("nan"))
    if fault == "pretends_to_be_done":
        ctx.report("done")
    if fault == "leaves_a_process":
        for own_session in (False, True):
            left = subprocess.Popen(["sleep", "300"], start_new_session=own_session)
            ctx.note(f"left_{own_session}", left.pid)
        time.sleep(0.3)
    if fault == "prints":
        for _ in range(20_000):
            print("x" * 500)
    if fault == "writes":
        train = self.job(ctx)["suite"] + "/tasks/shop_music/train.parquet"
        Path(train).write_bytes(b"gone")
    if fault == "spies":
        self.spy(ctx)

def job(self, ctx):
    return json.loads(Path(sys.argv[1]).read_text())

def spy(self, ctx):
    from huggingface_hub import constants, get_token
    loot = Path(self.params["loot"])
    loot.mkdir()
    folders = [Path(value) for value in os.environ.values() if os.path.isdir(value)]
    shutil.copytree(self.job(ctx)["suite"], loot / "suite")
    (loot / "job.json").write_text(json.dumps(self.job(ctx)))
    (loot / "environ.json").write_text(json.dumps(dict(os.environ)))
    ctx.note("token", str(get_token()))
    ctx.note("token_files", ",".join(str(f / "token") for f in folders if (f / "token").exists()))
    ctx.note("offline", constants.HF_HUB_OFFLINE)
    ctx.note("argv", " ".join(sys.argv))

def predict(self, task, queries, ctx):
    fault = self.fault(ctx)
    if fault == "raises_in_predict":
        raise KeyError("no such user")
    best = super().predict(task, queries, ctx)
    items, scores = best.items.copy(), best.scores.copy()
    if fault == "nan":
        scores[3, 2] = np.nan
    if fault == "masked":
        row = int(np.argmax(queries.exclude.lengths() > 0))
        items[row, 0] = queries.exclude.row(row)[0]
    if fault == "short":
        items[:5] = -1
        items[5:, 3:] = -1
    return TopK(items, scores)
"""


@dataclass(frozen=True)
class Aftermath:
    """What the one evaluation of all faults left."""

    report: Report
    folders: RunFolders
    suite: Suite
    loot: Path
    original: dict[str, str]

    def outcome(self, fault: str) -> Outcome:
        return self.report.outcomes[FAULTS.index(fault)]

    def error(self, fault: str) -> str:
        return self.outcome(fault).error or ""

    def record(self, fault: str) -> RunRecord:
        record = read_record(self.folders.run(TASK, FAULTS.index(fault)))
        assert record is not None
        return record


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def aftermath(tiny_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Aftermath:
    place = tmp_path_factory.mktemp("adversaries")
    hub = place / "hub"
    hub.mkdir()
    (hub / "token").write_text(SECRETS["HF_TOKEN"])
    config = write_submission(
        place / "adversary", METHODS, params={"faults": list(FAULTS), "loot": str(place / "loot")}
    )
    options = Options(
        out=place / "out",
        results=place / "results",
        seeds=tuple(range(len(FAULTS))),
        tasks=(TASK,),
        limits=Limits(60.0, LIMIT),
    )
    before = hashes(tiny_suite.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(hub))
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        report = evaluate(config, tiny_suite, options)
    return Aftermath(
        report, RunFolders(place / "out" / "tiny" / "adversary"), tiny_suite, place / "loot", before
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            "raises",
            ("adapt failed", "ZeroDivisionError: the loss is gone", "adversary_module.py", "in adapt"),
        ),
        ("raises_in_predict", ("predict failed", "KeyError", "no such user", "in predict")),
        ("exits", ("adapt ended the process with exit code 3",)),
        ("is_killed", ("adapt crashed", "SIGKILL")),
        ("segfaults", ("adapt crashed", "SIGSEGV")),
        ("dies_beside_a_fork", ("adapt ended the process with exit code 4",)),
        ("leaks", ("memory limit", "adapt held", "the limit is 1,000 MB")),
        ("nan", ("cannot be scored", "NaN", "1 row(s)")),
        ("masked", ("cannot be scored", "item is excluded for the user", "1 row(s)", "rank 1")),
        ("diverges", ("adapt failed", "step 7 is nan")),
        ("pretends_to_be_done", ("adapt failed", "curve, note, progress only, not 'done'")),
        ("writes", ("changed its copy of the suite",)),
    ],
)
def test_a_fault_ends_in_a_clear_error_of_its_own_run(
    aftermath: Aftermath, fault: str, words: tuple[str, ...]
) -> None:
    error = aftermath.error(fault)
    assert [word for word in words if word not in error] == [], error
    assert aftermath.record(fault).error == error


def test_the_other_runs_go_on(aftermath: Aftermath) -> None:
    done = [FAULTS[o.seed] for o in aftermath.report.outcomes if o.error is None]
    assert done == ["good", "leaves_a_process", "short", "spies", "prints", "good"]
    assert [o.seed for o in aftermath.report.outcomes] == list(range(len(FAULTS)))
    assert {FAULTS[o.seed] for o in aftermath.report.failures} == set(FAULTS) - set(done)


def test_no_result_is_made_of_a_part_of_the_seeds(aftermath: Aftermath) -> None:
    assert aftermath.report.results == ()


def test_the_table_at_the_end_names_every_failure(aftermath: Aftermath, tmp_path: Path) -> None:
    text = render_report(aftermath.report, tmp_path)
    assert f"{len(aftermath.report.failures)} of {len(FAULTS)} runs failed" in text
    segfault = FAULTS.index("segfaults")
    assert f"shop_music seed {segfault}: adapt crashed: the process was ended by SIGSEGV" in text
    assert f"{len(FAULTS) - len(aftermath.report.failures)} of {len(FAULTS)} runs done" in text


def test_a_dead_child_is_noticed_at_once_even_if_a_fork_holds_the_line(aftermath: Aftermath) -> None:
    assert aftermath.outcome("dies_beside_a_fork").seconds < 30


def test_processes_left_behind_are_ended(aftermath: Aftermath) -> None:
    notes = aftermath.record("leaves_a_process").notes
    assert set(notes) == {"left_False", "left_True"}
    assert wait_until_gone([int(pid) for pid in notes.values()])


def wait_until_gone(pids: list[int]) -> bool:
    """True when none of the processes runs any more (a zombie without a parent that reaps it is gone, too)."""
    for _ in range(50):
        if not any(runs(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_suite_stays_as_it_was_and_its_damaged_copy_is_made_anew(aftermath: Aftermath) -> None:
    assert hashes(aftermath.suite.folder) == aftermath.original
    copy = aftermath.folders.root.parents[1] / "withheld"
    train = next(copy.glob(f"*/tasks/{TASK}/train.parquet"))
    assert train.read_bytes() == (aftermath.suite.folder / "tasks" / TASK / "train.parquet").read_bytes()


def test_what_a_submission_prints_goes_to_its_log(aftermath: Aftermath) -> None:
    log = aftermath.folders.run(TASK, FAULTS.index("prints")) / "run.log"
    assert log.stat().st_size == 20_000 * 501


def test_no_test_label_can_be_found_from_the_suite_that_was_handed_over(aftermath: Aftermath) -> None:
    loot = aftermath.loot / "suite"
    found = {path.relative_to(loot).as_posix() for path in loot.rglob("*") if path.is_file()}
    assert not {path for path in found if path.endswith("test.parquet")}
    assert not set(hashes(loot).values()) & {
        aftermath.original[f"tasks/{name}/test.parquet"] for name in aftermath.suite.task_names()
    }
    for name in aftermath.suite.task_names():
        task = aftermath.suite.task(name)
        for path in (loot / "tasks" / name).glob("*.parquet"):
            table = pq.read_table(path).to_pandas()
            if isinstance(task, RecommendationTask) and {"user", "item"} <= set(table.columns):
                assert task.test is not None
                given = set(zip(table["user"], table["item"], strict=True))
                assert not given & set(zip(task.test.users, task.test.items, strict=True)), path
            if isinstance(task, ClassificationTask) and "label" in table.columns:
                assert task.test is not None
                assert not set(table["example"]) & set(task.test.examples), path
            if isinstance(task, LinkPredictionTask) and "tail" in table.columns:
                assert task.test is not None
                given = set(map(tuple, table[["head", "relation", "tail"]].to_numpy()))
                assert not given & set(map(tuple, task.test.array())), path


def test_nothing_that_the_child_gets_names_the_original(aftermath: Aftermath) -> None:
    original = str(aftermath.suite.folder)
    told = [(aftermath.loot / name).read_text() for name in ("job.json", "environ.json")]
    told.append(str(aftermath.record("spies").notes["argv"]))
    told += [
        path.read_bytes().decode("latin-1")
        for path in (aftermath.loot / "suite").rglob("*")
        if path.is_file()
    ]
    assert len(told) > 10
    assert not [text[:80] for text in told if original in text]


def test_secrets_of_the_parent_stay_with_it(aftermath: Aftermath) -> None:
    environ = json.loads((aftermath.loot / "environ.json").read_text())
    assert not set(SECRETS) & set(environ)
    assert not set(SECRETS.values()) & set(environ.values())
    notes = aftermath.record("spies").notes
    assert notes["token"] == "None"
    assert notes["token_files"] == ""


def test_the_hub_is_offline_by_default(aftermath: Aftermath) -> None:
    assert aftermath.record("spies").notes["offline"] is True


def test_short_and_missing_lists_are_allowed_and_counted(tiny_suite: Suite, tmp_path: Path) -> None:
    config = write_submission(tmp_path / "short", METHODS, params={"faults": ["short"], "loot": ""})
    options = Options(out=tmp_path / "out", results=tmp_path / "results", seeds=(0,), tasks=(TASK,))
    report = evaluate(config, tiny_suite, options)
    (result,) = report.results
    task = tiny_suite.task(TASK)
    assert isinstance(task, RecommendationTask)
    assert task.test is not None
    users = len(set(task.test.users.tolist()))
    assert result.counts["n_missing"] == 5
    assert result.counts["n_short"] == users - 5
    assert result.main.n_queries == users


def test_a_run_that_hangs_is_ended_and_what_needs_it_is_not_run(tiny_suite: Suite, tmp_path: Path) -> None:
    hanging = """
    def pretrain(self, graphs, ctx):
        time.sleep(300)

    def save_pretrained(self, folder):
        pass

    def load_pretrained(self, folder):
        pass
    """
    config = write_submission(tmp_path / "hanging", hanging)
    options = Options(
        out=tmp_path / "out",
        results=tmp_path / "results",
        seeds=(0,),
        tasks=(TASK,),
        limits=Limits(seconds=8.0),
    )
    start = time.perf_counter()
    report = evaluate(config, tiny_suite, options)
    assert time.perf_counter() - start < 60
    pretraining, run = report.outcomes
    assert "time limit: pretrain was still running after 8 s" in (pretraining.error or "")
    assert (run.blocked, run.error) == (True, "not run: pre-training of seed 0 failed")
    assert report.failures == [pretraining, run]
