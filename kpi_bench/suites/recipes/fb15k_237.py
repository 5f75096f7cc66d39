"""Suite ``fb15k-237``: link prediction on Freebase without inverse relations (Toutanova and Chen, 2015)."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pandas as pd

from kpi_bench._io import read_json
from kpi_bench.errors import RecipeError
from kpi_bench.suites.recipes import require
from kpi_bench.suites.recipes._common import (
    TRIPLE,
    entity_rows,
    link_prediction_suite,
    raw_root,
    relation_rows,
)
from kpi_bench.suites.writer import SPLITS, SuiteFrames


def build(raw: Path | None) -> SuiteFrames:
    """Build from ``raw/fb15k-237``; ids are those of ``entities.dict`` and ``relations.dict``, which most code uses.

    Raises:
        RecipeError: a file is missing.
    """
    base = raw_root(raw) / "fb15k-237"
    keys = _dictionary(base / "entities.dict")
    relations = _dictionary(base / "relations.dict")
    wikidata = read_json(require(base / "entity2wikidata.json"))
    known = [wikidata.get(key, {}) for key in keys]
    unnamed = sum(not entry.get("label") for entry in known)
    undescribed = sum(not entry.get("description") for entry in known)
    entities = entity_rows(
        keys,
        domain="freebase",
        kind="entity",
        name=[entry.get("label") for entry in known],
        text=[entry.get("description") for entry in known],
    )
    return link_prediction_suite(
        "fb15k-237",
        _splits(require(base / "FB15k-237.tar.gz")),
        entities,
        relation_rows({key: key.strip("/").replace("/", " ").replace("_", " ") for key in relations}),
        domain="freebase",
        description="FB15k-237 with names and descriptions from Wikidata.",
        licence="Freebase data CC BY 2.5; Wikidata labels CC0; mapping by villmow (MIT)",
        sources=(
            "https://github.com/TimDettmers/ConvE (FB15k-237.tar.gz)",
            "https://github.com/DeepGraphLearning/KnowledgeGraphEmbedding (entity and relation ids)",
            "https://github.com/villmow/datasets_knowledge_embedding (entity2wikidata.json)",
        ),
        card_notes=(f"{unnamed} entities have no name, {undescribed} no description.",),
    )


def _dictionary(path: Path) -> list[str]:
    rows = [line.split("\t") for line in require(path).read_text(encoding="utf-8").splitlines()]
    if [int(number) for number, _ in rows] != list(range(len(rows))):
        raise RecipeError(f"{path}: ids are not 0..n-1 in order")
    return [key for _, key in rows]


def _splits(path: Path) -> dict[str, pd.DataFrame]:
    frames = {}
    with tarfile.open(path) as archive:
        for split in SPLITS:
            member = archive.extractfile(f"{split}.txt")
            if member is None:
                raise RecipeError(f"{path}: {split}.txt is no file")
            lines = member.read().decode("utf-8").splitlines()
            frames[split] = pd.DataFrame([line.split("\t") for line in lines], columns=TRIPLE)
    return frames
