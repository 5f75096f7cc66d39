"""Strict JSON <-> frozen dataclasses: unknown keys, missing keys, wrong types and non-finite floats are errors."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from kpi_bench._io import read_json
from kpi_bench.errors import KpiBenchError

T = TypeVar("T")


def decode(cls: type[T], value: Any, where: str, error: type[KpiBenchError]) -> T:
    """Build ``cls`` from parsed JSON or TOML.

    Raises:
        error: the value does not fit; the message starts with ``where`` and the path to the offending key.
    """
    result: T = _decode(cls, value, where, error)
    return result


def read_versioned(
    cls: type[T], path: Path, version: int, error: type[KpiBenchError], *, wanted: str = ""
) -> T:
    """Read a JSON file that states its ``schema_version``; ``wanted`` says who writes such files.

    Raises:
        error: missing, not JSON, another version, or it does not fit ``cls``.
    """
    try:
        raw = read_json(path)
    except (OSError, ValueError, RecursionError) as fault:
        advice = f"; wanted is {wanted}" if wanted else ""
        raise error(f"{path}: cannot be read as JSON: {fault}{advice}") from fault
    found = raw.get("schema_version") if isinstance(raw, dict) else None
    if found != version:
        raise error(f"{path}: schema_version is {found!r}; this version of kpi-bench reads {version}")
    return decode(cls, raw, str(path), error)


def encode(value: Any) -> Any:
    """Turn a dataclass into JSON-ready dicts and lists (enums become their values)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


def _decode(hint: Any, value: Any, where: str, error: type[KpiBenchError]) -> Any:
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin is typing.Union or origin is types.UnionType:
        return _decode_union(typing.get_args(hint), value, where, error)
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(hint, value, where, error)  # type: ignore[arg-type]
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise error(f"{where}: expected a list, found {_name(value)}")
        arguments = typing.get_args(hint)
        if origin is tuple and Ellipsis not in arguments:
            if len(value) != len(arguments):
                raise error(f"{where}: expected {len(arguments)} values, found {len(value)}")
            pairs = zip(arguments, value, strict=True)
            return tuple(_decode(kind, item, f"{where}[{i}]", error) for i, (kind, item) in enumerate(pairs))
        items = [_decode(arguments[0], item, f"{where}[{i}]", error) for i, item in enumerate(value)]
        return tuple(items) if origin is tuple else items
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise error(f"{where}: expected an object, found {_name(value)}")
        kind = typing.get_args(hint)[1]
        return {str(key): _decode(kind, item, f"{where}.{key}", error) for key, item in value.items()}
    return _decode_scalar(hint, value, where, error)


def _decode_union(options: tuple[Any, ...], value: Any, where: str, error: type[KpiBenchError]) -> Any:
    if value is None and type(None) in options:
        return None
    kinds = [option for option in options if option is not type(None)]
    for kind in kinds[:-1]:
        try:
            return _decode(kind, value, where, error)
        except error:
            continue
    return _decode(kinds[-1], value, where, error)


def _decode_dataclass(cls: type[Any], value: Any, where: str, error: type[KpiBenchError]) -> Any:
    if not isinstance(value, Mapping):
        raise error(f"{where}: expected an object, found {_name(value)}")
    hints, required = _fields_of(cls)  # type: ignore[arg-type]
    unknown, absent = sorted(set(value) - set(hints)), sorted(required - set(value))
    if unknown:
        raise error(f"{where}: unknown key(s) {', '.join(unknown)}; allowed are {', '.join(hints)}")
    if absent:
        raise error(f"{where}: missing key(s) {', '.join(absent)}")
    return cls(**{key: _decode(hints[key], item, f"{where}.{key}", error) for key, item in value.items()})


@cache
def _fields_of(cls: type[Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """Types of a dataclass's fields, and which of them have no default."""
    hints, fields = typing.get_type_hints(cls), dataclasses.fields(cls)
    required = frozenset(
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )
    return {field.name: hints[field.name] for field in fields}, required


def _decode_scalar(hint: Any, value: Any, where: str, error: type[KpiBenchError]) -> Any:
    if isinstance(hint, type) and issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError:
            allowed = ", ".join(str(member.value) for member in hint)
            raise error(f"{where}: {value!r} is none of {allowed}") from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint in (int, float) and isinstance(value, bool)):
        raise error(f"{where}: expected {hint.__name__}, found {_name(value)}")
    if hint is float and not math.isfinite(value):
        raise error(f"{where}: {value} is not a finite number")
    return value


def _name(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"[:80]
