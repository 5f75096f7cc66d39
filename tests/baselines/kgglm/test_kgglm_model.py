from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DynamicCache

from baselines.common.paths import losses
from baselines.common.paths.body import BodyShape
from baselines.common.paths.graph import PathGraph
from baselines.kgglm.model import SOFTMAXES, PathLM
from kpi_bench.errors import SubmissionError

N_NODES, N_FORWARD, HOPS = 23, 3, 3
SMALL = BodyShape(hidden=12, layers=2, heads=3, dropout=0.0, positions=8)


@pytest.fixture(scope="module")
def graph() -> PathGraph:
    rng = np.random.default_rng(3)
    edges = np.unique(rng.integers(0, [N_NODES - 4, N_FORWARD, N_NODES], (70, 3)), axis=0)
    # Relation 0 leads to few nodes, so that ranges differ.
    edges[edges[:, 1] == 0, 2] %= 4
    edges = np.unique(edges, axis=0)
    return PathGraph.of_edges(*edges.T, n_nodes=N_NODES, n_forward=N_FORWARD)


def make(
    graph: PathGraph, softmax: str, shape: BodyShape = SMALL, *, seed: int = 0, scale: float = 40.0
) -> PathLM:
    """A float64 model whose tables are large enough for distributions that are far from uniform."""
    kinds = np.arange(N_NODES) % 3
    generator = torch.Generator().manual_seed(seed)
    model = PathLM(graph.ranges, kinds, graph.n_relations, shape, softmax=softmax, generator=generator)
    with torch.no_grad():
        for table in (model.nodes, model.relations, model.types):
            table.mul_(scale)
    return model.double()


