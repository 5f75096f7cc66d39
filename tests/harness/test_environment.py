"""What is recorded about the machine and the software."""

from __future__ import annotations

import json
import math
import re
import subprocess
from pathlib import Path

import pytest

from kpi_bench.errors import KpiBenchError
from kpi_bench.harness import environment as environment_module
from kpi_bench.harness.environment import (
    calibrate,
    environment,
    git_revision,
    hardware,
    resolve_device,
    usable_cores,
)


def test_fingerprint_is_stable_and_can_be_stored() -> None:
    facts = hardware("cpu")
    assert facts == hardware("cpu")
    assert json.loads(json.dumps(facts)) == facts
    assert re.fullmatch("[0-9a-f]{12}", facts["hw_id"])
    assert facts["cores"] == usable_cores() >= 1
    assert facts["gpu"] is None


@pytest.mark.parametrize("fact", ["_cpu_model", "usable_cores", "_blas_threads"])
def test_fingerprint_follows_the_facts(monkeypatch: pytest.MonkeyPatch, fact: str) -> None:
    before = hardware("cpu")["hw_id"]
    monkeypatch.setattr(environment_module, fact, lambda: 997)
    changed = hardware("cpu")
    assert changed["hw_id"] != before
    assert 997 in changed.values()


def test_calibration_is_positive_and_finite() -> None:
    speeds = calibrate()
    assert set(speeds) == {"matmul_gflops", "gather_gb_s", "sparse_gflops"}
    assert all(math.isfinite(speed) and speed > 0 for speed in speeds.values())


def test_software_can_be_stored() -> None:
    facts = environment()
    assert json.loads(json.dumps(facts)) == facts
    assert re.match(r"3\.\d+", facts["python"])
    assert re.match(r"\d+\.", facts["packages"]["numpy"])
    assert len(facts["load_average"]) == 3


def test_git_revision(tmp_path: Path) -> None:
    package = tmp_path / "kpi_bench"
    package.mkdir()
    (package / "__init__.py").write_text("1")
    assert git_revision(package) is None

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "README.md").write_text("1")
    git("add", "README.md")
    git("commit", "-m", "zero")
    assert git_revision(package) is None, "the checkout around it is somebody else's"
    git("add", "kpi_bench")
    git("commit", "-m", "one")
    clean = git_revision(package)
    assert clean is not None
    assert re.fullmatch("[0-9a-f]{40}", clean)
    (package / "untracked").write_text("1")
    (tmp_path / "README.md").write_text("2")
    assert git_revision(package) == clean
    (package / "__init__.py").write_text("2")
    assert git_revision(package) == f"{clean}+dirty"


def test_devices() -> None:
    import torch

    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") == ("cuda:0" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "tpu", ""):
        with pytest.raises(KpiBenchError, match=f"no device '{name}' here; there are: cpu"):
            resolve_device(name)
