"""What the recipes share: KGs from labelled triples, splits, task entries."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kpi_bench.errors import RecipeError
from kpi_bench.suites.recipes import require
from kpi_bench.suites.task import KgSpec, TaskKind, TaskSpec
from kpi_bench.suites.writer import SPLITS, KgFrames, SuiteFrames, TaskFrames

KS = (5, 10, 20, 50, 100)
TRIPLE = ["head", "relation", "tail"]


def raw_root(raw: Path | None) -> Path:
    """The folder of raw files.

    Raises:
        RecipeError: none was given, or it is no folder.
    """
    if raw is None:
        raise RecipeError("this recipe reads raw files: name their folder with --raw (see docs/data.md)")
    if not raw.is_dir():
        raise RecipeError(f"{raw} is no folder; --raw must name the folder that holds the raw files")
    return raw


def tab_separated_splits(folder: Path) -> dict[str, pd.DataFrame]:
    """``train.txt``, ``valid.txt`` and ``test.txt`` with a triple of keys a line: columns head, relation, tail.

    Raises:
        RecipeError: a file is missing.
    """
    return {
        split: pd.read_csv(
            require(folder / f"{split}.txt"),
            sep="\t",
            header=None,
            names=TRIPLE,
            dtype=str,
            quoting=csv.QUOTE_NONE,
        )
        for split in SPLITS
    }


def entity_rows(
    keys: Sequence[str], *, domain: str, kind: str | Sequence[str], name: object = None, text: object = None
) -> pd.DataFrame:
    """Entities of one domain: columns key, name, text, domain, kind; scalars are repeated."""
    columns = {"key": list(keys), "name": name, "text": text, "domain": domain, "kind": kind}
    return pd.DataFrame(columns, index=range(len(keys)), dtype=object)


def relation_rows(names: Mapping[str, str]) -> pd.DataFrame:
    """Relations from key -> name, numbered in that order."""
    return pd.DataFrame({"relation": range(len(names)), "key": list(names), "name": list(names.values())})


def labelled_triples(heads: Sequence[str], relation: str, tails: Sequence[str]) -> pd.DataFrame:
    """Triples of one relation between entity keys."""
    return pd.DataFrame({"head": heads, "relation": relation, "tail": tails}, dtype=object)


def build_kg(
    spec: KgSpec, entities: pd.DataFrame, relations: pd.DataFrame, triples: pd.DataFrame
) -> KgFrames:
    """A KG from triples of keys: ids are row numbers, repeated triples are kept once, in order of first appearance.

    Raises:
        RecipeError: a key is repeated, or a triple names a key that is not in the tables.
    """
    if entities["key"].duplicated().any():
        repeated = entities["key"][entities["key"].duplicated()].iloc[0]
        raise RecipeError(f"KG {spec.name}: entity key {repeated!r} occurs twice")
    table = entities.reset_index(drop=True)
    if "entity" not in table:
        table.insert(0, "entity", np.arange(len(table)))
    return KgFrames(
        spec, numbered(triples, table, relations).drop_duplicates(ignore_index=True), table, relations
    )


def numbered(triples: pd.DataFrame, entities: pd.DataFrame, relations: pd.DataFrame) -> pd.DataFrame:
    """Triples of keys as triples of ids, row by row.

    Raises:
        RecipeError: a key is not in the tables.
    """
    entity_index, relation_index = pd.Index(entities["key"]), pd.Index(relations["key"])
    ids = {}
    for column, index in zip(TRIPLE, (entity_index, relation_index, entity_index), strict=True):
        ids[column] = index.get_indexer(pd.Index(triples[column])).astype(np.int64)
        unknown = ids[column] < 0
        if unknown.any():
            raise RecipeError(
                f"{column} {triples[column].iloc[int(np.argmax(unknown))]!r} is not in the KG's tables"
            )
    return pd.DataFrame(ids)


def first_appearance(*columns: pd.Series) -> list[str]:
    """Distinct values of the columns read row by row, in order of first appearance."""
    values = np.stack([column.to_numpy(dtype=object) for column in columns], axis=1).reshape(-1)
    return list(pd.unique(values))


def keep_first(frame: pd.DataFrame, columns: list[str]) -> tuple[pd.DataFrame, int]:
    """The frame without rows that repeat ``columns`` of an earlier row, and how many were dropped."""
    kept = frame.drop_duplicates(columns, ignore_index=True)
    return kept, len(frame) - len(kept)


def leave_one_out(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Split rows that stand in time order within each user: the last is test, the one before it valid, the rest train.

    Raises:
        RecipeError: a user has fewer than three rows.
    """
    counts = frame.groupby("user").size()
    if (counts < 3).any():
        raise RecipeError(
            f"leave-one-out needs three interactions a user; {int((counts < 3).sum())} users have fewer"
        )
    left = frame.groupby("user").cumcount(ascending=False).to_numpy()
    return _by_rows_left(frame, left, np.ones(len(frame), dtype=np.int64))


