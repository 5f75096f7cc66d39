"""Links between the entities of two KGs: the rows of ``links.parquet``, and what the other KG's triples say through them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kpi_bench.errors import RecipeError
from kpi_bench.suites.graph import KnowledgeGraph
from kpi_bench.suites.writer import LINKS

_PAIR = ["entity", "other_entity"]
_TRAILING_PARENTHESIS = re.compile(r"\s*\([^()]*\)\s*$")


def align_by_name(one: KnowledgeGraph, other: KnowledgeGraph, *, shortest: int = 3) -> pd.DataFrame:
    """Links between entities whose names are equal after :func:`normal_name`, one to one, by the entities of ``one``.

    Returns the columns of ``links.parquet``: entity, other_kg, other_entity, rule ("name"). A normal name that several entities of a KG
    share links none of them, nor does one of fewer than ``shortest`` characters or without a letter (numerals, dates, prices).
    """
    both = _unique_names(one, shortest).merge(
        _unique_names(other, shortest), on="name", suffixes=("", "_other")
    )
    pairs = both.sort_values("entity", ignore_index=True)
    return _rows(pairs["entity"], other.name, pairs["entity_other"], "name")


def align_by_key(
    keys: Sequence[str], other_keys: Sequence[str], other_kg: str, pairs: pd.DataFrame
) -> pd.DataFrame:
    """Links from pairs of keys, such as published alignments or identifiers that two KGs share; rows in the order of ``pairs``.

    ``keys`` and ``other_keys`` are the entity keys of the KG and of ``other_kg`` by id; ``pairs`` has key, other_key and rule.

    Raises:
        RecipeError: a key is no entity's, or a pair is repeated.
    """
    ids = {}
    for column, known in (("key", keys), ("other_key", other_keys)):
        ids[column] = pd.Index(known).get_indexer(pd.Index(pairs[column]))
        unknown = ids[column] < 0
        if unknown.any():
            first = pairs[column].iloc[int(np.argmax(unknown))]
            raise RecipeError(
                f"links to KG {other_kg}: {column} {first!r} is no entity's ({int(unknown.sum())} of {len(pairs)} rows have such a key); "
                "drop those rows on purpose, or pair the keys with the right KG"
            )
    repeated = pairs.duplicated(["key", "other_key"])
    if repeated.any():
        first, second = pairs.loc[repeated, ["key", "other_key"]].iloc[0]
        raise RecipeError(
            f"links to KG {other_kg}: {first!r} and {second!r} are paired twice ({int(repeated.sum())} repeated rows); keep one row a pair"
        )
    return _rows(ids["key"], other_kg, ids["other_key"], pairs["rule"].to_numpy())


def links_between(one: KnowledgeGraph, other: KnowledgeGraph) -> pd.DataFrame:
    """Distinct links between two KGs of a suite, whichever of them states them: columns entity (of ``one``) and other_entity, int64."""
    turned = _stated(other, one.name)[_PAIR[::-1]].set_axis(_PAIR, axis=1)
    return pd.concat([_stated(one, other.name), turned]).drop_duplicates(ignore_index=True)


def over_links(triples: pd.DataFrame, links: pd.DataFrame) -> pd.DataFrame:
    """What a KG's triples (head, tail) say of another KG's entities: head and tail put in its ids by links (entity, other_entity).

    Columns row (position in ``triples``), head and tail: one row for each two links that meet a triple's two ends.
    """
    ends = pd.DataFrame({"row": np.arange(len(triples)), "x": triples["head"], "y": triples["tail"]})
    for end, name in (("x", "head"), ("y", "tail")):
        ends = ends.merge(links[_PAIR].set_axis([end, name], axis=1), on=end)
    return ends[["row", "head", "tail"]]


def joined(ends: pd.DataFrame, by: pd.DataFrame) -> NDArray[np.bool_]:
    """Which rows (head, tail) of ``ends`` are a pair of ``by`` too, in either direction; bool ``[len(ends)]``."""
    return _unordered(ends).isin(_unordered(by))


def normal_name(name: str) -> str:
    """A name to compare by: NFKC, case folded, without a trailing parenthesis such as "(film)"; only letters, their marks and digits."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    kept = _TRAILING_PARENTHESIS.sub("", folded)
    return "".join(c for c in kept if c.isalnum() or unicodedata.category(c).startswith("M"))


def _stated(graph: KnowledgeGraph, other_kg: str) -> pd.DataFrame:
    links: pd.DataFrame = (LINKS.empty_table() if graph.links is None else graph.links).to_pandas()
    return links.loc[links["other_kg"] == other_kg, _PAIR].astype(np.int64)


def _unordered(ends: pd.DataFrame) -> pd.MultiIndex:
    head, tail = ends["head"].to_numpy(), ends["tail"].to_numpy()
    return pd.MultiIndex.from_arrays([np.minimum(head, tail), np.maximum(head, tail)])


def _unique_names(graph: KnowledgeGraph, shortest: int) -> pd.DataFrame:
    names = [normal_name(name or "") for name in graph.entities.column("name").to_pylist()]
    frame = pd.DataFrame({"name": pd.Series(names, dtype=object), "entity": np.arange(len(names))})
    fit = [len(name) >= shortest and any(c.isalpha() for c in name) for name in names]
    return frame[np.array(fit, dtype=bool) & ~frame["name"].duplicated(keep=False)]


def _rows(entity: object, other_kg: str, other_entity: object, rule: object) -> pd.DataFrame:
    columns = {"entity": entity, "other_kg": other_kg, "other_entity": other_entity, "rule": rule}
    return pd.DataFrame(columns, columns=LINKS.names)
