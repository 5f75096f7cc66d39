"""Random numbers that are a function of (seed, walk, step): the same for any number of workers and on any device.

A counter goes through the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). Products wrap around at 64 bits, so that
unsigned (NumPy, numba) and signed (torch) arithmetic agree bit for bit.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
FIRST = 0xBF58476D1CE4E5B9
SECOND = 0x94D049BB133111EB


def stream(name: str, seed: int) -> int:
    """A seed for one of several independent uses of a run's seed."""
    return zlib.crc32(f"{name} {seed}".encode())


def signed(value: int) -> int:
    """The 64 bits of ``value`` read as a signed number, as torch holds them."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def mix(values: Tensor) -> Tensor:
    """Scrambles int64 numbers of any shape, one to one."""
    values = (values ^ _shift(values, 30)) * signed(FIRST)
    values = (values ^ _shift(values, 27)) * signed(SECOND)
    return values ^ _shift(values, 31)


def keys(seed: int, numbers: Tensor) -> Tensor:
    """The stream of each walk: ``numbers`` int64 are the walks' own."""
    start = mix(torch.tensor(signed(seed * GOLDEN), device=numbers.device))
    return mix(start + numbers * signed(GOLDEN))


def below(key: Tensor, counter: int, limits: Tensor) -> Tensor:
    """A whole number in 0..limit - 1 for each stream, int64; ``limits`` are below 2**31 (the bias of 2**-32 * limit is left in)."""
    draw = _shift(mix(key + signed((counter + 1) * GOLDEN)), 32)
    return (draw * limits) >> 32


def _shift(values: Tensor, bits: int) -> Tensor:
    """Shift to the right that fills with zeros, as for unsigned numbers."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
