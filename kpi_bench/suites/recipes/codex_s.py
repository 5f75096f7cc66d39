"""Suite ``codex-s``: link prediction on CoDEx-S, from Wikidata (Safavi and Koutra, 2020)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from kpi_bench._io import read_json
from kpi_bench.suites.recipes import require
from kpi_bench.suites.recipes._common import (
    entity_rows,
    link_prediction_suite,
    raw_root,
    relation_rows,
    tab_separated_splits,
)
from kpi_bench.suites.writer import SuiteFrames


def build(raw: Path | None) -> SuiteFrames:
    """Build from ``raw/codex-s``; ids follow the sorted keys (as text) of all splits, for entities and relations alike.

    Raises:
        RecipeError: a file is missing.
    """
    base = raw_root(raw) / "codex-s"
    splits = tab_separated_splits(base)
    triples = pd.concat(splits.values())
    keys = sorted({*triples["head"], *triples["tail"]})
    types, type_names, relations = (
        read_json(require(base / name)) for name in ("entity2types.json", "types.json", "relations.json")
    )
    return link_prediction_suite(
        "codex-s",
        splits,
        entity_rows(
            keys,
            domain="wikidata",
            kind=[type_names[types[key][0]]["label"] if types.get(key) else "entity" for key in keys],
        ),
        relation_rows({key: relations[key]["label"] for key in sorted(set(triples["relation"]))}),
        domain="wikidata",
        description="CoDEx-S: Wikidata, two thirds of its entities people, with entity types.",
        licence="MIT (CoDEx); Wikidata CC0",
        sources=(
            "https://github.com/tsafavi/codex (data/triples/codex-s, data/types, data/relations/en)",
            "https://arxiv.org/abs/2009.07810",
        ),
        card_notes=(
            "Entities have no names here: the kind of an entity is the English label of the first type that CoDEx lists for it.",
        ),
    )
