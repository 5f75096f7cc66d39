"""Two processes with Gloo train what one process trains on the same batches."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import rank_cases
import torch
from rank_cases import METHODS, Log, context, fit_line, pretrain
from safetensors.torch import load_file
from torch import distributed

from baselines.common.parallel import ALONE, Part, agreed_backend, has_own_gpu
from kpi_bench import Context
from kpi_bench.suites.suite import Suite

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def together(tiny_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have left all cases."""
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    common["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    command = [sys.executable, rank_cases.__file__, str(tiny_suite.folder), str(out)]
    ranks = [
        subprocess.Popen(command, env={**common, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=240)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)
    return out


def report(together: Path, rank: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((together / f"rank{rank}.json").read_text())
    return found


def test_a_loss_curve_is_that_of_one_process(tiny_suite: Suite, together: Path, tmp_path: Path) -> None:
    log = Log()
    model, fit = fit_line(context(tiny_suite, tmp_path, log))
    found = report(together)
    assert [step for step, _ in found["curve"]] == [step for step, _ in log.curve]
    assert [value for _, value in found["curve"]] == pytest.approx(
        [value for _, value in log.curve], rel=1e-4
    )
    assert fit.best_epoch < fit.epochs < 40  # it was stopped, and went back
    assert found["fit"] == pytest.approx(list(vars(fit).values()), rel=1e-4)
    states = [load_file(together / f"line{rank}.safetensors") for rank in range(2)]
    for name, value in model.state_dict().items():
        assert torch.equal(states[0][name], states[1][name])
        torch.testing.assert_close(states[0][name], value, rtol=1e-4, atol=1e-5)
    assert torch.equal(states[0]["idle"], torch.ones(2))  # no gradient anywhere: not even decayed


@pytest.mark.parametrize(
    ("own", "backend"), [((True, True), "nccl"), ((True, False), "gloo"), ((False, False), "gloo")]
)
def test_all_ranks_choose_one_backend(own: tuple[bool, bool], backend: str) -> None:
    store = distributed.HashStore()
    with ThreadPoolExecutor(2) as pool:
        found = [
            pool.submit(agreed_backend, store, rank, 2, own_gpu=gpu)
            for rank, gpu in reversed([*enumerate(own)])
        ]
        assert [one.result(timeout=10) for one in found] == [backend] * 2


@pytest.mark.parametrize(
    ("device", "gpus", "here", "own"),
    [
        ("cuda:1", 2, "2", True),
        ("cuda:0", 1, "1", True),
        ("cuda:0", 2, None, False),
        ("cuda:0", 1, "2", False),
        ("cpu", 8, "1", False),
    ],
)
def test_a_rank_has_a_gpu_of_its_own_among_those_of_its_machine(
    device: str, gpus: int, here: str | None, own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four ranks in all, wherever they are."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if here is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    assert has_own_gpu(Context(0, device, tmp_path, {}, rank=0, world_size=4)) == own


def test_rank_0_alone_scores(together: Path) -> None:
    found = report(together)
    assert found["evaluated"] == len(found["curve"]) > 0
    assert report(together, 1)["evaluated"] == 0
    assert report(together, 1)["fit"] == found["fit"]


@pytest.mark.parametrize("name", METHODS)
def test_a_pre_training_is_that_of_one_process(
    name: str, tiny_suite: Suite, together: Path, tmp_path: Path
) -> None:
    log = Log()
    pretrain(tiny_suite, name, context(tiny_suite, tmp_path / "scratch", log), tmp_path)
    files = sorted(path.name for path in (tmp_path / name).glob("*.safetensors"))
    assert files == sorted(path.name for path in (together / name).glob("*.safetensors"))
    assert files
    for file in files:
        alone, both = load_file(tmp_path / name / file), load_file(together / name / file)
        assert alone.keys() == both.keys()
        for key, value in alone.items():
            torch.testing.assert_close(both[key], value, rtol=1e-3, atol=1e-4)
    notes = report(together)[name]
    assert notes.keys() == log.notes.keys()
    for key, value in log.notes.items():
        if not key.endswith(("seconds", "cached", "fingerprints")):
            assert notes[key] == (pytest.approx(value, rel=1e-3) if isinstance(value, float) else value), key


def test_links_are_aligned_over_ranks(together: Path) -> None:
    assert report(together)["jplr"]["joint: links"] > 0


def test_ranks_draw_dropout_of_their_own_and_stay_equal(
    tiny_suite: Suite, together: Path, tmp_path: Path
) -> None:
    # Training would have ended with an error had the ranks come apart.
    pretrain(tiny_suite, "kgglm dropout", context(tiny_suite, tmp_path / "scratch", Log()), tmp_path)
    file = next((tmp_path / "kgglm dropout").glob("*.safetensors"))
    alone, both = load_file(file), load_file(together / "kgglm dropout" / file.name)
    assert any(not torch.allclose(alone[key], both[key], atol=1e-4) for key in alone)


def test_ranks_that_come_apart_are_an_error(together: Path) -> None:
    for rank in range(2):
        assert report(together, rank)["diverge"].startswith(
            "apart: the 2 processes ended with different parameters"
        )


def test_sparse_gradients_are_refused(together: Path) -> None:
    assert "kge_sparse_rows" in report(together)["sparse"]


@pytest.mark.parametrize(("size", "n"), [(1, 5), (2, 7), (3, 3), (4, 9), (3, 2), (2, 1)])
def test_parts_add_up_to_the_mean(size: int, n: int) -> None:
    values = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    parts = [Part(rank, size, n) for rank in range(size)]
    total = sum(part.weigh(values[part.rows].mean()) for part in parts)
    torch.testing.assert_close(total, values.mean())
    of_terms = sum(
        part.weigh(values[part.rows].mean(), torch.tensor(len(values[part.rows])), torch.tensor(n))
        for part in parts
    )
    torch.testing.assert_close(of_terms, values.mean())
    if n >= size:
        rows = sorted(row for part in parts for row in range(n)[part.rows])
        assert rows == list(range(n))
        assert max(len(range(n)[p.rows]) for p in parts) - min(len(range(n)[p.rows]) for p in parts) <= 1


def test_alone_nothing_is_exchanged() -> None:
    part, value = ALONE.part(4), torch.rand(4, requires_grad=True)
    assert part.weigh(value.sum()).item() == value.sum().item()
    assert ALONE.gathered(value, part, torch.arange(4), 4) is value
    assert ALONE.add(value) is value
    assert ALONE.decided(0.3) == 0.3
    assert ALONE.seed(7) == 7