def time_split(frame: pd.DataFrame, *, share: float = 0.1) -> dict[str, pd.DataFrame]:
    """Split each user's rows by (time, item): the last ``max(1, int(share * n))`` are test, as many before them valid.

    Equal times of a user are ordered by item id, so that the split is a function of the data. Users with fewer than three rows are
    dropped, since they cannot have one row in each split.
    """
    ordered = frame.sort_values(["user", "time", "item"], ignore_index=True)
    ordered = ordered[ordered.groupby("user")["item"].transform("size") >= 3].reset_index(drop=True)
    n = ordered.groupby("user")["item"].transform("size").to_numpy()
    left = ordered.groupby("user").cumcount(ascending=False).to_numpy()
    return _by_rows_left(ordered, left, np.maximum(1, np.floor(share * n + 1e-9).astype(np.int64)))


def _by_rows_left(
    frame: pd.DataFrame, left: NDArray[np.integer], held_out: NDArray[np.integer]
) -> dict[str, pd.DataFrame]:
    test, valid = left < held_out, (left >= held_out) & (left < 2 * held_out)
    chosen = {"train": ~(test | valid), "valid": valid, "test": test}
    return {name: frame[mask].reset_index(drop=True) for name, mask in chosen.items()}


def by_split(frame: pd.DataFrame, columns: list[str]) -> dict[str, pd.DataFrame]:
    """One frame a split from a frame with a ``split`` column, rows in their order."""
    return {name: frame.loc[frame["split"] == name, columns].reset_index(drop=True) for name in SPLITS}


def item_table(entities: NDArray[np.int64]) -> pd.DataFrame:
    """The items of a recommendation task from each item's entity id, -1 where it is not in the KG."""
    ids = pd.Series(entities, dtype="Int64")
    return pd.DataFrame({"item": np.arange(len(ids)), "entity": ids.mask(ids < 0)})


def recommendation(
    name: str,
    splits: Mapping[str, pd.DataFrame],
    items: pd.DataFrame,
    *,
    kg: str,
    domain: str,
    n_users: int,
    description: str,
    reference: str,
    notes: Sequence[str] = (),
) -> TaskFrames:
    """A recommendation task under the evaluation rules of kpi-bench (docs/evaluation.md)."""
    spec = TaskSpec(
        name=name,
        kind=TaskKind.RECOMMENDATION,
        kg=kg,
        domain=domain,
        description=description,
        reference=reference,
        main_metric="ndcg@20",
        ks=KS,
        n_users=n_users,
        variants=("mudok",),
        notes=tuple(notes),
    )
    return TaskFrames(spec, splits, items)


def link_prediction_suite(
    name: str,
    splits: Mapping[str, pd.DataFrame],
    entities: pd.DataFrame,
    relations: pd.DataFrame,
    *,
    domain: str,
    description: str,
    licence: str,
    sources: tuple[str, ...],
    card_notes: tuple[str, ...] = (),
) -> SuiteFrames:
    """A suite of one KG, which holds the train triples only, and one link-prediction task of the same name.

    ``splits`` hold triples of keys as published. Repeats inside a split are dropped; triples in two splits are kept, and both are noted.
    """
    kg = build_kg(
        KgSpec(name, f"The train triples of {name}.", (domain,)), entities, relations, splits["train"]
    )
    frames: dict[str, pd.DataFrame] = {}
    notes: list[str] = []
    for split in SPLITS:
        triples = numbered(splits[split], kg.entities, kg.relations)
        frames[split], dropped = keep_first(triples, TRIPLE)
        if dropped:
            notes.append(
                f"{dropped:,} of the {len(triples):,} published {split} rows repeat an earlier row and were dropped."
            )
    for position, later in enumerate(SPLITS):
        for earlier in SPLITS[:position]:
            shared = len(frames[later].merge(frames[earlier], on=TRIPLE))
            if shared:
                notes.append(
                    f"{shared:,} of {len(frames[later]):,} {later} triples are also in {earlier}, as published."
                )
    spec = TaskSpec(
        name=name,
        kind=TaskKind.LINK_PREDICTION,
        kg=name,
        domain=domain,
        description=f"Complete (head, relation, ?) and (?, relation, tail) on {name}.",
        reference=sources[0],
        main_metric="mrr",
        notes=tuple(notes),
    )
    task = TaskFrames(spec, frames)
    return SuiteFrames(name, "1.0.0", description, licence, sources, (kg,), (task,), card_notes)
