"""Ways to train a language model of paths and to decode it: ours, transformers, and plain restatements.

Names that begin with ``own`` are kpi-bench. Training steps take the same batches of user paths of ml-100k: ``plain-gpt2`` is transformers'
``GPT2LMHeadModel`` as one writes the loop, ``gemms-*`` are the products that no form of the step avoids. Decoding: ``recompute-*`` is ours,
but runs the whole path through the model at each token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from baselines.common.allocator import keep_freed_memory
from baselines.common.training import gradient_step
from benchmarks.walk_contenders import HOPS, Ints, check_paths, ml_100k, own_user_paths
from kpi_bench import Csr
from kpi_bench.evaluators.ranking import tie_order

if TYPE_CHECKING:
    from baselines.kgglm.decode import Decoded
    from baselines.kgglm.model import PathLM

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
    from baselines.common.paths.body import BodyShape
    from baselines.kgglm.model import PathLM

    graph = ml_100k()[1]
    shape = BodyShape(WIDTH, LAYERS, HEADS, DROPOUT, positions=2 * HOPS + 1)
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
    from baselines.common.paths.losses import BLOCK

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

        def _start(self, first: int, users: Ints, seed: int) -> Partial | None:
            part = super()._start(first, users, seed)
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
    found: Decoded = decoder(beams, cached).decode(who, excluded().select(who), K, order, seed=0)
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
    **{name: partial(lambda make: make()(), make) for name, make in TRAININGS.items()},
    **{name: partial(listed, decoding) for name, decoding in DECODINGS.items()},
}
