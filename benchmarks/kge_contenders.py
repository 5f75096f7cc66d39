"""Ways to train ComplEx on the same facts from the same initial tables; each contender trains some batches.

A contender starts from fresh tables, trains some batches and returns the mean of their losses; :data:`TRAININGS` says how many rows
that is and how many an epoch has. What comes before the first rule serves :mod:`benchmarks.kge_steps` too. ``plain-autograd`` and
``metasd-form`` are restatements in our own words: of what one writes first in torch, and of MetaSD's loop for the source model alone, as
our specification describes it. LibKGE is the package, in a process and an environment of its own (:func:`libkge`). 200 reals an entity,
softmax over all entities, Adagrad, no regulariser.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.common.allocator import keep_freed_memory
from baselines.common.kge.facts import GroupedFacts, batches, with_reciprocals
from baselines.common.kge.models import KgeModel
from baselines.common.kge.train import KgeConfig, create, loss_of, optimizer_of
from baselines.common.training import gradient_step
from benchmarks.workloads import training_workload

Loss = Callable[[Tensor], Tensor]

COMPLEX = KgeConfig(
    model="complex",
    dim=200,
    batch_size=1000,
    loss="softmax",
    optimizer="adagrad",
    lr=0.1,
    reg=0.0,
    init_std=1e-3,
)
GROUPED = replace(COMPLEX, grouped=True)
GROUP = "ComplEx epoch"
LIBKGE_BATCH = 1000
"""Triples: each is two rows, of which LibKGE makes two passes of 1,000 rows and one step."""
LIBKGE_BATCHES = 4


@dataclass(frozen=True)
class Training:
    """A contender: ``train`` trains a number of batches of ``size`` rows (scored queries). An epoch has a row for each fact or, if
    ``distinct``, for each distinct query."""

    train: Callable[[int], float]
    group: str
    batches: int
    size: int
    distinct: bool = False

    def run(self) -> float:
        """Train the batches that are timed."""
        return self.train(self.batches)

    @property
    def rows(self) -> int:
        return self.batches * self.size

    @property
    def epoch_rows(self) -> int:
        return len(grouped_facts()) if self.distinct else len(facts())


@cache
def facts() -> Tensor:
    """All triples and their reciprocals, int64 ``[n, 3]``."""
    w = training_workload()
    return with_reciprocals(w.triples, w.n_relations)


@cache
def grouped_facts() -> GroupedFacts:
    return GroupedFacts(facts())


@cache
def _initial(config: KgeConfig) -> KgeModel:
    w = training_workload()
    return create(config, w.n_entities, w.n_relations, seed=0)


def fresh(config: KgeConfig) -> KgeModel:
    """A model with the initial tables of its configuration, which are drawn once."""
    return copy.deepcopy(_initial(config))


def train_batches(step: Callable[[Tensor], Tensor], some: Iterable[Tensor], n: int) -> float:
    """Mean loss of ``n`` steps. The allocator is set as our training loop sets it, for the peers of this process too."""
    keep_freed_memory()
    losses = [step(batch) for batch in islice(some, n)]
    return float(torch.stack(losses).mean())


def own_loss(config: KgeConfig, model: KgeModel) -> Loss:
    """What kpi-bench trains with."""
    return loss_of(model, config, torch.Generator().manual_seed(1))


def own(config: KgeConfig, n: int) -> float:
    """kpi-bench: its batches, loss, optimizer and step."""
    model = fresh(config)
    sampler = torch.Generator().manual_seed(1)
    some = grouped_facts().batches(config.batch_size, sampler) if config.grouped else some_batches(config)
    return train_batches(
        gradient_step(own_loss(config, model), optimizer_of(model.parameters(), config)), some, n
    )


def some_batches(config: KgeConfig) -> Iterator[Tensor]:
    """Shuffled facts, the same for all who ask with this batch size."""
    return batches(facts(), config.batch_size, torch.Generator().manual_seed(1))


# --- ComplEx, softmax over all entities ---------------------------------------------------------------------------------------------


def plain_autograd_loss(model: KgeModel) -> Loss:
    """What one writes first: query vectors, one product with the table, cross_entropy, autograd."""

    def loss(batch: Tensor) -> Tensor:
        heads, relations, tails = batch.unbind(1)
        h_re, h_im = model.entities[heads].chunk(2, dim=1)
        r_re, r_im = model.relations[relations].chunk(2, dim=1)
        queries = torch.cat([h_re * r_re - h_im * r_im, h_re * r_im + h_im * r_re], dim=1)
        return functional.cross_entropy(queries @ model.entities.T, tails)

    return loss


def metasd_form_loss(model: KgeModel) -> Loss:
    """Form of MetaSD's source step: embedding look-ups of head, relation and tail; real and imaginary parts of the query times those of
    all entities, two products that are added; cross_entropy. (The tail's factors, which its regulariser takes, are looked up as well.)"""

    def loss(batch: Tensor) -> Tensor:
        h = functional.embedding(batch[:, 0], model.entities).chunk(2, dim=1)
        r = functional.embedding(batch[:, 1], model.relations).chunk(2, dim=1)
        functional.embedding(batch[:, 2], model.entities).chunk(2, dim=1)
        table_re, table_im = model.entities.chunk(2, dim=1)
        real = (h[0] * r[0] - h[1] * r[1]) @ table_re.transpose(0, 1)
        imaginary = (h[0] * r[1] + h[1] * r[0]) @ table_im.transpose(0, 1)
        return nn.CrossEntropyLoss(reduction="mean")(real + imaginary, batch[:, 2])

    return loss


def restated(loss: Callable[[KgeModel], Loss], n: int) -> float:
    """The same batches as ours, with torch's Adagrad as it comes."""
    model = fresh(COMPLEX)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=COMPLEX.lr)
    return train_batches(gradient_step(loss(model), optimizer), some_batches(COMPLEX), n)


