"""The KGs of a shrunken suite: about a share of entities and of triples, with every relation and all that tasks ask about."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from kpi_bench.harness.forecast.sampling import (
    Floats,
    Ints,
    Mask,
    bound,
    choose_weighted,
    first_of_each,
    least,
    numbering,
    steepness_for,
    uniform,
)
from kpi_bench.suites.suite import Suite
from kpi_bench.suites.task import TaskKind, TaskSpec
from kpi_bench.suites.writer import KgFrames

PER_SPLIT = 8

Frames = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Part:
    """A task of the shrunken suite. Entities are ids of the whole KG until :func:`shrink_graphs`; the KG's part has to contain ``needed``.
    ``asked`` are those that the whole task is about."""

    spec: TaskSpec
    splits: Frames
    needed: Ints
    asked: Ints
    items: pd.DataFrame | None = None


@dataclass(frozen=True)
class _Kept:
    """What stays of a KG: entities, bool ``[n_entities]``, with their new ids; triples, and the bound on keys that they were thinned by."""

    entities: Mask
    numbers: Ints
    triples: pd.DataFrame
    bound: float


def read_frame(path: Path) -> pd.DataFrame:
    """A table of the suite, with nulls and integers beside each other."""
    frame: pd.DataFrame = pq.read_table(path).to_pandas(integer_object_nulls=True)
    return frame


def link_witnesses(splits: Frames) -> Ints:
    """Ends of some triples of each split, and of one of each relation of train: with them no split is empty."""
    ends = []
    for split, frame in splits.items():
        keys = _keys(frame)
        kept = least(keys, PER_SPLIT)
        if split == "train":
            kept |= first_of_each(frame["relation"].to_numpy(), keys)
        ends.append(frame.loc[kept, ["head", "tail"]].to_numpy().ravel())
    return np.concatenate(ends)


def shrink_graphs(
    suite: Suite, parts: Sequence[Part], share: float
) -> tuple[tuple[KgFrames, ...], list[Part]]:
    """The KGs, and the tasks with the new entity ids; link-prediction tasks are thinned here, train as the KG is."""
    names = suite.graph_names()
    links = {
        name: read_frame(suite.folder / "kgs" / name / "links.parquet")
        for name in names
        if f"kgs/{name}/links.parquet" in suite.manifest.files
    }
    needed = {name: [part.needed for part in parts if part.spec.kg == name] for name in names}
    asked = {name: [part.asked for part in parts if part.spec.kg == name] for name in names}
    kept: dict[str, _Kept] = {}
    for name in names:
        n_entities = suite.manifest.files[f"kgs/{name}/entities.parquet"].rows
        triples = read_frame(suite.folder / "kgs" / name / "triples.parquet")
        kept[name] = _fewer_triples(triples, n_entities, needed[name], asked[name], share)
        # What a link joins stays on both sides, or goes on both.
        for other, own, theirs in _joined(links, name):
            if other not in kept:
                needed[other].append(theirs[kept[name].entities[own]])
                asked[other].append(theirs)
    frames = tuple(
        KgFrames(
            spec=kg,
            triples=_renumber(kept[kg.name].triples, kept[kg.name].numbers, "head", "tail"),
            entities=_kept_entities(suite.folder / "kgs" / kg.name, kept[kg.name].entities),
            relations=read_frame(suite.folder / "kgs" / kg.name / "relations.parquet"),
            links=_kept_links(links[kg.name], kg.name, kept) if kg.name in links else None,
        )
        for kg in suite.manifest.kgs
    )
    return frames, [_renumbered(part, kept[part.spec.kg], share) for part in parts]


def _fewer_triples(
    triples: pd.DataFrame, n_entities: int, needed: Sequence[Ints], asked: Sequence[Ints], share: float
) -> _Kept:
    head, tail = triples["head"].to_numpy(), triples["tail"].to_numpy()
    keys = _keys(triples)
    witness = first_of_each(triples["relation"].to_numpy(), keys)
    always = _marked(n_entities, (*needed, head[witness], tail[witness]))
    drawn = uniform(np.arange(n_entities), salt=3)
    degrees = np.bincount(head, minlength=n_entities) + np.bincount(tail, minlength=n_entities)
    # Where tasks ask about more than the share, the entities that none asks about (attributes) stay in their share beside these.
    asked_about = _marked(n_entities, asked)
    attributes = round(share * np.count_nonzero(~asked_about))
    few = max(round(share * n_entities), int(np.count_nonzero(always & asked_about)) + attributes)
    wanted = round(share * len(triples))

    def chosen(steepness: float) -> Mask:
        return choose_weighted(drawn, degrees, steepness, few, always)

    def count(steepness: float) -> int:
        entities = chosen(steepness)
        return int(np.count_nonzero(entities[head] & entities[tail]))

    entities = chosen(steepness_for(count, wanted))
    inside = entities[head] & entities[tail]
    limit = bound(inside, wanted)
    return _Kept(entities, numbering(entities), triples[inside & ((keys < limit) | witness)], limit)


def _renumbered(part: Part, kept: _Kept, share: float) -> Part:
    numbers = kept.numbers
    if part.spec.kind is TaskKind.LINK_PREDICTION:
        splits = {
            split: _renumber(_fewer_links(split, frame, kept, share), numbers, "head", "tail")
            for split, frame in part.splits.items()
        }
        return dataclasses.replace(part, splits=splits)
    if part.spec.kind is TaskKind.CLASSIFICATION:
        splits = {split: _renumber(frame, numbers, "entity") for split, frame in part.splits.items()}
        return dataclasses.replace(part, splits=splits)
    if part.items is None:
        return part
    entity = part.items["entity"]
    known = entity.notna().to_numpy()
    entities = pd.array([pd.NA] * len(entity), dtype="Int64")
    entities[known] = numbers[entity[known].to_numpy().astype(np.int64)]
    return dataclasses.replace(part, items=part.items.assign(entity=entities))


def _fewer_links(split: str, frame: pd.DataFrame, kept: _Kept, share: float) -> pd.DataFrame:
    inside = kept.entities[frame["head"].to_numpy()] & kept.entities[frame["tail"].to_numpy()]
    keys = _keys(frame)
    if split == "train":
        # By the KG's own bound: a triple of both stays in both.
        always = first_of_each(frame["relation"].to_numpy(), keys)
        limit = kept.bound
    else:
        always, limit = least(keys, PER_SPLIT), bound(inside, round(share * len(frame)))
    fewer: pd.DataFrame = frame.loc[inside & ((keys < limit) | always)]
    return fewer


def _marked(n: int, ids: Sequence[Ints]) -> Mask:
    marks = np.zeros(n, dtype=bool)
    for some in ids:
        marks[some] = True
    return marks


def _keys(triples: pd.DataFrame) -> Floats:
    return uniform(*(triples[column].to_numpy() for column in ("head", "relation", "tail")))


def _renumber(frame: pd.DataFrame, numbers: Ints, *columns: str) -> pd.DataFrame:
    return frame.assign(**{column: numbers[frame[column].to_numpy()] for column in columns})


def _kept_entities(folder: Path, kept: Mask) -> pd.DataFrame:
    return read_frame(folder / "entities.parquet").loc[kept].assign(entity=np.arange(np.count_nonzero(kept)))


def _joined(links: Frames, name: str) -> Iterator[tuple[str, Ints, Ints]]:
    """Other KGs that links join with ``name``, with the ids on its side and on theirs."""
    for owner, table in links.items():
        for other, rows in table.groupby("other_kg"):
            ids = rows["entity"].to_numpy(), rows["other_entity"].to_numpy()
            if owner == name:
                yield str(other), *ids
            elif other == name:
                yield owner, ids[1], ids[0]


def _kept_links(table: pd.DataFrame, name: str, kept: Mapping[str, _Kept]) -> pd.DataFrame:
    entity = kept[name].numbers[table["entity"].to_numpy()]
    other = table["other_entity"].to_numpy().copy()
    for other_kg in table["other_kg"].unique():
        at = (table["other_kg"] == other_kg).to_numpy()
        other[at] = kept[other_kg].numbers[other[at]]
    joined: pd.DataFrame = table.assign(entity=entity, other_entity=other).loc[(entity >= 0) & (other >= 0)]
    return joined
