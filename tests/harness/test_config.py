"""submission.toml: what is wrong in it is named, and parameters take precedence as documented."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from submission_factory import toml, write_submission

from kpi_bench.errors import SubmissionError
from kpi_bench.harness.config import (
    Fidelity,
    SubmissionConfig,
    SubmissionKind,
    import_class,
    load_class,
    read_config,
)
from kpi_bench.harness.protocol import Submission
from kpi_bench.suites.task import TaskKind

FULL = """
[submission]
name = "my-method"
version = "1.2"
description = "A method."
kind = "code"
entry = "my_method.model:Method"
authors = ["A. Author"]
tasks = ["recommendation"]
tags = ["kg"]
size = "small"

[params]
width = 8
depth = 1
kind = "a"
rate = 0.1

[configs.base]
width = 64
depth = 2

[fidelity]
level = "reconstruction"
notes = "No code was published."

[suites."kpi-mini".params]
width = 4
rate = 0.5
"""


@pytest.fixture(autouse=True)
def own_imports() -> Iterator[None]:
    """Leave the interpreter's paths and modules as they were."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "submission.toml").write_text(text, encoding="utf-8")
    return folder


def test_everything_is_read(tmp_path: Path) -> None:
    config = read_config(write(tmp_path / "s", FULL))
    assert config.name == "my-method"
    assert config.submission.kind is SubmissionKind.CODE
    assert config.submission.tasks == (TaskKind.RECOMMENDATION,)
    assert config.submission.authors == ("A. Author",)
    assert config.fidelity.level is Fidelity.RECONSTRUCTION
    assert config.folder == (tmp_path / "s").resolve()


def test_what_may_be_left_out(tmp_path: Path) -> None:
    config = read_config(write(tmp_path / "s", toml("x", "m:C", {}).replace("tasks", "# tasks")))
    assert config.submission.tasks == tuple(TaskKind)
    assert config.resolve_params("any", None, {}) == {}
    assert config.fidelity.level is Fidelity.FAITHFUL


def test_predictions_need_no_entry(tmp_path: Path) -> None:
    text = toml("x", "", {}).replace('"code"', '"predictions"')
    assert read_config(write(tmp_path / "s", text)).submission.kind is SubmissionKind.PREDICTIONS


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('version = "1.2"', "", r"submission\.toml\.submission: missing key\(s\) version"),
        ('version = "1.2"', "version = 1.2", r"submission\.version: expected str, found float"),
        ('version = "1.2"', 'versoin = "1.2"', r"submission: unknown key\(s\) versoin; allowed are name, version"),
        ("[params]", "[parameters]", r"unknown key\(s\) parameters"),
        ("[params]", 'folder = "x"\n[params]', r"unknown key\(s\) folder"),
        ('kind = "code"', 'kind = "binary"', r"submission\.kind: 'binary' is none of code, predictions"),
        ('"reconstruction"', '"close"', r"fidelity\.level: 'close' is none of faithful, reconstruction"),
        ('["recommendation"]', '["ranking"]', r"submission\.tasks\[0\]: 'ranking' is none of"),
        ('["recommendation"]', '"recommendation"', r"submission\.tasks: expected a list, found str"),
        ("[configs.base]\nwidth = 64\ndepth = 2", "[configs]\nbase = 3", r"configs\.base: expected an object"),
        ('[suites."kpi-mini".params]', '[suites."kpi-mini".parms]', r"suites\.kpi-mini: unknown key\(s\) parms"),
        ('"my_method.model:Method"', '"my_method.model"', "must be 'module:Class'"),
        ('"my_method.model:Method"', '":Method"', "must be 'module:Class'"),
        ('"my_method.model:Method"', '".model:Method"', "must be 'module:Class'"),
        ('"my_method.model:Method"', '"my method:Method"', "must be 'module:Class'"),
        ('"my_method.model:Method"', '"a:b:c"', "must be 'module:Class'"),
        ('"my-method"', '""', "name '' must be letters"),
        ('"my-method"', '".."', r"name '\.\.' must be letters"),
        ('"my-method"', '"a/b"', "it becomes a file name"),
        ('"my-method"', '"a b"', "it becomes a file name"),
        ("[submission]", "[submission", "not valid TOML"),
    ],
)  # fmt: skip
def test_faults_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in FULL
    text = FULL.replace(old, new, 1)
    if "folder" in new:
        text = 'folder = "x"\n' + FULL
    with pytest.raises(SubmissionError, match=message) as caught:
        read_config(write(tmp_path / "s", text))
    assert str(tmp_path / "s" / "submission.toml") in str(caught.value)


