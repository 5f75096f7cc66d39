"""A new submission works, and ``check`` names what is wrong with one before a long run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from submission_factory import toml, write_submission

from kpi_bench.errors import SubmissionError
from kpi_bench.harness.config import read_config
from kpi_bench.harness.scaffold import check_submission, new_submission
from kpi_bench.suites.load import load_suite
from kpi_bench.suites.suite import Suite


@pytest.fixture(autouse=True)
def own_imports() -> Iterator[None]:
    """Leave the interpreter's paths and modules as they were."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def never() -> Suite:
    raise AssertionError("the suite must not be loaded for this")


def test_new_writes_a_submission_of_the_folders_name(tmp_path: Path) -> None:
    written = new_submission(tmp_path / "My-Method2")
    assert sorted(path.name for path in written) == [
        "README.md",
        "my_method2_submission.py",
        "submission.toml",
    ]
    config = read_config(tmp_path / "My-Method2")
    assert config.name == "My-Method2"
    assert config.submission.entry == "my_method2_submission:Method"
    assert not [path for path in written if "NAME" in path.read_text()]


def test_new_makes_the_folders_above(tmp_path: Path) -> None:
    new_submission(tmp_path / "a" / "b" / "mine")
    assert read_config(tmp_path / "a" / "b" / "mine").name == "mine"


@pytest.mark.parametrize("name", ["1st", "a b", "a.b", "ä", "-x"])
def test_new_refuses_what_is_no_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(SubmissionError, match="is no name for a submission"):
        new_submission(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_new_refuses_an_existing_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(SubmissionError, match="exists; name another folder"):
        new_submission(tmp_path / "mine")


@pytest.mark.slow
def test_a_new_submission_passes_its_check(tmp_path: Path) -> None:
    new_submission(tmp_path / "fresh")
    checks = check_submission(tmp_path / "fresh", lambda: load_suite("kpi-mini"))
    assert [(c.name, c.fault) for c in checks] == [
        ("submission.toml", None),
        ("import fresh_submission:Method", None),
        ("smoke run on kpi-mini", None),
    ]


def test_the_smoke_run_names_what_failed(tmp_path: Path, tiny_suite: Suite) -> None:
    methods = """
    def adapt(self, task, ctx):
        raise IndexError("empty batch")
    """
    write_submission(tmp_path / "failing", methods, tasks=("link_prediction",))
    *_, smoke = check_submission(tmp_path / "failing", lambda: tiny_suite)
    assert smoke.name == "smoke run on kpi-mini"
    assert smoke.fault is not None
    assert smoke.fault.startswith(
        "1 of 1 runs failed:\n  - library_links: adapt failed: IndexError: empty batch"
    )


def test_a_fault_of_the_toml_ends_the_check(tmp_path: Path) -> None:
    (check,) = check_submission(tmp_path, never)
    assert check.name == "submission.toml"
    assert "has no submission.toml" in (check.fault or "")


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("1 / 0", "raised ZeroDivisionError when imported: division by zero"),
        ("import absent_library_of_the_tests", "cannot import 'absent_library_of_the_tests'"),
        ("class Method: pass", "has no class 'Method' derived from kpi_bench.Submission"),
    ],
)
def test_a_fault_of_the_import_ends_the_check(tmp_path: Path, source: str, fault: str) -> None:
    (tmp_path / "submission.toml").write_text(toml("x", "faulty_module:Method", {}))
    (tmp_path / "faulty_module.py").write_text(source)
    toml_check, import_check = check_submission(tmp_path, never)
    assert toml_check.fault is None
    assert fault in (import_check.fault or "")


def test_every_wrong_signature_is_listed(tmp_path: Path) -> None:
    methods = """
    def pretrain(self, graphs, ctx):
        pass

    def save_pretrained(self, folder):
        pass

    def adapt(self, task):
        pass

    def predict(self, task, queries, ctx, beam):
        pass

    def export(self):
        pass

    @classmethod
    def pretrains(cls):
        return False
    """
    write_submission(tmp_path / "wrong", methods)
    fault = check_submission(tmp_path / "wrong", never)[-1].fault or ""
    assert "pretrain is overridden, load_pretrained is not" in fault
    assert "adapt takes (self, task); the protocol wants (self, task, ctx)" in fault
    assert "predict takes (self, task, queries, ctx, beam); the protocol wants" in fault
    assert "export takes (self); the protocol wants (self, folder)" in fault
    assert "pretrains takes (); the protocol wants (kinds)" in fault
    assert "save_pretrained" not in fault


def test_what_must_be_overridden(tmp_path: Path) -> None:
    (tmp_path / "submission.toml").write_text(toml("x", "bare_module:Method", {}))
    (tmp_path / "bare_module.py").write_text(
        "from kpi_bench import Submission\nclass Method(Submission):\n    pass\n"
    )
    fault = check_submission(tmp_path, never)[-1].fault or ""
    assert "adapt is not overridden; predict is not overridden" in fault


def test_a_predictions_submission_has_nothing_to_import(tmp_path: Path) -> None:
    (tmp_path / "submission.toml").write_text(toml("x", "", {}).replace('"code"', '"predictions"'))
    assert "kpi-bench score" in (check_submission(tmp_path, never)[-1].fault or "")
