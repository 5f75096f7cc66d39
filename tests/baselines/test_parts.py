"""Propagation, sampling, training, plugs, encoders, top-k lists: the shared parts one by one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from baselines.common.config import read_config, refuse_unknown
from baselines.common.encoders import MINILM_PACKAGE, HashedEncoder, resolve_encoder
from baselines.common.plugs import FrozenVectors, Projection
from baselines.common.propagation import Propagation
from baselines.common.recommenders.base import RecommenderConfig
from baselines.common.sampling import NegativeSampler, PairSampler
from baselines.common.top_k import popularity, rank_by_one_score, rank_by_scores, serve_new_users
from baselines.common.training import Fit, Schedule, gradient_step, prefixed, tensor_cores, train
from kpi_bench import Context, Csr, RecommendationQueries
from kpi_bench._dgl import dgl_available
from kpi_bench.errors import SubmissionError

CPU = torch.device("cpu")


def random_matrix(n_users: int, n_items: int, density: float, seed: int = 0) -> Csr:
    users, items = np.nonzero(np.random.default_rng(seed).random((n_users, n_items)) < density)
    return Csr.from_pairs(users, items, (n_users, n_items))


def context(seed: int = 0, events: list[tuple[str, dict[str, Any]]] | None = None) -> Context:
    def report(kind: str, **values: Any) -> None:
        if events is not None:
            events.append((kind, values))

    return Context(seed=seed, device="cpu", scratch=Path("/nonexistent"), graphs={}, report=report)


def dense_mean(matrix: Csr, layers: int) -> torch.Tensor:
    n = matrix.n_rows + matrix.n_columns
    adjacency = torch.zeros(n, n, dtype=torch.float64)
    users, items = torch.from_numpy(matrix.row_ids()), torch.from_numpy(matrix.indices.astype(np.int64))
    adjacency[users, items + matrix.n_rows] = 1
    adjacency += adjacency.T.clone()
    root = adjacency.sum(1).clamp_min(1e-30).rsqrt() * (adjacency.sum(1) > 0)
    normal = root[:, None] * adjacency * root
    powers = [torch.matrix_power(normal, layer) for layer in range(layers + 1)]
    return torch.stack(powers).mean(0)


BACKENDS = [
    "torch",
    pytest.param("dgl", marks=pytest.mark.skipif(not dgl_available(), reason="DGL is not installed")),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_propagation_is_the_dense_operator_forward_and_backward(backend: str, layers: int) -> None:
    matrix = random_matrix(13, 9, 0.2)
    assert (matrix.lengths() == 0).any(), "the case must hold isolated users"
    dense = dense_mean(matrix, layers)
    x = torch.randn(22, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    weight = torch.randn(22, 5, generator=torch.Generator().manual_seed(2))
    result = Propagation(matrix, CPU, backend).mean(x, layers)
    torch.testing.assert_close(result.double(), dense @ x.double())
    (result * weight).sum().backward()
    torch.testing.assert_close(x.grad.double(), dense.T @ weight.double())


def test_dropped_edges_keep_symmetry_and_expectation() -> None:
    matrix = random_matrix(13, 9, 0.4)
    propagation = Propagation(matrix, CPU)
    identity = torch.eye(22)
    generator = torch.Generator().manual_seed(0)
    kernels = [propagation.dropped(0.5, generator)(identity) for _ in range(400)]
    assert torch.equal(kernels[0], kernels[0].T)
    full = (dense_mean(matrix, 1) * 2 - torch.eye(22, dtype=torch.float64)) > 0
    torch.testing.assert_close(torch.stack(kernels).mean(0), full.float(), atol=0.25, rtol=0)


def test_unknown_propagation_backend_is_refused() -> None:
    with pytest.raises(SubmissionError, match="backend"):
        Propagation(random_matrix(3, 3, 0.9), CPU, "magic")


@pytest.mark.parametrize("density", [0.0, 0.1, 0.9])
def test_negatives_are_never_positives_and_cover_all_others_evenly(density: float) -> None:
    matrix = random_matrix(20, 15, density, seed=3)
    sampler = NegativeSampler(matrix, CPU)
    users = torch.arange(20)[sampler.has_negatives(torch.arange(20))]
    drawn = sampler.sample(users, 4000, torch.Generator().manual_seed(0)).numpy()
    for user, negatives in zip(users.tolist(), drawn, strict=True):
        expected = np.setdiff1d(np.arange(15), matrix.row(user))
        values, counts = np.unique(negatives, return_counts=True)
        assert values.tolist() == expected.tolist()
        assert counts.max() < 2 * counts.min()


def test_an_epoch_visits_each_pair_once_and_skips_users_without_negatives() -> None:
    matrix = Csr.from_pairs([0, 0, 1, 1, 1], [0, 1, 0, 1, 2], (2, 3))
    sampler = PairSampler(
        matrix, batch_size=1, negatives=2, generator=torch.Generator().manual_seed(0), device=CPU
    )
    batches = list(sampler.epoch())
    assert len(batches) == len(sampler) == 2
    assert {(int(b.users), int(b.positives)) for b in batches} == {(0, 0), (0, 1)}
    assert all((b.negatives == 2).all() and b.negatives.shape == (1, 2) for b in batches)


class _Counter(nn.Module):
    """Its only parameter is the number of steps taken."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.Parameter(torch.zeros(()))


