"""Types of command-line arguments."""

from __future__ import annotations

import argparse
import math
import tomllib
from collections.abc import Sequence
from typing import Any

from kpi_bench.errors import SubmissionError


def names(text: str) -> tuple[str, ...]:
    """Comma-separated names, each once."""
    given = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not given:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return given


def positive(text: str) -> float:
    """A positive, finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return value


def whole(text: str) -> int:
    """A whole number, not negative."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def count(text: str) -> int:
    """A whole number, one or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above zero")
    return int(text)


def positive_or_zero(text: str) -> float:
    """A finite number, not negative."""
    return 0.0 if text.strip() in ("0", "0.0") else positive(text)


def seeds(text: str) -> tuple[int, ...]:
    """Comma-separated seeds."""
    try:
        given = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no comma-separated list of whole numbers") from None
    if not given or len(set(given)) < len(given) or min(given) < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: seeds must be distinct, not negative, and at least one")
    return given


def params(entries: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` entries, values as in TOML.

    Raises:
        SubmissionError: an entry has no ``=``.
    """
    values: dict[str, Any] = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals:
            raise SubmissionError(f"--param {entry!r}: wanted is KEY=VALUE")
        try:
            values[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            # A bare word, as in --param encoder=hashed: TOML would want quotes that shells eat.
            values[key.strip()] = value
    return values
