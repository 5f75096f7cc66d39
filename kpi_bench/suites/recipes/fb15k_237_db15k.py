"""Suite ``fb15k-237-db15k``: link prediction on FB15k-237 with DB15K as a second source, linked by MMKB (Liu et al., 2019)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from kpi_bench.suites.links import align_by_key, joined, over_links
from kpi_bench.suites.recipes import db15k, fb15k_237, require
from kpi_bench.suites.recipes._common import TRIPLE, keep_first, raw_root
from kpi_bench.suites.writer import SuiteFrames


def build(raw: Path | None) -> SuiteFrames:
    """Build from the raw files of ``fb15k-237`` and ``db15k`` and the links in ``raw/multisource/links.parquet``.

    KG db15k has the distinct triples of all its published splits, as nothing is predicted on it, but for those that join, over the links,
    the two ends of a triple to be predicted. The links stand with db15k, so that KG and task fb15k-237 are those of suite fb15k-237.

    Raises:
        RecipeError: a file is missing or wrong, or a link names an entity that is in neither KG.
    """
    base = raw_root(raw)
    freebase, dbpedia = fb15k_237.build(raw), db15k.build(raw)
    (target,), (task,) = freebase.kgs, freebase.tasks
    (source,), (published,) = dbpedia.kgs, dbpedia.tasks
    pairs = _pairs(base / "multisource" / "links.parquet")
    links = align_by_key(
        source.entities["key"].tolist(), target.entities["key"].tolist(), target.spec.name, pairs
    )

    triples, _ = keep_first(pd.concat(published.splits.values(), ignore_index=True), TRIPLE)
    said = over_links(triples, links)
    held_out = {split: task.splits[split] for split in ("valid", "test")}
    telling = said.loc[joined(said, pd.concat(held_out.values())), "row"].unique()
    reached = {split: int(joined(frame, said).sum()) for split, frame in held_out.items()}
    note = (
        f"{len(telling):,} of the {len(triples):,} triples of DB15K are left out of KG {source.spec.name}: over the links they joined the two ends of "
        f"{reached['valid']:,} valid and {reached['test']:,} test triples, in either direction."
    )
    linked = (
        f"{len(links):,} links join {links['entity'].nunique():,} entities of {source.spec.name} and "
        f"{links['other_entity'].nunique():,} of {target.spec.name}."
    )
    source = replace(
        source,
        spec=replace(
            source.spec,
            description="The triples of all splits of db15k, but for those that join, over the links, the two ends of a triple to be predicted.",
        ),
        triples=triples.drop(index=pd.Index(telling)).reset_index(drop=True),
        links=links,
    )
    task = replace(task, spec=replace(task.spec, notes=(*task.spec.notes, note)))
    return SuiteFrames(
        "fb15k-237-db15k",
        "1.0.0",
        "FB15k-237 with DB15K as a second source of pre-training, its entities linked; the task is that of fb15k-237.",
        f"{freebase.licence}; {dbpedia.licence}; links from MMKB (BSD 3-Clause)",
        (*freebase.sources, *dbpedia.sources),
        (target, source),
        (task,),
        (*freebase.card_notes, linked),
    )


def _pairs(path: Path) -> pd.DataFrame:
    """Published pairs of db15k and fb15k-237: columns key, other_key, rule (the evidence)."""
    table = pd.read_parquet(require(path))
    chosen = table[(table["source_a"] == "fb15k-237") & (table["source_b"] == "db15k")]
    keys = chosen["entity_b"].str.strip("<>")
    columns = {"key": keys, "other_key": chosen["entity_a"], "rule": chosen["evidence"]}
    return pd.DataFrame(columns).reset_index(drop=True)
