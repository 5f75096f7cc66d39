"""Amazon products of ``kpi-open``: Electronics (HIN files) and Beauty, Sports (S3-Rec files)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kpi_bench._io import read_json
from kpi_bench.errors import RecipeError
from kpi_bench.suites.recipes import require
from kpi_bench.suites.recipes._common import (
    entity_rows,
    item_table,
    keep_first,
    labelled_triples,
    leave_one_out,
    recommendation,
    time_split,
)
from kpi_bench.suites.writer import TaskFrames

HIN_REFERENCE = "https://github.com/librahu/HIN-Datasets-for-Recommendation-and-Network-Embedding"
S3REC_REFERENCE = "https://github.com/RUCAIBox/CIKM2020-S3Rec"
S3REC_FILES = {"beauty": "Beauty", "sports": "Sports_and_Outdoors"}

# Views are entities of their own kind, as the source's table says: 3,857 of them against 2,753 items, numbered apart from these
# (by first appearance in item_view.dat), so that equal numbers do not mean one product.
HIN_LINKS = {"category": "has_category", "brand": "has_brand", "view": "has_view"}


def electronics_kg(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Entities and triples of keys of Electronics: items, categories, brands and views."""
    links = {kind: _pairs(root / "hin-amazon" / f"item_{kind}.dat", kind) for kind in HIN_LINKS}
    items = pd.concat([frame["item"] for frame in links.values()] + [_ratings(root)["item"]])
    entities = [_numbered("electronics", "item", items)]
    entities += [_numbered("electronics", kind, frame[kind]) for kind, frame in links.items()]
    triples = [
        labelled_triples(
            _keys("electronics", "item", frame["item"]),
            HIN_LINKS[kind],
            _keys("electronics", kind, frame[kind]),
        )
        for kind, frame in links.items()
    ]
    return pd.concat(entities, ignore_index=True), pd.concat(triples, ignore_index=True)


def electronics_task(root: Path, entities: pd.DataFrame) -> TaskFrames:
    """Recommend electronics: any rating is a positive; time split per user."""
    ratings = _ratings(root).sort_values(["user", "time", "item"], ignore_index=True)
    pairs, repeated = keep_first(ratings, ["user", "item"])
    items = _items(entities, "electronics")
    pairs["item"] = _item_ids(items, "electronics", pairs["item"])
    splits = time_split(pairs[["user", "item", "time"]])
    n_users = int(pairs["user"].max()) + 1
    return recommendation(
        "amazon_electronics",
        splits,
        item_table(items["entity"].to_numpy()),
        kg="amazon",
        domain="electronics",
        n_users=n_users,
        description="Recommend electronics; any rating counts as a positive.",
        reference=HIN_REFERENCE,
        notes=(
            "Per user by time: the last max(1, 10 %) are test, as many before them valid; ratings of one day are ordered by item id.",
            f"{repeated:,} repeated (user, item) pairs; {n_users - splits['test']['user'].nunique():,} users with fewer than 3 ratings are left out.",
        ),
    )


def attributes_kg(root: Path, domain: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Entities and triples of keys of one S3-Rec domain: items and attributes (brands and categories as one kind)."""
    attributes = read_json(require(root / "s3rec-amazon" / f"{S3REC_FILES[domain]}_item2attributes.json"))
    pairs = pd.DataFrame(
        [(int(item), value) for item, values in attributes.items() for value in values],
        columns=["item", "attribute"],
    ).sort_values("item", kind="stable")
    items = pd.concat([pairs["item"], _sequences(root, domain)["item"]])
    entities = [_numbered(domain, "item", items), _numbered(domain, "attribute", pairs["attribute"])]
    triples = labelled_triples(
        _keys(domain, "item", pairs["item"]), "has_attribute", _keys(domain, "attribute", pairs["attribute"])
    )
    return pd.concat(entities, ignore_index=True), triples


def leave_one_out_task(root: Path, domain: str, entities: pd.DataFrame) -> TaskFrames:
    """Recommend products of one S3-Rec domain: each user's last item is test, the one before it valid."""
    frame = _sequences(root, domain)
    pairs, repeated = keep_first(frame, ["user", "item"])
    items = _items(entities, domain)
    pairs["item"] = _item_ids(items, domain, pairs["item"])
    return recommendation(
        f"amazon_{domain}",
        leave_one_out(pairs),
        item_table(items["entity"].to_numpy()),
        kg="amazon",
        domain=domain,
        n_users=int(pairs["user"].max()) + 1,
        description=f"Recommend {domain} products (5-core of Amazon 2014); leave-one-out by time.",
        reference=S3REC_REFERENCE,
        notes=(
            "The source gives each user's items in time order, without the times.",
            f"{repeated:,} repeated (user, item) pairs were dropped.",
        ),
    )


def _pairs(path: Path, kind: str) -> pd.DataFrame:
    return pd.read_csv(require(path), header=None, names=["item", kind], dtype="int64")


def _ratings(root: Path) -> pd.DataFrame:
    path = require(root / "hin-amazon" / "user_item.dat")
    return pd.read_csv(path, sep="\t", header=None, names=["user", "item", "rating", "time"], dtype="int64")


def _sequences(root: Path, domain: str) -> pd.DataFrame:
    """Rows (user, item) in time order within a user; users from 0 (the source counts from 1), items as published."""
    path = require(root / "s3rec-amazon" / f"{S3REC_FILES[domain]}.txt")
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        user, *items = map(int, line.split())
        rows += [(user - 1, item) for item in items]
    frame = pd.DataFrame(rows, columns=["user", "item"])
    if sorted(frame["user"].unique()) != list(range(frame["user"].nunique())):
        raise RecipeError(f"{path}: users are not numbered 1..n")
    return frame


def _keys(domain: str, kind: str, ids: Iterable[int]) -> list[str]:
    return [f"{domain}:{kind}:{number}" for number in ids]


def _numbered(domain: str, kind: str, ids: pd.Series) -> pd.DataFrame:
    return entity_rows(_keys(domain, kind, sorted(ids.unique())), domain=domain, kind=kind)


def _items(entities: pd.DataFrame, domain: str) -> pd.DataFrame:
    """Items of a domain: item i is the i-th by its number in the source, which is the order of their entities."""
    return entities[(entities["domain"] == domain) & (entities["kind"] == "item")]


def _item_ids(items: pd.DataFrame, domain: str, numbers: pd.Series) -> NDArray[np.int64]:
    """Item ids from the items' numbers in the source."""
    distinct = numbers.unique()
    ids = pd.Index(items["key"]).get_indexer(pd.Index(_keys(domain, "item", distinct)))
    return pd.Series(ids, index=distinct).loc[numbers].to_numpy(dtype=np.int64)
