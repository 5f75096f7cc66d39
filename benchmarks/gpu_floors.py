"""What ranking links and a training step take on a device, against the bytes and the operations that they cannot do without.

The device's own rates are measured beside: a copy (bytes read and written a second) and a float32 product without TF32, which ranked scores
do not use.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from baselines.common.kge.train import KgeConfig, create, loss_of, optimizer_of
from baselines.common.training import gradient_step
from benchmarks.workloads import generated_triples
from kpi_bench._csr import Csr
from kpi_bench.evaluators.ranking import count_ties_from_factors

ROUNDS = 10
ENTITIES, QUERIES, DIM, BATCH = 200_000, 4_096, 64, 1_024
FLOAT = 4


def floors(device: str, *, entities: int = ENTITIES, queries: int = QUERIES) -> list[dict[str, Any]]:
    """Rows with ``what``, seconds, the operations and bytes of the floor, and how many times the floor the seconds are."""
    copied = torch.ones(entities * DIM, device=device)
    target = torch.empty_like(copied)
    seconds = _seconds(lambda: target.copy_(copied), device)
    bytes_a_second = 2 * FLOAT * copied.numel() / seconds
    left, right = torch.randn(queries, DIM, device=device), torch.randn(entities, DIM, device=device)
    out = torch.empty(queries, entities, device=device)
    seconds = _seconds(lambda: torch.mm(left, right.T, out=out), device)
    flops_a_second = 2 * out.numel() * DIM / seconds
    out = torch.empty(0)  # its memory is the ranking's
    found = [
        {
            "what": "copy",
            "s": _seconds(lambda: target.copy_(copied), device),
            "flops": 0,
            "bytes": 2 * FLOAT * copied.numel(),
        }
    ]
    found.append(_ranking(device, entities, queries))
    found.append(_training(device, entities))
    for row in found:
        row["floor_s"] = max(row["flops"] / flops_a_second, row["bytes"] / bytes_a_second)
        row["times_floor"] = row["s"] / row["floor_s"]
        row["flops_a_second"], row["bytes_a_second"] = flops_a_second, bytes_a_second
    return found


def _ranking(device: str, entities: int, queries: int) -> dict[str, Any]:
    """Counts of better and equal entities, one positive a query and ten known. The floor: the product, its scores written and read once,
    both tables read once."""
    rng = np.random.default_rng(0)
    vectors = (
        rng.standard_normal((queries, DIM), dtype=np.float32),
        rng.standard_normal((entities, DIM), dtype=np.float32),
    )
    columns = rng.integers(0, entities, (queries, 11))
    rows = np.repeat(np.arange(queries), 11)
    known = Csr.from_pairs(rows, columns.ravel(), (queries, entities))
    wanted = Csr.from_pairs(np.arange(queries), columns[:, 0], (queries, entities))
    seconds = _seconds(
        lambda: count_ties_from_factors(*vectors, wanted, known, device=device, backend="torch"), device
    )
    cells = queries * entities
    return {
        "what": f"rank {queries} queries among {entities} entities, {DIM}-d, transfers included",
        "s": seconds,
        "flops": 2 * cells * DIM,
        "bytes": FLOAT * (2 * cells + (queries + entities) * DIM),
    }


def _training(device: str, entities: int) -> dict[str, Any]:
    """A step of ComplEx with the softmax over all entities and Adam. The floor: three products; the scores written and read twice; the table
    read for two products, its gradient written, and Adam's four reads and three writes."""
    config = KgeConfig(model="complex", dim=DIM, loss="softmax", batch_size=BATCH, reg=0.0)
    model = create(config, entities, 100, 0).to(device)
    sampler = torch.Generator(device=device).manual_seed(1)
    step = gradient_step(loss_of(model, config, sampler), optimizer_of(model.parameters(), config))
    facts = torch.from_numpy(generated_triples(BATCH, entities, 100)).to(device)
    seconds = _seconds(lambda: step(facts), device)
    cells, table = BATCH * entities, entities * DIM
    return {
        "what": f"ComplEx step, {BATCH} facts against {entities} entities, {DIM}-d",
        "s": seconds,
        "flops": 6 * cells * DIM,
        "bytes": FLOAT * (4 * cells + 10 * table),
    }


def _seconds(work: Callable[[], Any], device: str) -> float:
    """Median of some rounds after two that warm up, each waited for."""
    laps = []
    for number in range(ROUNDS + 2):
        begin = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        if number >= 2:
            laps.append(time.perf_counter() - begin)
    return statistics.median(laps)
