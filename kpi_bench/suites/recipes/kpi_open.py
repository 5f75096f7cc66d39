"""Suite ``kpi-open``: six tasks in the spirit of KPI on real data that anybody can obtain, each covered by its KG."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from kpi_bench.suites.recipes import _movielens, _products
from kpi_bench.suites.recipes._common import build_kg, raw_root, relation_rows
from kpi_bench.suites.recipes._mudok import (
    GAME_RELATIONS,
    MUSIC_RELATIONS,
    REFERENCE,
    fragment,
    games_qa,
    music_relation_names,
    music_review,
)
from kpi_bench.suites.task import KgSpec
from kpi_bench.suites.writer import KgFrames, SuiteFrames, TaskFrames

DOMAINS = ("electronics", "beauty", "sports", "games")

# Shared where two sources mean the same by a relation, so that a method can carry it from one domain to another.
RELATIONS = {
    "has_category": "has category",
    "has_brand": "has brand",
    "has_sales_group": "has sales group",
    "has_view": "also viewed",
    "has_attribute": "has brand or category",
}


def build(raw: Path | None) -> SuiteFrames:
    """Build from hin-amazon, s3rec-amazon, mudok-parquet and ml1m-kgglm under ``raw``.

    Raises:
        RecipeError: a file is missing or is not what it should be.
    """
    root = raw_root(raw)
    amazon, amazon_tasks = _amazon(root)
    douban, douban_tasks = _douban(root)
    movielens, movielens_task = _movielens.build(root)
    return SuiteFrames(
        name="kpi-open",
        version="1.0.0",
        description=(
            "Three KGs and six sub-domain tasks on real data: recommendation, yes-no question answering and rating prediction, "
            "with every task's entities covered by its KG."
        ),
        licence=(
            "Mixed, for research, not to be redistributed: MovieLens terms (GroupLens); KGGLM repository GPL-3.0; DBpedia CC BY-SA 3.0; "
            "S3-Rec, librahu HIN and MuDoK files state no licence"
        ),
        sources=(
            f"{_products.HIN_REFERENCE} (Amazon)",
            f"{_products.S3REC_REFERENCE} (Beauty, Sports_and_Outdoors)",
            REFERENCE,
            f"{_movielens.REFERENCE} (ML1M)",
        ),
        kgs=(amazon, douban, movielens),
        tasks=(*amazon_tasks, *douban_tasks, movielens_task),
        card_notes=(
            "Not KPI: its scores are not comparable with those of the KPI benchmark.",
            "Amazon domains have their own entities: the sources use different ids, and share no names that could align them.",
            "Relation names of games and of Douban, and the names of Douban attributes, are inferred from the data, not given by the source.",
        ),
    )


def _amazon(root: Path) -> tuple[KgFrames, tuple[TaskFrames, ...]]:
    game_entities, game_triples, game_keys = fragment(root, "amazon_qa", "games", GAME_RELATIONS)
    parts = [
        _products.electronics_kg(root),
        _products.attributes_kg(root, "beauty"),
        _products.attributes_kg(root, "sports"),
    ]
    kg = build_kg(
        KgSpec(
            "amazon",
            "Products of four Amazon domains with brands, categories, sales groups and views.",
            DOMAINS,
        ),
        pd.concat([*(entities for entities, _ in parts), game_entities], ignore_index=True),
        relation_rows(RELATIONS),
        pd.concat([*(triples for _, triples in parts), game_triples], ignore_index=True),
    )
    tasks = (
        _products.electronics_task(root, kg.entities),
        _products.leave_one_out_task(root, "beauty", kg.entities),
        _products.leave_one_out_task(root, "sports", kg.entities),
        games_qa(root, kg.entities, game_keys),
    )
    return kg, tasks


def _douban(root: Path) -> tuple[KgFrames, tuple[TaskFrames, ...]]:
    entities, triples, keys = fragment(root, "douban_review", "music", MUSIC_RELATIONS)
    kg = build_kg(
        KgSpec(
            "douban", "Douban music and the tags its reviewers gave, at most 7 triples an item.", ("music",)
        ),
        entities,
        relation_rows(music_relation_names()),
        triples,
    )
    return kg, (music_review(root, kg.entities, keys),)
