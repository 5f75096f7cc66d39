"""SimGCL, LightGCL and DCCF against dense float64 twins, and what a contrastive backbone promises around them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from baselines.common.plugs import FrozenVectors
from baselines.common.recommenders import contrast
from baselines.common.recommenders.base import Recommender, RecommenderConfig
from baselines.common.recommenders.contrast import info_nce
from baselines.common.recommenders.dccf import Edges, masked_mean
from baselines.common.recommenders.fit import BACKBONES, fit_recommender
from baselines.common.recommenders.lightgcl import low_rank
from baselines.common.sampling import PairBatch
from baselines.common.scorers import FactorScorer
from kpi_bench import Context, Csr, Interactions, RecommendationTask, TaskKind, TaskSpec
from kpi_bench.errors import SubmissionError

CPU = torch.device("cpu")
CONTRASTIVE = ("simgcl", "lightgcl", "dccf")
CONFIG = RecommenderConfig(
    dim=5, layers=2, init_std=0.4, contrast=0.7, temperature=0.3, noise=0.2, intents=4, svd_rank=2, reg=0.05
)
USERS, ITEMS = 11, 8


def graph() -> Csr:
    """User 3 and item 6 have no edge."""
    hit = np.random.default_rng(4).random((USERS, ITEMS)) < 0.4
    hit[3], hit[:, 6] = False, False
    return Csr.from_pairs(*np.nonzero(hit), (USERS, ITEMS))


def vectors() -> FrozenVectors:
    table = np.random.default_rng(5).normal(size=(ITEMS, 3)).astype(np.float32)
    return FrozenVectors(table, np.arange(ITEMS) != 2)


def build(name: str, config: RecommenderConfig = CONFIG, *, plug: bool = True, seed: int = 3) -> Recommender:
    generator = torch.Generator().manual_seed(seed)
    model = BACKBONES[name](
        graph(), config, plug=vectors() if plug else None, generator=generator, device=CPU
    )
    return model.train()


def batch() -> PairBatch:
    """Users and items repeat; item 6, without an edge, is a negative."""
    matrix = graph()
    pairs = torch.tensor([0, 1, 1, 5, 9, 12, 17, 20])
    users = torch.from_numpy(matrix.row_ids())[pairs]
    positives = torch.from_numpy(matrix.indices.astype(np.int64))[pairs]
    return PairBatch(users, positives, torch.tensor([[6], [0], [6], [1], [3], [7], [6], [2]]))


def normal_adjacency() -> Tensor:
    matrix = graph()
    a = torch.zeros(USERS + ITEMS, USERS + ITEMS, dtype=torch.float64)
    a[matrix.row_ids(), matrix.indices.astype(np.int64) + USERS] = 1
    a += a.T.clone()
    root = a.sum(1).clamp_min(1e-30).rsqrt() * (a.sum(1) > 0)
    return root[:, None] * a * root


def dense_nce(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    logits = functional.cosine_similarity(a[:, None], b[None], dim=2) / temperature
    return functional.cross_entropy(logits, torch.arange(len(a)))


def dense_masked_mean(x: Tensor, similar: Tensor, edge: Tensor) -> Tensor:
    weights = (functional.cosine_similarity(similar[:, None], similar[None], dim=2) + 1) / 2 * edge
    return weights @ x / weights.sum(1, keepdim=True).clamp_min(1e-12)


def twin(model: Recommender, name: str, draws: torch.Generator) -> dict[str, Tensor]:
    """The loss, the final factors and the parameters behind them in float64, written with dense matrices."""
    p = {key: value.detach().double().requires_grad_() for key, value in model.named_parameters()}
    config, pairs, adjacency = model.config, batch(), normal_adjacency()
    plugged = p["item_table"]
    if model.projection is not None:
        added = model.projection.plug().double() @ p["projection.weight"].T + p["projection.bias"]
        plugged = plugged + config.plug_scale * added * (torch.arange(ITEMS) != 2)[:, None]
    ranked = p["item_table"] if config.plug_in_contrast_only else plugged
    inputs = torch.cat([p["user_table"], plugged])
    users = torch.unique(pairs.users)
    positives = torch.unique(pairs.positives) + USERS
    drawn = torch.unique(torch.cat([pairs.positives, pairs.negatives.flatten()])) + USERS
    powers = [torch.matrix_power(adjacency, layer) for layer in range(config.layers + 1)]
    if name == "dccf":
        x, total, contrasts = inputs, inputs, []
        for _ in range(config.layers):
            graph_part = adjacency @ x
            mixed = [
                torch.softmax(part @ p[key], dim=1) @ p[key].T
                for part, key in ((x[:USERS], "user_intents"), (x[USERS:], "item_intents"))
            ]
            intent = torch.cat(mixed)
            masked = [dense_masked_mean(x, view, adjacency > 0) for view in (graph_part, intent)]
            for rows in (users, drawn):
                for view in (intent, *masked):
                    contrasts.append(dense_nce(graph_part[rows], view[rows], config.temperature))
            x = x + graph_part + intent + masked[0] + masked[1]
            total = total + x
        final, loss = total, sum(contrasts)
    else:
        final = sum(power @ torch.cat([p["user_table"], ranked]) for power in powers) / len(powers)
        clean = sum(power @ inputs for power in powers) / len(powers)
        if name == "simgcl":
            noises = [torch.rand(USERS + ITEMS, 2, config.dim, generator=draws) for _ in range(config.layers)]
            views = []
            for view in range(2):
                x = total = inputs
                for noise in noises:
                    x = adjacency @ x
                    x = x + config.noise * functional.normalize(noise[:, view].double()) * x.sign()
                    total = total + x
                views.append(total / (config.layers + 1))
            pair, groups = views, (users, positives)
        else:
            u, s, v = torch.linalg.svd(adjacency[:USERS, USERS:])
            cut = torch.zeros_like(adjacency)
            cut[:USERS, USERS:] = (u[:, : config.svd_rank] * s[: config.svd_rank]) @ v[: config.svd_rank]
            cut = cut + cut.T
            low = inputs + sum(cut @ power @ inputs for power in powers[:-1])
            pair, groups = [clean, low], (users, drawn)
        loss = sum(dense_nce(pair[0][rows], pair[1][rows], config.temperature) for rows in groups)
    loss = config.contrast * loss
    scores = final[:USERS][pairs.users] @ final[USERS:].T
    rows = torch.arange(len(pairs.users))
    gap = scores[rows, pairs.negatives[:, 0]] - scores[rows, pairs.positives]
    loss = loss + functional.softplus(gap).mean()
    squares = [p["user_table"][pairs.users], ranked[pairs.positives], ranked[pairs.negatives[:, 0]]]
    loss = loss + config.reg * sum(part.square().sum() for part in squares) / (2 * len(pairs.users))
    return {**p, "loss": loss, "final": final}


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("name", [*CONTRASTIVE, "simgcl with the plug in the contrast only"])
def test_loss_gradients_and_factors_are_those_of_a_dense_twin(name: str, layers: int) -> None:
    name, _, alone = name.partition(" ")
    model = build(name, replace(CONFIG, layers=layers, plug_in_contrast_only=bool(alone)))
    expected = twin(model, name, torch.Generator().manual_seed(3))
    loss = model.loss(batch())
    torch.testing.assert_close(loss.double(), expected["loss"], rtol=1e-5, atol=1e-6)
    loss.backward()
    expected["loss"].backward()
    for key, value in model.named_parameters():
        assert value.grad is not None, key
        torch.testing.assert_close(value.grad.double(), expected[key].grad, rtol=1e-4, atol=2e-6, msg=key)
    factors = torch.cat(model.eval()()).double()
    torch.testing.assert_close(factors, expected["final"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", [1, 20, 1 << 19])
@pytest.mark.parametrize("temperature", [1e-3, 0.2, 5.0])
def test_info_nce_is_a_cross_entropy_over_cosines(
    block: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(contrast._LOGITS_PER_BLOCK, "cpu", block)
    generator = torch.Generator().manual_seed(0)
    pairs = [torch.randn(7, 4, generator=generator, dtype=torch.float64) for _ in range(2)]
    ours, theirs = ([x.clone().requires_grad_() for x in pairs] for _ in range(2))
    loss, expected = info_nce(*ours, temperature), dense_nce(*theirs, temperature)
    torch.testing.assert_close(loss, expected)
    (3 * loss).backward()
    (3 * expected).backward()
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.grad, y.grad)
    with torch.no_grad():
        torch.testing.assert_close(info_nce(*pairs, temperature), expected.detach())


def test_info_nce_passes_gradcheck_also_to_one_side() -> None:
    a, b = (
        torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (1, 2)
    )
    assert torch.autograd.gradcheck(
        lambda x, y: info_nce(x, y, 0.5), [a.requires_grad_(), b.requires_grad_()]
    )
    assert torch.autograd.gradcheck(lambda x: info_nce(x, b.detach(), 0.5), [a])


def test_info_nce_of_zeros_and_of_a_cold_temperature_is_finite() -> None:
    a, b = torch.zeros(3, 2, requires_grad=True), torch.randn(3, 2)
    loss = info_nce(a, b, 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(np.log(3))
    assert torch.isfinite(a.grad).all()
    assert torch.isfinite(info_nce(torch.eye(3), -torch.eye(3), 1e-4))
    assert info_nce(torch.ones(1, 2), -torch.ones(1, 2), 0.1).item() == pytest.approx(0, abs=1e-5)


def test_edge_sums_and_products_are_those_of_dense_matrices() -> None:
    matrix, generator = graph(), torch.Generator().manual_seed(0)
    edges = Edges(matrix, CPU)
    values = torch.randn(matrix.nnz, generator=generator, dtype=torch.float64)
    nodes = torch.randn(USERS + ITEMS, 3, generator=generator, dtype=torch.float64)
    dense = torch.zeros(USERS, ITEMS, dtype=torch.float64)
    dense[edges.user, edges.item] = values
    sums = torch.cat([dense @ nodes[USERS:], dense.T @ nodes[:USERS]])
    torch.testing.assert_close(edges.sums(values, nodes), sums)
    products = (nodes[:USERS] @ nodes[USERS:].T)[edges.user, edges.item]
    torch.testing.assert_close(edges.products(nodes[:USERS], nodes[USERS:]), products)


def test_masked_means_pass_gradcheck_and_match_a_dense_twin() -> None:
    edges, generator = Edges(graph(), CPU), torch.Generator().manual_seed(0)
    x, y = (torch.randn(USERS + ITEMS, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = dense_masked_mean(x, y, normal_adjacency() > 0)
    torch.testing.assert_close(masked_mean(x, y, edges), expected)
    assert torch.autograd.gradcheck(
        lambda a, b: masked_mean(a, b, edges), [x.requires_grad_(), y.requires_grad_()]
    )


def test_a_node_whose_neighbours_all_point_the_other_way_has_a_mean_of_zero() -> None:
    edges = Edges(Csr.from_pairs([0, 0], [0, 1], (2, 2)), CPU)
    similar = torch.tensor([[1.0, 0], [0, 0], [-1, 0], [-2, 0]], requires_grad=True)
    mean = masked_mean(torch.ones(4, 2), similar, edges)
    mean.sum().backward()
    assert mean.abs().sum() == 0
    assert torch.isfinite(similar.grad).all()


def test_low_rank_is_the_truncated_svd_of_the_normalised_matrix() -> None:
    matrix = graph()
    dense = normal_adjacency()[:USERS, USERS:]
    u, s, v = torch.linalg.svd(dense)
    for rank in (1, 3, ITEMS, 50):
        before = torch.random.get_rng_state()
        left, right = low_rank(matrix, rank, seed=0)
        assert torch.equal(before, torch.random.get_rng_state())
        assert left.shape == (USERS, min(rank, ITEMS))
        expected = (u[:, :ITEMS] * s)[:, :rank] @ v[:rank]
        torch.testing.assert_close((left @ right.T).double(), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(left, low_rank(matrix, rank, seed=0)[0])


def test_low_rank_of_a_slow_spectrum_is_close_to_the_best_approximation() -> None:
    rng = np.random.default_rng(0)
    matrix = Csr.from_pairs(*np.nonzero(rng.random((300, 200)) < 0.05), (300, 200))
    dense = np.zeros((300, 200))
    dense[matrix.row_ids(), matrix.indices] = 1
    dense /= np.sqrt(dense.sum(1, keepdims=True) * dense.sum(0))
    left, right = low_rank(matrix, 5, seed=0)
    best = np.sqrt((np.linalg.svd(dense, compute_uv=False)[5:] ** 2).sum())
    assert np.linalg.norm(dense - (left @ right.T).numpy()) < 1.005 * best


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_evaluation_is_free_of_noise_and_training_is_fixed_by_the_seed(name: str) -> None:
    config = replace(CONFIG, edge_keep=0.6)
    model = build(name, config).eval()
    assert torch.equal(torch.cat(model()), torch.cat(model()))
    quiet = build(name, replace(config, noise=0.0, edge_keep=1.0)).eval()
    assert torch.equal(torch.cat(model()), torch.cat(quiet()))
    model.train()
    losses = [model.loss(batch()).item() for _ in range(2)]
    again = build(name, config)
    assert losses == [again.loss(batch()).item() for _ in range(2)]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("name", ["simgcl", "lightgcl"])
def test_final_factors_are_those_of_lightgcn(name: str) -> None:
    ours, theirs = build(name).eval(), build("lightgcn").eval()
    assert torch.equal(torch.cat(ours()), torch.cat(theirs()))


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_the_contrast_has_its_weight_and_noise_makes_simgcl_harder(name: str) -> None:
    plain, single, double = (build(name, replace(CONFIG, contrast=c)).loss(batch()) for c in (0.0, 1.0, 2.0))
    assert single > plain
    torch.testing.assert_close(double - single, single - plain)
    if name == "simgcl":
        assert build(name, replace(CONFIG, contrast=1.0, noise=2.0)).loss(batch()) > single


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_the_plug_is_read_once_a_step_and_reaches_all_factors(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    forward = FrozenVectors.forward
    monkeypatch.setattr(
        FrozenVectors, "forward", lambda self, rows=None: calls.append(rows) or forward(self, rows)
    )
    model = build(name)
    model.loss(batch()).backward()
    assert calls == [None]
    assert model.projection.weight.grad.abs().sum() > 0
    plugged = torch.cat(model.eval()())
    model.projection = None
    difference = (plugged - torch.cat(model())).abs().sum(1)
    connected = torch.from_numpy(np.concatenate([graph().lengths() > 0, np.arange(ITEMS) != 2]))
    assert (difference[connected] > 0).all()
    assert difference[3] == 0


def test_a_plug_in_the_contrast_only_leaves_ranking_and_evaluation_plain() -> None:
    alone = build("simgcl", replace(CONFIG, plug_in_contrast_only=True, contrast=0.0))
    plain = build("simgcl", replace(CONFIG, contrast=0.0), plug=False)
    assert torch.equal(alone.loss(batch()), plain.loss(batch()))
    assert torch.equal(torch.cat(alone.eval()()), torch.cat(plain.eval()()))
    scorer = alone.scorer()
    assert isinstance(scorer, FactorScorer)
    assert torch.equal(scorer.items, plain.eval()()[1])


@pytest.mark.parametrize("name", sorted(set(BACKBONES) - {"simgcl"}))
def test_other_backbones_refuse_a_plug_in_the_contrast_only(name: str) -> None:
    with pytest.raises(SubmissionError, match=r"plug_in_contrast_only.*simgcl"):
        build(name, replace(CONFIG, plug_in_contrast_only=True))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *(
            (name, wrong)
            for name in CONTRASTIVE
            for wrong in ({"temperature": 0.0}, {"contrast": -1.0}, {"layers": 0})
        ),
        ("simgcl", {"noise": -0.1}),
        ("lightgcl", {"svd_rank": 0}),
        ("dccf", {"intents": 0}),
    ],
)
def test_wrong_parameters_are_refused_by_name(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(SubmissionError, match=next(iter(wrong))):
        build(name, replace(CONFIG, **wrong))


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_nodes_without_edges_and_vectors_of_zeros_train_without_nan(name: str) -> None:
    model = build(name, replace(CONFIG, temperature=0.05))
    with torch.no_grad():
        model.item_table[6] = 0
        model.user_table[0] = 0
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        model.loss(batch()).backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
        optimizer.step()
    assert torch.isfinite(torch.cat(model.eval()())).all()


def block_task(cold: int = 0) -> RecommendationTask:
    """Users and items of four groups; users take items of their own group. The last ``cold`` items occur in test only."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[tuple[int, int]]] = {"train": [], "valid": [], "test": []}
    for user in range(120):
        own = rng.permutation([i for i in range(60) if i % 4 == user % 4])
        rows["train"] += [(user, i) for i in own[:5]]
        rows["valid"] += [(user, i) for i in own[5:7]]
        new = [i for i in range(60, 60 + cold) if i % 4 == user % 4]
        rows["test"] += [(user, i) for i in (new or own[7:9])]
    splits = {name: Interactions(*np.array(pairs, dtype=np.int64).T) for name, pairs in rows.items()}
    spec = TaskSpec("blocks", TaskKind.RECOMMENDATION, "kg", "d", "", "", "ndcg@20", ks=(5, 10), n_users=120)
    return RecommendationTask(spec, 120, np.arange(60 + cold), **splits)