def _train_counter(
    scores: list[float] | None, **schedule: int
) -> tuple[_Counter, Fit, list[tuple[str, dict[str, Any]]]]:
    model, events = _Counter(), []
    remaining = iter(scores or [])
    fit = train(
        model,
        epoch=lambda: [0],
        step=gradient_step(lambda _: -model.steps, torch.optim.SGD(model.parameters(), lr=1.0)),
        evaluate=None if scores is None else lambda: next(remaining),
        schedule=Schedule(**schedule),
        ctx=context(events=events),
        metric="valid",
        description="test",
    )
    return model, fit, events


def test_early_stopping_keeps_the_best_state_and_reports_it() -> None:
    model, fit, events = _train_counter([0.1, 0.5, 0.4, 0.5, 0.3, 9.9], epochs=6, patience=3)
    assert model.steps.item() == 2
    assert fit == Fit(best_epoch=2, best_score=0.5, epochs=5)
    assert ("note", {"key": "best_epoch", "value": 2}) in events
    curve = [(v["step"], v["value"]) for kind, v in events if kind == "curve"]
    assert curve == [(1, 0.1), (2, 0.5), (3, 0.4), (4, 0.5), (5, 0.3)]


def test_the_last_epoch_is_scored_whatever_the_interval() -> None:
    model, fit, events = _train_counter([0.1, 0.2, 0.3], epochs=5, eval_every=2)
    assert model.steps.item() == fit.best_epoch == 5
    assert [v["step"] for kind, v in events if kind == "curve"] == [2, 4, 5]


def test_epochs_of_an_earlier_call_count() -> None:
    model, fit, events = _train_counter([0.1, 0.3, 0.2], epochs=8, eval_every=2, first_epoch=4)
    assert model.steps.item() == 3  # epochs 4 to 6
    assert fit == Fit(best_epoch=6, best_score=0.3, epochs=8)
    assert [v["step"] for kind, v in events if kind == "curve"] == [4, 6, 8]


def test_curves_and_notes_of_one_of_several_models_are_told_apart() -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    own = prefixed(context(seed=3, events=events), "teacher_")
    own.log(2, 0.5, "valid_mrr")
    own.note("best_epoch", 2)
    assert own.seed == 3
    assert [values.get("metric", values.get("key")) for _, values in events] == [
        "teacher_valid_mrr",
        "teacher_best_epoch",
    ]


@pytest.mark.parametrize(("device", "inside"), [("cpu", "highest"), ("cuda", "high")])
def test_tensor_cores_are_for_the_block_alone_and_not_on_a_cpu(device: str, inside: str) -> None:
    assert torch.get_float32_matmul_precision() == "highest"

    def fail() -> None:
        with tensor_cores(torch.device(device)):
            assert torch.get_float32_matmul_precision() == inside
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_float32_matmul_precision() == "highest"


def test_without_a_score_all_epochs_are_run_and_the_last_state_stays() -> None:
    model, fit, events = _train_counter(None, epochs=7, patience=1)
    assert model.steps.item() == fit.best_epoch == fit.epochs == 7
    assert math.isnan(fit.best_score)
    assert not model.training
    assert {kind for kind, _ in events} <= {"progress"}


def test_a_step_clips_only_what_it_is_told_to() -> None:
    clipped, free = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    optimizer = torch.optim.SGD([clipped, free], lr=1.0)
    step = gradient_step(lambda x: (clipped * x + free * x).sum(), optimizer, clip=[clipped], clip_norm=0.5)
    value = step(torch.tensor([3.0, 4.0]))
    assert not value.requires_grad
    torch.testing.assert_close(clipped.detach(), torch.tensor([-0.3, -0.4]), rtol=1e-4, atol=1e-6)
    assert free.tolist() == [-3, -4]
    gradient_step(lambda x: (free * x).sum(), optimizer, clip=[free])(torch.tensor([3.0, 4.0]))
    assert free.tolist() == [-6, -8]


def test_a_nan_loss_is_a_clear_error() -> None:
    model = _Counter()
    with pytest.raises(SubmissionError, match=r"epoch 1 is nan.*learning rate"):
        train(
            model,
            epoch=lambda: [0],
            step=gradient_step(lambda _: model.steps * math.nan, torch.optim.SGD(model.parameters(), lr=1.0)),
            evaluate=lambda: 0.0,
            schedule=Schedule(epochs=1),
            ctx=context(),
            metric="valid",
            description="test",
        )


