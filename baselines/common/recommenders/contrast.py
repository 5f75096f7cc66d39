"""InfoNCE between two views of the same nodes (arXiv 1807.03748), in memory that grows with the nodes and not with their square."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from baselines.common.products import product
from baselines.common.recommenders.base import RecommenderConfig
from kpi_bench.errors import SubmissionError

_LOGITS_PER_BLOCK = {"cpu": 1 << 19, "cuda": 1 << 26}
"""On a CPU a block stays in the cache; on a GPU it is large enough to fill it."""


def check_contrast(config: RecommenderConfig) -> None:
    """Raise for parameters that a contrastive backbone cannot run with.

    Raises:
        SubmissionError: ``temperature`` is not positive, ``contrast`` is negative, or there is no propagation layer, so that both views
            would be the embeddings.
    """
    if config.temperature <= 0:
        raise SubmissionError(f"temperature = {config.temperature} must be positive")
    if config.contrast < 0:
        raise SubmissionError(f"contrast = {config.contrast} must not be negative")
    if config.layers < 1:
        raise SubmissionError(f"layers = {config.layers}: a contrastive backbone needs at least one")


def info_nce(anchors: Tensor, views: Tensor, temperature: float) -> Tensor:
    """Mean over rows i of ``-log(exp(cos(a_i, v_i) / t) / sum_j exp(cos(a_i, v_j) / t))`` for float ``[n, d]`` inputs.

    A row of zeros has cosine 0 with everything. Differentiable once.
    """
    loss: Tensor = _InfoNce.apply(
        functional.normalize(anchors, eps=1e-8), functional.normalize(views, eps=1e-8), temperature
    )
    return loss


class _InfoNce(torch.autograd.Function):
    """Of unit rows. Each block of logits gives its part of the loss and of both gradients before the next one is made: with
    P = softmax(A V^T / t) the gradients are (P V - V) / (n t) and (P^T A - A) / (n t), so no logit is kept or made twice."""

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, views: Tensor, temperature: float) -> Tensor:
        n = len(anchors)
        needed = any(ctx.needs_input_grad)
        total = -(anchors * views).sum() / temperature
        # That of the views lies transposed, as its products are faster so.
        anchor_gradient, view_gradient = (-views, -anchors.T.contiguous()) if needed else (None, None)
        for start in range(0, n, step := _rows_per_block(anchors)):
            block = anchors[start : start + step]
            logits = product(block / temperature, views.T)
            highest = logits.amax(1, keepdim=True)
            weights = logits.sub_(highest).exp_()
            mass = weights.sum(1, keepdim=True)
            total = total + (mass.log() + highest).sum()
            if anchor_gradient is not None and view_gradient is not None:
                anchor_gradient[start : start + step] += product(weights, views) / mass
                view_gradient += product((block / mass).T, weights)
        if anchor_gradient is not None and view_gradient is not None:
            ctx.save_for_backward(anchor_gradient, view_gradient.T.contiguous())
            ctx.scale = 1 / (n * temperature)
        return total / n

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        anchors, views = ctx.saved_tensors
        scale = gradient * ctx.scale
        return anchors * scale, views * scale, None


def _rows_per_block(anchors: Tensor) -> int:
    logits = _LOGITS_PER_BLOCK.get(anchors.device.type, 1 << 22)
    return max(1, logits // max(1, len(anchors)))
