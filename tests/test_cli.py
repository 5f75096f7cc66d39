"""The command line: every command explains itself, does its work through ``main``, and fails in one clear line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kpi_bench import Paths, RecommendationTask, TopK, __version__
from kpi_bench.cli import main
from kpi_bench.harness.explanations import write_paths
from kpi_bench.harness.predictions import OFFICIAL, write_predictions
from kpi_bench.harness.results import read_result, result_path
from kpi_bench.harness.scaffold import new_submission
from kpi_bench.harness.withhold import recommendation_queries
from kpi_bench.harness.withhold import test_users as users_with_tests
from kpi_bench.suites.suite import Suite

COMMANDS = (
    ("evaluate",), ("score",), ("explain",), ("submission",), ("submission", "new"), ("submission", "check"), ("data",), ("data", "build"),
    ("data", "stats"), ("data", "verify"), ("data", "audit"), ("leaderboard",), ("leaderboard", "show"), ("compare",),
)  # fmt: skip


@pytest.fixture
def submission(tmp_path: Path) -> Path:
    """The template: it answers every task in no time."""
    new_submission(tmp_path / "templated")
    return tmp_path / "templated"


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line in which a command says that it could not be carried out."""
    assert main(arguments) == 2
    (line, *rest) = capsys.readouterr().err.strip().splitlines()
    assert rest == []
    assert line.startswith("kpi-bench: ")
    return line


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What argparse says of arguments that it refuses."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("command", [(), *COMMANDS], ids=lambda command: " ".join(command) or "kpi-bench")
def test_help(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(" ".join(("usage: kpi-bench", *command)))


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert not [command for command in {c[0] for c in COMMANDS} if f"\n    {command}" not in text]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"kpi-bench {__version__}\n"


def test_as_a_module_and_without_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kpi_bench"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert "the following arguments are required: COMMAND" in done.stderr
    assert "Traceback" not in done.stderr


def test_evaluate_then_score(
    tiny_suite: Suite, submission: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = str(tiny_suite.folder)
    command = [
        *("evaluate", "--submission", str(submission), "--suite", suite, "--tasks", "shop_music"),
        *("--seeds", "4", "--param", "shared_weight=0.25", "--device", "cpu", "--out", str(tmp_path / "out")),
        *("--time-limit", "300", "--memory-limit", "8"),
    ]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "shop_music  ndcg@20" in text
    assert "templated on tiny: 2 of 2 runs done" in text
    result = read_result(result_path(tmp_path / "out" / "results", "tiny", "shop_music", "templated"))
    assert result.seeds == (4,)
    assert result.submission.params == {"shared_weight": 0.25}
    assert main([*command, "--results", str(tmp_path / "elsewhere")]) == 0
    assert "2 of them kept from earlier" in capsys.readouterr().out
    again = read_result(result_path(tmp_path / "elsewhere", "tiny", "shop_music", "templated"))
    assert again.metrics == result.metrics
    predictions = tmp_path / "out" / "tiny" / "templated" / "predictions"
    scored = ["score", str(predictions), "--suite", suite, "--name", "them", "--results", str(tmp_path / "r")]
    assert main(scored) == 0
    assert f"{result.main.mean:.4f}" in capsys.readouterr().out
    assert read_result(result_path(tmp_path / "r", "tiny", "shop_music", "them")).metrics == result.metrics
    (predictions / "shop_music" / "seed4.parquet").write_text("")
    assert main(scored) == 1
    assert "refused shop_music: " in capsys.readouterr().err


def test_explain(tiny_suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = tiny_suite.task("shop_music")
    assert isinstance(task, RecommendationTask)
    user = int(users_with_tests(task)[0])
    first = int(task.train_matrix.row(user)[0])
    queries = recommendation_queries(task, np.array([user]), task.spec.mask)
    item = next(i for i in range(29) if i not in queries.exclude.row(0))
    # From the user's first item (its entity has the same number) to its genre, which is not where it should end.
    paths = Paths(
        np.array([user]), np.array([item]), np.array([[user, first, 49 + first % 3]]), np.array([[2, 1, 0]], np.int8),
        np.array([[-1, 0]]), np.zeros((1, 2), bool), np.zeros(1, np.float32),
    )  # fmt: skip
    prefix = tmp_path / "predictions" / "shop_music" / "seed0"
    write_predictions(prefix, OFFICIAL, task, queries, TopK(np.array([[item]]), np.float32([[0.5]])))
    command = ["explain", str(tmp_path), "--suite", str(tiny_suite.folder), "--task", "shop_music", "--user"]
    assert "explains nothing of shop_music with seed 0" in failure(capsys, *command, str(user))
    write_paths(prefix, paths)
    assert main([*command, str(user), "--k", "3"]) == 0
    title, *_, line = capsys.readouterr().out.splitlines()
    assert title == f"user {user} of shop_music: 1 items, 1 explained"
    words = f"user {user} -[interacted with]-> Album {first} -[has genre]-> Genre {first % 3} (not a path of"
    assert line.split(maxsplit=4)[:4] == ["1", "Album", str(item), "0.5000"]
    assert words in line
    assert "user 999 of shop_music was not asked about" in failure(capsys, *command, "999")
    assert "has no predictions of shop_music with seed 8" in failure(capsys, *command, "0", "--seed", "8")
    for wrong in ("x", "1.5"):
        assert "is no whole number" in refusal(capsys, *command, wrong)


def test_a_failing_submission_does_not_keep_the_next_from_running(
    tiny_suite: Suite, submission: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_submission(tmp_path / "broken")
    module = tmp_path / "broken" / "broken_submission.py"
    module.write_text(module.read_text().replace("class Method(Submission):", "class Method(int):"))
    new_submission(tmp_path / "crashing")
    module = tmp_path / "crashing" / "crashing_submission.py"
    module.write_text(
        module.read_text().replace("def pretrain(", "def pretrain_later(")
        + "\nimport os\nMethod.adapt = lambda *a: os._exit(9)\n"
    )
    common = (
        "--suite",
        str(tiny_suite.folder),
        "--tasks",
        "library_review",
        "--seeds",
        "0",
        "--device",
        "cpu",
    )
    out = str(tmp_path / "out")
    assert main(["evaluate", "--submission", str(tmp_path / "crashing"), *common, "--out", out]) == 1
    captured = capsys.readouterr()
    assert "1 of 1 runs failed:" in captured.out
    assert "library_review seed 0: adapt ended the process with exit code 9" in captured.out
    folders = (str(tmp_path / "broken"), str(submission))
    assert main(["evaluate", "--submission", *folders, *common, "--out", out]) == 2
    captured = capsys.readouterr()
    assert "kpi-bench: " in captured.err
    assert "has no class 'Method' derived from kpi_bench.Submission" in captured.err
    assert "templated on tiny: 2 of 2 runs done" in captured.out


def test_submission_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submission", "new", str(tmp_path / "fresh")]) == 0
    text = capsys.readouterr().out
    assert f"wrote {tmp_path / 'fresh' / 'submission.toml'}" in text
    assert f"next: kpi-bench submission check {tmp_path / 'fresh'}" in text
    assert "exists; name another folder" in failure(capsys, "submission", "new", str(tmp_path / "fresh"))


def test_submission_check_shows_the_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submission", "check", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "FAIL submission.toml" in text
    assert "kpi-bench submission new NAME" in text


@pytest.mark.parametrize("action", ["verify", "stats", "audit"])
def test_data(tiny_suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str], action: str) -> None:
    extra = [] if action == "verify" else ["--json", str(tmp_path / "out.json")]
    assert main(["data", action, str(tiny_suite.folder), *extra]) == 0
    text = capsys.readouterr().out
    assert ("tiny" if action == "verify" else "shop_music") in text
    assert (tmp_path / "out.json").is_file() is (action != "verify")


def test_data_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "build", "kpi-mini", "--out", str(tmp_path / "mini")]) == 0
    assert "built kpi-mini" in capsys.readouterr().out
    assert main(["data", "verify", str(tmp_path / "mini")]) == 0
    assert "are as the manifest says" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ("0,0", "must be distinct"),
        ("-1", "not negative"),
        (",", "at least one"),
        ("a", "no comma-separated list of whole numbers"),
        ("1.5", "no comma-separated list of whole numbers"),
    ],
)
def test_bad_seeds(capsys: pytest.CaptureFixture[str], seeds: str, words: str) -> None:
    assert words in refusal(capsys, "evaluate", "--submission", "x", "--suite", "y", f"--seeds={seeds}")