@cache
def _gemm_operands() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    table = _initial(COMPLEX).entities.detach()
    queries = table[: COMPLEX.batch_size].clone()
    scores = torch.empty(len(queries), len(table))
    return queries, table, scores, torch.empty_like(queries), torch.empty_like(table)


def bare_gemms(n: int) -> float:
    """Nothing but the three products of a batch, into buffers that are there: the floor."""
    queries, table, scores, by_queries, by_table = _gemm_operands()
    for _ in range(n):
        torch.mm(queries, table.T, out=scores)
        torch.mm(scores, table, out=by_queries)
        torch.mm(scores.T, queries, out=by_table)
    return float("nan")


# --- LibKGE -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LibkgeRun:
    """CPU seconds of each round after the first, losses of all, the peak memory of its process, and its initial tables with the loss
    that LibKGE has for ``checked`` (mean over triples of both directions' sum)."""

    seconds: list[float]
    losses: list[float]
    peak_rss_mb: float
    checked: np.ndarray
    check_loss: float
    entities: np.ndarray
    relations: np.ndarray


def libkge_python() -> Path | None:
    """The Python that has LibKGE, from KPI_BENCH_LIBKGE."""
    value = os.environ.get("KPI_BENCH_LIBKGE")
    return Path(value) if value and Path(value).exists() else None


def libkge(rounds: int, n_batches: int = LIBKGE_BATCHES) -> LibkgeRun:
    """LibKGE's 1vsAll job on ``n_batches`` batches a round, in a process of its own."""
    python = libkge_python()
    assert python is not None, "KPI_BENCH_LIBKGE"
    w = training_workload()
    rows = np.random.default_rng(1).permutation(len(w.triples))[: LIBKGE_BATCH * n_batches]
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder, "data"), Path(folder, "out")
        write_libkge(data, w.triples[rows])
        driver = Path(__file__).with_name("libkge_driver.py")
        command = [str(python), str(driver), str(data), str(out), str(LIBKGE_BATCH), str(rounds)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=1200)
        if done.returncode:
            raise RuntimeError(f"LibKGE failed:\n{done.stderr[-2000:]}")
        answer = json.loads(done.stdout.splitlines()[-1])
        tables = np.load(out / "tables.npz")
        return LibkgeRun(
            seconds=answer["seconds"][1:],
            losses=answer["losses"],
            peak_rss_mb=answer["peak_rss_mb"],
            checked=w.triples[rows][: answer["checked"]],
            check_loss=answer["check_loss"],
            entities=tables["entities"],
            relations=tables["relations"],
        )


def write_libkge(folder: Path, triples: np.ndarray) -> None:
    """A dataset folder in LibKGE's format: tab-separated ids, maps of ids, dataset.yaml. Valid and test are never scored."""
    w = training_workload()
    folder.mkdir()
    for split, part in (("train", triples), ("valid", triples[:1]), ("test", triples[:1])):
        np.savetxt(folder / f"{split}.del", part, fmt="%d", delimiter="\t")
    for name, n in (("entity", w.n_entities), ("relation", w.n_relations)):
        lines = "".join(f"{i}\t{i}\n" for i in range(n))
        (folder / f"{name}_ids.del").write_text(lines, encoding="utf-8")
    sizes = f"  num_entities: {w.n_entities}\n  num_relations: {w.n_relations}\n"
    (folder / "dataset.yaml").write_text(f"dataset:\n  name: benchmark\n{sizes}", encoding="utf-8")


def loss_of_libkge_tables(run: LibkgeRun) -> float:
    """Our loss for what LibKGE scored: its tables are [re | im] as ours, and the reciprocal of r is its conjugate."""
    model = fresh(COMPLEX)
    re, im = torch.from_numpy(run.relations).chunk(2, dim=1)
    both = torch.cat([torch.cat([re, im], 1), torch.cat([re, -im], 1)])
    with torch.no_grad():
        model.entities.copy_(torch.from_numpy(run.entities))
        model.relations.copy_(both)
        loss = own_loss(COMPLEX, model)(with_reciprocals(run.checked, training_workload().n_relations))
    return 2 * float(loss)


# --- All of them --------------------------------------------------------------------------------------------------------------------

TRAININGS: dict[str, Training] = {
    "bare-gemms": Training(bare_gemms, GROUP, 8, 1000, distinct=True),
    "own-grouped": Training(partial(own, GROUPED), GROUP, 8, 1000, distinct=True),
    "own-plain": Training(partial(own, COMPLEX), GROUP, 8, 1000),
    "plain-autograd": Training(partial(restated, plain_autograd_loss), GROUP, 8, 1000),
    "metasd-form": Training(partial(restated, metasd_form_loss), GROUP, 8, 1000),
}
CONTENDERS: dict[str, Callable[[], float]] = {name: training.run for name, training in TRAININGS.items()}
