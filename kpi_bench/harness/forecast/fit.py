"""Extrapolate a cost from a few smaller sizes: a constant plus a power law, with what the sizes cannot tell as its range.

``y = scale * (fixed + (1 - fixed) * repeats * (share / largest) ** exponent)``, each measurement off by a factor; what is repeated are the
steps of training. Three or four sizes do not settle scale, fixed part, exponent and noise, so none is chosen: the forecast is the mean
over all of them by how well they explain the measurements, from a prior under which costs grow about linearly (Bayes on a grid; the
scale is integrated in closed form).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EXPONENTS = np.linspace(0.0, 2.5, 51)
USUAL, USUAL_SD, UNUSUAL = 1.0, 0.25, 0.15
"""Most costs grow linearly, some do not: a normal around 1 over a constant of this height."""
FIXED = np.linspace(0.0, 1.0, 41)
ALL_FIXED = 6.0
"""Many costs do not grow at all: a fixed part of 1 weighs as much as this many others."""
NOISES = np.array([0.02, 0.05, 0.1, 0.2, 0.4])
"""Two runs of the same differ by two per cent at least."""
NODES = np.array([-1.645, -1.036, -0.674, -0.385, -0.126, 0.126, 0.385, 0.674, 1.036, 1.645])
"""Standard normal quantiles .05, .15, ..., .95: equal weights."""
QUANTILES = (0.1, 0.5, 0.9)
WIDEST_EXPONENT = 0.6
"""An exponent whose 80 % range is wider says no more than the prior (.9) does."""


@dataclass(frozen=True)
class Sample:
    """What one size cost: ``share`` of the whole, in ``value``; ``repeats`` is how often the growing part was done there."""

    share: float
    value: float
    repeats: float = 1.0


@dataclass(frozen=True)
class Figure:
    """A forecast cost: median and 80 % range. ``exponent`` is the 80 % range of the growing part's exponent, None where the sizes measured
    do not show one (most of the cost is constant, too few sizes, too much noise)."""

    low: float
    mid: float
    high: float
    exponent: tuple[float, float] | None
    samples: tuple[Sample, ...]


def extrapolate(
    samples: Sequence[Sample], resolution: float, share: float = 1.0, repeats: float = 1.0
) -> Figure:
    """Forecast the cost at ``share`` from at least two sizes; measurements are no finer than ``resolution``, in the unit of the values.

    Raises:
        ValueError: fewer than two different sizes, a size that is not positive, or a value that is negative or not finite.
    """
    x = np.array([sample.share for sample in samples], dtype=np.float64)
    values = np.array([sample.value for sample in samples], dtype=np.float64)
    if len(np.unique(x)) < 2 or x.min() <= 0 or values.min() < 0 or not np.isfinite(values).all():
        raise ValueError(f"two sizes and finite costs are needed, not {samples}")
    times = np.array([sample.repeats for sample in samples], dtype=np.float64) / repeats
    y = np.maximum(values, resolution)
    exponent, fixed, noise = np.meshgrid(EXPONENTS, FIXED, NOISES, indexing="ij")
    shape = np.log(_shape(x[:, None, None, None] / x.max(), times[:, None, None, None], exponent, fixed))
    # A short time is known less well: the clock's step counts beside the noise.
    variance = noise**2 + (resolution / y)[:, None, None, None] ** 2
    residual = np.log(y)[:, None, None, None] - shape
    scale_variance = 1 / (1 / variance).sum(axis=0)
    scale = (residual / variance).sum(axis=0) * scale_variance
    log_weight = (
        np.log(np.exp(-0.5 * ((exponent - USUAL) / USUAL_SD) ** 2) + UNUSUAL)
        + np.where(fixed == 1.0, np.log(ALL_FIXED), 0.0)
        - 0.5 * ((residual - scale) ** 2 / variance).sum(axis=0)
        - 0.5 * np.log(variance).sum(axis=0)
        + 0.5 * np.log(scale_variance)
    )
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    centre = scale + np.log(_shape(share / x.max(), 1.0, exponent, fixed))
    spread = np.sqrt(scale_variance + noise**2)
    low, mid, high = np.exp(
        _quantiles(
            (centre[..., None] + spread[..., None] * NODES).ravel(), np.repeat(weight.ravel(), len(NODES))
        )
    )
    growing = weight * (1 - fixed)
    rises = float(np.log(y[x.argmax()] / y[x.argmin()]))
    return Figure(
        low=float(low),
        mid=float(mid),
        high=float(high),
        exponent=_supported(exponent, growing, rises, x),
        samples=tuple(samples),
    )


def _shape(x: Floats | float, times: Floats | float, exponent: Floats, fixed: Floats) -> Floats:
    grown: Floats = fixed + (1 - fixed) * times * np.asarray(x) ** exponent
    return grown


def _supported(exponent: Floats, weight: Floats, rises: float, x: Floats) -> tuple[float, float] | None:
    """The exponent's 80 % range where three sizes or more, and a cost that rises with them, narrow it."""
    if len(np.unique(x)) < 3 or rises < 0.25 * float(np.log(x.max() / x.min())):
        return None
    low, _, high = _quantiles(exponent.ravel(), weight.ravel())
    return (float(low), float(high)) if high - low <= WIDEST_EXPONENT else None


def _quantiles(values: Floats, weights: Floats) -> Floats:
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    at = np.searchsorted(reached, np.array(QUANTILES) * reached[-1])
    found: Floats = values[order][np.minimum(at, len(values) - 1)]
    return found
