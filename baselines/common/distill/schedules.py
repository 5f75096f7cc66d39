"""Weights that change with the epoch, counted from 0."""

from __future__ import annotations

import math

HIGHEST_EXPONENT = 80.0
"""exp(80) is still finite in float32."""


def time_decay(epoch: int, *, every: int = 5, floored: bool = True) -> float:
    """exp(floor(epoch / every)), or exp(epoch / every) where not ``floored`` (MulDE: every 5); held at exp(80)."""
    exponent = epoch // every if floored else epoch / every
    return math.exp(min(exponent, HIGHEST_EXPONENT))
