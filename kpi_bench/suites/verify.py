"""Check a suite's files against its manifest and its rules; every fault names file, row and rule."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kpi_bench._io import sha256_file
from kpi_bench.errors import SuiteError
from kpi_bench.suites.manifest import Manifest, content_hash
from kpi_bench.suites.task import TaskKind, TaskSpec
from kpi_bench.suites.writer import ENTITIES, ITEMS, LINKS, RELATIONS, SPLITS, TRIPLES, split_schemas

MAX_SHOWN = 20


def verify_suite(folder: Path, manifest: Manifest, *, contents: bool = True) -> None:
    """Check hashes, row counts and (with ``contents``) the rules on ids, duplicates, splits and labels.

    Raises:
        SuiteError: lists every fault found as ``file: row: rule``.
    """
    faults = list(_file_faults(folder, manifest))
    if not faults and contents:
        # Each step reads what the one before it found sound: the rules on values need the right columns without nulls.
        faults = list(_table_faults(folder, manifest)) or list(_content_faults(folder, manifest))
    if faults:
        shown = "\n".join(f"  - {fault}" for fault in faults[:MAX_SHOWN])
        more = f"\n  ... and {len(faults) - MAX_SHOWN} more" if len(faults) > MAX_SHOWN else ""
        raise SuiteError(f"suite {manifest.name} in {folder} breaks {len(faults)} rule(s):\n{shown}{more}")


def _file_faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    for required in expected_files(manifest):
        if required not in manifest.files:
            yield f"suite.json: files: {required} is required by the manifest's KGs and tasks but not listed"
    for path, entry in manifest.files.items():
        target = folder / path
        if not target.is_file():
            yield f"{path}: the file is listed in suite.json but missing"
        elif target.stat().st_size != entry.bytes:
            yield f"{path}: {target.stat().st_size} bytes, suite.json says {entry.bytes}"
        elif sha256_file(target) != entry.sha256:
            yield f"{path}: its SHA-256 differs from suite.json; fetch or build the suite again"
        elif (rows := pq.read_metadata(target).num_rows) != entry.rows:
            yield f"{path}: {rows} rows, suite.json says {entry.rows}"
        elif content_hash(pq.read_table(target)) != entry.content:
            yield f"{path}: its values differ from the content hash in suite.json"


def expected_files(manifest: Manifest) -> list[str]:
    """Files that the KGs and tasks of a manifest must have."""
    files = [
        f"kgs/{kg.name}/{table}.parquet"
        for kg in manifest.kgs
        for table in ("triples", "entities", "relations")
    ]
    for task in manifest.tasks:
        names = [*SPLITS, "items"] if task.kind is TaskKind.RECOMMENDATION else list(SPLITS)
        files += [f"tasks/{task.name}/{name}.parquet" for name in names]
    return files


def _table_faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    for kg in manifest.kgs:
        base = f"kgs/{kg.name}"
        yield from _schema_faults(folder, f"{base}/triples.parquet", (TRIPLES,))
        yield from _schema_faults(folder, f"{base}/entities.parquet", (ENTITIES,), nullable=("name", "text"))
        yield from _schema_faults(folder, f"{base}/relations.parquet", (RELATIONS,))
        if f"{base}/links.parquet" in manifest.files:
            yield from _schema_faults(folder, f"{base}/links.parquet", (LINKS,))
    for task in manifest.tasks:
        for split in SPLITS:
            yield from _schema_faults(folder, f"tasks/{task.name}/{split}.parquet", split_schemas(task.kind))
        if task.kind is TaskKind.RECOMMENDATION:
            yield from _schema_faults(
                folder, f"tasks/{task.name}/items.parquet", (ITEMS,), nullable=("entity",)
            )


def _content_faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    entity_counts: dict[str, int] = {}
    relation_counts: dict[str, int] = {}
    for kg in manifest.kgs:
        base = f"kgs/{kg.name}"
        entities = _read(folder, f"{base}/entities.parquet")
        relations = _read(folder, f"{base}/relations.parquet")
        entity_counts[kg.name], relation_counts[kg.name] = entities.num_rows, relations.num_rows
        yield from _dense(f"{base}/entities.parquet", entities, "entity")
        yield from _dense(f"{base}/relations.parquet", relations, "relation")
        keys = entities.column("key").to_pandas()
        yield from _first(f"{base}/entities.parquet", keys.duplicated().to_numpy(), "key is not unique")
        yield from _triple_faults(folder, f"{base}/triples.parquet", entities.num_rows, relations.num_rows)
    for kg in manifest.kgs:
        path = f"kgs/{kg.name}/links.parquet"
        if path in manifest.files:
            yield from _link_faults(folder, path, kg.name, entity_counts)
    for task in manifest.tasks:
        if task.kg not in entity_counts:
            yield f"suite.json: task {task.name}: its KG {task.kg!r} is not in the suite"
        elif task.kind is TaskKind.RECOMMENDATION:
            yield from _recommendation_faults(folder, task, entity_counts[task.kg])
        elif task.kind is TaskKind.CLASSIFICATION:
            yield from _classification_faults(folder, task, entity_counts[task.kg])
        else:
            for split in SPLITS:
                path = f"tasks/{task.name}/{split}.parquet"
                yield from _triple_faults(folder, path, entity_counts[task.kg], relation_counts[task.kg])


def _triple_faults(folder: Path, path: str, n_entities: int, n_relations: int) -> Iterator[str]:
    table = _read(folder, path)
    head, relation, tail = (_ints(table, name) for name in TRIPLES.names)
    in_range = list(_range(path, head, n_entities, "head")) + list(_range(path, tail, n_entities, "tail"))
    in_range += list(_range(path, relation, n_relations, "relation"))
    yield from in_range
    if not in_range:
        keys = (head * n_relations + relation) * n_entities + tail
        yield from _first(path, _repeated(keys), "the triple occurs before")


def _link_faults(folder: Path, path: str, kg: str, entity_counts: dict[str, int]) -> Iterator[str]:
    table = _read(folder, path)
    yield from _range(path, _ints(table, "entity"), entity_counts[kg], "entity")
    other = np.asarray(table.column("other_kg").to_pylist(), dtype=object)
    for name in sorted(set(other)):
        if name not in entity_counts:
            yield f"{path}: other_kg {name!r} is not in the suite"
        else:
            yield from _range(
                path, _ints(table, "other_entity")[other == name], entity_counts[name], "other_entity"
            )


def _recommendation_faults(folder: Path, task: TaskSpec, n_entities: int) -> Iterator[str]:
    base = f"tasks/{task.name}"
    items = _read(folder, f"{base}/items.parquet")
    yield from _dense(f"{base}/items.parquet", items, "item")
    yield from _range(
        f"{base}/items.parquet", items.column("entity").drop_null().to_numpy(), n_entities, "entity"
    )
    if task.n_users is None or not task.ks:
        yield f"suite.json: task {task.name}: a recommendation task needs n_users and ks"
        return
    seen: list[tuple[str, NDArray[np.int64]]] = []
    for split in SPLITS:
        path = f"{base}/{split}.parquet"
        table = _read(folder, path)
        users, item_ids = _ints(table, "user"), _ints(table, "item")
        yield from _range(path, users, task.n_users, "user")
        yield from _range(path, item_ids, items.num_rows, "item")
        keys = users * items.num_rows + item_ids
        yield from _first(path, _repeated(keys), "the (user, item) pair occurs before")
        for earlier, earlier_keys in seen:
            yield from _first(
                path, np.isin(keys, earlier_keys), f"the (user, item) pair is also in {earlier}"
            )
        seen.append((split, keys))


def _classification_faults(folder: Path, task: TaskSpec, n_entities: int) -> Iterator[str]:
    if not task.labels:
        yield f"suite.json: task {task.name}: a classification task needs labels"
    seen: list[tuple[str, NDArray[np.int64]]] = []
    for split in SPLITS:
        path = f"tasks/{task.name}/{split}.parquet"
        table = _read(folder, path)
        examples = _ints(table, "example")
        yield from _range(path, _ints(table, "entity"), n_entities, "entity")
        yield from _range(path, _ints(table, "label"), len(task.labels), "label")
        yield from _first(path, _repeated(examples), "the example id occurs before")
        for earlier, earlier_ids in seen:
            yield from _first(path, np.isin(examples, earlier_ids), f"the example id is also in {earlier}")
        seen.append((split, examples))


def _read(folder: Path, path: str) -> pa.Table:
    return pq.read_table(folder / path)


def _ints(table: pa.Table, column: str) -> NDArray[np.int64]:
    values: NDArray[np.int64] = table.column(column).to_numpy()
    return values


def _schema_faults(
    folder: Path, path: str, allowed: tuple[pa.Schema, ...], nullable: tuple[str, ...] = ()
) -> Iterator[str]:
    table = _read(folder, path)
    if not any(table.schema.remove_metadata().equals(schema) for schema in allowed):
        found = ", ".join(f"{field.name}:{field.type}" for field in table.schema)
        wanted = " or ".join(
            "(" + ", ".join(f"{f.name}:{f.type}" for f in schema) + ")" for schema in allowed
        )
        yield f"{path}: columns are ({found}); the format wants {wanted}"
        return
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name not in nullable and column.null_count:
            yield from _first(path, column.is_null().to_numpy(), f"{name} is null")


def _dense(path: str, table: pa.Table, column: str) -> Iterator[str]:
    yield from _first(
        path, _ints(table, column) != np.arange(table.num_rows), f"{column} ids are not 0..n-1 in order"
    )


def _range(path: str, values: NDArray[np.int64], n: int, column: str) -> Iterator[str]:
    yield from _first(path, (values < 0) | (values >= n), f"{column} is outside 0..{n - 1}")


def _repeated(keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    repeated = np.ones(len(keys), dtype=bool)
    repeated[np.unique(keys, return_index=True)[1]] = False
    return repeated


def _first(path: str, wrong: NDArray[np.bool_], rule: str) -> Iterator[str]:
    count = int(np.count_nonzero(wrong))
    if count:
        yield f"{path}: row {int(np.argmax(wrong))}: {rule} ({count} such rows)"
