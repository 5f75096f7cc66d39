"""Typed views of a submission's free ``[params]`` table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from kpi_bench.errors import SubmissionError

C = TypeVar("C")


def read_config(cls: type[C], params: Mapping[str, Any], prefix: str) -> C:
    """Build the dataclass ``cls`` from the entries of ``params`` that start with ``prefix``; absent ones keep their default.

    Raises:
        SubmissionError: a value has another type than the field's default (an int stands for a float), or ``cls`` refuses the
            values: its message starts with a field's name, which gets the prefix.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if prefix + field.name in params:
            values[field.name] = _checked(prefix + field.name, params[prefix + field.name], field.default)
    try:
        return cls(**values)
    except SubmissionError as error:
        raise SubmissionError(f"{prefix}{error}") from None


def check_fields(
    config: Any,
    *,
    choices: Mapping[str, Iterable[str]] | None = None,
    at_least_one: Iterable[str] = (),
    not_negative: Iterable[str] = (),
    positive: Iterable[str] = (),
    shares: Mapping[str, float] | None = None,
    multiples: Mapping[str, str] | None = None,
) -> None:
    """Refuse values that a config's fields cannot take; NaN is none of these. ``shares`` lie between 0 and the number given, both included;
    of ``multiples`` the first field is a multiple of the second.

    Raises:
        SubmissionError: the message starts with the field's name, as :func:`read_config` wants it.
    """
    for name, known in (choices or {}).items():
        if getattr(config, name) not in known:
            raise SubmissionError(f"{name} = {getattr(config, name)!r}; use one of {', '.join(known)}")
    rules = [
        *((name, getattr(config, name) >= 1, "be at least 1") for name in at_least_one),
        *((name, getattr(config, name) >= 0, "not be negative") for name in not_negative),
        *((name, getattr(config, name) > 0, "be positive") for name in positive),
        *(
            (name, 0 <= getattr(config, name) <= top, f"be between 0 and {top:g}")
            for name, top in (shares or {}).items()
        ),
    ]
    for name, kept, rule in rules:
        if not kept:
            raise SubmissionError(f"{name} = {getattr(config, name)}; it must {rule}")
    for name, of in (multiples or {}).items():
        if getattr(config, name) % getattr(config, of):
            raise SubmissionError(
                f"{name} = {getattr(config, name)}; it must be a multiple of {of} = {getattr(config, of)}"
            )


def refuse_unknown(params: Mapping[str, Any], known: Iterable[str], owner: str) -> None:
    """Raise for a parameter that nothing reads: a typo would otherwise run the defaults under a wrong label."""
    allowed = set(known)
    unknown = sorted(set(params) - allowed)
    if unknown:
        raise SubmissionError(
            f"{owner}: unknown parameter(s) {', '.join(unknown)}; it knows {', '.join(sorted(allowed))}"
        )


def config_keys(cls: type[Any], prefix: str) -> set[str]:
    """Names under which :func:`read_config` looks for the fields of ``cls``."""
    return {prefix + field.name for field in dataclasses.fields(cls)}


def _checked(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise SubmissionError(
            f"parameter {name} = {value!r} is {type(value).__name__}; it must be {type(default).__name__}"
        )
    return value
