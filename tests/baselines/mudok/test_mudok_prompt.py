"""The prompt plug: its vectors, and that what it gathers over several steps is the gradient of their losses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from baselines.common.plugs import FrozenVectors, Projection, groups_with_plug
from baselines.common.recommenders.base import RecommenderConfig
from baselines.common.recommenders.fit import fit_recommender
from baselines.common.training import gradient_step
from baselines.common.validation import RankingValidation
from baselines.mudok.config import MudokConfig
from baselines.mudok.model import MudokModel
from baselines.mudok.prompt import PromptPlug
from baselines.mudok.sequences import Sequences
from kpi_bench import Context, Interactions, RecommendationTask, TaskKind, TaskSpec

N_ENTITIES, N_RELATIONS = 40, 3
CPU = torch.device("cpu")
FUSED = pytest.mark.parametrize(
    "fused", [False, True]
)  # a fused update does not raise the version of a parameter


def config(**changes: object) -> MudokConfig:
    sizes = {"hidden": 16, "heads": 2, "ffn": 32, "text_dim": 8, "code_dim": 4, "code_std": 0.5}
    return MudokConfig(**{**sizes, "slots": 5, "dropout": 0.4, **changes})


def frozen_model(settings: MudokConfig) -> tuple[MudokModel, Sequences]:
    rng = np.random.default_rng(0)
    counts = np.where(np.arange(N_ENTITIES) < 25, rng.integers(0, 5, N_ENTITIES), 0)
    n = int(counts.sum())
    sequences = Sequences(
        np.concatenate([[0], np.cumsum(counts)]),
        rng.integers(25, N_ENTITIES, n).astype(np.int32),
        rng.integers(0, N_RELATIONS, n).astype(np.int32),
        N_RELATIONS,
    )
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(N_ENTITIES, settings.text_dim, generator=generator)
    model = MudokModel(settings, text, N_RELATIONS, generator)
    for parameter in model.parameters():  # wider than the initial 0.02, so that attention matters
        parameter.data.mul_(8 if parameter.ndim > 1 else 1)
    return model.requires_grad_(False), sequences


def plug_of(settings: MudokConfig, entities: np.ndarray, coded: np.ndarray) -> PromptPlug:
    model, sequences = frozen_model(settings)
    generator = torch.Generator().manual_seed(2)
    return PromptPlug(model, sequences, entities, coded, settings, generator=generator, device=CPU)


ITEMS = np.array([7, 3, -1, 24, 30, 0, 11])
CODED = np.array([True, True, True, False, True, True, True])


def reference(plug: PromptPlug, settings: MudokConfig, codes: Tensor, prompt: Tensor) -> Tensor:
    """Vectors of ITEMS one by one through the encoder, with gradients to ``codes`` and ``prompt``."""
    model, sequences = frozen_model(settings)
    model.eval()
    rows, code = [], 0
    for entity, coded in zip(ITEMS.tolist(), CODED.tolist(), strict=True):
        if entity < 0:
            rows.append(torch.zeros(settings.hidden))
            continue
        pack = sequences.pack(np.array([entity]))
        x = model.packed_inputs(pack)
        if coded:
            offset = torch.zeros_like(x)
            offset[0] = 1
            x = x + offset * (prompt @ codes[code])
            code += 1
        z = model.encoder.pool(model.encoder(x, [(len(x), 1, 1)]))[0]
        rows.append((z - plug.mean) / plug.scale)
    return torch.stack(rows)


def test_vectors_are_those_of_the_encoder_with_a_code_at_slot_0() -> None:
    settings = config()
    plug = plug_of(settings, ITEMS, CODED)
    assert len(plug.codes) == 5  # neither the unknown item nor the one without a code
    expected = reference(plug, settings, plug.codes, plug.prompt)
    torch.testing.assert_close(plug(), expected)
    torch.testing.assert_close(plug(torch.tensor([4, 1, 4])), expected[[4, 1, 4]])
    assert plug.known()[:, 0].tolist() == [1, 1, 0, 1, 1, 1, 1]
    assert not plug()[2].any()


def test_without_codes_it_is_a_table_of_frozen_vectors() -> None:
    settings = config()
    plug = plug_of(settings, ITEMS, np.zeros(len(ITEMS), bool))
    model, sequences = frozen_model(settings)
    z = model.vectors(sequences, np.maximum(ITEMS, 0)).numpy()
    torch.testing.assert_close(plug(), FrozenVectors(z, ITEMS >= 0)())
    assert plug.parameter_groups() == []
    assert not any(parameter.requires_grad for parameter in plug.parameters())
    plug.before_update()


def test_zero_codes_start_from_the_frozen_vectors_and_can_learn() -> None:
    plug = plug_of(config(code_std=0.0, refresh=1), ITEMS, CODED)
    torch.testing.assert_close(plug().detach(), plug_of(config(), ITEMS, np.zeros(len(ITEMS), bool))())
    plug().square().sum().backward()
    plug.before_update()
    assert plug.codes.grad.abs().min() > 0


def small_task() -> RecommendationTask:
    """Each user takes two items of each split; the items are entities 0 to 19."""
    rng = np.random.default_rng(0)
    items = np.stack([rng.permutation(20)[:6] for _ in range(30)])
    users = np.repeat(np.arange(30), 2)
    splits = [Interactions(users, part.reshape(-1)) for part in np.split(items, 3, axis=1)]
    spec = TaskSpec("small", TaskKind.RECOMMENDATION, "kg", "d", "", "", "ndcg@20", ks=(5,), n_users=30)
    return RecommendationTask(spec, 30, np.arange(20), *splits)


def bare_vectors(plug: PromptPlug, settings: MudokConfig, entities: np.ndarray) -> Iterator[Tensor]:
    """Vectors of entities that all have a code, one by one from the plug's codes."""
    model, sequences = frozen_model(settings)
    model.eval()
    for entity, code in zip(entities, plug.codes.detach(), strict=True):
        x = model.packed_inputs(sequences.pack(np.array([entity])))
        x[0] += plug.prompt.detach() @ code
        yield (model.encoder.pool(model.encoder(x, [(len(x), 1, 1)]))[0] - plug.mean) / plug.scale