def test_bad_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert "invalid choice: 'evaluat'" in refusal(capsys, "evaluat")
    assert "required: --submission, --suite" in refusal(capsys, "evaluate")
    assert "invalid choice: 'nothing'" in refusal(capsys, "data", "build", "nothing", "--out", "x")


class TestErrorsAreOneLine:
    """What cannot be carried out ends with code 2 and one line, never a traceback."""

    def evaluate(self, capsys: pytest.CaptureFixture[str], suite: Suite, submission: Path, *more: str) -> str:
        out = str(submission.parent / "out")
        return failure(
            capsys,
            *("evaluate", "--submission", str(submission), "--suite", str(suite.folder), "--device", "cpu"),
            *("--out", out, *more),
        )

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            (("--param", "shared_weight"), "wanted is KEY=VALUE"),
            (("--param", "weight=1"), "unknown parameter(s) weight; [params] declares shared_weight"),
            (("--param", "shared_weight=nan"), "parameter shared_weight is nan"),
            (("--config", "huge"), "has no config 'huge'; it has: base"),
            (("--tasks", "shop_musik"), "suite tiny has no task 'shop_musik'; it has shop_music"),
            (("--reuse-pretrained", "/nowhere"), "there is no finished pre-training of seed 0"),
            (("--device", "cuda:77"), "no device 'cuda:77' here"),
        ],
    )
    def test_options(
        self,
        capsys: pytest.CaptureFixture[str],
        tiny_suite: Suite,
        submission: Path,
        more: tuple[str, ...],
        words: str,
    ) -> None:
        assert words in self.evaluate(capsys, tiny_suite, submission, *more)

    def test_no_submission(
        self, capsys: pytest.CaptureFixture[str], tiny_suite: Suite, tmp_path: Path
    ) -> None:
        assert "is no submission" in self.evaluate(capsys, tiny_suite, tmp_path / "absent")

    def test_a_submission_that_cannot_be_imported(
        self, capsys: pytest.CaptureFixture[str], tiny_suite: Suite, submission: Path
    ) -> None:
        for source, error in (("1 / 0", "ZeroDivisionError"), ("def f(:", "SyntaxError")):
            (submission / "templated_submission.py").write_text(source)
            line = self.evaluate(capsys, tiny_suite, submission)
            assert "templated cannot be started: " in line
            assert error in line

    def test_tasks_that_it_does_not_answer(
        self, capsys: pytest.CaptureFixture[str], tiny_suite: Suite, submission: Path
    ) -> None:
        path = submission / "submission.toml"
        path.write_text(path.read_text().replace('"recommendation", ', ""))
        assert "not shop_music" in self.evaluate(capsys, tiny_suite, submission, "--tasks", "shop_music")

    def test_a_predictions_submission(
        self, capsys: pytest.CaptureFixture[str], tiny_suite: Suite, submission: Path
    ) -> None:
        path = submission / "submission.toml"
        path.write_text(path.read_text().replace('kind = "code"', 'kind = "predictions"'))
        assert "score it with `kpi-bench score" in self.evaluate(capsys, tiny_suite, submission)

    def test_an_out_folder_that_is_a_file(
        self, capsys: pytest.CaptureFixture[str], tiny_suite: Suite, submission: Path
    ) -> None:
        (submission.parent / "out").write_text("")
        line = self.evaluate(capsys, tiny_suite, submission, "--seeds", "0", "--tasks", "shop_music")
        assert "Not a directory" in line or "File exists" in line

    def test_no_suite(self, capsys: pytest.CaptureFixture[str], submission: Path) -> None:
        line = failure(capsys, "evaluate", "--submission", str(submission), "--suite", "no-such-suite")
        assert "no suite 'no-such-suite'" in line
        assert "hf://OWNER/NAME" in failure(capsys, "data", "stats", "hf://a/b@main")

    def test_no_predictions(
        self, capsys: pytest.CaptureFixture[str], tiny_suite: Suite, tmp_path: Path
    ) -> None:
        assert "has no predictions" in failure(
            capsys, "score", str(tmp_path), "--suite", str(tiny_suite.folder)
        )


def test_a_reader_that_has_enough_is_no_error(tiny_suite: Suite) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "kpi_bench", "data", "verify", str(tiny_suite.folder)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