def fitted(name: str, task: RecommendationTask, **plug: Any) -> FactorScorer:
    config = RecommenderConfig(
        dim=16, epochs=40, eval_every=5, lr=0.02, intents=8, contrast=1e-3, valid_metric="ndcg@5"
    )
    ctx = Context(
        seed=0, device="cpu", scratch=Path("/nonexistent"), graphs={}, report=lambda kind, **v: None
    )
    scorer = fit_recommender(task, name, config, ctx, **plug).scorer
    assert isinstance(scorer, FactorScorer)
    return scorer


def own_group(scorer: FactorScorer, items: range) -> float:
    """How many of a user's best five ``items`` are of the user's group; 0.25 by chance."""
    columns = torch.tensor(list(items))
    best = columns[(scorer.users @ scorer.items[columns].T).topk(5, dim=1).indices]
    return float((best % 4 == torch.arange(len(scorer.users))[:, None] % 4).float().mean())


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_a_block_structure_is_learnt_the_same_way_twice(name: str) -> None:
    task = block_task()
    first, second = fitted(name, task), fitted(name, task)
    assert torch.equal(first.users, second.users)
    assert torch.equal(first.items, second.items)
    assert own_group(first, range(60)) > 0.9


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_vectors_that_know_the_group_place_items_without_edges(name: str) -> None:
    task = block_task(cold=20)
    vectors = np.eye(4, dtype=np.float32)[np.arange(80) % 4]
    plugged, plain = fitted(name, task, plug=FrozenVectors(vectors)), fitted(name, task)
    assert own_group(plugged, range(60, 80)) > 0.15 + own_group(plain, range(60, 80))
