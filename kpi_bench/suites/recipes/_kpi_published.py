"""The authors' published files as fingerprints of a rebuilt KG and as the split of two text tasks (``RAW/mudok-parquet``, optional)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kpi_bench.suites.recipes import require
from kpi_bench.suites.recipes._kpi_fingerprints import Check, Splits
from kpi_bench.suites.recipes._kpi_graph import ITEM, KgBuilder
from kpi_bench.suites.writer import SPLITS

FOLDER = "mudok-parquet"


def published_folder(raw: Path) -> Path | None:
    """Folder of the published files, None where they were not given."""
    folder = raw / FOLDER
    return folder if folder.is_dir() else None


def published_examples(folder: Path, task: str) -> dict[str, pd.DataFrame]:
    """Rows (item, text, label) of each split of a published text task."""
    table = pd.read_parquet(require(folder / task / "examples.parquet")).rename(columns={"item_id": "item"})
    return {
        split: table.loc[table["split"] == split, ["item", "text", "label"]].reset_index(drop=True)
        for split in SPLITS
    }


def check_fragment(folder: Path, task: str, kg: KgBuilder, *, with_relations: bool) -> list[Check]:
    """Compare entity ids of known items, and the first triples of each of them, position by position."""
    entities = pd.read_parquet(require(folder / task / "entities.parquet"))
    items = entities.loc[entities["kind"] == ITEM, ["name", "entity"]]
    right = sum(kg.ids.get(name) == entity for name, entity in items.itertuples(index=False))
    checks = [
        Check(f"{task}: known (item, entity id) pairs", str(len(items)), str(right), right == len(items))
    ]
    columns = ["head", "relation", "tail", "position"] if with_relations else ["head", "tail", "position"]
    known = pd.read_parquet(require(folder / task / "triples.parquet"))
    ours = _positioned(kg.triples(), known["head"].unique())
    matched = len(known[columns].merge(ours[columns], on=columns))
    named = ", ".join(columns)
    checks.append(
        Check(f"{task}: known ({named}) rows", str(len(known)), str(matched), matched == len(known))
    )
    # A fragment is cut at the longest list it holds, so a shorter list should be the whole of it.
    lengths, limit = known.groupby("head").size(), int(known["position"].max()) + 1
    complete = lengths[lengths < limit]
    same = int((ours.groupby("head").size().reindex(complete.index) == complete).sum())
    label = f"{task}: items with fewer triples than the cut, all known (inferred)"
    checks.append(Check(label, str(len(complete)), str(same), same == len(complete), binding=False))
    return checks


def check_published_task(folder: Path, task: str, rows: NDArray[np.int64], splits: Splits) -> list[Check]:
    """Compare the published (item, kg_row) pairs and (user, item, split) rows one by one."""
    known_rows = pd.read_parquet(require(folder / task / "item_entity.parquet"))
    in_range = known_rows["item"].to_numpy() < len(rows)
    right = int(
        (rows[known_rows["item"].to_numpy()[in_range]] == known_rows["kg_row"].to_numpy()[in_range]).sum()
    )
    checks = [
        Check(
            f"{task}: known (item, kg_row) pairs", str(len(known_rows)), str(right), right == len(known_rows)
        )
    ]
    known = pd.read_parquet(require(folder / task / "interactions.parquet"))
    for split in SPLITS:
        wanted = set(known.loc[known["split"] == split, ["user", "item"]].itertuples(index=False, name=None))
        if wanted:
            met = len(wanted & set(map(tuple, splits[split].tolist())))
            checks.append(
                Check(
                    f"{task}: published {split} pairs found", str(len(wanted)), str(met), met == len(wanted)
                )
            )
    return checks


def _positioned(triples: NDArray[np.int64], heads: NDArray[np.int64]) -> pd.DataFrame:
    table = pd.DataFrame(triples[np.isin(triples[:, 0], heads)], columns=["head", "relation", "tail"])
    table["position"] = table.groupby("head").cumcount()
    return table
