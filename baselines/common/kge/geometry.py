"""The Poincaré ball of curvature -c, and rotations and reflections of coordinate pairs (Chami et al. 2020, arXiv 2005.00545).

Points of the ball have c |x|^2 < 1. Every function takes ``c`` as a tensor that broadcasts against ``[..., 1]``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

EDGE = 4e-3
"""Points stay inside radius (1 - EDGE) / sqrt(c): closer to the border float32 cannot tell two of them apart."""
TINY = 1e-15
SMALLEST = 1e-12
"""Where a squared distance counts as zero: below it float32 has only rounding."""


def exp0(tangent: Tensor, c: Tensor) -> Tensor:
    """The point that a tangent vector at the origin leads to, kept inside the ball; same shape ``[..., dim]``."""
    root = c.sqrt()
    norm = tangent.square().sum(-1, keepdim=True).clamp_min(TINY).sqrt()
    reach = torch.tanh(root * norm).clamp_max(1 - EDGE)
    return tangent * (reach / (root * norm))


def project(point: Tensor, c: Tensor) -> Tensor:
    """Pull points that rounding has put outside the ball back to its edge."""
    norm = point.square().sum(-1, keepdim=True).clamp_min(TINY).sqrt()
    limit = (1 - EDGE) / c.sqrt()
    return torch.where(norm > limit, point * (limit / norm), point)


def mobius_add(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """Möbius addition, the translation of the ball; projected, since float32 can overshoot."""
    xy = (x * y).sum(-1, keepdim=True)
    xx = x.square().sum(-1, keepdim=True)
    yy = y.square().sum(-1, keepdim=True)
    numerator = (1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y
    denominator = 1 + 2 * c * xy + c * c * xx * yy
    return project(numerator / denominator.clamp_min(TINY), c)


def squared_distance(stretch: Tensor, c: Tensor) -> Tensor:
    """Squared hyperbolic distance of points x and y from their stretch w = c |x - y|^2 / ((1 - c|x|^2)(1 - c|y|^2)).

    d = (2 / sqrt c) arsinh(sqrt w), equal to (2 / sqrt c) artanh(sqrt(c) |(-x) + y|) with Möbius + but without its 1 - 1 at the
    border. w needs only norms and inner products, so all pairs cost one matrix product. Shape of ``stretch``.
    """
    return _SquaredArsinh.apply(stretch) * (4 / c)  # type: ignore[no-any-return, no-untyped-call]


def arsinh_root_(w: Tensor) -> tuple[Tensor, Tensor]:
    """s = sqrt w and arsinh(s) of ``w`` > 0, in whose place the latter is put."""
    root = w.sqrt()
    # arsinh(s) = log1p(s + s^2 / (1 + sqrt(1 + s^2))): as exact as torch.asinh, which has no vector form on CPUs.
    return root, w.div_((w + 1).sqrt_().add_(1)).add_(root).log1p_()


class _SquaredArsinh(torch.autograd.Function):
    """arsinh(sqrt w)^2, w >= 0. By hand: autograd of the root is infinite where two points meet, and keeps five more tensors."""

    @staticmethod
    def forward(ctx: Any, w: Tensor) -> Tensor:
        root, reach = arsinh_root_(w.clamp_min(SMALLEST))
        ctx.save_for_backward(root, reach)
        return reach.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        root, reach = ctx.saved_tensors
        # d arsinh(sqrt w)^2 / dw = arsinh(s) / (s sqrt(1 + s^2)) with s = sqrt w, which tends to 1 at 0.
        slope = root.square().add_(1).sqrt_().mul_(root).reciprocal_()
        return slope.mul_(reach).mul_(grad)


def rotate(angles: Tensor, x: Tensor) -> Tensor:
    """Rotate each pair (x[2i], x[2i+1]) by the direction of the pair of ``angles``; both ``[..., dim]``, dim even."""
    cos, sin = _directions(angles)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([cos * a - sin * b, sin * a + cos * b], dim=-1).flatten(-2)


def reflect(angles: Tensor, x: Tensor) -> Tensor:
    """Reflect each pair (x[2i], x[2i+1]) at the axis given by the pair of ``angles``; both ``[..., dim]``, dim even."""
    cos, sin = _directions(angles)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([cos * a + sin * b, sin * a - cos * b], dim=-1).flatten(-2)


def _directions(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each pair's direction, ``[..., dim / 2]``."""
    pairs = angles.unflatten(-1, (-1, 2))
    unit = pairs / pairs.square().sum(-1, keepdim=True).clamp_min(TINY).sqrt()
    return unit[..., 0], unit[..., 1]
