"""The Senior: scales each teacher by relation, weighs the teachers by their closeness to the Junior, and learns both from the truth.

Equations of sections 3.3 and 3.4 of arXiv 2010.07152, as the authors' code has them. Shapes: b queries, k candidates, n teachers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.common.distill.losses import row_kl, soft_kl
from baselines.common.distill.schedules import time_decay
from baselines.mulde.config import MuldeConfig

FLOOR = 1e-7
"""Added to the probabilities of divergence targets, as in the authors' code."""


@dataclass(frozen=True)
class SeniorAnswer:
    """``scaled [b, n, k]`` answers of the teachers, their ``weights [b, n]``, and the ``soft [b, k]`` answer: their weighted sum."""

    scaled: Tensor
    weights: Tensor
    soft: Tensor


class Senior(nn.Module):
    """Its parameters are W ``[2 R, n]``, initially one: teacher i is scaled by sigmoid(W[r, i])."""

    def __init__(self, n_relations: int, config: MuldeConfig) -> None:
        super().__init__()
        self.config = config
        self.n_teachers = len(config.teacher_models)
        shape = (2 * n_relations, self.n_teachers)
        self.relation_weights = nn.Parameter(torch.ones(shape)) if config.scaling else None

    def forward(self, relations: Tensor, junior: Tensor, answers: Tensor, epoch: int) -> SeniorAnswer:
        """Combine the teachers' ``answers [b, n, k]`` to queries of ``relations`` int64 ``[b]``.

        ``junior [b, k]`` are the Junior's scores of the same candidates; ``epoch`` counts from 0.
        """
        scaled = self.scale(relations, answers)
        weights = self.attention(junior, scaled, epoch)
        return SeniorAnswer(scaled, weights, torch.bmm(weights[:, None], scaled).squeeze(1))

    def scale(self, relations: Tensor, answers: Tensor) -> Tensor:
        """rs_i = sigmoid(W[r, i]) s_i."""
        if self.relation_weights is None:
            return answers
        scales = torch.sigmoid(functional.embedding(relations, self.relation_weights))
        return scales[:, :, None] * answers

    def attention(self, junior: Tensor, scaled: Tensor, epoch: int) -> Tensor:
        """Contrast attention a ``[b, n]``: softmax over teachers of -d_i / tau, d_i = KL(p_J || softmax(rs_i)).

        tau = exp(floor(epoch / 5)) grows, so the weights tend to 1 / n. W gets no gradient from here.
        """
        config = self.config
        if config.attention == "uniform":
            return junior.new_full((len(junior), self.n_teachers), 1 / self.n_teachers)
        own = (junior.detach() if config.detach_targets else junior)[:, None]
        teachers = scaled.detach()
        if config.contrast == "junior_teacher":
            distance = row_kl(own, teachers, floor=FLOOR)
        else:
            distance = row_kl(teachers, own, floor=FLOOR)
        closeness = -distance / time_decay(epoch, floored=config.floor_epoch)
        if config.attention == "sigmoid":
            return torch.sigmoid(closeness) * self.n_teachers
        return torch.softmax(closeness, dim=-1)

    def hard_loss(self, answer: SeniorAnswer, labels: Tensor) -> Tensor:
        """Mean binary cross-entropy of the soft answer (or of each scaled teacher) with ``labels [b, k]``, 1 where a candidate is the tail.

        A row without its tail is all zeros, and other true tails count as false, as in the authors' code.
        """
        logits = answer.soft
        if self.config.senior_loss == "each":
            logits, labels = answer.scaled, labels[:, None].expand_as(answer.scaled)
        return functional.binary_cross_entropy_with_logits(logits, labels)

    def soft_loss(self, answer: SeniorAnswer, junior: Tensor) -> Tensor:
        """T^2 KL(softmax(S / T) || softmax(J / T)), mean over rows: what the Junior learns from the teachers."""
        config = self.config
        return soft_kl(
            answer.soft, junior, temperature=config.temperature, detach=config.detach_targets, floor=FLOOR
        )