def walk(graph: PathGraph, n: int, *, hops: int = HOPS, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    out = np.empty((n, 2 * hops + 1), dtype=np.int64)
    out[:, 0] = rng.choice(np.flatnonzero(graph.degrees()), n)
    for i in range(hops):
        at = out[:, 2 * i]
        edge = graph.indptr[at] + rng.integers(0, graph.degrees()[at])
        out[:, 2 * i + 1], out[:, 2 * i + 2] = graph.relations[edge], graph.neighbours[edge]
    return torch.from_numpy(out)


def cut(paths: Tensor) -> Tensor:
    """The same paths, some of them shorter: after one hop, before the first, and not even begun."""
    paths = paths.clone()
    paths[1, 3:], paths[2, 1:], paths[3] = -1, -1, -1
    return paths


def position_by_position(model: PathLM, graph: PathGraph, paths: Tensor) -> list[tuple[int, int, Tensor]]:
    """(row, column, log-probability) of each token after the first, with autograd, from the definition alone."""
    hidden = model.hidden(paths[:, :-1])
    found = []
    for row in range(len(paths)):
        for t in range(1, paths.shape[1]):
            target = int(paths[row, t])
            if target < 0:
                continue
            of_node = t % 2 == 0
            table = model.nodes if of_node else model.relations
            ids = list(range(len(table)))
            if of_node and model.softmax == "range":
                through = int(paths[row, t - 1])
                ids = sorted(set(graph.neighbours[graph.relations == through].tolist()))
            candidates = table[ids]
            if model.softmax == "full":
                candidates = torch.cat([candidates, model.relations if of_node else model.nodes])
            scores = candidates @ hidden[row, t - 1]
            found.append((row, t, scores.log_softmax(0)[ids.index(target)]))
    return found


@pytest.mark.parametrize("softmax", SOFTMAXES)
@pytest.mark.parametrize("block", [1, 64, 1 << 22])
def test_loss_and_gradients_equal_a_loop_over_positions(
    graph: PathGraph, softmax: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "BLOCK", block)
    model, twin = make(graph, softmax), make(graph, softmax)
    paths = cut(walk(graph, 12))
    expected = -torch.stack([value for *_, value in position_by_position(twin, graph, paths)]).mean()
    value = model.loss(paths)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    value.backward()
    expected.backward()
    assert float(twin.nodes.grad.abs().max()) > 1e-3
    for (name, own), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("softmax", SOFTMAXES)
def test_log_probs_are_those_of_the_loop_and_of_the_loss(graph: PathGraph, softmax: str) -> None:
    model = make(graph, softmax)
    paths = cut(walk(graph, 12))
    found = model.log_probs(paths, batch=5)
    expected = torch.zeros_like(found)
    for row, t, value in position_by_position(model, graph, paths):
        expected[row, t - 1] = value.detach()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert (found[paths[:, 1:] < 0] == 0).all()
    mean = -found.sum() / (paths[:, 1:] >= 0).sum()
    torch.testing.assert_close(model.loss(paths).detach(), mean, rtol=1e-10, atol=1e-10)
    assert model.training
    assert not found.requires_grad


@pytest.mark.parametrize("softmax", SOFTMAXES)
def test_the_tokens_that_may_come_next_have_probability_one(graph: PathGraph, softmax: str) -> None:
    model = make(graph, softmax)
    start = walk(graph, 4, hops=1)
    n_relations = graph.n_relations
    after_node = start[:1, [0, 0, 0]].repeat(n_relations, 1)
    after_node[:, 1], after_node[:, 2] = torch.arange(n_relations), -1
    relations = model.log_probs(after_node)[:, 0].exp().sum()
    after_relation = start[:1].repeat(N_NODES, 1)
    after_relation[:, 2] = torch.arange(N_NODES)
    reached = model.log_probs(after_relation)[:, 1].exp()
    if softmax == "full":
        # Both kinds of token share one distribution at each position.
        assert 0 < float(relations) < 1
        assert 0 < float(reached.sum()) < 1
    else:
        assert float(relations) == pytest.approx(1, abs=1e-12)
        assert float(reached.sum()) == pytest.approx(1, abs=1e-12)
    inside = np.isin(np.arange(N_NODES), graph.neighbours[graph.relations == int(start[0, 1])])
    assert 0 < inside.sum() < N_NODES
    if softmax == "range":
        assert (reached.numpy() > 0).tolist() == inside.tolist()
    else:
        assert bool((reached > 0).all())


@pytest.mark.parametrize("softmax", SOFTMAXES)
def test_scores_for_decoding_are_the_log_probs_of_paths(graph: PathGraph, softmax: str) -> None:
    model = make(graph, softmax).eval()
    paths = walk(graph, 9)
    expected = model.log_probs(paths)
    hidden = model.hidden(paths[:, :-1])
    for t in range(1, paths.shape[1]):
        states, targets = hidden[:, t - 1], paths[:, t]
        if t % 2:
            own = model.relation_scores(states).gather(1, targets[:, None])[:, 0]
            torch.testing.assert_close(own, expected[:, t - 1])
            continue
        through = paths[:, t - 1]
        raw = (states * model.nodes[targets]).sum(1)
        torch.testing.assert_close(raw - model.node_normalisers(states, through), expected[:, t - 1])


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1, 1), (3, 1, 2), (1, 4, 1), (2, 4)])
def test_a_cache_continues_like_the_whole_path(graph: PathGraph, sizes: tuple[int, ...]) -> None:
    model = make(graph, "range").eval()
    paths = walk(graph, 7)[:, :-1]
    cache = DynamicCache()
    parts = [model.hidden(part, cache) for part in paths.split(sizes, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), model.hidden(paths))
    assert cache.get_seq_length() == paths.shape[1]


def test_a_reordered_cache_continues_its_beams(graph: PathGraph) -> None:
    model = make(graph, "range").eval()
    paths, parents = walk(graph, 7)[:, :-1], torch.tensor([4, 4, 0, 6])
    cache = DynamicCache()
    model.hidden(paths[:, :3], cache)
    cache.reorder_cache(parents)
    beams = torch.cat([paths[parents, :3], paths[:4, 3:4]], 1)
    torch.testing.assert_close(model.hidden(beams[:, 3:], cache), model.hidden(beams)[:, 3:])


