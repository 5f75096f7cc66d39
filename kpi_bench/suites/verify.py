"""Check a suite's files against its manifest and its rules; every fault names file, row and rule."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kpi_bench._io import sha256_file
from kpi_bench._sorted import positions
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
    suite = _Files(folder, manifest)
    values = list(_content_faults(suite, manifest)) if contents else []
    suite.read_rest()
    # What columns say is told where all files are sound, what values say where all columns are.
    faults = list(suite.faults.values()) or suite.column_faults or values
    if faults:
        shown = "\n".join(f"  - {fault}" for fault in faults[:MAX_SHOWN])
        more = f"\n  ... and {len(faults) - MAX_SHOWN} more" if len(faults) > MAX_SHOWN else ""
        raise SuiteError(f"suite {manifest.name} in {folder} breaks {len(faults)} rule(s):\n{shown}{more}")


class _Files:
    """The files of a suite, each decoded once: ``faults`` of the files against the manifest, by path, and ``column_faults`` of the tables."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.entries = folder, manifest.files
        self.column_faults: list[str] = []
        self.faults = {
            path: f"suite.json: files: {path} is required by the manifest's KGs and tasks but not listed"
            for path in expected_files(manifest)
            if path not in manifest.files
        }
        self._unread = set(manifest.files)

    def read_rest(self) -> None:
        """Check the files that no rule has asked for, against the manifest alone."""
        for path in self.entries:
            if path in self._unread:
                self._read(path)

    def table(
        self, path: str, allowed: tuple[pa.Schema, ...], nullable: tuple[str, ...] = ()
    ) -> pa.Table | None:
        """The table at ``path``, None where the file or its columns are at fault."""
        table = self._read(path)
        if table is None:
            return None
        faults = list(_schema_faults(path, table, allowed, nullable))
        self.column_faults += faults
        return None if faults else table

    def _read(self, path: str) -> pa.Table | None:
        self._unread.discard(path)
        if path not in self.entries:
            return None
        target, entry = self.folder / path, self.entries[path]
        if not target.is_file():
            fault = "the file is listed in suite.json but missing"
        elif target.stat().st_size != entry.bytes:
            fault = f"{target.stat().st_size} bytes, suite.json says {entry.bytes}"
        elif sha256_file(target) != entry.sha256:
            fault = "its SHA-256 differs from suite.json; fetch or build the suite again"
        else:
            try:
                table = pq.read_table(target)
                content = content_hash(table)
            except ValueError as error:  # pyarrow's own, too: a text that is not UTF-8, no Parquet at all
                fault = f"it cannot be read: {error}"
            else:
                if table.num_rows != entry.rows:
                    fault = f"{table.num_rows} rows, suite.json says {entry.rows}"
                elif content != entry.content:
                    fault = "its values differ from the content hash in suite.json"
                else:
                    return table
        self.faults[path] = f"{path}: {fault}"
        return None


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


def _content_faults(suite: _Files, manifest: Manifest) -> Iterator[str]:
    """Faults of values. A table that cannot be read has faults of its own, and what depends on it is left alone."""
    entities: dict[str, int] = {}
    relations: dict[str, int] = {}
    for kg in manifest.kgs:
        base = f"kgs/{kg.name}"
        yield from _node_faults(suite, f"{base}/entities.parquet", kg.name, entities)
        path = f"{base}/relations.parquet"
        if (table := suite.table(path, (RELATIONS,))) is not None:
            relations[kg.name] = table.num_rows
            yield from _dense(path, table, "relation")
        yield from _triple_faults(suite, f"{base}/triples.parquet", kg.name, entities, relations)
    for kg in manifest.kgs:
        path = f"kgs/{kg.name}/links.parquet"
        if path in manifest.files and (table := suite.table(path, (LINKS,))) is not None:
            yield from _link_faults(path, table, kg.name, entities)
    names = [kg.name for kg in manifest.kgs]
    for task in manifest.tasks:
        if task.kg not in names:
            yield f"suite.json: task {task.name}: its KG {task.kg!r} is not in the suite"
        if task.kind is TaskKind.RECOMMENDATION:
            yield from _recommendation_faults(suite, task, entities)
        elif task.kind is TaskKind.CLASSIFICATION:
            yield from _classification_faults(suite, task, entities)
        else:
            for split in SPLITS:
                path = f"tasks/{task.name}/{split}.parquet"
                yield from _triple_faults(suite, path, task.kg, entities, relations)


def _node_faults(suite: _Files, path: str, kg: str, counts: dict[str, int]) -> Iterator[str]:
    table = suite.table(path, (ENTITIES,), nullable=("name", "text"))
    if table is None:
        return
    counts[kg] = table.num_rows
    yield from _dense(path, table, "entity")
    keys = table.column("key")
    if pc.count_distinct(keys).as_py() != len(keys):
        yield from _first(path, keys.to_pandas().duplicated().to_numpy(), "key is not unique")


def _triple_faults(
    suite: _Files, path: str, kg: str, entities: dict[str, int], relations: dict[str, int]
) -> Iterator[str]:
    table = suite.table(path, (TRIPLES,))
    if table is None or kg not in entities or kg not in relations:
        return
    n_entities, n_relations = entities[kg], relations[kg]
    head, relation, tail = (_ints(table, name) for name in TRIPLES.names)
    in_range = list(_range(path, head, n_entities, "head")) + list(_range(path, tail, n_entities, "tail"))
    in_range += list(_range(path, relation, n_relations, "relation"))
    yield from in_range
    if not in_range:
        keys = _triple_keys(head, relation, tail, n_entities, n_relations)
        yield from _repeats(path, keys, np.sort(keys), "the triple occurs before")


