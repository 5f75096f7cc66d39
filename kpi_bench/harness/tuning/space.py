"""``space.toml``: which parameters are searched, and between what."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

from kpi_bench._io import sha256_text
from kpi_bench._schema import decode, encode
from kpi_bench.errors import SubmissionError
from kpi_bench.harness.config import fitted

LARGEST = 2**53
"""Up to here every whole number is a float, as which Optuna stores it."""


class Kind(StrEnum):
    """How a parameter is drawn: a whole number or a number of a range, or one of several values."""

    INT = "int"
    FLOAT = "float"
    CATEGORICAL = "categorical"


@dataclass(frozen=True)
class Parameter:
    """One table of ``space.toml``. ``low`` and ``high`` belong to the range; ``log`` draws the logarithm evenly; ``step`` is counted from ``low``."""

    type: Kind
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    step: int | float | None = None
    choices: tuple[Any, ...] = ()

    def holds(self, value: Any) -> bool:
        """Whether a trial could draw the value."""
        if self.low is None or self.high is None:
            return any(_same(value, choice) for choice in self.choices)
        return self.low <= value <= self.high and (self.step is None or _on_grid(value, self.low, self.step))


Space = Mapping[str, Parameter]


def read_space(path: Path, params: Mapping[str, Any]) -> dict[str, Parameter]:
    """Read a search space over some of ``params``, which are a submission's with the values of the first trial.

    Raises:
        SubmissionError: the file is missing or not TOML, a table has wrong keys or an empty range, or it names a parameter that
            the submission does not have or that is of another type.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SubmissionError(
            f"{path}: cannot be read: {error.strerror}; docs/tune.md shows a search space"
        ) from error
    except ValueError as error:
        raise SubmissionError(f"{path}: not valid TOML: {error}") from error
    if not raw:
        raise SubmissionError(f"{path}: no parameter to search; docs/tune.md shows a search space")
    space = {}
    for name, table in raw.items():
        where = f"{path}: {name}"
        if name not in params:
            raise SubmissionError(
                f"{where}: no such parameter; [params] declares {', '.join(params) or 'none'}"
            )
        space[name] = _fitted(decode(Parameter, table, where, SubmissionError), params[name], where)
        _check(space[name], params[name], where)
    return space


def space_sha256(space: Space) -> str:
    """Hash of what is searched, whatever the order of its tables."""
    return sha256_text(json.dumps(encode(space), sort_keys=True))


def _check(parameter: Parameter, default: Any, where: str) -> None:
    if parameter.type is Kind.CATEGORICAL:
        _check_choices(parameter, default, where)
    else:
        _check_range(parameter, default, where)


def _check_choices(parameter: Parameter, default: Any, where: str) -> None:
    if (parameter.low, parameter.high, parameter.step) != (None, None, None) or parameter.log:
        raise SubmissionError(f"{where}: categorical takes choices only, not low, high, step or log")
    different = set()
    for choice in parameter.choices:
        if type(choice) is not type(default):
            raise SubmissionError(
                f"{where}: choice {choice!r} is {type(choice).__name__}, the parameter is {type(default).__name__} ({default!r})"
            )
        try:
            different.add(json.dumps(choice, sort_keys=True, allow_nan=False))
        except (TypeError, ValueError):
            raise SubmissionError(
                f"{where}: choice {choice!r} cannot be stored; wanted are texts, booleans, finite numbers, lists and tables"
            ) from None
    if len(different) < max(2, len(parameter.choices)):
        raise SubmissionError(f"{where}: choices must be two or more different values")


def _check_range(parameter: Parameter, default: Any, where: str) -> None:
    wanted = int if parameter.type is Kind.INT else float
    low, high, step = parameter.low, parameter.high, parameter.step
    if type(default) is not wanted:
        raise SubmissionError(
            f"{where}: type {parameter.type}, but the parameter is {type(default).__name__} ({default!r})"
        )
    if parameter.choices or low is None or high is None:
        raise SubmissionError(f"{where}: {parameter.type} takes low and high, and no choices")
    if wanted is int and not all(type(bound) is int for bound in (low, high, 1 if step is None else step)):
        raise SubmissionError(f"{where}: low, high and step of an int must be whole numbers")
    if wanted is int and max(abs(low), abs(high)) > LARGEST:
        raise SubmissionError(f"{where}: Optuna keeps whole numbers up to {LARGEST} only")
    if low >= high:
        raise SubmissionError(f"{where}: low {low} must be below high {high}")
    if parameter.log and (low <= 0 or step is not None):
        raise SubmissionError(f"{where}: log needs a low above 0, and no step")
    if step is not None and (step <= 0 or not _on_grid(high, low, step)):
        raise SubmissionError(f"{where}: high {high} is not low {low} plus a whole number of steps of {step}")


def _fitted(parameter: Parameter, default: Any, where: str) -> Parameter:
    """The same parameter with values of the type that the submission declares, as :func:`fitted` makes any value."""

    def fit(value: Any) -> Any:
        return fitted(value, default)

    try:
        return dataclasses.replace(
            parameter,
            low=fit(parameter.low),
            high=fit(parameter.high),
            step=fit(parameter.step),
            choices=tuple(map(fit, parameter.choices)),
        )
    except OverflowError:
        raise SubmissionError(f"{where}: a number is too large for a float") from None


def _same(value: Any, choice: Any) -> bool:
    return type(choice) is type(value) and bool(value == choice)


def _on_grid(value: float, low: float, step: float) -> bool:
    """Whether ``value`` is a whole number of steps from ``low``, in decimal: 0.3 is three steps of 0.1."""
    return (Fraction(str(value)) - Fraction(str(low))) % Fraction(str(step)) == 0