def test_later_tokens_change_nothing_earlier(graph: PathGraph) -> None:
    model = make(graph, "range").eval()
    paths = walk(graph, 6)
    before = model.hidden(paths)
    for t in range(1, paths.shape[1]):
        changed = paths.clone()
        changed[:, t:] = (changed[:, t:] + 1) % graph.n_relations
        after = model.hidden(changed)
        torch.testing.assert_close(after[:, :t], before[:, :t], rtol=0, atol=1e-14)
        assert float((after[:, t] - before[:, t]).detach().abs().min(0).values.max()) > 1e-6


def test_tails_of_minus_one_and_empty_rows_count_nothing(graph: PathGraph) -> None:
    model, short = make(graph, "range"), walk(graph, 5, hops=1)
    padded = torch.cat([short, torch.full((5, 4), -1)], 1)
    padded = torch.cat([padded, torch.full((3, 7), -1)])
    torch.testing.assert_close(model.loss(padded), model.loss(short))
    torch.testing.assert_close(model.log_probs(padded)[:5, :2], model.log_probs(short))
    nothing = model.loss(torch.full((2, 7), -1))
    nothing.backward()
    assert nothing.item() == 0
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    assert model.log_probs(padded[:0]).shape == (0, 6)


@pytest.mark.parametrize("softmax", SOFTMAXES)
def test_evaluation_needs_no_gradient_and_a_second_backward_is_refused(
    graph: PathGraph, softmax: str
) -> None:
    model, paths = make(graph, softmax), walk(graph, 5)
    with torch.no_grad():
        value = model.loss(paths)
    assert not value.requires_grad
    trained = model.loss(paths)
    torch.testing.assert_close(trained.detach(), value)
    trained.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace"):
        trained.backward()


def test_hidden_states_follow_the_device_and_come_back_in_float32(graph: PathGraph) -> None:
    model, paths = make(graph, "range", scale=1.0).float().eval(), walk(graph, 5)
    expected = model.hidden(paths)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.hidden(paths)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, expected)
    torch.testing.assert_close(rounded, expected, rtol=0.05, atol=0.05)
    # No tensor made on the way stays on the CPU.
    assert model.to("meta").hidden(paths.to("meta")).device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("softmax", SOFTMAXES)
def test_a_gpu_gives_the_same_loss_and_scores(graph: PathGraph, softmax: str) -> None:
    model, paths = make(graph, softmax, scale=1.0).float(), cut(walk(graph, 12))
    loss, scores = float(model.loss(paths).detach()), model.log_probs(paths)
    model.to("cuda")
    on_gpu = model.loss(paths.to("cuda"))
    on_gpu.backward()
    assert float(on_gpu.detach()) == pytest.approx(loss, rel=0.02)
    torch.testing.assert_close(model.log_probs(paths).cpu(), scores, rtol=1e-4, atol=1e-4)


def test_the_seed_alone_decides_the_weights(graph: PathGraph) -> None:
    models = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        models.append(make(graph, "range", seed=5))
        assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(models[0].nodes, make(graph, "range", seed=6).nodes)


def test_initial_weights_are_gpt2s() -> None:
    shape = BodyShape(hidden=64, layers=3, heads=4)
    empty = PathGraph.of_edges(*np.zeros((3, 0), dtype=np.int64), n_nodes=50, n_forward=2)
    generator = torch.Generator().manual_seed(0)
    model = PathLM(empty.ranges, np.zeros(50, dtype=np.int64), 4, shape, softmax="type", generator=generator)
    for name, p in model.named_parameters():
        if "ln_" in name:
            assert torch.equal(p, torch.full_like(p, float(name.endswith("weight")))), name
        elif name.endswith("bias"):
            assert not p.any(), name
        elif p.numel() > 1000:
            std = 0.02 / math.sqrt(6) if name.endswith("c_proj.weight") else 0.02
            assert float(p.detach().std()) == pytest.approx(std, rel=0.1), name