def _triple_keys(
    head: NDArray[np.int64],
    relation: NDArray[np.int64],
    tail: NDArray[np.int64],
    n_entities: int,
    n_relations: int,
) -> NDArray[np.int64]:
    """A number for each triple, int64 ``[n]``, the same for equal ones alone."""
    if n_entities * n_relations * n_entities <= np.iinfo(np.int64).max:
        return (head * n_relations + relation) * n_entities + tail
    order = np.lexsort((tail, relation, head))
    rows = np.stack([head, relation, tail])[:, order]
    keys = np.zeros(len(head), dtype=np.int64)
    keys[order[1:]] = np.cumsum((rows[:, 1:] != rows[:, :-1]).any(axis=0))
    return keys


def _link_faults(path: str, table: pa.Table, kg: str, entities: dict[str, int]) -> Iterator[str]:
    if kg in entities:
        yield from _range(path, _ints(table, "entity"), entities[kg], "entity")
    other = np.asarray(table.column("other_kg").to_pylist(), dtype=object)
    for name in sorted(set(other)):
        if name not in entities:
            yield f"{path}: other_kg {name!r} is not in the suite"
        else:
            yield from _range(
                path, _ints(table, "other_entity")[other == name], entities[name], "other_entity"
            )


def _recommendation_faults(suite: _Files, task: TaskSpec, entities: dict[str, int]) -> Iterator[str]:
    base = f"tasks/{task.name}"
    path = f"{base}/items.parquet"
    items = suite.table(path, (ITEMS,), nullable=("entity",))
    if items is not None:
        yield from _dense(path, items, "item")
        if task.kg in entities:
            linked = items.column("entity").drop_null().to_numpy()
            yield from _range(path, linked, entities[task.kg], "entity")
    if task.n_users is None or not task.ks:
        yield f"suite.json: task {task.name}: a recommendation task needs n_users and ks"
    splits = _Splits()
    for split in SPLITS:
        path = f"{base}/{split}.parquet"
        table = suite.table(path, split_schemas(task.kind))
        if table is None or items is None or task.n_users is None:
            continue
        users, item_ids = _ints(table, "user"), _ints(table, "item")
        yield from _range(path, users, task.n_users, "user")
        yield from _range(path, item_ids, items.num_rows, "item")
        yield from splits.faults(path, split, users * items.num_rows + item_ids, "the (user, item) pair")


def _classification_faults(suite: _Files, task: TaskSpec, entities: dict[str, int]) -> Iterator[str]:
    if not task.labels:
        yield f"suite.json: task {task.name}: a classification task needs labels"
    splits = _Splits()
    for split in SPLITS:
        path = f"tasks/{task.name}/{split}.parquet"
        table = suite.table(path, split_schemas(task.kind))
        if table is None:
            continue
        if task.kg in entities:
            yield from _range(path, _ints(table, "entity"), entities[task.kg], "entity")
        yield from _range(path, _ints(table, "label"), len(task.labels), "label")
        yield from splits.faults(path, split, _ints(table, "example"), "the example id")


class _Splits:
    """The keys of a task's splits so far, ascending: a key occurs once in all of them."""

    def __init__(self) -> None:
        self._seen: list[tuple[str, NDArray[np.int64]]] = []

    def faults(self, path: str, split: str, keys: NDArray[np.int64], what: str) -> Iterator[str]:
        """Keys, int64 ``[n]``, that occur before in the split or in an earlier one."""
        ordered = np.sort(keys)
        yield from _repeats(path, keys, ordered, f"{what} occurs before")
        for earlier, known in self._seen:
            if (positions(known, ordered) >= 0).any():
                yield from _first(path, np.isin(keys, known), f"{what} is also in {earlier}")
        self._seen.append((split, ordered))


def _ints(table: pa.Table, column: str) -> NDArray[np.int64]:
    values: NDArray[np.int64] = table.column(column).to_numpy()
    return values


def _schema_faults(
    path: str, table: pa.Table, allowed: tuple[pa.Schema, ...], nullable: tuple[str, ...]
) -> Iterator[str]:
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
    if len(values) and (values.min() < 0 or values.max() >= n):
        yield from _first(path, (values < 0) | (values >= n), f"{column} is outside 0..{n - 1}")


def _repeats(path: str, keys: NDArray[np.int64], ordered: NDArray[np.int64], rule: str) -> Iterator[str]:
    """Rows are looked at one by one only where the sorted keys tell of a repeated one."""
    if (ordered[1:] == ordered[:-1]).any():
        repeated = np.ones(len(keys), dtype=bool)
        repeated[np.unique(keys, return_index=True)[1]] = False
        yield from _first(path, repeated, rule)


def _first(path: str, wrong: NDArray[np.bool_], rule: str) -> Iterator[str]:
    count = int(np.count_nonzero(wrong))
    if count:
        yield f"{path}: row {int(np.argmax(wrong))}: {rule} ({count} such rows)"