def test_gradients_reach_the_projection_and_not_the_frozen_vectors() -> None:
    plug = FrozenVectors(np.random.default_rng(0).normal(3, 5, (6, 4)).astype(np.float32), np.arange(6) != 2)
    projection = Projection(plug, 3, 0.1, torch.Generator().manual_seed(0))
    before = plug.vectors.clone()
    projection().square().sum().backward()
    assert projection.weight.grad.abs().sum() > 0
    assert {name for name, _ in projection.named_parameters()} == {"weight", "bias"}
    assert not plug.vectors.requires_grad
    assert torch.equal(plug.vectors, before)


def test_frozen_vectors_have_unit_scale_and_say_nothing_about_unknown_items() -> None:
    known = np.array([True, True, True, False])
    plug = FrozenVectors(np.array([[1, 100], [2, 300], [3, 200], [77, 77]], dtype=np.float32), known)
    assert torch.equal(plug(torch.tensor([3])), torch.zeros(1, 2))
    assert plug()[:3].square().mean().item() == pytest.approx(1)
    assert FrozenVectors(np.ones((2, 2), np.float32), np.zeros(2, bool))().abs().sum() == 0


def test_hashed_features_are_deterministic_and_see_chinese_characters() -> None:
    encoder = HashedEncoder(256)
    texts = ["A great game", "音乐很好", "音乐", "", "A great game"]
    features = encoder.encode(texts)
    assert features.shape == (5, 256)
    assert torch.equal(features, HashedEncoder(256).encode(texts))
    assert torch.equal(features[0], features[4])
    assert features[1] @ features[2] > 0.3 > (features[0] @ features[2]).abs()
    assert features[3].abs().sum() == 0


def test_minilm_orders_similar_texts_and_ignores_batching() -> None:
    pytest.importorskip(MINILM_PACKAGE)
    encoder = resolve_encoder("all-MiniLM-L6-v2", max_length=32)
    texts = [
        "The cat sits on the mat.",
        "A cat is on a rug.",
        "Interest rates rose sharply in the third quarter.",
    ]
    features = encoder.encode([*texts, texts[0]])
    alone = encoder.encode(texts[2:3])
    cosine = nn.functional.normalize(features, dim=1) @ nn.functional.normalize(features, dim=1).T
    assert cosine[0, 1] > 0.5 > cosine[0, 2]
    assert torch.equal(features[0], features[3])
    torch.testing.assert_close(features[2], alone[0], atol=1e-5, rtol=1e-4)


def test_a_missing_encoder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match=r"(?s)cannot be loaded.*hashed"):
        resolve_encoder(str(tmp_path))


def test_top_k_matches_a_sort_for_ties_masks_and_short_lists() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(-3, 3, (30, 7)).astype(np.float32)
    exclude = random_matrix(30, 7, 0.5, seed=1)
    order = rng.permutation(7)
    queries = RecommendationQueries(np.arange(30), exclude, 5, order)
    ranked = rank_by_scores(queries, lambda users: scores[users])
    shared = rank_by_one_score(queries, scores[0])
    for user in range(30):
        for result, row in ((ranked, scores[user]), (shared, scores[0])):
            allowed = np.setdiff1d(np.arange(7), exclude.row(user))
            expected = sorted(allowed, key=lambda i: (-row[i], order[i]))[:5]
            assert result.items[user].tolist() == expected + [-1] * (5 - len(expected))
            assert result.scores[user, : len(expected)].tolist() == row[expected].tolist()


def test_only_users_without_a_train_item_get_the_most_popular_ones() -> None:
    train = Csr.from_pairs([0, 0, 2, 3], [1, 4, 1, 1], (5, 6))
    popular = popularity(train)
    assert popular.tolist() == [0, 3, 0, 0, 1, 0]
    queries = RecommendationQueries(
        np.array([4, 2, 1]), Csr.from_pairs([0, 1], [1, 1], (3, 6)), 2, np.arange(6)
    )
    scores = np.arange(6, dtype=np.float32) + 7
    ranked = rank_by_scores(queries, lambda users: np.tile(scores, (len(users), 1)))
    served = serve_new_users(ranked, queries, train.lengths(), popular)
    assert served.items.tolist() == [[4, 0], [5, 4], [1, 4]]
    assert served.scores.tolist() == [[1, 0], [12, 11], [3, 1]]


def test_parameters_are_checked() -> None:
    assert read_config(RecommenderConfig, {"rec_dim": 8, "rec_lr": 1}, "rec_").lr == 1.0
    with pytest.raises(SubmissionError, match="rec_dim"):
        read_config(RecommenderConfig, {"rec_dim": "8"}, "rec_")
    with pytest.raises(SubmissionError, match="rec_dmi"):
        refuse_unknown({"rec_dmi": 1}, {"rec_dim"}, "test")
