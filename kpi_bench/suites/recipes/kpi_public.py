"""Suite ``kpi-public``: what the MuDoK authors published of the KPI benchmark, as it is."""

from __future__ import annotations

from pathlib import Path

from kpi_bench.suites.recipes._common import build_kg, raw_root, relation_rows
from kpi_bench.suites.recipes._mudok import (
    GAME_RELATIONS,
    LICENCE,
    MUSIC_RELATIONS,
    REFERENCE,
    fragment,
    games_qa,
    music_relation_names,
    music_review,
    uncovered_recommendation,
)
from kpi_bench.suites.task import KgSpec
from kpi_bench.suites.writer import SuiteFrames


def build(raw: Path | None) -> SuiteFrames:
    """Build from ``raw/mudok-parquet``.

    Raises:
        RecipeError: a file is missing.
    """
    root = raw_root(raw)
    game_entities, game_triples, game_keys = fragment(root, "amazon_qa", "games", GAME_RELATIONS)
    music_entities, music_triples, music_keys = fragment(root, "douban_review", "music", MUSIC_RELATIONS)
    amazon = build_kg(
        KgSpec(
            "amazon",
            "Fragment of the KPI Amazon KG: the video games of amazon_games_qa, at most 7 triples each.",
            ("games",),
        ),
        game_entities,
        relation_rows({key: key.replace("_", " ") for key in GAME_RELATIONS.values()}),
        game_triples,
    )
    douban = build_kg(
        KgSpec(
            "douban",
            "Fragment of the KPI Douban KG: the music of douban_music_review, at most 7 triples each.",
            ("music",),
        ),
        music_entities,
        relation_rows(music_relation_names()),
        music_triples,
    )
    repeated = len(music_triples) - len(douban.triples)  # several reviews of one item give one tag
    return SuiteFrames(
        name="kpi-public",
        version="1.0.0",
        description="The KPI files that the authors of MuDoK published: two KG fragments and the four complete tasks of six.",
        licence=LICENCE,
        sources=(REFERENCE,),
        kgs=(amazon, douban),
        tasks=(
            uncovered_recommendation(
                root,
                "amazon_music",
                kg="amazon",
                domain="music",
                description="Recommend Amazon digital music (KPI split).",
            ),
            uncovered_recommendation(
                root,
                "douban_book",
                kg="douban",
                domain="books",
                description="Recommend Douban books (KPI split).",
            ),
            games_qa(root, amazon.entities, game_keys),
            music_review(root, douban.entities, music_keys),
        ),
        card_notes=(
            "Not the KPI benchmark: the full KGs (543,331 and 283,756 entities) were never released, and two of the six tasks are incomplete.",
            "The items of amazon_music and douban_book have no triples here: their entity is null for every item.",
            f"douban: {repeated:,} of {len(music_triples):,} published triples repeat another and were dropped.",
            "The meaning of relations, and the names of Douban attributes, are inferred from the data, not given by the authors.",
        ),
    )
