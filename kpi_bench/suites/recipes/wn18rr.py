"""Suite ``wn18rr``: link prediction on WordNet without inverse relations (Dettmers et al., 2018)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from kpi_bench.suites.recipes import require
from kpi_bench.suites.recipes._common import (
    entity_rows,
    first_appearance,
    link_prediction_suite,
    raw_root,
    relation_rows,
    tab_separated_splits,
)
from kpi_bench.suites.writer import SuiteFrames

KINDS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}


def build(raw: Path | None) -> SuiteFrames:
    """Build from ``raw/wn18rr``: the ``original`` split; entities and relations are numbered by first appearance.

    Raises:
        RecipeError: a file is missing.
    """
    base = raw_root(raw) / "wn18rr"
    splits = tab_separated_splits(base / "original")
    triples = pd.concat(splits.values())
    keys = first_appearance(triples["head"], triples["tail"])
    glosses = (
        pd.read_csv(require(base / "definitions.tsv"), sep="\t", dtype=str).set_index("offset").reindex(keys)
    )
    parts = glosses["synset"].str.rsplit(".", n=2, expand=True)
    entities = entity_rows(
        keys,
        domain="wordnet",
        kind=parts[1].map(KINDS).fillna("synset").tolist(),
        name=_optional(parts[0].str.replace("_", " ")),
        text=_optional(glosses["gloss"]),
    )
    return link_prediction_suite(
        "wn18rr",
        splits,
        entities,
        relation_rows(
            {key: key.strip("_").replace("_", " ") for key in first_appearance(triples["relation"])}
        ),
        domain="wordnet",
        description="WN18RR with the words and glosses of WordNet.",
        licence="WordNet licence; mapping by villmow (MIT)",
        sources=(
            "https://github.com/villmow/datasets_knowledge_embedding (WN18RR)",
            "https://wordnet.princeton.edu",
        ),
        card_notes=("Built from the `original` files (synset offsets), which published scores use.",),
    )


def _optional(values: pd.Series) -> list[str | None]:
    return [value if isinstance(value, str) else None for value in values]
