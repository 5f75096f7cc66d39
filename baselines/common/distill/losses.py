"""Losses of distillation. Rows of logits are ``[..., k]``: the answers to one question over the same k candidates.

Gradients flow to both sides unless ``detach`` says otherwise: methods differ in who learns from whom.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def row_kl(target: Tensor, other: Tensor, *, temperature: float = 1.0, floor: float = 0.0) -> Tensor:
    """KL(softmax(target / T) || softmax(other / T)) of each row: logits ``[..., k]`` that broadcast -> ``[...]``.

    ``floor`` is added to the target's probabilities (MulDE: 1e-7); the result can then be below zero by about ``k * floor``.
    """
    logs = functional.log_softmax(other / temperature, dim=-1)
    target_logs = functional.log_softmax(target / temperature, dim=-1)
    if floor:
        # Through the log of the sum, so that the floor bounds the target's logs too.
        probabilities = target_logs.exp() + floor
        return (probabilities * (probabilities.log() - logs)).sum(-1)
    return (target_logs.exp() * (target_logs - logs)).sum(-1)


def soft_kl(
    target: Tensor,
    student: Tensor,
    *,
    temperature: float = 1.0,
    detach: bool = True,
    floor: float = 0.0,
) -> Tensor:
    """Mean over rows of KL(softmax(target / T) || softmax(student / T)), times T^2 (Hinton et al., arXiv 1503.02531): gradients
    then keep their size when T changes. ``detach`` keeps the gradient from the target."""
    loss = row_kl(target.detach() if detach else target, student, temperature=temperature, floor=floor)
    return loss.mean() * temperature**2


def cosine_loss(mapped: Tensor, target: Tensor) -> Tensor:
    """Mean over rows of 1 - cos of ``[m, d]`` and ``[m, d]``, a scalar; no gradient flows to the target. 0 for no row."""
    cosines = functional.cosine_similarity(mapped, target.detach(), dim=-1)
    return (1 - cosines).sum() / max(1, len(cosines))


def normalised_mse(mapped: Tensor, target: Tensor) -> Tensor:
    """Mean over rows of |LN(mapped) - LN(target)|^2 / d of ``[m, d]`` and ``[m, d]``, a scalar; LN is the LayerNorm without parameters.

    No gradient flows to the target. 0 for no row.
    """
    d = mapped.shape[-1:]
    gaps = functional.layer_norm(mapped, d) - functional.layer_norm(target.detach(), d)
    return gaps.square().sum() / max(1, gaps.numel())
