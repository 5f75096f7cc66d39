"""Hot paths of JPLR beyond its walks: the loss of the next entity, steps of teacher and student, union and linked subgraph.

Names that begin with ``own`` are kpi-bench; ``sampled-spec`` is the loss as our specification had it (its section 4.4: no merging of equal
candidates, equal targets masked).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from baselines.common.allocator import keep_freed_memory
from baselines.common.distill.teachers import freeze
from baselines.common.paths.biased import BiasedWalker
from baselines.common.paths.body import BodyShape
from baselines.common.paths.graph import PathGraph
from baselines.common.paths.sampled import Candidates, Scores, sampled_softmax
from baselines.common.training import annealed_step
from baselines.jplr.linked import LinkedGraph, linked_graph
from baselines.jplr.local import LocalGraph
from baselines.jplr.model import PathModel, steps
from baselines.jplr.student import Imitation, Retraining, Teacher
from baselines.jplr.teacher import PAIRS, alignment, new_teacher
from baselines.jplr.training import NextEntity, scores_of
from baselines.jplr.union import UnionGraph, given_links
from benchmarks.biased_walk_contenders import CONFIG, WALKS
from benchmarks.workloads import ROOT, generated_triples, training_workload
from kpi_bench import KnowledgeGraph, LinkPredictionTask
from kpi_bench.suites.suite import Suite, open_suite

SUITE = "KPI_BENCH_FB15K_237_DB15K"
"""The variable that names the folder of the built suite of two linked KGs; without it ../suites/fb15k-237-db15k."""
HOPS, BATCH, N_BATCHES = CONFIG.hops, CONFIG.batch_size, 8
OTHER = (83_355, 12_842, 279)
"""Triples, entities and relations of DB15K in that suite."""
N_LINKS = 12_658

Ints = NDArray[np.int64]

# --- What is trained: the KG above linked one to one to a generated one of DB15K's sizes --------------------------------------------------


@cache
def union() -> UnionGraph:
    """27,383 entities, 516 relations and 355,470 triples where the archive is there; random links, so that swapped triples are many."""
    w, (n_triples, n_entities, n_relations) = training_workload(), OTHER
    rng = np.random.default_rng(3)
    other = generated_triples(n_triples, n_entities, n_relations) + np.array(
        [w.n_entities, w.n_relations, w.n_entities]
    )
    mine = np.sort(rng.permutation(w.n_entities)[:N_LINKS])
    links = np.stack([mine, w.n_entities + rng.permutation(n_entities)[:N_LINKS]], axis=1)
    bridges = np.zeros(w.n_entities + n_entities, dtype=np.bool_)
    bridges[links] = True
    return UnionGraph(
        ("fb15k-237", "other"),
        {"fb15k-237": 0, "other": w.n_entities},
        {"fb15k-237": 0, "other": w.n_relations},
        w.n_entities + n_entities,
        w.n_relations + n_relations,
        np.concatenate([w.triples, other]),
        links,
        bridges,
    )


@cache
def linked(hops: int = CONFIG.link_hops) -> LinkedGraph:
    """Of all of FB15k-237; for no hops, that alone."""
    w = training_workload()
    none = np.zeros((0, 3), dtype=np.int64)
    return linked_graph(
        union(), "fb15k-237", np.arange(w.n_entities), w.triples,
        withheld=none, hops=hops, per_entity=CONFIG.link_triples, seed=0,
    )  # fmt: skip


def batches(graph: PathGraph, triples: Ints, bridges: NDArray[np.bool_]) -> list[Tensor]:
    """Eight batches of paths int64 ``[1024, 5]`` that begin with random ones of the triples, both ways."""
    rng = np.random.default_rng(4)
    back = triples[:, ::-1] + [0, graph.n_forward, 0]
    first = rng.permutation(np.concatenate([triples, back]))[: BATCH * N_BATCHES]
    walker = BiasedWalker(
        graph.capped(CONFIG.hub_limit, CONFIG.hub_keep, seed=0),
        depth=CONFIG.depth, crossing=CONFIG.crossing, bridges=bridges,
    )  # fmt: skip
    paths = walker.extend(first, HOPS, seed=0).astype(np.int64)
    return list(torch.from_numpy(paths).split(BATCH))  # type: ignore[no-untyped-call]


@cache
def teacher_batches() -> list[Tensor]:
    return batches(union().graph, union().triples, union().bridges)


@cache
def student_batches(hops: int) -> list[Tensor]:
    graph = linked(hops)
    return batches(graph.graph, graph.triples, graph.bridges)


def frequency(triples: Ints, n_nodes: int) -> Tensor:
    """How often each node is the target of a first hop, float32 ``[n_nodes]``."""
    counts = np.bincount(triples[:, ::2].ravel(), minlength=n_nodes)
    return torch.from_numpy(counts / counts.sum()).float()


# --- The loss of the next entity --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Problem:
    """The steps of a batch: ``states [m, d]``, the whole ``table [n, d]`` and ``bias [n]``, all with gradients; ``targets`` int64 ``[m]``
    and their ``weights [m]``; ``frequency [n]``."""

    states: Tensor
    table: Tensor
    bias: Tensor
    targets: Tensor
    weights: Tensor
    frequency: Tensor

    @classmethod
    def random(cls) -> Problem:
        generator = torch.Generator().manual_seed(0)
        n, d, paths = union().n_entities, CONFIG.teacher_hidden, teacher_batches()[0]
        normal = partial(torch.randn, generator=generator)
        taken = steps(normal(BATCH, 2 * HOPS, d), paths)
        return cls(
            taken.states.requires_grad_(),
            normal(n, d).mul_(0.1).requires_grad_(),
            normal(n).requires_grad_(),
            taken.targets,
            torch.where(taken.hops == 0, 1.0, CONFIG.later_weight),
            frequency(union().triples, n),
        )

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.states, self.table, self.bias

    def uniform(self, generator: torch.Generator) -> Tensor:
        return torch.randint(len(self.table), (CONFIG.negatives,), generator=generator)

    def candidates(self, uniform: Tensor) -> Candidates:
        return Candidates.of(self.targets, uniform, self.frequency)

    def scores(self, ids: Tensor) -> Scores:
        """Of the rows ``ids``, looked up as :meth:`PathModel.candidates` does."""
        return Scores(self.states, functional.embedding(ids, self.table), self.bias.index_select(0, ids))

    def mean(self, losses: Tensor) -> Tensor:
        return (losses * self.weights).sum() / self.weights.sum()


Loss = Callable[[Problem, Tensor], Tensor]


def own_loss(p: Problem, uniform: Tensor) -> Tensor:
    candidates = p.candidates(uniform)
    return sampled_softmax(p.scores(candidates.ids), candidates, p.weights)


def narrowed(loss: Loss, p: Problem, uniform: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return loss(p, uniform)


def sampled_autograd(p: Problem, uniform: Tensor) -> Tensor:
    """The same loss with its logits ``[m, c]`` held for autograd."""
    candidates = p.candidates(uniform)
    states, rows, bias = p.scores(candidates.ids)
    logits = torch.addmm(bias + candidates.offsets, states, rows.T)
    return p.mean(functional.cross_entropy(logits, candidates.columns, reduction="none"))


def sampled_spec(p: Problem, uniform: Tensor) -> Tensor:
    """Logits ``[m, m + K]``: a column for each target and each random entity."""
    ids = torch.cat([p.targets, uniform])
    states, rows, bias = p.scores(ids)
    log_q = (len(p.targets) * p.frequency[ids] + len(uniform) / len(p.table)).log()
    logits = torch.addmm(bias - log_q, states, rows.T)
    own = torch.arange(len(p.targets))
    equal = ids[None] == p.targets[:, None]
    equal[own, own] = False
    logits = logits.masked_fill(equal, -torch.inf)
    return p.mean(functional.cross_entropy(logits, own, reduction="none"))


def full_autograd(p: Problem, _: Tensor) -> Tensor:
    """Logits of all entities, ``[m, n]``."""
    logits = torch.addmm(p.bias, p.states, p.table.T)
    return p.mean(functional.cross_entropy(logits, p.targets, reduction="none"))


def gradients(loss: Loss, p: Problem, uniform: Tensor) -> tuple[float, tuple[Tensor, ...]]:
    """The loss and its gradients by states, table and bias."""
    for leaf in p.leaves:
        leaf.grad = None
    value = loss(p, uniform)
    value.backward()  # type: ignore[no-untyped-call]
    return float(value.detach()), tuple(leaf.grad for leaf in p.leaves if leaf.grad is not None)


@cache
def loss_step(loss: Loss) -> Callable[[], float]:
    """Random candidates drawn, forward, backward."""
    keep_freed_memory()
    p, generator = Problem.random(), torch.Generator().manual_seed(0)
    return lambda: gradients(loss, p, p.uniform(generator))[0]


@cache
def gemms(dtype: torch.dtype) -> Callable[[], float]:
    """The three products of the sampled loss, into memory that is there already."""
    keep_freed_memory()
    p = Problem.random()
    n = len(p.candidates(p.uniform(torch.Generator().manual_seed(0))).ids)
    states, rows = p.states.detach().to(dtype), p.table[:n].detach().to(dtype)
    scores = torch.empty(len(states), n, dtype=dtype)
    by_states, by_rows = torch.empty_like(states), torch.empty_like(rows)

    def run() -> float:
        torch.mm(states, rows.T, out=scores)
        torch.mm(scores, rows, out=by_states)
        torch.mm(scores.T, states, out=by_rows)
        return float(by_rows[0, 0])

    return run


LOSSES: dict[str, Loss] = {
    "own-loss": own_loss,
    "own-loss-bfloat16": partial(narrowed, own_loss),
    "sampled-autograd": sampled_autograd,
    "sampled-autograd-bfloat16": partial(narrowed, sampled_autograd),
    "sampled-spec": sampled_spec,
    "full-autograd": full_autograd,
}
GEMMS = {"gemms-float32": torch.float32, "gemms-bfloat16": torch.bfloat16}


# --- Steps ------------------------------------------------------------------------------------------------------------------------------


def training(
    model: nn.Module, loss: Callable[[Tensor], Tensor], paths: Sequence[Tensor], narrow: bool
) -> Callable[[], float]:
    """A step as :func:`baselines.jplr.training.fit` takes it: loss, gradients, clipping, AdamW; returns the loss of a training that goes on."""
    keep_freed_memory()

    def narrowed(batch: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            return loss(batch)

    step = annealed_step(
        model.train(), narrowed, steps=10_000, lr=CONFIG.lr, decay=CONFIG.decay, warmup=CONFIG.warmup
    )
    given = cycle(paths)
    return lambda: float(step(next(given)))


def teacher_loss() -> tuple[PathModel, Callable[[Tensor], Tensor]]:
    """An untrained teacher and what :func:`baselines.jplr.teacher.fit_teacher` trains it on: next entities and linked pairs."""
    model = new_teacher(union(), CONFIG, seed=0)
    objective = NextEntity(frequency(union().triples, union().n_entities), CONFIG, seed=0)
    links, generator = torch.from_numpy(union().links), torch.Generator().manual_seed(0)

    def loss(paths: Tensor) -> Tensor:
        taken = model.queries(paths)
        candidates = objective.candidates(taken.targets)
        total = objective.loss(taken, scores_of(model, taken.states, candidates.ids), candidates)
        chosen = torch.unique(torch.randint(len(links), (PAIRS,), generator=generator))
        return total + CONFIG.align * alignment(model, links[chosen], CONFIG.align_temperature)

    return model, loss


@cache
def teacher_step(narrow: bool) -> Callable[[], float]:
    model, loss = teacher_loss()
    return training(model, loss, teacher_batches(), narrow)


TEACHERS = {"own-teacher": False, "own-teacher-bfloat16": True}


WEIGHTS = ("feature", "network", "prediction")
STUDENTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "own-scratch": (0, ()),
    "own-linked": (1, ()),
    "own-feature": (1, ("feature",)),
    "own-network": (1, ("network",)),
    "own-prediction": (1, ("prediction",)),
    "own-all-losses": (1, WEIGHTS),
}
"""The hops of the linked subgraph (0: the KG alone, no teacher) and the losses of distillation of weight 1, the others of 0."""


@cache
def frozen_teacher() -> Teacher:
    return Teacher(freeze(new_teacher(union(), CONFIG, seed=0)), union())


def retraining(hops: int, losses: Sequence[str]) -> Retraining:
    """An untrained student as :func:`baselines.jplr.student.fit_student` makes it, and what it imitates."""
    graph, teacher, d = linked(hops), frozen_teacher(), CONFIG.hidden
    weights: dict[str, Any] = {name: float(name in losses) for name in WEIGHTS}
    config = replace(CONFIG, **weights)
    generator = torch.Generator().manual_seed(0)
    others = torch.from_numpy(graph.origin[graph.n_local :])
    student = PathModel(
        graph.n_local,
        2 * graph.n_relations,
        BodyShape(d, config.layers, config.heads, config.dropout, 2 * HOPS + 1),
        generator=generator,
        borrowed=teacher.model.rows(others).detach() if len(others) else None,
    )
    objective = NextEntity(frequency(graph.triples, graph.n_nodes), config, seed=0)
    imitation = None
    if losses:
        n_relations = training_workload().n_relations
        imitation = Imitation(teacher, graph, d, generator, n_relations, torch.device("cpu"))
    return Retraining(student, imitation, objective, config)


@cache
def student_step(hops: int, losses: tuple[str, ...]) -> Callable[[], float]:
    whole = retraining(hops, losses)
    return training(whole, whole.loss, student_batches(hops), narrow=True)


# --- Union and linked subgraph of the built suite ---------------------------------------------------------------------------------------


def suite_folder() -> Path:
    return Path(os.environ.get(SUITE, ROOT.parent / "suites" / "fb15k-237-db15k"))


@cache
def suite() -> Suite:
    return open_suite(suite_folder())


@cache
def graphs() -> Mapping[str, KnowledgeGraph]:
    return {name: suite().graph(name) for name in suite().graph_names()}


@cache
def local() -> LocalGraph:
    task = suite().task(suite().task_names()[0])
    assert isinstance(task, LinkPredictionTask)
    return LocalGraph.of_links(task)


def build_union() -> UnionGraph:
    """Entities and relations side by side, swapped triples, and the graph of paths."""
    built = UnionGraph.of(graphs(), given_links(graphs()))
    _ = built.graph
    return built


@cache
def suite_union() -> UnionGraph:
    return build_union()


def build_linked() -> LinkedGraph:
    """The linked subgraph of all entities of the task's KG, and its graph of paths; the union is there already."""
    own = local()
    built = linked_graph(
        suite_union(), own.kg, own.entities, own.train,
        withheld=own.valid, hops=CONFIG.link_hops, per_entity=CONFIG.link_triples, seed=0,
    )  # fmt: skip
    _ = built.graph
    return built


GRAPHS: dict[str, Callable[[], Any]] = {"own-union": build_union, "own-linked-graph": build_linked}


def edges(build: Callable[[], Any]) -> float:
    return float(build().graph.n_edges)


# --- All of them ------------------------------------------------------------------------------------------------------------------------

CONTENDERS: dict[str, Callable[[], float]] = {
    **{name: walks.complete for name, walks in WALKS.items()},
    **{name: partial(lambda loss: loss_step(loss)(), loss) for name, loss in LOSSES.items()},
    **{name: partial(lambda dtype: gemms(dtype)(), dtype) for name, dtype in GEMMS.items()},
    **{name: partial(lambda narrow: teacher_step(narrow)(), narrow) for name, narrow in TEACHERS.items()},
    **{name: partial(lambda sizes: student_step(*sizes)(), sizes) for name, sizes in STUDENTS.items()},
    **{name: partial(edges, build) for name, build in GRAPHS.items()},
}
