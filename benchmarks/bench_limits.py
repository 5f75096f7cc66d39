"""Rates of the bare operations, measured in the same process as everything else."""

import pytest
import torch

from benchmarks import limit_contenders as contenders

pytestmark = [pytest.mark.timeout(300), pytest.mark.benchmark(group="limits")]


@pytest.mark.parametrize("name", contenders.CONTENDERS)
def test_limits(measure, name):
    value = measure(
        "limit_contenders", name, contenders.CONTENDERS[name], rounds=7, memory=False, **contenders.WORK[name]
    )
    if name == "gemm":
        a, b, _ = contenders.matrices()
        assert value == pytest.approx(float(a[0].double() @ b[:, 0].double()), rel=1e-3, abs=1e-3)
    elif name == "copy":
        assert value == 1
    else:
        source, rows, target = contenders.table()
        assert torch.equal(target[:1000], source[rows[:1000]])
