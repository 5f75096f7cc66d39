"""The training loop: what an epoch holds, how fast weights move and shrink, and what the two stages of recommendation train on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from baseline_factory import context
from kgglm_factory import (
    SMALL,
    Reports,
    planted,
    same_weights,
    small,
    untrained,
    weights,
)
from numpy.typing import NDArray
from path_factory import Numbered, sorted_rows
from torch import Tensor, nn

from baselines.common.paths.body import BodyShape
from baselines.common.paths.corpus import read_paths
from baselines.common.paths.graph import PathGraph
from baselines.common.paths.interactions import TaskGraph
from baselines.common.recommenders.base import RecommenderConfig
from baselines.common.recommenders.fit import FittedRecommender
from baselines.common.validation import RankingValidation
from baselines.kgglm.config import KgglmConfig
from baselines.kgglm.model import PathLM
from baselines.kgglm.recommend import fit_path_recommender
from baselines.kgglm.submission import KGGLM
from baselines.kgglm.train import fit_paths
from kpi_bench import Suite
from kpi_bench.errors import SubmissionError
from kpi_bench.harness.config import read_config

FOLDER = Path(__file__).resolve().parents[3] / "submissions" / "kgglm"
RECOMMENDER = RecommenderConfig(valid_metric="ndcg@10")
Rows = NDArray[np.int32]


class Probe(PathLM):
    """A path model whose loss pulls one number, by ``slope`` at the first step and by 1 at all others, and nothing else. It keeps the
    batches that it is given and where the number was."""

    def __init__(self, slope: float = 1.0) -> None:
        ring = np.arange(6)
        graph = PathGraph.of_edges(ring, np.zeros(6, np.int64), (ring + 1) % 6, n_nodes=6, n_forward=1)
        shape = BodyShape(hidden=4, layers=1, heads=1, positions=4)
        generator = torch.Generator().manual_seed(0)
        super().__init__(graph.ranges, np.zeros(6, np.int64), 2, shape, softmax="range", generator=generator)
        self.pulled = nn.Parameter(torch.zeros(1))
        self.slope = slope
        self.batches: list[Tensor] = []
        self.places: list[float] = []

    def loss(self, paths: Tensor) -> Tensor:
        slope = 1.0 if self.batches else self.slope
        self.batches.append(paths)
        self.places.append(-self.pulled.item())
        zeros = [0.0 * parameter.sum() for parameter in self.parameters()]
        return slope * self.pulled.sum() + torch.stack(zeros).sum()

    def moves(self) -> NDArray[np.float64]:
        """How far each step carried the number."""
        return np.diff([*self.places, -self.pulled.item()])


def test_training_sees_each_path_once_an_epoch_in_another_order(tmp_path: Path) -> None:
    model, sample = Probe(), Numbered(100)
    fit_paths(model, sample, 2, small(batch_size=10, resample=False), context(1, tmp_path), description="n")
    first, second = model.batches[:10], model.batches[10:]
    assert sorted_rows(first) == sorted_rows(second) == sample.rows(0).tolist()
    assert [batch.tolist() for batch in first] != [batch.tolist() for batch in second]
    assert model.batches[0].dtype == torch.int64


@pytest.mark.parametrize("lost", [0, 5])
def test_a_stage_without_a_path_is_refused(lost: int, tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match=r"nothing here: no path was found.*kgglm_collaborative"):
        fit_paths(Probe(), Numbered(0, lost), 1, small(), context(1, tmp_path), description="nothing here")


def test_paths_and_walks_that_found_none_are_counted(tmp_path: Path) -> None:
    reports = Reports()
    fit_paths(Probe(), Numbered(30, lost=7), 2, small(), reports.context(tmp_path), description="walks")
    assert reports.notes == {"walks: paths an epoch": 30, "walks: walks without a path": 7}


@pytest.mark.parametrize("warmup", [0.0, 0.25, 1.0])
def test_the_learning_rate_rises_and_falls_to_zero(warmup: float, tmp_path: Path) -> None:
    model, lr, steps = Probe(), 0.01, 40
    config = small(batch_size=5, lr=lr, warmup=warmup)
    fit_paths(model, Numbered(100), 2, config, context(1, tmp_path), description="rate")
    rates = model.moves() / lr
    assert len(rates) == steps
    rising = max(1, int(warmup * steps))
    np.testing.assert_allclose(rates[:rising], np.arange(1, rising + 1) / rising, rtol=1e-3)
    falling = steps - rising
    np.testing.assert_allclose(rates[rising:], np.arange(falling, 0, -1) / max(falling, 1), rtol=1e-3)


@pytest.mark.parametrize(("batch_size", "lr", "warmup"), [(2, 1e-3, 0.05), (8, 1e-3, 0.05), (8, 0.02, 0.8)])
def test_a_weight_without_gradient_shrinks_as_decay_says(
    batch_size: int, lr: float, warmup: float, tmp_path: Path
) -> None:
    model = Probe()
    with torch.no_grad():
        for parameter in model.body.parameters():
            parameter.add_(0.1)  # biases begin at 0, where decay would not show
    before = weights(model)
    config = small(batch_size=batch_size, lr=lr, warmup=warmup, decay=0.7)
    fit_paths(model, Numbered(800), 1, config, context(1, tmp_path), description="decay")
    after = weights(model)
    assert {before[name].ndim for name in before} == {1, 2}
    for name in before.keys() - {"pulled"}:
        share = math.exp(-0.7) if before[name].ndim > 1 else 1.0
        np.testing.assert_allclose(after[name], share * before[name], rtol=0.01, atol=1e-9)


def test_one_steep_gradient_does_not_stop_what_follows(tmp_path: Path) -> None:
    """Its norm is cut at 1; else Adam would remember its size and hardly move for the rest of the stage."""
    calm, shaken = Probe(), Probe(slope=1e6)
    for model in (calm, shaken):
        fit_paths(model, Numbered(100), 1, small(batch_size=2), context(1, tmp_path), description="clip")
    np.testing.assert_allclose(shaken.moves(), calm.moves(), rtol=1e-3)


@pytest.mark.parametrize("epochs", [0, 1])
@pytest.mark.parametrize("judged", [True, False])
def test_a_fitted_model_is_in_eval_mode(epochs: int, judged: bool, tmp_path: Path) -> None:
    model = Probe()
    model.train()
    evaluate = (lambda: 0.5) if judged else None
    fit_paths(
        model, Numbered(9), epochs, small(), context(1, tmp_path), description="mode", evaluate=evaluate
    )
    assert not any(module.training for module in model.modules())


def test_no_epochs_keep_the_weights_and_score_valid_once(tmp_path: Path) -> None:
    model, sample = Probe(), Numbered(9)
    before, scores = weights(model), iter([0.25])
    ctx = context(1, tmp_path)
    fit = fit_paths(
        model, sample, 0, small(), ctx, description="none", evaluate=lambda: next(scores), metric="m"
    )
    assert (fit.best_epoch, fit.best_score, fit.epochs) == (0, 0.25, 0)
    assert list(scores) == []
    assert math.isnan(fit_paths(model, sample, 0, small(), ctx, description="none").best_score)
    assert same_weights(before, weights(model))
    assert sample.asked == model.batches == []


class Fine:
    """A fine-tuned model of the planted world, and what its training left behind."""

    def __init__(self, scratch: Path, *, collaborative: bool = True, **other: Any) -> None:
        self.task, kg = planted()
        self.config: KgglmConfig = small(collaborative=collaborative, **other)
        self.graph = TaskGraph.of_task(self.task, kg, collaborative=collaborative)
        self.model, self.reports = untrained(self.graph, self.config), Reports()
        self.before = weights(self.model)
        ctx = self.reports.context(scratch)
        self.fitted: FittedRecommender = fit_path_recommender(
            self.task, self.graph, self.model, self.config, RECOMMENDER, ctx
        )
        file = scratch / "paths.arrow"
        self.paths = np.array(read_paths(file)) if file.exists() else np.empty((0, 1), dtype=np.int32)

    def counts(self) -> NDArray[np.int64]:
        """Paths of the last epoch by the node that they start from."""
        return np.bincount(self.paths[:, 0], minlength=self.graph.graph.n_nodes)


@pytest.mark.parametrize("collaborative", [True, False])
def test_each_user_has_as_many_paths_as_asked_for(collaborative: bool, tmp_path: Path) -> None:
    """As many for each user, however many items the user has; no path leads from a single item to another of the user's."""
    fine = Fine(tmp_path, collaborative=collaborative, paths=7, epochs=1)
    items = fine.task.train_matrix.lengths()
    assert items[:2].tolist() == [0, 1]
    assert len(np.unique(items[2:])) > 3
    of_users = fine.counts()[fine.graph.first_user :]
    assert (of_users[items <= 1] == 0).all()
    assert of_users.max() == 7
    assert (of_users[items > 1] == 7).mean() > 0.9  # some walks find no path in all their tries
    asked = 7 * (items > 0).sum()
    assert fine.reports.notes["planted: user paths: paths an epoch"] == len(fine.paths) == of_users.sum()
    assert fine.reports.notes["planted: user paths: walks without a path"] == asked - len(fine.paths)


