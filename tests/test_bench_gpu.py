"""What the GPU benchmark takes and stores, as far as a machine without a GPU can show it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_suite import LEAST, generated_suite
from kpi_bench._io import write_json
from kpi_bench.suites.load import load_suite


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--submissions", "cf,kg-embeding"], "no submission kg-embeding; there are: cf, "),
        (["--generated", "0"], "--generated needs 2,000 entities or more"),
        (["--generated", "500"], "--generated needs 2,000 entities or more"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    options: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "name", *options])
    with pytest.raises(SystemExit, match="2"):
        gpu.main()
    assert told in capsys.readouterr().err


def test_submissions_are_chosen_by_name() -> None:
    assert [folder.name for folder in gpu.chosen("simgcl,cf")] == ["cf", "simgcl"]
    assert {"cf", "kgglm", "mudok"} < {folder.name for folder in gpu.chosen(None)}


def test_figures_of_other_hardware_are_not_mixed(tmp_path: Path) -> None:
    file, one = tmp_path / "gpu-x.json", {"hw_id": "1", "gpu": {"name": "one"}}
    stored = gpu.stored_figures(file, one)
    assert stored == {"hardware": one, "suites": {}}
    write_json(file, stored | {"suites": {"a": {}}})
    assert gpu.stored_figures(file, one)["suites"] == {"a": {}}
    with pytest.raises(ValueError, match=r"gpu-x\.json has figures of other hardware: .*'one'.*another NAME"):
        gpu.stored_figures(file, one | {"hw_id": "2"})


def test_the_smallest_generated_suite_is_a_sound_one(tmp_path: Path) -> None:
    suite = load_suite(generated_suite(tmp_path / "suite", LEAST).folder)
    assert suite.graph("graph").n_triples == 10 * LEAST - 10_000


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_machine_without_a_gpu_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "name"])
    with pytest.raises(SystemExit, match="2"):
        gpu.main()
    assert "no CUDA GPU on this machine" in capsys.readouterr().err
