"""What :mod:`benchmarks.growth` measures: for each case a workload of any size, and how its time must grow.

A case makes its input (not timed) and returns what is timed; that returns a number by which it is checked. Where caches and memory decide,
a case brings its limit: bare products, sorts and look-ups of the same sizes, which no form of the path escapes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray

from baselines.common.allocator import keep_freed_memory
from baselines.common.kge.facts import with_reciprocals
from baselines.common.kge.train import KgeConfig, create, epochs_of, loss_of, optimizer_of
from baselines.common.paths.graph import PathGraph
from baselines.common.paths.walks import Walker
from baselines.common.recommenders.base import RecommenderConfig
from baselines.common.recommenders.fit import BACKBONES
from baselines.common.sampling import PairSampler
from baselines.common.training import gradient_step
from kpi_bench import Csr, KnowledgeGraph
from kpi_bench._io import write_parquet
from kpi_bench.evaluators._blocks import CELLS
from kpi_bench.evaluators.link_prediction import LinkPredictionIndex, rank_factors
from kpi_bench.evaluators.ranking import rank_positives_from_factors, tie_order
from kpi_bench.suites.suite import read_graph
from kpi_bench.suites.writer import ENTITIES, RELATIONS, TRIPLES

Ints = NDArray[np.int64]
Action = Callable[[], float]

DIM = 64
N_RELATIONS = 20
STEPS = 12
"""Training steps that are timed of an epoch; the epoch's time is theirs times its batches over these."""
KGE = KgeConfig(model="distmult", dim=DIM, batch_size=4096, negatives=256)
LIGHTGCN = RecommenderConfig(dim=DIM, layers=2, steps_per_epoch=24)


@dataclass(frozen=True)
class Work:
    """One size of a case: ``run`` is timed and does ``part`` of the whole; what it returns lies in ``low`` to ``high``. ``limit`` does as
    much of what cannot be spared, and its result is of no use."""

    run: Action
    low: float
    high: float
    part: float = 1.0
    limit: Callable[[], object] | None = None


@dataclass(frozen=True)
class Case:
    """``sizes`` of ``variable``; ``expected`` is the exponent that the task itself asks for, whatever the method. ``why`` says so."""

    variable: str
    sizes: tuple[int, ...]
    expected: float
    why: str
    make: Callable[[int], Work]


def triples_of(n: int, n_entities: int) -> Ints:
    """About ``n`` distinct triples int64 ``[n, 3]`` with skewed tails, in random order."""
    rng = np.random.default_rng(0)
    heads, relations = rng.integers(0, n_entities, n), rng.integers(0, N_RELATIONS, n)
    tails = (n_entities * rng.random(n) ** 2).astype(np.int64)
    return rng.permutation(np.unique(np.stack([heads, relations, tails], axis=1), axis=0))


def interactions_of(n: int) -> Csr:
    """About ``n`` interactions of n / 12 users with n / 25 items, popular items first."""
    rng = np.random.default_rng(0)
    users, items = n // 12, n // 25
    pairs = np.unique(rng.integers(0, users, n) * items + (items * rng.random(n) ** 2).astype(np.int64))
    return Csr.from_pairs(pairs // items, pairs % items, (users, items))


def _factors(n: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, DIM), dtype=np.float32)


