"""Ways to draw walks, to train a language model of paths and to decode it: ours, packages, and plain restatements.

Names that begin with ``own`` are kpi-bench. Walks run over a generated graph (``dgl-walk``, ``igraph-walk`` and ``networkx-walk`` are the
packages, ``numpy-walk`` is a plain walk over CSR arrays; all four may visit a node again, ours may not) and over ml-100k's. Training steps
take the same batches of user paths of ml-100k: ``plain-gpt2`` is transformers' ``GPT2LMHeadModel`` as one writes the loop, ``gemms-*`` are
the products that no form of the step avoids. Decoding: ``recompute-*`` is ours, but runs the whole path through the model at each token.

transformers and what needs it are imported where they are used, so that the memory of walks is without them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from baselines.common.allocator import keep_freed_memory
from baselines.common.paths.graph import PathGraph
from baselines.common.paths.interactions import TaskGraph
from baselines.common.paths.user_paths import UserPaths
from baselines.common.paths.walks import Backend, Walker
from baselines.common.training import gradient_step
from benchmarks.workloads import ROOT
from kpi_bench import Csr, RecommendationTask
from kpi_bench._dgl import import_dgl
from kpi_bench.evaluators.ranking import tie_order
from kpi_bench.suites.suite import open_suite

if TYPE_CHECKING:
    from baselines.kgglm.decode import Decoded
    from baselines.kgglm.model import PathLM

SUITE = "KPI_BENCH_ML_100K"
"""The variable that names the folder of the built suite; the benchmark sets it where it is unset."""

Ints = NDArray[np.int64]
Rows = NDArray[np.integer[Any]]
Draw = Callable[[int], Rows]

# --- Graphs -----------------------------------------------------------------------------------------------------------------------------

N_NODES, N_EDGES, STEPS = 200_000, 1_000_000, 10
HOPS = 3


@cache
def skewed_graph() -> PathGraph:
    """200,000 nodes and 1M random triples of 20 relations, both ways; a few tails are in most triples: the largest degree is 17,000."""
    rng = np.random.default_rng(0)
    tails = (N_NODES * rng.random(N_EDGES) ** 3).astype(np.int64)
    edges = np.stack([rng.integers(0, N_NODES, N_EDGES), rng.integers(0, 20, N_EDGES), tails], axis=1)
    heads, relations, tails = np.ascontiguousarray(np.unique(edges, axis=0).T)
    return PathGraph.of_edges(heads, relations, tails, n_nodes=N_NODES, n_forward=20)


@cache
def starts() -> Ints:
    """200,000 random nodes that have an edge."""
    return np.random.default_rng(1).choice(np.flatnonzero(skewed_graph().degrees()), 200_000)


def ml_100k_raw() -> Path | None:
    """The folder of the recipe's raw files: below KPI_BENCH_DATA or ../shared/data; None where there is none."""
    folder = Path(os.environ.get("KPI_BENCH_DATA", ROOT.parent / "shared" / "data"))
    found = sorted(folder.rglob("ml-100k/ml-100k.inter")) if folder.is_dir() else []
    return found[0].parents[1] if found else None


@cache
def ml_100k() -> tuple[RecommendationTask, TaskGraph]:
    """The suite's only task, and its graph: the KG and the train interactions, all both ways."""
    suite = open_suite(Path(os.environ[SUITE]))
    task = suite.task(suite.task_names()[0])
    assert isinstance(task, RecommendationTask)
    return task, TaskGraph.of_task(task, suite.graph(task.spec.kg), collaborative=True)


# --- Walks ------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Walks:
    """``make()`` gives what draws the first ``n`` walks: rows of nodes, of ours with the relations between them."""

    n: int
    make: Callable[[], Draw]


@cache
def own_walks(weighting: str, backend: Backend) -> Draw:
    walker = Walker(skewed_graph(), weighting=weighting, backend=backend)
    return lambda n: walker.walk(starts()[:n], STEPS, seed=0)


@cache
def dgl_walks() -> Draw:
    dgl, g = import_dgl(), skewed_graph()
    heads = np.repeat(np.arange(g.n_nodes), g.degrees())
    pairs = torch.from_numpy(heads), torch.from_numpy(g.neighbours.astype(np.int64))
    graph = dgl.graph(pairs, num_nodes=g.n_nodes).formats(["csr"])
    graph.create_formats_()
    nodes = torch.from_numpy(starts())
    return lambda n: dgl.sampling.random_walk(graph, nodes[:n], length=STEPS)[0].numpy()


