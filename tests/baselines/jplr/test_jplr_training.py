"""What teacher and student share: the paths of an epoch, the candidates, the weights of hops, and a training run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from baseline_factory import context
from jplr_factory import Reports, knowledge_graph, small, table
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from baselines.common.paths import epochs as streaming
from baselines.common.paths.biased import BiasedWalker
from baselines.common.paths.body import BodyShape
from baselines.common.paths.epochs import Corpus
from baselines.common.paths.graph import PathGraph
from baselines.common.paths.random_numbers import stream
from baselines.common.training import Schedule
from baselines.jplr import training
from baselines.jplr.model import PathModel, Steps
from baselines.jplr.paths import TriplePaths
from baselines.jplr.training import NextEntity, corpus_of, fit, scores_of, target_frequency
from baselines.jplr.union import UnionGraph
from kpi_bench.errors import SubmissionError

NO_BRIDGES = np.zeros(30, dtype=np.bool_)


def world(seed: int = 0) -> PathGraph:
    """30 nodes, 3 relations, 90 random triples; nodes 28 and 29 have none."""
    rng = np.random.default_rng(seed)
    triples = np.unique(np.stack([rng.integers(0, high, 100) for high in (28, 3, 28)], 1), axis=0)
    return PathGraph.of_edges(*triples.T.copy(), n_nodes=30, n_forward=3)


def forward(graph: PathGraph) -> NDArray[np.int64]:
    heads = np.repeat(np.arange(graph.n_nodes), graph.degrees())
    edges = np.stack([heads, graph.relations, graph.neighbours], 1).astype(np.int64)
    return edges[edges[:, 1] < graph.n_forward]


def drawn(sample: TriplePaths, epoch: int) -> NDArray[np.int32]:
    return np.concatenate(list(sample(epoch)))


def test_every_triple_begins_a_path_forward_and_backward_and_hops_are_edges() -> None:
    graph = world()
    triples = forward(graph)[:40]
    paths = drawn(TriplePaths(graph, triples, NO_BRIDGES, small(hops=3), context(1)), 0)
    assert paths.shape == (80, 7)
    assert paths.dtype == np.int32
    first = [(h, r, t) for h, r, t in triples.tolist()] + [(t, r + 3, h) for h, r, t in triples.tolist()]
    assert list(map(tuple, paths[:, :3].tolist())) == first
    for hop in (1, 2):
        edges = paths[:, 2 * hop : 2 * hop + 3].astype(np.int64)
        there = edges[:, 2] >= 0
        assert there.mean() > 0.9
        assert graph.has_edges(*edges[there].T).all()


def test_an_epoch_is_the_walker_on_that_epochs_capped_graph() -> None:
    graph, config = world(), small(hub_limit=5, hub_keep=3, depth=0.8, crossing=0.3)
    bridges = np.arange(30) % 3 == 0
    triples = forward(graph)
    first = np.concatenate([triples, triples[:, ::-1] + np.array([0, 3, 0])])
    sample = TriplePaths(graph, triples, bridges, config, context(5))
    for epoch in (0, 3):
        capped = graph.capped(5, 3, seed=stream(f"hubs {epoch}", 5))
        assert capped.n_edges < graph.n_edges
        walker = BiasedWalker(capped, depth=0.8, crossing=0.3, bridges=bridges)
        wanted = walker.extend(first, 2, seed=stream("later hops", 5), first=epoch * len(first))
        assert np.array_equal(drawn(sample, epoch), wanted)


def test_paths_depend_on_seed_and_epoch_and_not_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = world()

    def sample(seed: int) -> TriplePaths:
        return TriplePaths(graph, forward(graph), NO_BRIDGES, small(), context(seed))

    zero, one = (drawn(sample(1), epoch) for epoch in (0, 1))
    monkeypatch.setattr(streaming, "BLOCK", 7)
    in_pieces = sample(1)
    assert max(map(len, in_pieces(0))) == 7
    # Epochs may be asked for in any order.
    assert np.array_equal(drawn(in_pieces, 1), one)
    assert np.array_equal(drawn(in_pieces, 0), zero)
    assert np.array_equal(zero[:, :3], one[:, :3])
    other = drawn(sample(2), 0)
    assert min((zero != one).any(1).mean(), (zero != other).any(1).mean()) > 0.3


def test_hubs_are_thinned_in_later_hops_and_anew_each_epoch() -> None:
    """A star of 40 leaves: its hub leads to two of them an epoch, but every triple is a first hop."""
    star = PathGraph.of_edges(
        np.arange(1, 41), np.zeros(40, np.int64), np.zeros(40, np.int64), n_nodes=41, n_forward=1
    )
    config = small(hub_limit=10, hub_keep=2)
    sample = TriplePaths(star, forward(star), np.zeros(41, dtype=np.bool_), config, context(1))
    reached = []
    for epoch in range(6):
        paths = drawn(sample, epoch)
        assert set(paths[:40, 0].tolist()) == set(paths[40:, 2].tolist()) == set(range(1, 41))
        reached.append(frozenset(paths[paths[:, 4] >= 0, 4].tolist()))
    assert {len(leaves) for leaves in reached} == {2}
    assert len(set(reached)) > 3


def frequencies() -> Tensor:
    return torch.tensor([0.5, 0.3, 0.2, 0.0, 0.0, 0.0])


def test_candidates_are_the_targets_and_fresh_uniform_nodes() -> None:
    objective, again, other = (NextEntity(frequencies(), small(negatives=40), seed) for seed in (4, 4, 5))
    targets = torch.tensor([0, 0, 2])
    found = [objective.candidates(targets) for _ in range(30)]
    assert {i for c in found for i in c.ids.tolist()} == set(range(6))
    assert all(c.ids[c.columns].tolist() == [0, 0, 2] for c in found)
    same = [again.candidates(targets) for _ in range(2)]
    assert torch.equal(found[0].offsets, same[0].offsets)
    assert torch.equal(found[1].offsets, same[1].offsets)
    assert not torch.equal(found[0].offsets, found[1].offsets)
    assert not torch.equal(found[0].offsets, other.candidates(targets).offsets)
    # 40 draws and the targets: the counts are in the offsets, log of count / ((3 - 1) f + 40 / 6).
    counts = found[0].offsets.exp() * (2 * frequencies() + 40 / 6)[found[0].ids]
    torch.testing.assert_close(counts, counts.round(), atol=1e-4, rtol=0)
    assert counts.sum().round().item() == 43


@pytest.mark.parametrize("later", [0.0, 0.25, 1.0])
def test_the_loss_weighs_later_hops_less(later: float) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = BodyShape(hidden=4, layers=1, heads=1, positions=5)
    model = PathModel(6, 2, shape, generator=generator)
    nn.init.normal_(model.bias, generator=generator)
    nn.init.normal_(model.entities, generator=generator)
    steps = Steps(
        torch.randn(4, 4, generator=generator),
        torch.tensor([1, 5, 0, 1]),
        torch.tensor([0, 1, 0, 2]),
        torch.arange(4),
    )
    objective = NextEntity(frequencies(), small(later_weight=later), 0)
    candidates = objective.candidates(steps.targets)
    loss = objective.loss(steps, scores_of(model, steps.states, candidates.ids), candidates)
    ids = candidates.ids
    logits = steps.states @ model.entities[ids].T + model.bias[ids] + candidates.offsets
    parts = functional.cross_entropy(logits, candidates.columns, reduction="none")
    wanted = (parts[0] + parts[2] + later * (parts[1] + parts[3])) / (2 + 2 * later)
    torch.testing.assert_close(loss, wanted)


def chain() -> UnionGraph:
    """0 - 1 - 2 over relation 0, and 3 with a loop; 4 has nothing."""
    kg = knowledge_graph("k", 5, 1, [(0, 0, 1), (1, 0, 2), (3, 0, 3)])
    return UnionGraph.of({"k": kg}, table([], 2))


def epochs_of(union: UnionGraph, tmp_path: Path, reports: Reports | None = None, **settings: float) -> Corpus:
    config = small(**settings)
    ctx = (reports or Reports()).context(tmp_path)
    sample = TriplePaths(union.graph, union.triples, union.bridges, config, ctx)
    return corpus_of(sample, config, ctx, description="d")


def test_frequencies_are_those_of_the_targets_of_all_hops(tmp_path: Path) -> None:
    reports = Reports()
    found = target_frequency(epochs_of(chain(), tmp_path, reports), 7, torch.device("cpu"))
    # Paths 0 1 2, 1 2, 3 3 and backwards 1 0, 2 1 0, 3 3 (again): starts are no targets.
    torch.testing.assert_close(found, torch.tensor([2.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0]) / 8)
    assert found.dtype == torch.float32
    assert reports.notes == {"paths an epoch": 6}


def test_a_graph_without_a_triple_is_refused(tmp_path: Path) -> None:
    empty = UnionGraph.of({"k": knowledge_graph("k", 3, 1, [])}, table([], 2))
    with pytest.raises(SubmissionError, match=r"no (path|block)"):
        epochs_of(empty, tmp_path)


class Probe(nn.Module):
    """Its loss pulls one number; it keeps the batches, where the number was, and whether products were narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.pulled = nn.Parameter(torch.zeros(1))
        self.batches: list[Tensor] = []
        self.places: list[float] = []
        self.dtypes: set[torch.dtype] = set()

    def loss(self, paths: Tensor) -> Tensor:
        self.batches.append(paths)
        self.places.append(-self.pulled.item())
        self.dtypes.add((torch.eye(2) @ torch.eye(2)).dtype)
        return self.pulled.sum()


