"""CPU seconds and memory of training KG embeddings on FB15k-237, beside peers; some batches are timed and scaled to an epoch."""

import math

import pytest
import torch

from benchmarks import kge_contenders as contenders
from benchmarks import kge_steps as steps
from benchmarks.workloads import training_workload

pytestmark = pytest.mark.timeout(1800)
SLOW = ("own-plain", "plain-autograd", "metasd-form", "metasd-step", "mulde-step")
ROUNDS, SLOW_ROUNDS = 5, 3
TRAININGS = {**contenders.TRAININGS, **steps.TRAININGS}


def of_group(group):
    return [name for name, training in TRAININGS.items() if training.group == group]


def note_epoch(benchmark, rows, epoch_rows):
    """Add what an epoch costs by the median; nothing is measured with --benchmark-disable."""
    if benchmark.stats is not None:
        each = benchmark.stats.stats.median / rows
        benchmark.extra_info.update(cpu_s_per_1000_rows=1000 * each, epoch_cpu_s=each * epoch_rows)


@pytest.fixture
def time_training(measure, benchmark):
    """Time a contender by name; returns its mean loss."""

    def run(name):
        training = TRAININGS[name]
        loss = measure(
            "kge_contenders" if name in contenders.TRAININGS else "kge_steps",
            name,
            training.run,
            rounds=SLOW_ROUNDS if name in SLOW else ROUNDS,
            batches=training.batches,
            batch_size=training.size,
            rows=training.rows,
            epoch_rows=training.epoch_rows,
            source=training_workload().source,
        )
        note_epoch(benchmark, training.rows, training.epoch_rows)
        return loss

    return run


@pytest.fixture(scope="module")
def one_batch():
    """Loss and gradients of the tables by each ComplEx contender: the same facts, all answers of 200 queries, weights of usual size."""
    facts = next(iter(contenders.grouped_facts().batches(200, torch.Generator().manual_seed(0))))

    def of(make):
        model = contenders.fresh(contenders.COMPLEX)
        with torch.no_grad():
            model.entities.mul_(100)
            model.relations.mul_(100)
        loss = make(model)(facts)
        loss.backward()
        return loss.item(), model.entities.grad, model.relations.grad

    return {
        "own-grouped": of(lambda model: contenders.own_loss(contenders.GROUPED, model)),
        "own-plain": of(lambda model: contenders.own_loss(contenders.COMPLEX, model)),
        "plain-autograd": of(contenders.plain_autograd_loss),
        "metasd-form": of(contenders.metasd_form_loss),
    }


@pytest.fixture(scope="module")
def plain_losses():
    """Mean loss of the timed batches, by the contenders that train on the same ones."""
    return {}


@pytest.mark.benchmark(group=contenders.GROUP)
@pytest.mark.parametrize("name", of_group(contenders.GROUP))
def test_complex(time_training, one_batch, plain_losses, name):
    loss = time_training(name)
    if name == "bare-gemms":
        return
    for found, wanted in zip(one_batch[name], one_batch["plain-autograd"], strict=True):
        scale = float(torch.as_tensor(wanted).abs().max())
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * scale)
    assert loss < math.log(training_workload().n_entities)
    if name != "own-grouped":
        plain_losses[name] = loss
        assert loss == pytest.approx(next(iter(plain_losses.values())), rel=1e-3)


class Replay:
    """A clock that another process has read: each round moves it by the CPU seconds that the round took there."""

    def __init__(self):
        self.now, self.seconds = 0.0, iter(())

    def read(self):
        return self.now

    def round(self):
        self.now += next(self.seconds)


replay = Replay()


@pytest.mark.skipif(
    contenders.libkge_python() is None, reason="KPI_BENCH_LIBKGE names no Python that has LibKGE"
)
@pytest.mark.benchmark(group=contenders.GROUP, timer=replay.read)
def test_libkge(benchmark):
    run = contenders.libkge(SLOW_ROUNDS)
    replay.seconds = iter(run.seconds)
    benchmark.pedantic(replay.round, rounds=SLOW_ROUNDS, iterations=1)
    rows = contenders.LIBKGE_BATCHES * contenders.LIBKGE_BATCH * 2
    n_facts = len(contenders.facts())
    benchmark.extra_info.update(
        contender="libkge",
        batches=contenders.LIBKGE_BATCHES,
        batch_size=contenders.LIBKGE_BATCH,
        rows=rows,
        epoch_rows=n_facts,
        source=training_workload().source,
        peak_rss_mb=run.peak_rss_mb,
    )
    note_epoch(benchmark, rows, n_facts)
    assert run.check_loss == pytest.approx(contenders.loss_of_libkge_tables(run), rel=1e-5)
    assert run.losses[-1] < run.losses[0] < 2 * math.log(training_workload().n_entities) + 1e-3


@pytest.mark.benchmark(group=steps.ROTH_GROUP)
@pytest.mark.parametrize("name", of_group(steps.ROTH_GROUP))
def test_roth(time_training, name):
    loss = time_training(name)
    if name == "own-roth":
        assert 0 < loss < math.log(2) + 1e-3  # at the start all scores are about 0
        model = contenders.fresh(steps.ROTH)
        heads, relations, tails = contenders.facts()[:16].unbind(1)
        own = torch.stack([tails, tails.flip(0)], dim=1)
        torch.testing.assert_close(
            model(heads, relations, own), model(heads, relations).gather(1, own), rtol=1e-4, atol=1e-6
        )


@pytest.mark.benchmark(group=steps.METASD_GROUP)
@pytest.mark.parametrize("name", of_group(steps.METASD_GROUP))
def test_metasd(time_training, name):
    # Which gradients a step takes is for tests/: here it must have trained. The relations' cross-entropy weighs 4.
    relations = 2 * training_workload().n_relations
    at_start = math.log(training_workload().n_entities) + 4 * math.log(relations)
    both = 2 if name == "metasd-step" else 1  # the mutual step has the losses of source and student
    assert 0 < time_training(name) < both * at_start + 1


@pytest.mark.benchmark(group=steps.MULDE_GROUP)
@pytest.mark.parametrize("name", of_group(steps.MULDE_GROUP))
def test_mulde(time_training, name):
    value = time_training(name)
    assert math.isfinite(value)
    if name == "mulde-asking":
        steps.check_asking()
