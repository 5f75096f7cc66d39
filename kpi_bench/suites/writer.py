"""Write a suite: Parquet tables, manifest and dataset card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kpi_bench._io import sha256_file, write_parquet, write_text
from kpi_bench.suites.manifest import FileEntry, Manifest, content_hash, write_manifest
from kpi_bench.suites.task import KgSpec, TaskKind, TaskSpec

INT, TEXT = pa.int64(), pa.string()

TRIPLES = pa.schema([("head", INT), ("relation", INT), ("tail", INT)])
ENTITIES = pa.schema(
    [("entity", INT), ("key", TEXT), ("name", TEXT), ("text", TEXT), ("domain", TEXT), ("kind", TEXT)]
)
RELATIONS = pa.schema([("relation", INT), ("key", TEXT), ("name", TEXT)])
LINKS = pa.schema([("entity", INT), ("other_kg", TEXT), ("other_entity", INT), ("rule", TEXT)])
ITEMS = pa.schema([("item", INT), ("entity", INT)])
INTERACTIONS = pa.schema([("user", INT), ("item", INT)])
TIMED_INTERACTIONS = pa.schema([("user", INT), ("item", INT), ("time", INT)])
EXAMPLES = pa.schema([("example", INT), ("entity", INT), ("text", TEXT), ("label", INT)])

SPLITS = ("train", "valid", "test")


def split_schemas(kind: TaskKind) -> tuple[pa.Schema, ...]:
    """Schemas that a split file of this kind of task may have."""
    if kind is TaskKind.RECOMMENDATION:
        return (INTERACTIONS, TIMED_INTERACTIONS)
    return (EXAMPLES,) if kind is TaskKind.CLASSIFICATION else (TRIPLES,)


@dataclass(frozen=True)
class KgFrames:
    """A KG to be written; columns as in the suite format. ``key`` must be unique within the KG."""

    spec: KgSpec
    triples: pd.DataFrame
    entities: pd.DataFrame
    relations: pd.DataFrame
    links: pd.DataFrame | None = None


@dataclass(frozen=True)
class TaskFrames:
    """A task to be written: one frame a split, and item -> entity for recommendation (entity null where not in the KG)."""

    spec: TaskSpec
    splits: Mapping[str, pd.DataFrame]
    items: pd.DataFrame | None = None


@dataclass(frozen=True)
class SuiteFrames:
    """A whole suite in memory, as a recipe hands it over."""

    name: str
    version: str
    description: str
    licence: str
    sources: tuple[str, ...]
    kgs: tuple[KgFrames, ...]
    tasks: tuple[TaskFrames, ...]
    card_notes: tuple[str, ...] = field(default_factory=tuple)


def write_suite(folder: Path, suite: SuiteFrames) -> Manifest:
    """Write every table, ``suite.json`` and ``README.md``; the folder is a suite afterwards.

    The manifest is written last: an interrupted build leaves a folder that does not load.
    """
    files: dict[str, FileEntry] = {}
    for path, schema, frame in _tables(suite):
        target = folder / path
        write_parquet(target, frame.reindex(columns=schema.names), schema=schema)
        files[path] = FileEntry(
            sha256=sha256_file(target),
            bytes=target.stat().st_size,
            rows=len(frame),
            content=content_hash(pq.read_table(target)),
        )
    manifest = Manifest(
        name=suite.name,
        version=suite.version,
        description=suite.description,
        licence=suite.licence,
        sources=suite.sources,
        kgs=tuple(kg.spec for kg in suite.kgs),
        tasks=tuple(task.spec for task in suite.tasks),
        files=files,
    )
    write_text(folder / "README.md", dataset_card(manifest, suite.card_notes))
    write_manifest(folder, manifest)
    return manifest


def _tables(suite: SuiteFrames) -> Iterable[tuple[str, pa.Schema, pd.DataFrame]]:
    for kg in suite.kgs:
        base = f"kgs/{kg.spec.name}"
        yield f"{base}/triples.parquet", TRIPLES, kg.triples
        yield f"{base}/entities.parquet", ENTITIES, kg.entities
        yield f"{base}/relations.parquet", RELATIONS, kg.relations
        if kg.links is not None:
            yield f"{base}/links.parquet", LINKS, kg.links
    for task in suite.tasks:
        base = f"tasks/{task.spec.name}"
        for split in SPLITS:
            frame = task.splits[split]
            timed = "time" in frame.columns
            schema = split_schemas(task.spec.kind)[int(timed)]
            yield f"{base}/{split}.parquet", schema, frame
        if task.items is not None:
            yield f"{base}/items.parquet", ITEMS, task.items


def dataset_card(manifest: Manifest, notes: Iterable[str] = ()) -> str:
    """The suite's README: Hub metadata (one config a task and KG table) and a short text."""
    lines = ["---", f"pretty_name: {manifest.name}", "license: other", "configs:"]
    for task in manifest.tasks:
        lines += [f"- config_name: {task.name}", "  data_files:"]
        for split, hub_split in zip(SPLITS, ("train", "validation", "test"), strict=True):
            lines += [f"  - split: {hub_split}", f"    path: tasks/{task.name}/{split}.parquet"]
    for kg in manifest.kgs:
        for table in ("triples", "entities", "relations", "links"):
            if f"kgs/{kg.name}/{table}.parquet" not in manifest.files:
                continue
            lines += [f"- config_name: kg_{kg.name}_{table}", f"  data_files: kgs/{kg.name}/{table}.parquet"]
    lines += [
        "---",
        "",
        f"# {manifest.name} {manifest.version}",
        "",
        manifest.description,
        "",
        f"Licence: {manifest.licence}",
        "",
    ]
    lines += ["| task | kind | KG | train | valid | test |", "|---|---|---|---|---|---|"]
    for task in manifest.tasks:
        rows = " | ".join(
            f"{manifest.files[f'tasks/{task.name}/{split}.parquet'].rows:,}" for split in SPLITS
        )
        lines.append(f"| {task.name} | {task.kind} | {task.kg} | {rows} |")
    lines += ["", "| KG | entities | relations | triples |", "|---|---|---|---|"]
    for kg in manifest.kgs:
        rows = " | ".join(
            f"{manifest.files[f'kgs/{kg.name}/{table}.parquet'].rows:,}"
            for table in ("entities", "relations", "triples")
        )
        lines.append(f"| {kg.name} | {rows} |")
    task_notes = [f"{task.name}: {note}" for task in manifest.tasks for note in task.notes]
    for title, entries in (("Notes", [*notes, *task_notes]), ("Sources", manifest.sources)):
        if entries:
            lines += ["", f"## {title}", "", *(f"- {entry}" for entry in entries)]
    return "\n".join(lines) + "\n"
