"""CPU seconds and memory of MuDoK: pre-training steps, tuning with prompts, the propagation under them, the table of texts."""

import json
import math
import subprocess
import sys

import pytest
import torch

from benchmarks import mudok_contenders, propagation_contenders, tuning_contenders
from benchmarks.workloads import ROOT, interaction_workload

pytestmark = pytest.mark.timeout(900)
N_TEXTS = 500_000
ROUNDS = {
    "authors-form": 1,
    "prompts-refresh-24": 2,
    "prompts-refresh-120": 1,
    "prompts-128-refresh-120": 1,
    "prompts-refresh-1": 1,
    "refresh": 2,
}
"""5 where not said, each after a round that is not timed; the slowest have no such round."""
EPOCH_STEPS = 24


@pytest.fixture
def time_contender(measure, benchmark):
    """Time a contender, whose call does ``amount`` of ``unit``; returns its value."""

    def run(module, name, unit, amount=1.0, memory=True, **sizes):
        rounds = ROUNDS.get(name, 5)
        value = measure(
            module.__name__.rpartition(".")[2],
            name,
            module.CONTENDERS[name],
            rounds=rounds,
            warmup=int(rounds > 1),
            memory=memory,
            **sizes,
        )
        if benchmark.stats is not None:  # nothing is measured with --benchmark-disable
            benchmark.extra_info[f"{unit}_cpu_s"] = benchmark.stats.stats.median / amount
        return value

    return run


@pytest.mark.benchmark(group="MuDoK pre-training")
@pytest.mark.parametrize("name", mudok_contenders.CONTENDERS)
def test_pretraining(time_contender, name):
    if name in mudok_contenders.RESTATED:
        mudok_contenders.check_same_loss(name)
    config = mudok_contenders.PAPER
    loss = time_contender(
        mudok_contenders, name, "step", items=config.batch_size, slots=config.slots, hidden=config.hidden
    )
    # Of random guesses; dropout twins of random texts are told apart from the start.
    assert 0 < loss < (1 + config.knowledge_weight) * math.log(config.batch_size)


@pytest.mark.benchmark(group="LightGCN with prompts")
@pytest.mark.parametrize("name", tuning_contenders.STEPS)
def test_tuning(time_contender, name):
    tuning_contenders.prepare(name)
    steps, w = tuning_contenders.STEPS[name], interaction_workload()
    loss = time_contender(
        tuning_contenders,
        name,
        "epoch",
        steps / EPOCH_STEPS,
        memory=ROUNDS.get(name, 5) > 1,
        steps=steps,
        users=w.n_rows,
        items=w.n_columns,
        interactions=w.nnz,
    )
    assert 0 < loss < 1  # log 2 of a random order, and the penalty


@pytest.mark.benchmark(group="refresh of prompts")
def test_refresh(time_contender):
    tuning_contenders.prepare("refresh")
    n_items = interaction_workload().n_columns
    spread = time_contender(tuning_contenders, "refresh", "refresh", memory=False, items=n_items)
    assert spread == pytest.approx(
        1, rel=0.5
    )  # vectors are scaled to a mean square of 1 as they are without codes


@pytest.mark.benchmark(group="propagation")
@pytest.mark.parametrize("name", propagation_contenders.CONTENDERS)
def test_propagation(time_contender, name):
    if "dgl" in name:
        pytest.importorskip("dgl")
    for found, wanted in zip(
        propagation_contenders.forward_backward(name),
        propagation_contenders.forward_backward("own-torch"),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    time_contender(
        propagation_contenders,
        name,
        "pass",
        edges=len(propagation_contenders.edges()[0]),
        layers=propagation_contenders.LAYERS,
        dim=propagation_contenders.DIM,
        **(propagation_contenders.work() if name.startswith("own") else {}),
    )


@pytest.mark.benchmark(group="text table")
def test_text_table(benchmark):
    """In a process of its own; its seconds are not those of this one's clock, so only memory is noted."""
    command = [sys.executable, "-m", "benchmarks.text_table_memory", str(N_TEXTS)]

    def run():
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600)
        return json.loads(done.stdout)

    found = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update({"contender": "text-table", **found})
    table = found["table_mb"]
    assert found["anonymous_building_mb"] - found["anonymous_before_mb"] < 0.2 * table
    assert found["anonymous_using_mb"] - found["anonymous_before_mb"] < 0.1 * table
