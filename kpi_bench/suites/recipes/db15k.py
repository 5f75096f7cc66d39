"""Suite ``db15k``: link prediction on DBpedia (the MMKB data set in the split of AdaMF-MAT)."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pandas as pd

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
    """Build from ``raw/mkg/DB15K`` (OpenKE layout: a count, then head, tail and relation ids); ids as published.

    Raises:
        RecipeError: a file is missing, or holds another number of rows than its first line says.
    """
    base = raw_root(raw) / "mkg" / "DB15K"
    entity_keys, relation_keys = _dictionary(base / "entity2id.txt"), _dictionary(base / "relation2id.txt")
    splits = {split: _triples(base / f"{split}2id.txt", entity_keys, relation_keys) for split in SPLITS}
    entities = entity_rows(
        entity_keys,
        domain="dbpedia",
        kind="entity",
        name=[
            unquote(key.removeprefix("http://dbpedia.org/resource/")).replace("_", " ") for key in entity_keys
        ],
    )
    return link_prediction_suite(
        "db15k",
        splits,
        entities,
        relation_rows({key: key.replace("#", "/").rsplit("/", 1)[-1] for key in relation_keys}),
        domain="dbpedia",
        description="DB15K: DBpedia entities that are linked to FB15k, with names from their addresses.",
        licence="DBpedia CC BY-SA 3.0; split files: no licence is stated by their authors",
        sources=("https://github.com/zjukg/AdaMF-MAT (DB15K)", "https://github.com/mniepert/mmkb"),
        card_notes=(
            "Most published valid triples are also train triples: valid scores say little, and early stopping on them favours memory.",
            "The test split shares none with train.",
        ),
    )


def _lines(path: Path) -> list[str]:
    lines = require(path).read_text(encoding="utf-8").splitlines()
    count, rows = int(lines[0]), lines[1:]
    if len(rows) != count:
        raise RecipeError(f"{path}: {len(rows)} rows, its first line says {count}")
    return rows


def _dictionary(path: Path) -> list[str]:
    pairs = [line.rsplit(maxsplit=1) for line in _lines(path)]
    if [int(number) for _, number in pairs] != list(range(len(pairs))):
        raise RecipeError(f"{path}: ids are not 0..n-1 in order")
    return [key.strip("<>") for key, _ in pairs]


def _triples(path: Path, entities: list[str], relations: list[str]) -> pd.DataFrame:
    rows = [tuple(map(int, line.split())) for line in _lines(path)]
    keyed = [(entities[head], relations[relation], entities[tail]) for head, tail, relation in rows]
    return pd.DataFrame(keyed, columns=TRIPLE)
