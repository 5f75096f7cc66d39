"""The files that the authors of MuDoK published, in their Parquet form (``raw/mudok-parquet``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from kpi_bench.suites.recipes import require
from kpi_bench.suites.recipes._common import by_split, entity_rows, item_table, recommendation
from kpi_bench.suites.task import TaskKind, TaskSpec
from kpi_bench.suites.writer import TaskFrames

REFERENCE = "https://github.com/zjukg/MuDoK/tree/240dd8e68fbf7b99962a88d38ce3f8fc2dab363b"
LICENCE = "MuDoK files: no licence is stated by their authors; do not redistribute"

# What the authors' relation ids stand for is inferred from the data (README.md of raw/mudok-parquet/*), not given by them.
GAME_RELATIONS = {0: "has_sales_group", 1: "has_category", 2: "has_brand"}
MUSIC_RELATIONS = {r: f"tag_type_{r}" for r in (0, 1, 2, 3, 5, 6, 9, 10, 11)}
MUSIC_RELATION_NAMES = {
    0: "tag type 0 (mostly genre or style)",
    1: "tag type 1 (mostly artist)",
    2: "tag type 2 (mixed)",
    6: "tag type 6 (mostly place)",
}


def music_relation_names() -> dict[str, str]:
    """Relation key -> name of the Douban fragment."""
    return {key: MUSIC_RELATION_NAMES.get(r, f"tag type {r}") for r, key in MUSIC_RELATIONS.items()}


def fragment(
    raw: Path, folder: str, domain: str, relations: dict[int, str]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    """Entities, triples of keys, and published entity id -> key of one text task's KG fragment.

    Keys are ``games:item:<ASIN>``, ``music:item:<Douban id>`` and ``<domain>:attribute:<published entity id>``.
    """
    base = raw / "mudok-parquet" / folder
    table = pd.read_parquet(require(base / "entities.parquet"))
    is_item = table["kind"] == "item"
    plain = table["name"].str.removeprefix(f'{domain}"').str.removesuffix('"')
    keys = f"{domain}:" + table["kind"] + ":" + plain.where(is_item, table["entity"].astype(str))
    names = table["name"].mask(is_item)
    names = names.mask(table["name_evidence"] == "empty_label", "(no label)")
    entities = entity_rows(
        keys.tolist(),
        domain=domain,
        kind=table["kind"].tolist(),
        name=names.astype(object).where(names.notna(), None),
    )
    key_of = pd.Series(keys.to_numpy(dtype=object), index=table["entity"])
    triples = pd.read_parquet(require(base / "triples.parquet"))
    labelled = pd.DataFrame(
        {
            "head": key_of.loc[triples["head"]].to_numpy(),
            "relation": triples["relation"].map(relations).to_numpy(dtype=object),
            "tail": key_of.loc[triples["tail"]].to_numpy(),
        }
    )
    return entities, labelled, key_of


def _examples(raw: Path, folder: str, key_of: pd.Series, entities: pd.DataFrame) -> dict[str, pd.DataFrame]:
    frame = pd.read_parquet(require(raw / "mudok-parquet" / folder / "examples.parquet"))
    ids = pd.Index(entities["key"]).get_indexer(pd.Index(key_of.loc[frame["entity"]].to_numpy()))
    frame = frame.assign(example=np.arange(len(frame)), entity=ids)
    return by_split(frame, ["example", "entity", "text", "label"])


def games_qa(raw: Path, entities: pd.DataFrame, key_of: pd.Series) -> TaskFrames:
    """Yes-no questions about video games; ``entities`` is the KG's table, whose row numbers are entity ids."""
    spec = TaskSpec(
        name="amazon_games_qa",
        kind=TaskKind.CLASSIFICATION,
        kg="amazon",
        domain="games",
        description="Answer a yes-no question of a customer about a video game.",
        reference=REFERENCE,
        main_metric="accuracy",
        labels=("no", "yes"),
        positive=1,
        variants=("dedup", "cold"),
        notes=(
            "Official split, text as published: the product's ASIN and the start of its own text stand in the example's text.",
            "39 % of the test rows repeat a training text word for word: read the dedup variant beside the main score.",
        ),
    )
    return TaskFrames(spec, _examples(raw, "amazon_qa", key_of, entities))


def music_review(raw: Path, entities: pd.DataFrame, key_of: pd.Series) -> TaskFrames:
    """Ratings of Chinese music reviews; arguments as in :func:`games_qa`."""
    spec = TaskSpec(
        name="douban_music_review",
        kind=TaskKind.CLASSIFICATION,
        kg="douban",
        domain="music",
        description="Predict the rating, 1 to 5, of a Chinese music review.",
        reference=REFERENCE,
        main_metric="macro_f1",
        labels=("1", "2", "3", "4", "5"),
        ordinal=True,
        variants=("dedup", "cold"),
        notes=(
            "Official split, text as published: 'Item:' is followed by the reviewer's own tags, not by a title.",
            "Real user writing: it contains insults and obscene tags; screen before display.",
        ),
    )
    return TaskFrames(spec, _examples(raw, "douban_review", key_of, entities))


def uncovered_recommendation(raw: Path, name: str, *, kg: str, domain: str, description: str) -> TaskFrames:
    """A published recommendation task, whose items' KG rows cannot be turned into triples: every entity is null."""
    base = raw / "mudok-parquet" / name
    frame = pd.read_parquet(require(base / "interactions.parquet"))
    items = pd.read_parquet(require(base / "item_entity.parquet"))
    return recommendation(
        name,
        by_split(frame, ["user", "item"]),
        item_table(np.full(len(items), -1)),
        kg=kg,
        domain=domain,
        n_users=int(frame["user"].max()) + 1,
        description=description,
        reference=REFERENCE,
        notes=(
            "No item is in the KG: the authors published row numbers of a KG file that they did not release.",
            "What a KG method scores here, it scores without a KG.",
            "Users, items and the split are numbered as published; each user's history was split at random, not by time.",
        ),
    )
