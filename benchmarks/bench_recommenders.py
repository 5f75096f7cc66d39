"""CPU seconds and memory of training steps of the recommendation backbones."""

import math

import pytest
import torch

from benchmarks import recommender_contenders as contenders
from benchmarks.workloads import interaction_workload

pytestmark = [pytest.mark.timeout(900), pytest.mark.benchmark(group="recommender step")]
ROUNDS = {"own-dccf": 1, "own-lightgcl": 3, "own-simgcl": 3}
"""7 where not said, after a round that is not timed; the slowest has none."""


@pytest.mark.parametrize("name", contenders.MAKE)
def test_step(measure, name):
    if name.startswith("recbole"):
        pytest.importorskip("recbole")
    loss, gradient = contenders.first_loss(name)
    if name in contenders.ANSWERS:
        wanted, expected = contenders.first_loss(contenders.ANSWERS[name])
        assert loss == pytest.approx(wanted, rel=1e-4)
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    work = contenders.work(name) if name.startswith("own") else {}
    matrix = interaction_workload()
    later = measure(
        "recommender_contenders", name, contenders.CONTENDERS[name],
        rounds=ROUNDS.get(name, 7), warmup=int(name != "own-dccf"), unit="step",
        users=matrix.n_rows, items=matrix.n_columns, interactions=matrix.nnz, dim=contenders.CONFIG.dim,
        batch=contenders.CONFIG.resolved_batch_size(matrix.nnz), **work,
    )  # fmt: skip
    assert math.isfinite(later)
    assert 0 < later < loss + 0.05  # that it learns is for tests/
