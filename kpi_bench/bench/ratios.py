"""Ratios within a run: ours to the best peer, and ours to the limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kpi_bench.bench.runs import Aim, BenchRun, Role, Timing, by_group

LIMITS = "limits"
"""The group of bare operations whose rates bound a benchmark that notes the ``flops`` or ``bytes`` it cannot avoid."""
_RATES = {"flops": "gemm", "bytes": "copy"}


@dataclass(frozen=True)
class Ratio:
    """Seconds of ours divided by those of ``contender``: below 1, ours is faster."""

    contender: str
    role: Role
    value: float


@dataclass(frozen=True)
class Row:
    """A contender with, for ours, the ratios to the fastest peer and to the highest limit; None where there is none."""

    timing: Timing
    peer: Ratio | None = None
    limit: Ratio | None = None


@dataclass(frozen=True)
class Judged:
    """An aim with what came of it."""

    slow: str
    aim: Aim
    ratio: float


def rows(run: BenchRun) -> dict[str, list[Row]]:
    """Rows of each group, in the order of the run."""
    rates = _rates(run.timings)
    return {
        group: [_row(timing, timings, rates) for timing in timings]
        for group, timings in by_group(run.timings).items()
    }


def judged(run: BenchRun) -> list[Judged]:
    """The aims whose two contenders were timed in one group."""
    found = []
    for timings in by_group(run.timings).values():
        seconds = {timing.contender: timing.median for timing in timings}
        for timing in timings:
            found += [
                Judged(timing.contender, aim, timing.median / seconds[aim.fast])
                for aim in timing.aims
                if seconds.get(aim.fast, 0) > 0
            ]
    return found


def _row(own: Timing, group: Sequence[Timing], rates: dict[str, float]) -> Row:
    if own.role is not Role.OWN:
        return Row(own)
    beside = [other for other in group if other.beside is None or own.contender in other.beside]
    peers = [other for other in beside if other.role in (Role.PEER, Role.FORM)]
    limits = [other for other in beside if other.role is Role.LIMIT]
    best = min(peers, key=lambda other: other.median, default=None)
    # Of several floors the highest is the one that counts.
    highest = max(limits, key=lambda other: other.median, default=None)
    return Row(
        own,
        _ratio(own.median, best),
        _ratio(own.median, highest) if highest is not None else _roofline(own, rates),
    )


def _ratio(seconds: float, other: Timing | None) -> Ratio | None:
    if other is None or other.median <= 0:
        return None
    return Ratio(other.contender, other.role, seconds / other.median)


def _rates(timings: Sequence[Timing]) -> dict[str, float]:
    """FLOP/s of the bare product and bytes/s of the bare copy, where the run has them."""
    return {
        timing.contender: timing.sizes[work] / (timing.median * timing.calls)
        for work, name in _RATES.items()
        for timing in timings
        if timing.group == LIMITS and timing.contender == name and timing.median > 0
    }


def _roofline(own: Timing, rates: dict[str, float]) -> Ratio | None:
    """To the time that the noted ``flops`` or ``bytes`` of a call take at the bare rates, whichever is longer."""
    floors = {
        name: own.sizes[work] / rates[name] / own.calls
        for work, name in _RATES.items()
        if work in own.sizes and name in rates and own.group != LIMITS
    }
    if not floors:
        return None
    name = max(floors, key=lambda one: floors[one])
    return Ratio(name, Role.LIMIT, own.median / floors[name])