def test_no_folder_no_file_no_text(tmp_path: Path) -> None:
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(SubmissionError, match=r"has no submission\.toml.*kpi-bench submission new"):
            read_config(folder)
    (tmp_path / "submission.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SubmissionError, match="not valid TOML"):
        read_config(tmp_path)


class TestParams:
    """``[params]``, then the suite's, then the named config's, then the command line's."""

    @pytest.fixture
    def config(self, tmp_path: Path) -> SubmissionConfig:
        return read_config(write(tmp_path / "s", FULL))

    def test_general(self, config: SubmissionConfig) -> None:
        assert config.resolve_params("kpi", None, {}) == {"width": 8, "depth": 1, "kind": "a", "rate": 0.1}

    def test_suite_over_general(self, config: SubmissionConfig) -> None:
        assert config.resolve_params("kpi-mini", None, {}) == {
            "width": 4,
            "depth": 1,
            "kind": "a",
            "rate": 0.5,
        }

    def test_config_over_suite(self, config: SubmissionConfig) -> None:
        params = config.resolve_params("kpi-mini", "base", {})
        assert params == {"width": 64, "depth": 2, "kind": "a", "rate": 0.5}

    def test_override_over_all(self, config: SubmissionConfig) -> None:
        params = config.resolve_params("kpi-mini", "base", {"width": 1, "kind": "b"})
        assert params == {"width": 1, "depth": 2, "kind": "b", "rate": 0.5}

    def test_whole_numbers_are_floats_where_params_has_one(self, tmp_path: Path) -> None:
        text = FULL.replace("depth = 2", "depth = 2\nrate = 1").replace("rate = 0.5", "rate = 2")
        config = read_config(write(tmp_path / "t", text))
        for suite, name, overrides, rate in (
            ("kpi-mini", None, {}, 2.0),
            ("kpi", "base", {}, 1.0),
            ("kpi", None, {"rate": 3, "width": 5}, 3.0),
        ):
            params = config.resolve_params(suite, name, overrides)
            assert (params["rate"], type(params["rate"]), type(params["width"])) == (rate, float, int)
        # A truth value is no number, and no float is as large as the last.
        assert config.resolve_params("kpi", None, {"rate": True})["rate"] is True
        with pytest.raises(SubmissionError, match=r"parameter rate is 10+; wanted are .* finite numbers"):
            config.resolve_params("kpi", None, {"rate": 10**400})

    def test_unknown_config(self, config: SubmissionConfig) -> None:
        with pytest.raises(SubmissionError, match="my-method has no config 'huge'; it has: base"):
            config.resolve_params("kpi", "huge", {})

    def test_undeclared(self, config: SubmissionConfig) -> None:
        with pytest.raises(
            SubmissionError, match=r"unknown parameter\(s\) heigth; \[params\] declares width"
        ):
            config.resolve_params("kpi", None, {"heigth": 3})

    def test_undeclared_in_a_table_of_its_own(self, tmp_path: Path) -> None:
        config = read_config(write(tmp_path / "t", FULL.replace("depth = 2", "heads = 2")))
        with pytest.raises(SubmissionError, match=r"unknown parameter\(s\) heads"):
            config.resolve_params("kpi", "base", {})

    @pytest.mark.parametrize("value", ["nan", "inf", "2020-01-01"])
    def test_a_value_that_no_result_can_hold(self, tmp_path: Path, value: str) -> None:
        config = read_config(write(tmp_path / "t", FULL.replace("width = 8", f"width = {value}")))
        with pytest.raises(SubmissionError, match=r"parameter width is .*; wanted are"):
            config.resolve_params("kpi", None, {})


def test_load_class(tmp_path: Path) -> None:
    cls = load_class(write_submission(tmp_path / "fine"))
    assert issubclass(cls, Submission)
    assert not cls.pretrains(set(TaskKind))


def test_each_submission_gets_the_module_in_its_own_folder(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two", "one"):
        folder = write(tmp_path / name, toml(name, "submission:Method", {}))
        (folder / "submission.py").write_text(
            f"from helper import NAME\nfrom kpi_bench import Submission\nclass Method(Submission):\n    name = NAME\n    at = {name!r}\n"
        )
        (folder / "helper.py").write_text(f"NAME = {name!r}\n")
        cls = load_class(read_config(folder))
        found.append((vars(cls)["name"], vars(cls)["at"]))
    assert found == [("one", "one"), ("two", "two"), ("one", "one")]


def test_a_file_named_as_a_library_does_not_unload_it(tmp_path: Path) -> None:
    config = write_submission(tmp_path / "shadow")
    (tmp_path / "shadow" / "json.py").write_text("")
    import json

    load_class(config)
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, r"cannot import 'entry_module'; is its package installed"),
        ("import not_a_package_at_all", "cannot import 'not_a_package_at_all'"),
        ("", "entry_module has no class 'Method' derived from kpi_bench.Submission"),
        ("Method = 3", "has no class 'Method' derived"),
        ("class Method: pass", "has no class 'Method' derived"),
    ],
)
def test_no_class_to_load(tmp_path: Path, source: str | None, message: str) -> None:
    folder = write(tmp_path / "s", toml("s", "entry_module:Method", {}))
    if source is not None:
        (folder / "entry_module.py").write_text(source)
    with pytest.raises(SubmissionError, match=message):
        load_class(read_config(folder))


@pytest.mark.parametrize(("source", "kind"), [("1 / 0", "ZeroDivisionError"), ("def f(:", "SyntaxError")])
def test_whatever_the_module_raises_is_a_fault_of_the_submission(
    tmp_path: Path, source: str, kind: str
) -> None:
    folder = write(tmp_path / "s", toml("s", "raising_module:Method", {}))
    (folder / "raising_module.py").write_text(source)
    with pytest.raises(SubmissionError, match=f"raising_module:Method raised {kind} when imported"):
        import_class(read_config(folder))