class Task(nn.Module):
    """A model around a plug: squared error of projected vectors, other targets at each step."""

    def __init__(self, plug: PromptPlug) -> None:
        super().__init__()
        self.projection = Projection(plug, 3, 0.7, torch.Generator().manual_seed(3))

    def loss(self, step: int) -> Tensor:
        target = torch.randn(len(ITEMS), 3, generator=torch.Generator().manual_seed(step))
        return (self.projection() - target).square().sum()


@pytest.mark.parametrize("refresh", [1, 3])
def test_gathered_gradient_is_that_of_the_summed_losses(refresh: int) -> None:
    settings = config(refresh=refresh)
    plug = plug_of(settings, ITEMS, CODED)
    task = Task(plug)
    weights = [task.projection.weight, task.projection.bias]
    optimizer = torch.optim.Adam(weights, lr=0.1)  # codes stay: their gradients are what is compared
    codes, prompt = (
        plug.codes.detach().clone().requires_grad_(),
        plug.prompt.detach().clone().requires_grad_(),
    )
    total = torch.zeros(())
    mask = plug.mask
    for step in range(refresh):
        z = reference(plug, settings, codes, prompt)
        weight, bias = (w.detach().clone() for w in weights)
        target = torch.randn(len(ITEMS), 3, generator=torch.Generator().manual_seed(step))
        total = total + ((0.7 * (z @ weight.T + bias)) * mask - target).square().sum()
        assert plug.codes.grad is None
        gradient_step(task.loss, optimizer, before_update=plug.before_update)(step)
    total.backward()
    torch.testing.assert_close(plug.codes.grad, codes.grad)
    torch.testing.assert_close(plug.prompt.grad, prompt.grad)