@pytest.mark.parametrize("stage", ["generic_epochs", "epochs"])
@pytest.mark.parametrize("resample", [True, False])
def test_the_paths_of_the_second_epoch_are_new_where_asked_for(
    stage: str, resample: bool, tmp_path: Path
) -> None:
    stages = {"generic_epochs": 0, "epochs": 0}
    once, twice = (Fine(tmp_path, resample=resample, paths=5, **(stages | {stage: n})).paths for n in (1, 2))
    assert len(once) > 200
    assert np.array_equal(once, twice) != resample


def test_the_generic_stage_walks_from_every_node(tmp_path: Path) -> None:
    fine = Fine(tmp_path, generic_epochs=1, epochs=0)
    degrees = fine.graph.graph.degrees()
    assert (degrees[fine.graph.first_user :] > 0).any()
    assert (fine.counts() == np.where(degrees > 0, fine.config.pretrain_walks, 0)).all()
    assert not same_weights(fine.before, weights(fine.model))
    assert not any("user paths" in key for key in fine.reports.notes)


def test_fine_tuning_starts_from_the_generic_stage(tmp_path: Path) -> None:
    with_stage, without = (Fine(tmp_path, generic_epochs=n, epochs=1, paths=3) for n in (1, 0))
    assert "planted: walks: paths an epoch" in with_stage.reports.notes
    assert "planted: walks: paths an epoch" not in without.reports.notes
    assert not same_weights(weights(with_stage.model), weights(without.model))


