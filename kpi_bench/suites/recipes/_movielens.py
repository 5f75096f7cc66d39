"""MovieLens-1M with a DBpedia KG, as KGGLM uses them: the film part of ``kpi-open``."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd

from kpi_bench.errors import RecipeError
from kpi_bench.suites.recipes import require
from kpi_bench.suites.recipes._common import (
    build_kg,
    by_split,
    entity_rows,
    item_table,
    keep_first,
    raw_root,
    recommendation,
    relation_rows,
)
from kpi_bench.suites.task import KgSpec
from kpi_bench.suites.writer import SPLITS, KgFrames, TaskFrames

REFERENCE = "https://github.com/mirkomarras/kgglm"
RESOURCE = "http://dbpedia.org/resource/"
WATCHED = "watched"  # user behaviour: it is what the task asks for, and never part of the KG


def build(raw: Path | None) -> tuple[KgFrames, TaskFrames]:
    """The KG ``movielens`` and the task ``movielens_1m``.

    Raises:
        RecipeError: a file is missing, or names an entity, relation or film that the tables lack.
    """
    base = raw_root(raw) / "ml1m-kgglm"
    films = _films(base)
    kg = _graph(base, films)
    return kg, _task(base, kg, films)


def _table(path: Path) -> pd.DataFrame:
    return pd.read_csv(require(path), sep="\t", quoting=csv.QUOTE_NONE, keep_default_na=False)


def _graph(base: Path, films: pd.DataFrame) -> KgFrames:
    names, relations = _table(base / "e_map.txt"), _table(base / "r_map.txt")
    rows = _table(base / "kg_final.txt")
    relation_keys = relations.set_index("id")["name"]
    rows = rows[rows["relation"].map(relation_keys) != WATCHED]
    relations = relations[relations["name"] != WATCHED]
    # Only entities with a triple: what remains in e_map.txt is named there but linked to nothing.
    linked = pd.unique(pd.concat([rows["entity_head"], rows["entity_tail"]]))
    names = names[names["eid"].isin(linked)].sort_values("eid").reset_index(drop=True)
    films = films.reindex(names["eid"])
    is_film = films["title"].notna().to_numpy()
    is_category = names["name"].str.startswith("Category:")
    kinds = pd.Series("thing", index=names.index).mask(is_category, "category").mask(is_film, "item")
    entities = entity_rows(
        [address.removeprefix(RESOURCE) for address in names["entity"]],
        domain="movies",
        kind=kinds.tolist(),
        name=[name.removeprefix("Category:").replace("_", " ") for name in names["name"]],
        text=[
            f"{row.title}, {row.genre}" if isinstance(row.title, str) else None for row in films.itertuples()
        ],
    )
    key_of = pd.Series(entities["key"].to_numpy(), index=names["eid"].to_numpy())
    triples = pd.DataFrame(
        {
            "head": rows["entity_head"].map(key_of).to_numpy(dtype=object),
            "relation": rows["relation"].map(relation_keys).to_numpy(dtype=object),
            "tail": rows["entity_tail"].map(key_of).to_numpy(dtype=object),
        }
    )
    table = relation_rows({name: name.replace("_", " ") for name in relations["name"]})
    return build_kg(
        KgSpec("movielens", "Films of MovieLens-1M in DBpedia.", ("movies",)), entities, table, triples
    )


def _films(base: Path) -> pd.DataFrame:
    """Title and genre of each film by its number in e_map.txt, which is its item id in the task too."""
    linked, products = _table(base / "i2kg_map.txt"), _table(base / "products.txt")
    items = pd.read_csv(require(base / "mapping" / "product.txt.gz"), sep="\t")
    if dict(zip(items["new_id"], items["pid"], strict=True)) != dict(
        zip(linked["eid"], linked["pid"], strict=True)
    ):
        raise RecipeError(f"{base}: i2kg_map.txt and mapping/product.txt.gz number the films differently")
    films = linked[["eid", "pid"]].merge(products.rename(columns={"name": "title"}), on="pid", how="left")
    return films.set_index("eid")[["title", "genre"]].sort_index()


def _task(base: Path, kg: KgFrames, films: pd.DataFrame) -> TaskFrames:
    splits, dropped = _splits(base)
    addresses = _table(base / "e_map.txt").set_index("eid")["entity"].reindex(films.index)
    entity_ids = pd.Index(kg.entities["key"]).get_indexer(pd.Index(addresses.str.removeprefix(RESOURCE)))
    met = splits["train"].groupby("user")["time"].max() >= splits["valid"].groupby("user")["time"].min()
    return recommendation(
        "movielens_1m",
        splits,
        item_table(entity_ids),
        kg="movielens",
        domain="movies",
        n_users=max(int(frame["user"].max()) for frame in splits.values()) + 1,
        description="Recommend films; the source's own split, any rating in it a positive.",
        reference=REFERENCE,
        notes=(
            f"Split per user by time; for {int(met.sum()):,} of {len(met):,} users train and valid meet in one second.",
            f"{dropped:,} repeated (user, item) pairs within and across splits were dropped.",
            f"{int((entity_ids < 0).sum())} of {len(films):,} films have no triple: their entity is null.",
        ),
    )


def _splits(base: Path) -> tuple[dict[str, pd.DataFrame], int]:
    """The published splits without (user, item) pairs that occur before, and how many such there were."""
    frames = []
    for split in SPLITS:
        path = require(base / "mapping" / f"{split}.txt.gz")
        columns = ["user", "item", "rating", "time"]
        frame = pd.read_csv(path, sep="\t", header=None, names=columns, dtype="int64")
        frames.append(frame.sort_values(["user", "time", "item"]).assign(split=split))
    kept, dropped = keep_first(pd.concat(frames), ["user", "item"])
    return by_split(kept, ["user", "item", "time"]), dropped
