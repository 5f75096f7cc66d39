"""Training a backbone on a recommendation task, with or without a plug: the same for every method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from baselines.common.plugs import Plug, groups_with_plug
from baselines.common.recommenders.base import Recommender, RecommenderConfig
from baselines.common.recommenders.dccf import DCCF
from baselines.common.recommenders.gccf import GCCF
from baselines.common.recommenders.lightgcl import LightGCL
from baselines.common.recommenders.lightgcn import LightGCN
from baselines.common.recommenders.mf import MatrixFactorisation
from baselines.common.recommenders.ncf import NeuMF
from baselines.common.recommenders.simgcl import SimGCL
from baselines.common.sampling import PairSampler
from baselines.common.scorers import Scorer
from baselines.common.training import Schedule, gradient_step, train
from baselines.common.validation import RankingValidation
from kpi_bench import Context, RecommendationTask
from kpi_bench.errors import SubmissionError

BACKBONES: Mapping[str, type[Recommender]] = {
    "cf": MatrixFactorisation,
    "lightgcn": LightGCN,
    "ncf": NeuMF,
    "gccf": GCCF,
    "simgcl": SimGCL,
    "dccf": DCCF,
    "lightgcl": LightGCL,
}
"""Backbones by the name that a submission's ``backbone`` parameter gives."""


@dataclass(frozen=True, eq=False)
class FittedRecommender:
    """A scorer on the CPU, and parameter counts of the model behind it."""

    scorer: Scorer
    total_parameters: int
    trainable_parameters: int
    valid_score: float


def fit_recommender(
    task: RecommendationTask,
    backbone: str,
    config: RecommenderConfig,
    ctx: Context,
    plug: Plug | None = None,
) -> FittedRecommender:
    """Train ``backbone`` on the task's train split, stopping on valid.

    Raises:
        SubmissionError: unknown backbone, or training diverged.
    """
    if backbone not in BACKBONES:
        raise SubmissionError(f"unknown backbone {backbone!r}; use one of {', '.join(BACKBONES)}")
    device = torch.device(ctx.device)
    matrix = task.train_matrix
    model = BACKBONES[backbone](
        matrix, config, plug=plug, generator=torch.Generator().manual_seed(ctx.seed), device=device
    )
    pairs = PairSampler(
        matrix,
        batch_size=config.resolved_batch_size(matrix.nnz),
        negatives=config.negatives,
        generator=torch.Generator(device=device).manual_seed(ctx.seed + 1),
        device=device,
    )
    validation = RankingValidation(task, config.valid_metric, max_users=config.valid_users)
    groups = groups_with_plug(model, plug)
    fit = train(
        model,
        epoch=pairs.epoch,
        step=gradient_step(
            model.loss,
            torch.optim.Adam(groups, lr=config.lr, fused=True),
            before_update=plug.before_update if plug else lambda: None,
        ),
        evaluate=lambda: validation.score(model.scorer()),
        schedule=Schedule(config.epochs, config.eval_every, config.patience),
        ctx=ctx,
        metric=f"valid_{config.valid_metric}",
        description=f"{task.spec.name}: {backbone}",
    )
    total = sum(t.numel() for t in [*model.parameters(), *model.buffers()])
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if model.projection is not None:
        model.projection.settle()
    with torch.no_grad():
        scorer = model.scorer().to("cpu")
    return FittedRecommender(
        scorer,
        total_parameters=total,
        trainable_parameters=trainable,
        valid_score=fit.best_score,
    )