@cache
def numpy_walks() -> Draw:
    g, rng = skewed_graph(), np.random.default_rng(0)
    degrees = g.degrees()

    def draw(n: int) -> Rows:
        rows = np.empty((STEPS + 1, n), dtype=np.int32)
        rows[0] = starts()[:n]
        for step in range(STEPS):
            at = rows[step]
            rows[step + 1] = g.neighbours[g.indptr[at] + (rng.random(n) * degrees[at]).astype(np.int64)]
        return rows.T

    return draw


@cache
def igraph_walks() -> Draw:
    import igraph  # type: ignore[import-not-found]

    graph = igraph.Graph(N_NODES, edges_once())
    return lambda n: np.array([graph.random_walk(v, STEPS) for v in starts()[:n].tolist()])


@cache
def networkx_walks() -> Draw:
    """A walk in Python over lists of neighbours, which are made beforehand."""
    import networkx  # type: ignore[import-untyped]

    graph = networkx.Graph(edges_once().tolist())
    neighbours = {node: list(beside) for node, beside in graph.adjacency()}
    choice = random.Random(0).choice

    def walk(node: int) -> list[int]:
        path = [node]
        for _ in range(STEPS):
            path.append(choice(neighbours[path[-1]]))
        return path

    return lambda n: np.array([walk(v) for v in starts()[:n].tolist()])


def edges_once() -> Ints:
    """Pairs of nodes int64 ``[n, 2]`` that an edge joins, in one direction."""
    g = skewed_graph()
    forward = g.relations < g.n_forward
    heads = np.repeat(np.arange(g.n_nodes), g.degrees())
    return np.stack([heads[forward], g.neighbours[forward].astype(np.int64)], axis=1)


@cache
def own_kg_walks(backend: Backend) -> Draw:
    """From each entity in turn, as in pre-training."""
    graph = ml_100k()[1]
    walker = Walker(graph.graph, backend=backend)
    return lambda n: walker.walk(np.arange(n) % len(graph.entities), HOPS, seed=0)


@cache
def own_user_paths(backend: Backend) -> Draw:
    """From each user in turn to an item of the user's train items, as in fine-tuning."""
    task, graph = ml_100k()
    sampler = UserPaths(graph.graph, task.train_matrix, graph.items, graph.first_user, backend=backend)
    return lambda n: sampler.sample(np.arange(n) % task.n_users, HOPS, seed=0)


WALKS: dict[str, Walks] = {
    "own-walk": Walks(200_000, partial(own_walks, "uniform", "numba")),
    "own-walk-torch": Walks(200_000, partial(own_walks, "uniform", "torch")),
    "own-walk-degree": Walks(200_000, partial(own_walks, "degree", "numba")),
    "own-walk-degree-torch": Walks(200_000, partial(own_walks, "degree", "torch")),
    "numpy-walk": Walks(200_000, numpy_walks),
    "dgl-walk": Walks(200_000, dgl_walks),
    "igraph-walk": Walks(5_000, igraph_walks),
    "networkx-walk": Walks(5_000, networkx_walks),
}
ML_100K_WALKS: dict[str, Walks] = {
    "own-kg-walk": Walks(200_000, partial(own_kg_walks, "numba")),
    "own-kg-walk-torch": Walks(200_000, partial(own_kg_walks, "torch")),
    "own-user-path": Walks(200_000, partial(own_user_paths, "numba")),
    "own-user-path-torch": Walks(200_000, partial(own_user_paths, "torch")),
}


def complete(walks: Walks) -> float:
    """Draw, and return the share of walks that have their full length."""
    return float((walks.make()(walks.n)[:, -1] >= 0).mean())


