"""Suite ``ml-100k``: MovieLens-100k with a Freebase KG, the files that the package hopwise bundles."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from kpi_bench.suites.recipes import require
from kpi_bench.suites.recipes._common import (
    TRIPLE,
    build_kg,
    by_split,
    entity_rows,
    item_table,
    raw_root,
    recommendation,
    relation_rows,
)
from kpi_bench.suites.task import KgSpec
from kpi_bench.suites.writer import KgFrames, SuiteFrames, TaskFrames

REFERENCE = "https://github.com/tail-unica/hopwise"
SEED = "ml-100k"


def build(raw: Path | None) -> SuiteFrames:
    """Build from ``raw/ml-100k``; entities and relations are numbered by their sorted keys, users and items as the source orders them.

    Raises:
        RecipeError: a file is missing.
    """
    base = raw_root(raw) / "ml-100k"
    films = _films(base)
    kg = _graph(base, films)
    return SuiteFrames(
        name="ml-100k",
        version="1.0.0",
        description="MovieLens-100k with a Freebase KG: small, dense, each film covered by its KG.",
        licence="Research only, not to be redistributed: MovieLens terms (GroupLens); Freebase CC BY 2.5",
        sources=(
            f"{REFERENCE} (hopwise/dataset_example/ml-100k)",
            "https://grouplens.org/datasets/movielens/100k/",
        ),
        kgs=(kg,),
        tasks=(_task(base, kg, films),),
        card_notes=(
            "The split is not hopwise's: it orders pairs by SHA-256, so scores compare on this suite only.",
        ),
    )


def random_split(frame: pd.DataFrame, *, seed: str, share: float = 0.1) -> dict[str, pd.DataFrame]:
    """Split each user's rows in the order of SHA-256 of ``seed user item``: the last ``max(1, int(share * n))`` are test, as many before
    them valid.

    A hash of the source's ids needs no generator, and a row's place does not depend on the order of the rows. The parts are in the order
    of (user, time, item).
    """
    texts = [f"{seed} {user} {item}" for user, item in zip(frame["user"], frame["item"], strict=True)]
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    ordered = frame.assign(digest=digests).sort_values(["user", "digest"])
    by_user = ordered.groupby("user")["item"]
    left = by_user.cumcount(ascending=False).to_numpy()
    held_out = np.maximum(1, np.floor(share * by_user.transform("size").to_numpy() + 1e-9))
    split = np.select([left < held_out, left < 2 * held_out], ["test", "valid"], "train")
    ordered = ordered.assign(split=split).sort_values(["user", "time", "item"])
    return by_split(ordered, ["user", "item", "time"])


def _table(base: Path, name: str) -> pd.DataFrame:
    """A file of hopwise's format, columns without their types, values as text."""
    path = require(base / f"ml-100k.{name}")
    frame = pd.read_csv(path, sep="\t", dtype=str, quoting=csv.QUOTE_NONE, keep_default_na=False)
    return frame.rename(columns=lambda column: column.split(":")[0])


def _films(base: Path) -> pd.DataFrame:
    """The films with an entity, in the order of their numbers in the source (the index), which is the order of the task's items."""
    films = _table(base, "link").merge(_table(base, "item"), on="item_id", validate="one_to_one")
    return films.astype({"item_id": "int64"}).set_index("item_id").sort_index()


def _graph(base: Path, films: pd.DataFrame) -> KgFrames:
    triples = _table(base, "kg").rename(columns={f"{column}_id": column for column in TRIPLE})
    keys = sorted({*triples["head"], *triples["tail"], *films["entity_id"]})
    known = films.set_index("entity_id").reindex(keys)
    is_film = known["movie_title"].notna()
    text = known["class"].str.cat(known["release_year"], sep=", ")
    entities = entity_rows(
        keys,
        domain="movies",
        kind=np.where(is_film, "item", "entity").tolist(),
        name=known["movie_title"].astype(object).where(is_film, None).tolist(),
        text=text.astype(object).where(is_film, None).tolist(),
    )
    relations = relation_rows(
        {key: key.replace(".", " ").replace("_", " ") for key in sorted(set(triples["relation"]))}
    )
    spec = KgSpec("movielens", "Films of MovieLens-100k in Freebase.", ("movies",))
    return build_kg(spec, entities, relations, triples[TRIPLE])


def _task(base: Path, kg: KgFrames, films: pd.DataFrame) -> TaskFrames:
    published = _table(base, "inter").astype({"user_id": "int64", "item_id": "int64"})
    linked = published[published["item_id"].isin(films.index)]
    # Freebase has no place for the rest, and the published results on these files leave them out too.
    splits = random_split(
        pd.DataFrame(
            {
                "user": linked["user_id"],
                "item": linked["item_id"],
                "time": linked["timestamp"].astype("int64"),
            }
        ),
        seed=SEED,
    )
    for frame in splits.values():
        frame["user"] -= 1
        frame["item"] = films.index.get_indexer(pd.Index(frame["item"]))
    return recommendation(
        "movielens_100k",
        splits,
        item_table(pd.Index(kg.entities["key"]).get_indexer(pd.Index(films["entity_id"]))),
        kg="movielens",
        domain="movies",
        n_users=int(published["user_id"].max()),
        description="Recommend films; any rating counts as a positive.",
        reference=REFERENCE,
        notes=(
            f"{len(linked):,} of {len(published):,} ratings: those of the {len(films):,} films with an entity, as hopwise keeps them.",
            "Per user at random: max(1, 10 %) test, as many valid, the last ones by SHA-256 of 'ml-100k USER ITEM' in the source's ids.",
        ),
    )
