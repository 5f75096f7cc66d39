"""What is printed after a run: CPU seconds of each contender, ratios within its group, and the aims that were set beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Cost:
    """CPU seconds that a contender needs for one ``unit`` (an epoch, a step) of its group's work."""

    contender: str
    group: str
    unit: str
    seconds: float


@dataclass(frozen=True)
class Aim:
    """``slow`` should need at least, at most or about ``times`` the CPU seconds of ``fast``."""

    slow: str
    fast: str
    times: float
    bound: Literal["at least", "at most", "about"] = "at least"

    def reached(self, ratio: float) -> bool:
        """About is met by anything: it is for the reader to judge."""
        return {"at least": ratio >= self.times, "at most": ratio <= self.times, "about": True}[self.bound]


AIMS = (
    Aim("libkge", "own-grouped", 8.0),
    Aim("metasd-form", "own-grouped", 8.0),
    Aim("libkge", "own-plain", 2.5),
    Aim("metasd-form", "own-plain", 2.5),
    Aim("metasd-step", "metasd-source-alone", 7.0, "about"),
    Aim("mulde-asking", "mulde-step", 0.5, "at most"),
    Aim("bert-sdpa", "own-paper", 1.5),
    Aim("authors-form", "own-code", 12.0),
    Aim("prompts-refresh-24", "no-prompts", 1.5, "at most"),
    Aim("dgl-walk", "own-walk", 8.0),
    Aim("plain-gpt2", "own-range", 1.5),
    Aim("prompts-refresh-120", "no-prompts", 1.5, "at most"),
)
"""By the contenders' names, which are different in all groups."""


def report(costs: Sequence[Cost]) -> list[str]:
    """A line for each cost, then one for each aim whose two contenders were timed."""
    first: dict[str, float] = {}
    lines = []
    for cost in costs:
        unit = f"{'an' if cost.unit[0] in 'aeiou' else 'a'} {cost.unit}"
        base = first.setdefault(cost.group, cost.seconds)
        lines.append(
            f"{cost.group:24s} {cost.contender:20s} {cost.seconds:10.3f} CPU-s {unit}, "
            f"{cost.seconds / base:8.2f} to the first of its group"
        )
    seconds = {cost.contender: cost.seconds for cost in costs}
    for aim in AIMS:
        if aim.slow in seconds and aim.fast in seconds:
            ratio = seconds[aim.slow] / seconds[aim.fast]
            met = "" if aim.bound == "about" else ": reached" if aim.reached(ratio) else ": NOT reached"
            lines.append(
                f"{aim.slow} needs {ratio:.2f} times {aim.fast} (aim {aim.bound} {aim.times:g}{met})"
            )
    return lines