def check_walks(walks: Walks, graph: PathGraph, width: int, n: int = 20_000) -> None:
    """All steps of the first walks are edges of the graph; rows of ``width`` nodes and relations visit no node twice.

    Raises:
        AssertionError: they are not, or do.
    """
    rows = walks.make()(min(n, walks.n)).astype(np.int64)
    if rows.shape[1] == width:
        check_paths(rows, graph)
        return
    heads = np.repeat(np.arange(graph.n_nodes), graph.degrees())
    joined = np.unique(heads * graph.n_nodes + graph.neighbours)
    steps = rows[:, :-1] * graph.n_nodes + rows[:, 1:]
    assert rows.shape[1] == width // 2 + 1
    assert rows.min() >= 0
    assert np.isin(steps, joined).all()


def check_paths(rows: Ints, graph: PathGraph) -> None:
    """Paths ``[n, 2 * hops + 1]`` that may end early run over edges of the graph and visit no node twice.

    Raises:
        AssertionError: they do not, or do.
    """
    nodes = rows[:, 0::2]
    taken = rows[:, 2::2] >= 0
    edges = (column[taken] for column in (rows[:, :-2:2], rows[:, 1::2], rows[:, 2::2]))
    assert graph.has_edges(*edges).all()
    assert (rows[:, 1::2] >= 0)[taken].all()
    assert (taken[:, 1:] <= taken[:, :-1]).all()
    for i in range(1, nodes.shape[1]):
        assert ((nodes[:, :i] != nodes[:, i : i + 1]) | (nodes[:, i : i + 1] < 0)).all()


# --- Training ---------------------------------------------------------------------------------------------------------------------------

BATCH, N_BATCHES = 256, 12
STEPS_TIMED = 2
WIDTH, LAYERS, HEADS = 128, 2, 4
LR, DROPOUT = 2e-3, 0.1


@cache
def batches() -> tuple[Tensor, ...]:
    """Twelve batches of user paths, int64 ``[256, 7]``."""
    rows = own_user_paths("auto")(BATCH * N_BATCHES + 1000)
    rows = rows[rows[:, -1] >= 0][: BATCH * N_BATCHES]
    order = np.random.default_rng(0).permutation(len(rows))
    return torch.from_numpy(rows[order].astype(np.int64)).split(BATCH)  # type: ignore[no-any-return, no-untyped-call]


def model(softmax: str) -> PathLM:
    """Our model with the weights of seed 0."""
    from baselines.kgglm.model import LmShape, PathLM

    graph = ml_100k()[1]
    shape = LmShape(WIDTH, LAYERS, HEADS, DROPOUT, positions=2 * HOPS + 1)
    return PathLM(
        graph.graph.ranges,
        graph.kinds(),
        graph.graph.n_relations,
        shape,
        softmax=softmax,
        generator=torch.Generator().manual_seed(0),
    )


def plain_gpt2(dropout: float = DROPOUT) -> Any:
    """transformers' model over one vocabulary, the nodes and after them the relations, input and output tied."""
    from transformers import GPT2Config, GPT2LMHeadModel

    g = ml_100k()[1].graph
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=g.n_nodes + g.n_relations,
            n_positions=2 * HOPS + 1,
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def words(paths: Tensor) -> Tensor:
    """Paths in the vocabulary of :func:`plain_gpt2`."""
    paths = paths.clone()
    paths[:, 1::2] += ml_100k()[1].graph.n_nodes
    return paths


def steps(loss: Callable[[Tensor], Tensor], parameters: Sequence[Tensor]) -> Callable[[], float]:
    """What :func:`baselines.kgglm.train.fit_paths` does with ``STEPS_TIMED`` batches; returns the mean loss of a training that goes on."""
    keep_freed_memory()
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.01, fused=True)
    step = gradient_step(loss, optimizer, clip=parameters, clip_norm=1.0)
    given = cycle(batches())
    return lambda: sum(float(step(next(given))) for _ in range(STEPS_TIMED)) / STEPS_TIMED


@cache
def own_steps(softmax: str) -> Callable[[], float]:
    lm = model(softmax).train()
    return steps(lm.loss, list(lm.parameters()))


@cache
def plain_steps() -> Callable[[], float]:
    lm = plain_gpt2().train()
    return steps(lambda paths: lm(input_ids=words(paths), labels=words(paths)).loss, list(lm.parameters()))