def test_the_body_is_transformers_gpt2(graph: PathGraph) -> None:
    model = make(graph, "range").eval()
    inputs = torch.randn(4, 7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for p in model.body.parameters():
            p.normal_(std=0.3, generator=torch.Generator().manual_seed(p.numel()))
        expected = model.body.gpt2(inputs_embeds=inputs, use_cache=False).last_hidden_state
        torch.testing.assert_close(model.body(inputs), expected)


def test_each_kind_of_token_has_its_type(graph: PathGraph) -> None:
    model = make(graph, "range").eval()
    node = torch.tensor([[0], [1], [2]])  # kinds 0, 1 and 2
    with torch.no_grad():
        model.nodes[1:3] = model.nodes[0]
    states = model.hidden(node).detach()
    assert float((states[0] - states[1]).abs().max()) > 1e-3
    assert float((states[1] - states[2]).abs().max()) > 1e-3
    for kind in range(3):
        model.zero_grad()
        model.hidden(node[kind : kind + 1])[..., 0].sum().backward()
        assert model.types.grad.any(1).tolist() == [kind == other for other in range(4)]
    model.zero_grad()
    model.hidden(torch.tensor([[0, 1]]))[:, 1, 0].sum().backward()
    assert model.types.grad.any(1).tolist() == [True, False, False, True]


def test_the_state_fills_one_safetensors_file(graph: PathGraph, tmp_path: Path) -> None:
    model, other = make(graph, "range", seed=1), make(graph, "range", seed=2)
    state = model.state_dict()
    assert set(state) == {name for name, _ in model.named_parameters()}
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    save_file(state, tmp_path / "model.safetensors")
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    paths = walk(graph, 4)
    assert torch.equal(other.log_probs(paths), model.log_probs(paths))


def test_dropout_acts_in_training_only(graph: PathGraph) -> None:
    shape = BodyShape(hidden=12, layers=1, heads=2, dropout=0.5)
    model, paths = make(graph, "range", shape), walk(graph, 4)
    assert not torch.equal(model.hidden(paths), model.hidden(paths))
    assert torch.equal(model.log_probs(paths), model.log_probs(paths))
    assert model.training
    model.eval()
    assert torch.equal(model.hidden(paths), model.hidden(paths))


def test_a_few_steps_learn_the_paths(graph: PathGraph) -> None:
    model = make(graph, "range", scale=1.0).float()
    paths = walk(graph, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    first = float(model.loss(paths).detach())
    for _ in range(40):
        optimizer.zero_grad(set_to_none=True)
        value = model.loss(paths)
        value.backward()
        optimizer.step()
    assert value.item() < 0.7 * first


def test_an_edge_outside_the_ranges_is_refused_in_training_and_impossible_in_scoring(
    graph: PathGraph,
) -> None:
    model, paths = make(graph, "range"), walk(graph, 3)
    relation = int(paths[1, 1])
    outside = np.setdiff1d(np.arange(N_NODES), graph.neighbours[graph.relations == relation])
    paths[1, 2] = int(outside[-1])
    with pytest.raises(SubmissionError, match=f"relation {relation} to node {int(outside[-1])}"):
        model.loss(paths)
    found = model.log_probs(paths)
    assert found[1, 1] == -math.inf
    assert bool(torch.isfinite(found[[0, 2]]).all())


def test_wrong_sizes_are_named(graph: PathGraph) -> None:
    kinds, generator = np.zeros(N_NODES, dtype=np.int64), torch.Generator()
    with pytest.raises(SubmissionError, match="unknown softmax 'all'"):
        PathLM(graph.ranges, kinds, graph.n_relations, SMALL, softmax="all", generator=generator)
    with pytest.raises(SubmissionError, match="no multiple of heads"):
        PathLM(
            graph.ranges, kinds, graph.n_relations, BodyShape(10, 1, 3), softmax="range", generator=generator
        )
    with pytest.raises(SubmissionError, match="ranges of 6 relations"):
        PathLM(graph.ranges, kinds, 5, SMALL, softmax="range", generator=generator)
    model = make(graph, "range")
    with pytest.raises(SubmissionError, match="a path of 10 tokens does not fit 8 positions"):
        model.loss(walk(graph, 2, hops=5))
    cache = DynamicCache()
    model.hidden(walk(graph, 2)[:, :6], cache)
    with pytest.raises(SubmissionError, match="9 tokens"):
        model.hidden(walk(graph, 2)[:, :3], cache)
