"""The hash of a submission's code changes with its code, and with nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from submission_factory import toml

from kpi_bench.harness.config import read_config
from kpi_bench.harness.source import import_closure, source_sha256

MODULES = {
    "methodpack/__init__.py": "",
    "methodpack/model.py": "import json\nimport numpy as np\nfrom . import layers\nfrom methodpack.common.train import fit\n",
    "methodpack/layers.py": "from .deep import inner\n",
    "methodpack/deep/__init__.py": "from .inner import x\n",
    "methodpack/deep/inner.py": "x = 1\n",
    "methodpack/common/__init__.py": "",
    "methodpack/common/train.py": "def fit():\n    from methodpack.late import y\n    return y\n",
    "methodpack/late.py": "y = 1\n",
    "methodpack/unrelated.py": "z = 1\n",
    "otherpack.py": "w = 1\n",
}
REACHED = {
    "methodpack", "methodpack.model", "methodpack.layers", "methodpack.deep", "methodpack.deep.inner",
    "methodpack.common", "methodpack.common.train", "methodpack.late",
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with a package, and a submission that enters it."""
    for name, text in MODULES.items():
        path = tmp_path / "lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    submission = tmp_path / "submission"
    submission.mkdir()
    (submission / "submission.toml").write_text(toml("packed", "methodpack.model:Method", {"width": 1}))
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "methodpack"]:
        del sys.modules[name]


def sha256(place: Path) -> str:
    return source_sha256(read_config(place / "submission"))


def test_closure_follows_every_kind_of_import_within_the_package(place: Path) -> None:
    assert set(import_closure("methodpack.model")) == REACHED


@pytest.mark.parametrize("name", sorted(MODULES))
def test_hash_follows_what_is_reached_and_nothing_else(place: Path, name: str) -> None:
    before = sha256(place)
    path = place / "lib" / name
    path.write_text(path.read_text() + "# changed\n")
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert (sha256(place) != before) is (module in REACHED)


def test_parameters_do_not_count(place: Path) -> None:
    before = sha256(place)
    (place / "submission" / "submission.toml").write_text(
        toml("packed", "methodpack.model:Method", {"width": 2})
    )
    assert sha256(place) == before


def test_files_in_the_folder_count_and_caches_do_not(place: Path) -> None:
    before = sha256(place)
    cache = place / "submission" / "__pycache__"
    cache.mkdir()
    (cache / "x.pyc").write_bytes(b"1")
    assert sha256(place) == before
    (place / "submission" / "weights.json").write_text("1")
    with_file = sha256(place)
    assert with_file != before
    (place / "submission" / "weights.json").rename(place / "submission" / "other.json")
    assert sha256(place) not in (before, with_file)


def test_the_hash_does_not_depend_on_where_the_submission_lies(place: Path) -> None:
    before = sha256(place)
    (place / "submission").rename(place / "moved")
    assert source_sha256(read_config(place / "moved")) == before


def test_a_module_that_cannot_be_parsed_counts_with_its_bytes(place: Path) -> None:
    broken = place / "lib" / "methodpack" / "layers.py"
    broken.write_text("def f(:")
    assert set(import_closure("methodpack.model")) == REACHED - {"methodpack.deep", "methodpack.deep.inner"}
    before = sha256(place)
    broken.write_text("def g(:")
    assert sha256(place) != before


def test_nothing_is_executed(place: Path) -> None:
    for name in ("__init__", "model"):
        (place / "lib" / "methodpack" / f"{name}.py").write_text("raise SystemExit('executed')\n")
    assert set(import_closure("methodpack.model")) == {"methodpack", "methodpack.model"}


def test_a_module_that_is_not_there_is_an_empty_closure() -> None:
    assert import_closure("no_such_package_at_all.module") == {}


def test_what_runs_write_beside_the_code_is_not_code(place: Path) -> None:
    before = sha256(place)
    for name in ("runs/kpi-mini/log.json", ".venv/lib/x.py", "README.md"):
        path = place / "submission" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    assert sha256(place) == before
    (place / "submission" / "extra.py").write_text("1")
    assert sha256(place) != before
