"""Counter-based random numbers, against Python's own whole numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from baselines.common.paths.random_numbers import below, keys, mix, signed
from kpi_bench.evaluators.ranking import numba_available

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
int64s = st.integers(-(1 << 63), (1 << 63) - 1)


def splitmix(value: int) -> int:
    """The finaliser over unsigned numbers without a bound."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def test_the_published_stream() -> None:
    """First outputs of SplitMix64 from seed 0, as its reference implementation prints them."""
    states = torch.tensor([signed(GOLDEN * n) for n in (1, 2, 3)])
    assert [value & MASK for value in mix(states).tolist()] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


@given(st.integers())
def test_signed_keeps_the_low_64_bits(value: int) -> None:
    found = signed(value)
    assert -(1 << 63) <= found < 1 << 63
    assert (found - value) % (1 << 64) == 0


@given(int64s)
def test_mix_is_bit_exact(value: int) -> None:
    assert int(mix(torch.tensor(value))) & MASK == splitmix(value & MASK)


@given(seed=st.integers(-(1 << 70), 1 << 70), number=int64s)
def test_keys_are_bit_exact(seed: int, number: int) -> None:
    start = splitmix(seed * GOLDEN & MASK)
    expected = splitmix((start + number * GOLDEN) & MASK)
    assert int(keys(seed, torch.tensor([number]))) & MASK == expected


@settings(deadline=None)
@given(key=int64s, counter=st.integers(0, 10_000), limit=st.integers(0, (1 << 31) - 1))
def test_below_is_bit_exact(key: int, counter: int, limit: int) -> None:
    expected = ((splitmix((key + (counter + 1) * GOLDEN) & MASK) >> 32) * limit) >> 32
    assert int(below(torch.tensor([key]), counter, torch.tensor([limit]))) == expected
    assert expected < max(limit, 1)
    if numba_available():
        from baselines.common.paths import _walk_kernels

        assert _walk_kernels.below(np.uint64(key & MASK), counter, limit) == expected


@pytest.mark.parametrize("limit", [2, 7, 1000])
def test_draws_are_uniform_over_streams_and_over_counters(limit: int) -> None:
    streams = keys(5, torch.arange(100_000))
    by_stream = below(streams, 3, torch.tensor(limit))
    by_counter = torch.stack([below(streams[:100], c, torch.tensor(limit)) for c in range(1000)]).flatten()
    for draws in (by_stream, by_counter):
        assert stats.chisquare(torch.bincount(draws, minlength=limit).numpy()).pvalue > 1e-4


def test_streams_and_seeds_are_independent() -> None:
    """Pairs of draws from neighbouring streams, counters and seeds fill the 8 x 8 table evenly."""
    numbers, limit = torch.arange(64_000), torch.tensor(8)
    base = below(keys(0, numbers), 0, limit)
    for other in (
        below(keys(0, numbers + 1), 0, limit),
        below(keys(0, numbers), 1, limit),
        below(keys(1, numbers), 0, limit),
    ):
        assert stats.chisquare(torch.bincount(base * 8 + other, minlength=64).numpy()).pvalue > 1e-4


def test_no_two_streams_of_a_seed_agree() -> None:
    assert len(torch.unique(keys(9, torch.arange(-50_000, 50_000)))) == 100_000