def test_a_run_has_the_schedules_epochs_and_one_rate_over_all_of_them(tmp_path: Path) -> None:
    model, config = Probe(), small(batch_size=4, warmup=0.25, decay=0.0)
    reports = Reports()
    epochs = epochs_of(chain(), tmp_path, batch_size=4)
    ctx = reports.context(tmp_path)
    done = fit(model, model.loss, epochs, Schedule(4), config, ctx, lr=0.01, description="d")
    assert [len(batch) for batch in model.batches] == [4, 2] * 4
    assert done.epochs == 4
    moves = np.diff([*model.places, -model.pulled.item()]) / 0.01
    np.testing.assert_allclose(moves, [1 / 2, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6], rtol=1e-3)
    assert reports.curve == []


def test_the_best_state_on_valid_is_kept_and_patience_ends_a_run(tmp_path: Path) -> None:
    model, scores, reports = Probe(), iter([0.2, 0.5, 0.4, 0.3, 0.9]), Reports()
    config = small(batch_size=8, decay=0.0)
    done = fit(
        model,
        model.loss,
        epochs_of(chain(), tmp_path, batch_size=8),
        Schedule(9, 1, 2),
        config,
        reports.context(tmp_path),
        lr=0.1,
        description="d",
        evaluate=lambda: next(scores),
    )
    assert (done.best_epoch, done.best_score, done.epochs) == (2, 0.5, 4)
    assert -model.pulled.item() == pytest.approx(model.places[2])
    assert reports.curve == [("valid_mrr", score) for score in (0.2, 0.5, 0.4, 0.3)]


@pytest.mark.parametrize(
    ("precision", "pays", "narrow"),
    [
        ("auto", True, True),
        ("auto", False, False),
        ("bfloat16", False, True),
        ("float32", True, False),
    ],
)
def test_products_are_narrow_where_it_pays_or_is_asked_for(
    precision: str, pays: bool, narrow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "bfloat16_pays", lambda device: pays and device.type == "cpu")
    model, reports = Probe(), Reports()
    config = small(precision=precision)
    products: list[torch.dtype] = []

    def evaluate() -> float:
        products.append((torch.eye(2) @ torch.eye(2)).dtype)
        return 0.5

    fit(
        model,
        model.loss,
        epochs_of(chain(), tmp_path),
        Schedule(1),
        config,
        reports.context(tmp_path),
        lr=0.1,
        description="d",
        evaluate=evaluate,
    )
    assert model.dtypes == {torch.bfloat16 if narrow else torch.float32}
    assert products == [torch.float32]  # what is ranked is never narrow
    assert reports.notes["bfloat16"] is narrow