@FUSED
def test_a_refresh_in_every_step_is_joint_training(fused: bool) -> None:
    settings = config(refresh=1, prompt_lr=0.03)
    plug = plug_of(settings, ITEMS, CODED)
    task = Task(plug)
    step = gradient_step(
        task.loss,
        torch.optim.Adam(groups_with_plug(task, plug), lr=0.1, fused=fused),
        before_update=plug.before_update,
    )
    twin = plug_of(settings, ITEMS, CODED)
    around = Task(twin).projection
    both = [
        {"params": [around.weight, around.bias], "lr": 0.1},
        {"params": [twin.codes, twin.prompt], "lr": 0.03},
    ]
    optimizer = torch.optim.Adam(both)
    for number in range(4):
        step(number)
        optimizer.zero_grad()
        z = reference(twin, settings, twin.codes, twin.prompt)
        projected = 0.7 * (z @ around.weight.T + around.bias) * twin.mask
        target = torch.randn(len(ITEMS), 3, generator=torch.Generator().manual_seed(number))
        (projected - target).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(plug.codes, twin.codes)
    torch.testing.assert_close(plug.prompt, twin.prompt)
    torch.testing.assert_close(task.projection.weight, around.weight)


@FUSED
def test_codes_change_at_a_refresh_only_and_the_vectors_follow(fused: bool) -> None:
    plug = plug_of(config(refresh=2), ITEMS, CODED)
    task = Task(plug)
    step = gradient_step(
        task.loss,
        torch.optim.Adam(groups_with_plug(task, plug), lr=0.1, fused=fused),
        before_update=plug.before_update,
    )
    before, first = plug.codes.detach().clone(), plug().detach().clone()
    step(0)
    assert torch.equal(plug.codes, before)
    assert torch.equal(plug(), first)
    step(1)
    assert not torch.equal(plug.codes, before)
    assert not torch.allclose(plug(), first)
    with torch.no_grad():
        plug.codes.copy_(before)  # what early stopping does at the end
        plug.prompt.copy_(plug_of(config(refresh=2), ITEMS, CODED).prompt)
    torch.testing.assert_close(plug.settled()(), first)


def test_dropout_stays_off_while_tuning() -> None:
    plug = plug_of(config(), ITEMS, CODED)
    quiet = plug.eval()().detach().clone()
    torch.testing.assert_close(plug.train().settled()(), quiet)  # computed again


def test_settled_it_is_a_table_of_the_same_vectors() -> None:
    plug = plug_of(config(), ITEMS, CODED).eval()
    settled = plug.settled()
    with torch.no_grad():
        for rows in (None, torch.tensor([6, 2, 2, 0])):
            assert torch.equal(settled(rows), plug(rows))
            assert torch.equal(settled.known(rows), plug.known(rows))
    assert set(settled.state_dict()) == {"vectors", "mask"}


@pytest.mark.parametrize("refresh", [1, 2, 7])
@pytest.mark.parametrize("backbone", ["cf", "lightgcn"])
def test_what_is_served_is_what_was_validated(backbone: str, refresh: int) -> None:
    settings = config(refresh=refresh, prompt_lr=0.3)
    task, ctx = small_task(), Context(0, "cpu", Path("/nonexistent"), {})
    recommender = RecommenderConfig(
        dim=4, epochs=9, eval_every=2, patience=2, batch_size=16, lr=0.05, plug_scale=1.0
    )
    plug = plug_of(settings, task.item_entity, np.ones(task.n_items, bool))
    before = plug.settled()()
    fitted = fit_recommender(task, backbone, recommender, ctx, plug)
    assert RankingValidation(task, recommender.valid_metric).score(fitted.scorer) == fitted.valid_score
    expected = torch.stack([*bare_vectors(plug, settings, task.item_entity)])
    torch.testing.assert_close(plug.settled()(), expected)
    assert not torch.allclose(plug.settled()(), before)


def test_a_task_whose_items_the_kg_lacks_gets_nothing() -> None:
    plug = plug_of(config(), np.array([-1, -1]), np.array([True, True]))
    assert not plug().any()
    assert not plug.known().any()
    assert torch.isfinite(plug.scale).all()