@cache
def gemms(softmax: str) -> Callable[[], float]:
    """A batch's products of the layers and of the scores, forward and for both gradients, into memory that is there already; attention's
    own products and all that is not a product are left out."""
    from baselines.kgglm.losses import BLOCK

    g = ml_100k()[1].graph
    keep_freed_memory()
    table = torch.randn(g.n_nodes + g.n_relations, WIDTH)
    tokens = torch.randn(BATCH * 2 * HOPS, WIDTH)
    layers = [torch.randn(WIDTH, WIDTH * times) for times in (3, 1, 4)] + [torch.randn(4 * WIDTH, WIDTH)]
    wide = {width: torch.randn(len(tokens), width) for width in (WIDTH, 3 * WIDTH, 4 * WIDTH)}
    room = torch.empty(BLOCK)
    by_table, by_rows = torch.empty_like(table), torch.empty_like(tokens)

    def product(rows: int, choices: int) -> None:
        """Scores of ``rows`` queries among ``choices`` and their two gradients, block by block as ours."""
        size = BLOCK // choices
        for first in range(0, rows, size):
            own = tokens[first : min(first + size, rows)]
            scores = room[: len(own) * choices].view(len(own), choices)
            torch.mm(own, table[:choices].T, out=scores)
            torch.mm(scores, table[:choices], out=by_rows[: len(own)])
            torch.mm(scores.T, own, out=by_table[:choices])

    def run() -> float:
        for paths in batches()[:STEPS_TIMED]:
            for weight in layers * LAYERS:
                x, y = wide[weight.shape[0]], wide[weight.shape[1]]
                _ = x @ weight, y @ weight.T, x.T @ y
            if softmax == "full":
                product(len(tokens), len(table))
                continue
            product(BATCH * HOPS, g.n_relations)
            if softmax == "type":
                product(BATCH * HOPS, g.n_nodes)
                continue
            sizes = np.diff(g.ranges.indptr)
            for relation, count in enumerate(torch.bincount(paths[:, 1::2].flatten()).tolist()):
                if count:
                    product(count, int(sizes[relation]))
        return float(by_rows[0, 0])

    return run


def check_same_loss(softmax: str, n: int = 48) -> None:
    """With dropout off our loss and its gradients of both tables are those of :func:`plain_gpt2` with our weights, whose scores of what
    the softmax leaves out are cut.

    Raises:
        AssertionError: they differ.
    """
    paths, ours, theirs = batches()[0][:n], model(softmax).eval(), plain_gpt2().eval()
    n_nodes, n_relations = len(ours.nodes), len(ours.relations)
    with torch.no_grad():
        ours.types.zero_()  # the plain model has no types
        for table in (ours.nodes, ours.relations):
            table.mul_(10)
        theirs.transformer.load_state_dict(ours.body.gpt2.state_dict(), strict=False)
        theirs.transformer.wte.weight.copy_(torch.cat([ours.nodes, ours.relations]))
    ids = words(paths)
    logits = theirs(input_ids=ids[:, :-1]).logits
    if softmax != "full":
        allowed = torch.zeros(n, 2 * HOPS, n_nodes + n_relations, dtype=torch.bool)
        allowed[:, 0::2, n_nodes:] = True
        allowed[:, 1::2, :n_nodes] = softmax == "type"
        if softmax == "range":
            for row, column in np.ndindex(n, HOPS):
                allowed[row, 2 * column + 1, ours.range_of(int(paths[row, 2 * column + 1]))] = True
        logits = logits.masked_fill(~allowed, -torch.inf)
    wanted = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    found = ours.loss(paths)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0.0)
    found.backward()  # type: ignore[no-untyped-call]
    wanted.backward()  # type: ignore[no-untyped-call]
    assert ours.nodes.grad is not None
    assert ours.relations.grad is not None
    gradient = theirs.transformer.wte.weight.grad
    scale = float(gradient.abs().max())
    torch.testing.assert_close(
        torch.cat([ours.nodes.grad, ours.relations.grad]), gradient, rtol=1e-3, atol=1e-5 * scale
    )


TRAININGS: dict[str, Callable[[], Callable[[], float]]] = {
    "own-range": partial(own_steps, "range"),
    "own-type": partial(own_steps, "type"),
    "own-full": partial(own_steps, "full"),
    "plain-gpt2": plain_steps,
    "gemms-range": partial(gemms, "range"),
    "gemms-full": partial(gemms, "full"),
}