@pytest.mark.parametrize("generic", [0, 1])
def test_a_task_is_answered_without_fine_tuning(generic: int, tmp_path: Path) -> None:
    fine = Fine(tmp_path, generic_epochs=generic, epochs=0)
    assert same_weights(fine.before, weights(fine.model)) == (generic == 0)
    valid = RankingValidation(fine.task, "ndcg@10")
    assert fine.fitted.valid_score == valid.score(fine.fitted.scorer)
    assert fine.fitted.valid_score > 0


def test_the_config_generic_only_answers(tiny_suite: Suite, tmp_path: Path) -> None:
    changes = {f"kgglm_{name}": value for name, value in SMALL.items()} | {"kgglm_pretrain_epochs": 1}
    submission = KGGLM(read_config(FOLDER).resolve_params("tiny", "generic-only", changes))
    reports = Reports()
    ctx = reports.context(tmp_path, **{name: tiny_suite.graph(name) for name in tiny_suite.graph_names()})
    submission.pretrain(ctx.graphs, ctx)
    submission.adapt(tiny_suite.task("shop_music"), ctx)
    assert "shop_music: walks: paths an epoch" in reports.notes
    assert not any("user paths" in key for key in reports.notes)


@pytest.mark.parametrize("resample", [True, False])
def test_walks_of_pretraining_are_new_in_each_epoch(
    resample: bool, tiny_suite: Suite, tmp_path: Path
) -> None:
    walks = []
    for epochs in (1, 2):
        config = SMALL | {"resample": resample, "pretrain_epochs": epochs}
        params = {f"kgglm_{name}": value for name, value in config.items()}
        submission = KGGLM(read_config(FOLDER).resolve_params("tiny", None, params))
        graph = tiny_suite.graph("shop")
        ctx = context(1, tmp_path, shop=graph)
        submission.pretrain(ctx.graphs, ctx)
        walks.append(np.array(read_paths(tmp_path / "paths.arrow")))
    starts = np.unique(np.concatenate([graph.heads, graph.tails]))
    assert np.array_equal(np.sort(walks[0][:, 0]), np.repeat(starts, SMALL["pretrain_walks"]))
    assert np.array_equal(*walks) != resample
