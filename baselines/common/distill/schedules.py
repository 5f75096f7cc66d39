"""Weights that change with the epoch, counted from 0."""

from __future__ import annotations

import math

HIGHEST_EXPONENT = 80.0
"""exp(80) is still finite in float32."""


def time_decay(epoch: int, *, every: int = 5, floored: bool = True) -> float:
    """exp(floor(epoch / every)), or exp(epoch / every) where not ``floored`` (MulDE: every 5); held at exp(80)."""
    exponent = epoch // every if floored else epoch / every
    return math.exp(min(exponent, HIGHEST_EXPONENT))


def linear_ramp(epoch: int, length: int) -> float:
    """From 0 at epoch 0 straight to 1 at epoch ``length``, then 1; a ``length`` of 0 is always 1."""
    return 1.0 if length <= 0 else min(epoch / length, 1.0)