# --- Decoding ---------------------------------------------------------------------------------------------------------------------------

K = 10


@dataclass(frozen=True)
class Decoder:
    """``users`` users are decoded with ``beams`` beams, with keys and values kept or computed anew at each token."""

    beams: int
    users: int
    cached: bool


@cache
def decoder(beams: int, cached: bool) -> Any:
    """A decoder of a model after a few steps, as random weights choose other relations than trained ones."""
    from transformers import DynamicCache

    from baselines.kgglm.decode import Decoding, PathDecoder
    from baselines.kgglm.partial import Lanes, Partial

    class Recomputing(PathDecoder):
        """Runs whole paths through the model."""

        def _start(self, first: int, users: Ints, uniform: Tensor | None) -> Partial | None:
            part = super()._start(first, users, uniform)
            return part and replace(part, cache=DynamicCache())

        def _extended(
            self, part: Partial, rows: Tensor, tokens: Tensor, scores: Tensor, lanes: Lanes | None
        ) -> Partial:
            paths = torch.cat([part.paths[rows], tokens[:, None]], dim=1)
            states = self.model.hidden(paths)[:, -1]
            return replace(
                part, users=part.users[rows], paths=paths, scores=scores, states=states, lanes=lanes
            )

    graph = ml_100k()[1]
    kind = PathDecoder if cached else Recomputing
    return kind(
        trained(),
        graph.graph,
        graph.items,
        graph.first_user,
        graph.interacted,
        Decoding(HOPS, beams, "beam", "path"),
    )


@cache
def trained() -> PathLM:
    lm = model("range").train()
    run = steps(lm.loss, list(lm.parameters()))
    for _ in range(N_BATCHES // STEPS_TIMED):
        run()
    return lm.eval()


@cache
def excluded() -> Csr:
    return ml_100k()[0].matrix("train", "valid")


def decode(beams: int, users: int, cached: bool = True) -> Decoded:
    """Lists of the first users."""
    who = np.arange(users)
    order = tie_order(ml_100k()[0].n_items, "benchmark")
    found: Decoded = decoder(beams, cached).decode(
        who, excluded().select(who), K, order, torch.Generator().manual_seed(0)
    )
    return found


def check_lists(found: Decoded, n_users: int) -> None:
    """Lists are of distinct, new items, best first; each has a path of edges from its user to it, with the model's own log-probability.

    Raises:
        AssertionError: one is not.
    """
    graph, seen = ml_100k()[1], excluded()
    user, place = np.nonzero(found.items >= 0)
    items, paths = found.items[user, place], found.paths[user, place].astype(np.int64)
    assert len(user) > n_users * K / 2
    assert len(np.unique(user * len(graph.items) + items)) == len(items)
    assert not np.isin(
        user * len(graph.items) + items, seen.row_ids() * len(graph.items) + seen.indices
    ).any()
    assert (np.diff(found.scores, axis=1)[found.items[:, 1:] >= 0] <= 0).all()
    assert (paths[:, 0] == graph.first_user + user).all()
    assert (paths[:, 1] == graph.interacted).all()
    assert (paths[:, -1] == graph.items[items]).all()
    check_paths(paths, graph.graph)
    own = trained().log_probs(torch.from_numpy(paths)).sum(1).numpy()
    np.testing.assert_allclose(found.log_probs[user, place], own, rtol=1e-4, atol=1e-4)


DECODINGS: dict[str, Decoder] = {
    "own-decode-20": Decoder(20, 100, True),
    "own-decode-100": Decoder(100, 40, True),
    "recompute-20": Decoder(20, 100, False),
    "recompute-100": Decoder(100, 40, False),
}


def listed(decoding: Decoder) -> float:
    """Decode, and return the items a list has on average."""
    return float((decode(decoding.beams, decoding.users, decoding.cached).items >= 0).sum() / decoding.users)


# --- All of them ------------------------------------------------------------------------------------------------------------------------

CONTENDERS: dict[str, Callable[[], float]] = {
    **{name: partial(complete, walks) for name, walks in (WALKS | ML_100K_WALKS).items()},
    **{name: partial(lambda make: make()(), make) for name, make in TRAININGS.items()},
    **{name: partial(listed, decoding) for name, decoding in DECODINGS.items()},
}
