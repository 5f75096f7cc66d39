"""The kernels of an accelerator against the compiled ones: in torch operations on the CPU, in Triton under its interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kpi_bench._csr import Csr
from kpi_bench.evaluators import _array_kernels, _device_kernels

Count = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def case(seed: int, n_rows: int, n_columns: int, levels: int) -> tuple[np.ndarray, Csr, Csr]:
    """Scores with ties, positives (some rows have none, the first has many), and filters that hold the positives."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(-levels, levels, (n_rows, n_columns)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.05] = -0.0
    wanted = rng.random(scores.shape) < 0.1
    wanted[0] = rng.random(n_columns) < 0.6
    known = wanted | (rng.random(scores.shape) > 0.8)
    return scores, *(Csr.from_pairs(*np.nonzero(mask), mask.shape) for mask in (wanted, known))


def counted(
    kernels: object, scores: object, positives: Csr, filters: Csr
) -> tuple[int, list[int], list[int]]:
    greater, equal = np.zeros(positives.nnz, np.int64), np.zeros(positives.nnz, np.int64)
    bad = kernels.count_block(  # type: ignore[attr-defined]
        scores, 0, positives.indptr, positives.indices, filters.indptr, filters.indices, greater, equal
    )
    return bad, greater.tolist(), equal.tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 40), st.sampled_from([1, 3, 1000]))
def test_counts_equal_those_of_the_cpu(seed: int, n_rows: int, n_columns: int, levels: int) -> None:
    scores, positives, filters = case(seed, n_rows, n_columns, levels)
    own = counted(_device_kernels, torch.from_numpy(scores), positives, filters)
    assert own == counted(_array_kernels, scores, positives, filters)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_counted_once(value: float) -> None:
    scores, positives, filters = case(1, 4, 30, 3)
    scores[1, 3] = scores[3, 0] = value
    assert counted(_device_kernels, torch.from_numpy(scores), positives, filters)[0] == 2


def test_a_triton_that_fails_is_replaced_by_torch_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "kpi_bench.evaluators._triton_kernels", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)  # its import raises
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    _device_kernels._one_pass.cache_clear()
    assert _device_kernels._one_pass(torch.device("cuda:3")) is None
    assert "ranking on cuda:3 in torch operations: triton is installed, but fails" in caplog.text
    _device_kernels._one_pass.cache_clear()


def check_one_pass(count: Count, device: str) -> None:
    """The kernel against torch operations: sizes around a chunk, rows without a positive, values that are not finite."""
    for seed, (n_rows, n_columns) in enumerate(
        [(1, 1), (3, 5), (5, 4096), (2, 4097), (4, 9000), (0, 7), (3, 0)]
    ):
        rng = np.random.default_rng(seed)
        scores = torch.from_numpy(rng.integers(-50, 50, (n_rows, n_columns)).astype(np.float32)).to(device)
        lengths = rng.integers(0, 4, n_rows) * (n_columns > 0)
        starts = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)])).to(device)
        rows = torch.from_numpy(np.repeat(np.arange(n_rows), lengths)).to(device)
        wanted = scores[rows, torch.from_numpy(rng.integers(0, max(1, n_columns), len(rows))).to(device)]
        wrong = (float("nan"), float("inf"), -float("inf"))[seed % 3]
        if seed % 2 and n_rows and n_columns > 1:
            scores[-1, -1] = scores[0, 0] = wrong
        above, same, bad = count(scores, starts, wanted)
        assert torch.equal(above, (scores[rows] > wanted[:, None]).sum(1))
        assert torch.equal(same, (scores[rows] == wanted[:, None]).sum(1))
        assert int(bad) == int((~torch.isfinite(scores)).sum())
        assert {above.dtype, same.dtype, bad.dtype} == {torch.int64}


TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@TRITON
def test_the_triton_kernel_compiles_without_a_gpu() -> None:
    """For Hopper: Triton's own checks of types and shapes, which its interpreter leaves out, and machine code in the end."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from kpi_bench.evaluators._triton_kernels import CHUNK, _count_kernel

    ids = dict.fromkeys(("starts", "above", "same", "bad"), "*i64")
    signature = {
        "scores": "*fp32",
        "wanted": "*fp32",
        "stride": "i64",
        "n": "i64",
        **ids,
        "chunk": "constexpr",
    }
    signature = {name: signature[name] for name in _count_kernel.arg_names}
    source = ASTSource(fn=_count_kernel, signature=signature, constexprs={"chunk": CHUNK})
    assert ".target sm_90" in compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]


@TRITON
def test_the_triton_kernel_under_its_interpreter() -> None:
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": root}
    subprocess.run([sys.executable, Path(__file__)], env=environment, check=True, timeout=300)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_triton_kernel_on_a_gpu() -> None:
    from kpi_bench.evaluators._triton_kernels import count

    check_one_pass(count, "cuda")
    scores, positives, filters = case(2, 300, 20_000, 1000)
    own = counted(_device_kernels, torch.from_numpy(scores).cuda(), positives, filters)
    assert own == counted(_array_kernels, scores, positives, filters)


if __name__ == "__main__":
    from kpi_bench.evaluators._triton_kernels import count, try_out

    try_out(torch.device("cpu"))
    check_one_pass(count, "cpu")