def read_kg(n: int) -> Work:
    """Read the tables of a KG of ``n`` triples and n / 5 entities with texts, and group its edges by head."""
    triples, n_entities = triples_of(n, n // 5), n // 5
    folder = tempfile.TemporaryDirectory()
    base = Path(folder.name)
    write_parquet(base / "triples.parquet", pd.DataFrame(triples, columns=TRIPLES.names), schema=TRIPLES)
    names = [f"entity number {i}" for i in range(n_entities)]
    entities = {
        "entity": range(n_entities),
        "key": names,
        "name": names,
        "text": names,
        "domain": "d",
        "kind": "k",
    }
    write_parquet(base / "entities.parquet", pd.DataFrame(entities), schema=ENTITIES)
    relations = [str(i) for i in range(N_RELATIONS)]
    table = pd.DataFrame({"relation": range(N_RELATIONS), "key": relations, "name": relations})
    write_parquet(base / "relations.parquet", table, schema=RELATIONS)
    pa.default_memory_pool().release_unused()

    def run() -> float:
        graph: KnowledgeGraph = read_graph(base, folder.name, linked=False)
        return float(graph.out_edges.degrees().sum())

    return Work(run, len(triples), len(triples))


def rank_links(n_entities: int, n_triples: int) -> Work:
    """Ranks of both directions of test triples among all entities, from factors."""
    rng = np.random.default_rng(1)
    known = triples_of(20_000, n_entities)
    test = np.stack(
        [rng.integers(0, n_entities, n_triples), rng.integers(0, N_RELATIONS, n_triples), rng.integers(0, n_entities, n_triples)],
        axis=1,
    )  # fmt: skip
    test = np.unique(test, axis=0)
    index = LinkPredictionIndex.build(known, known[:1], test, n_entities, N_RELATIONS)
    queries, entities = _factors(index.n_queries, 2), _factors(n_entities, 3)

    def run() -> float:
        ranks = rank_factors(index, queries, entities)
        return float(np.mean(ranks.realistic) / n_entities)

    # Of random factors the mean rank lies in the middle.
    return Work(run, 0.4, 0.6, limit=lambda: _score(queries, entities))


def _score(rows: NDArray[np.float32], columns: NDArray[np.float32]) -> int:
    """The products in blocks of at least eight rows, and one pass that compares each score."""
    size = max(8, CELLS // len(columns))
    block, above = np.empty((size, len(columns)), np.float32), 0
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        above += int(np.count_nonzero(np.matmul(part, columns.T, out=block[: len(part)]) > 0))
    return above


def rank_items(n_users: int, n_items: int) -> Work:
    """Ranks of ten items of each user among all items, from factors."""
    rng = np.random.default_rng(1)
    step = n_items // 20
    chosen = np.arange(0, 20 * step, step) + rng.integers(0, step, (n_users, 20))
    rows = np.repeat(np.arange(n_users), 10)
    masked, positives = (
        Csr.from_pairs(rows, part.ravel(), (n_users, n_items)) for part in (chosen[:, ::2], chosen[:, 1::2])
    )
    users, items, order = _factors(n_users, 2), _factors(n_items, 3), tie_order(n_items, "growth")

    def run() -> float:
        ranks = rank_positives_from_factors(users, items, positives, masked, order)
        return float(np.mean(ranks) / n_items)

    return Work(run, 0.4, 0.6, limit=lambda: _score(users, items))


def _graph(n: int) -> PathGraph:
    heads, relations, tails = np.ascontiguousarray(triples_of(n, n // 5).T)
    return PathGraph.of_edges(heads, relations, tails, n_nodes=n // 5, n_forward=N_RELATIONS)


def prepare_walks(n: int) -> Work:
    """A path graph of ``n`` triples, both ways, and its walker."""
    heads, relations, tails = np.ascontiguousarray(triples_of(n, n // 5).T)

    def run() -> float:
        graph = PathGraph.of_edges(heads, relations, tails, n_nodes=n // 5, n_forward=N_RELATIONS)
        return float(Walker(graph).graph.degrees().sum())

    keys = np.random.default_rng(1).integers(0, 1 << 60, 2 * len(heads))
    return Work(run, 2 * len(heads), 2 * len(heads), limit=lambda: np.sort(keys))


def draw_walks(n: int, n_walks: int) -> Work:
    """Walks of three hops over a graph of ``n`` triples."""
    graph = _graph(n)
    walker = Walker(graph)
    starts = np.random.default_rng(1).choice(np.flatnonzero(graph.degrees()), n_walks)

    def run() -> float:
        return float(np.mean(walker.walk(starts, 3, seed=0)[:, -1] >= 0))

    # A hop finds a node's edges, then one of them: nodes and edges in the order that chance has them.
    rng = np.random.default_rng(2)
    ends = graph.neighbours[rng.integers(0, graph.n_edges, 3 * n_walks)]
    places = rng.integers(0, graph.n_edges, 3 * n_walks)
    edges = np.stack([graph.neighbours, graph.relations], axis=1).view(np.int64)
    return Work(run, 0.8, 1.0, limit=lambda: (graph.indptr[ends], edges[places]))


def kge_epoch(n_triples: int, n_entities: int) -> Work:
    """Steps of an epoch of ``kg-embedding``: DistMult, sampled softmax, Adam over the tables."""
    facts = with_reciprocals(triples_of(n_triples, n_entities), N_RELATIONS)
    model = create(KGE, n_entities, N_RELATIONS, 0)
    sampler = torch.Generator().manual_seed(1)
    step = gradient_step(loss_of(model, KGE, sampler), optimizer_of(model.parameters(), KGE))
    n_batches = -(-len(facts) // KGE.batch_size)
    limit = bare_kge_step(facts, torch.zeros(n_entities, DIM))
    return _steps(step, epochs_of(facts, KGE, sampler), n_batches, limit)


def bare_kge_step(facts: torch.Tensor, table: torch.Tensor) -> Callable[[], None]:
    """What a step cannot spare: rows of the batch's entities looked up and their gradients added to one of the table, three products with
    the sampled entities, Adam over all rows, which moves those that no fact of the batch has."""
    table.grad = torch.zeros_like(table)
    adam = torch.optim.Adam([table.requires_grad_()], lr=0.0, fused=True)
    places = torch.randperm(len(facts), generator=torch.Generator().manual_seed(2))
    batches = cycle([facts[rows] for rows in torch.split(places, KGE.batch_size)[:STEPS]])

    @torch.no_grad()
    def step() -> None:
        batch = next(batches)
        drawn = batch[: KGE.negatives, 0]
        ids = torch.cat([batch[:, 0], batch[:, 2], drawn])
        rows = torch.index_select(table, 0, ids)
        queries, others = rows[: len(batch)], rows[-len(drawn) :]
        scores = queries @ others.T
        torch.mm(scores, others, out=queries)
        torch.mm(scores.T, queries, out=others)
        assert table.grad is not None
        table.grad.zero_().index_add_(0, ids, rows)
        adam.step()

    return step


def lightgcn_epoch(n: int) -> Work:
    """Steps of an epoch of ``lightgcn``: two layers over the whole graph a step, Adam over the tables."""
    matrix, device = interactions_of(n), torch.device("cpu")
    model = BACKBONES["lightgcn"](
        matrix, LIGHTGCN, plug=None, generator=torch.Generator().manual_seed(0), device=device
    )
    size = LIGHTGCN.resolved_batch_size(matrix.nnz)
    generator = torch.Generator().manual_seed(1)
    sampler = PairSampler(matrix, batch_size=size, negatives=1, generator=generator, device=device)
    step = gradient_step(model.loss, torch.optim.Adam(model.parameters(), lr=LIGHTGCN.lr, fused=True))
    return _steps(step, sampler.epoch, -(-matrix.nnz // size))


def _steps(
    step: Callable,  # type: ignore[type-arg]
    epoch: Callable,  # type: ignore[type-arg]
    n_batches: int,
    bare: Callable[[], None] | None = None,
) -> Work:
    keep_freed_memory()
    taken = min(STEPS, n_batches)
    limit = None if bare is None else lambda: [bare() for _ in range(taken)]

    def run() -> float:
        return float(torch.stack([step(batch) for batch in islice(epoch(), taken)]).mean())

    return Work(run, 0.0, 20.0, taken / n_batches, limit)


_TO_MILLION = (10_000, 30_000, 100_000, 300_000, 1_000_000)
_TO_THREE_MILLION = (*_TO_MILLION, 3_000_000)
CASES: dict[str, Case] = {
    "read a KG": Case("triples", _TO_THREE_MILLION, 1.0, "each is read", read_kg),
    "rank links among entities": Case("entities", _TO_MILLION, 1.0, "each is scored", lambda n: rank_links(n, 300)),
    "rank links of triples": Case("test triples", (1_000, 3_000, 10_000, 30_000), 1.0, "each is ranked", lambda n: rank_links(10_000, n)),
    "rank items": Case("items", _TO_MILLION, 1.0, "each is scored", lambda n: rank_items(600, n)),
    "rank for users": Case("users", (3_000, 10_000, 30_000, 100_000), 1.0, "each has a list", lambda n: rank_items(n, 5_000)),
    "prepare paths": Case("triples", _TO_THREE_MILLION, 1.0, "each is an edge", prepare_walks),
    "draw 200,000 paths": Case("triples", _TO_THREE_MILLION, 0.0, "a walk sees a few edges", lambda n: draw_walks(n, 200_000)),
    "draw paths": Case("paths", _TO_MILLION, 1.0, "each is drawn", lambda n: draw_walks(1_000_000, n)),
    "kg-embedding epoch": Case("triples", _TO_MILLION, 1.0, "each is a fact; Adam moves all rows at each step", lambda n: kge_epoch(n, n // 8)),
    "kg-embedding epoch, same entities": Case("triples", _TO_MILLION, 1.0, "each is a fact", lambda n: kge_epoch(n, 10_000)),
    "lightgcn epoch": Case("interactions", _TO_MILLION, 1.0, "each is an edge, 24 steps an epoch", lightgcn_epoch),
}  # fmt: skip
