"""Raw dumps behind KPI, read line by line: Amazon-2014 (JSON or Python literals, gzipped or not) and Douban (tabs)."""

from __future__ import annotations

import ast
import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kpi_bench.errors import RecipeError


@dataclass(frozen=True)
class DoubanReview:
    """One line of a Douban review file. ``rating`` and ``comment`` are None where the line is cut short."""

    user: str
    item: str
    labels: str | None
    rating: str | None
    comment: str | None


def locate(raw: Path, name: str) -> Path:
    """The file ``name`` in ``raw``; one ending in ``.gz`` may also lie there unpacked.

    Raises:
        RecipeError: neither is there.
    """
    for path in (raw / name, raw / name.removesuffix(".gz")):
        if path.is_file():
            return path
    raise RecipeError(f"{raw / name} is missing; --raw must name the folder that holds it (see docs/data.md)")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line, without its end.

    Raises:
        RecipeError: not UTF-8, not gzip, or cut off.
    """
    number = 0
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8") as stream
        ):
            for number, line in enumerate(stream, start=1):
                yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: after line {number}: not UTF-8 ({error.reason})") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise RecipeError(
            f"{path}: after line {number}: the gzip stream is damaged or cut off; download it again"
        ) from error


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The dict on each line. The 2014 dump writes Python literals, later copies JSON: both are read, nothing is evaluated.

    Raises:
        RecipeError: a line is neither, with its number.
    """
    for number, line in lines(path):
        try:
            value = json.loads(line)
        except ValueError:
            value = _literal(path, number, line)
        if not isinstance(value, dict):
            raise RecipeError(f"{path}: line {number}: expected an object, found {type(value).__name__}")
        yield value


def ratings(path: Path) -> Iterator[tuple[str, str]]:
    """User and item of each ``user,item,rating,timestamp`` line."""
    for number, line in lines(path):
        fields = line.split(",")
        if len(fields) < 2 or not fields[0] or not fields[1]:
            raise RecipeError(
                f"{path}: line {number}: expected user,item,rating,timestamp, found {line[:80]!r}"
            )
        yield fields[0], fields[1]


def douban_reviews(path: Path, domain: str) -> Iterator[DoubanReview]:
    """Reviews of one domain, split at tabs and stripped of every quote as the authors did; lines of one field are skipped.

    Raises:
        RecipeError: the header does not start with user_id and the domain's id, or lacks rating, labels or comment.
    """
    column: dict[str, int] = {}
    for number, line in lines(path):
        fields = line.replace('"', "").split("\t")
        if number == 1:
            names = [name.lstrip("\ufeff").strip() for name in fields]
            if names[:2] != ["user_id", f"{domain}_id"] or not {"rating", "labels", "comment"} <= set(names):
                raise RecipeError(
                    f"{path}: the header is {names}; expected user_id, {domain}_id, then rating, labels and comment among others"
                )
            column = {name: position for position, name in enumerate(names)}
        elif len(fields) >= 2:
            rating, labels, comment = (
                _field(fields, column[name]) for name in ("rating", "labels", "comment")
            )
            yield DoubanReview(fields[0], fields[1], labels, rating, comment)


def _field(fields: list[str], position: int) -> str | None:
    return fields[position] if position < len(fields) else None


def _literal(path: Path, number: int, line: str) -> Any:
    try:
        return ast.literal_eval(line)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise RecipeError(
            f"{path}: line {number}: neither JSON nor a Python literal: {line[:80]!r}"
        ) from error
