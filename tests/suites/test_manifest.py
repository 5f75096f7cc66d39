from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpi_bench._io import read_json, write_json
from kpi_bench.errors import SuiteError
from kpi_bench.suites.manifest import content_hash, read_manifest, write_manifest
from kpi_bench.suites.suite import Suite


def test_round_trip(tiny_suite: Suite, tmp_path: Path) -> None:
    write_manifest(tmp_path, tiny_suite.manifest)
    again = read_manifest(tmp_path)
    assert again == tiny_suite.manifest
    assert again.digest == tiny_suite.manifest.digest


def test_task_of_another_name_lists_those_there_are(tiny_suite: Suite) -> None:
    assert tiny_suite.manifest.task("shop_music").k == 20
    with pytest.raises(SuiteError, match=r"no task 'nothing'; it has shop_music, shop_games_qa"):
        tiny_suite.manifest.task("nothing")


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"it has no suite\.json\. Build one"):
        read_manifest(tmp_path)


def test_manifest_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "suite.json").write_text("{", encoding="utf-8")
    with pytest.raises(SuiteError, match="not valid JSON"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "schema_version is 99"),
        ({"surprise": 1}, "surprise"),
        ({"licence": None}, "licence"),
        ({"kgs": [{"name": "x"}]}, "description"),
        ({"tasks": [{"name": "x", "kind": "guessing"}]}, "guessing|missing"),
        ({"files": {"a.parquet": {"sha256": "0"}}}, "bytes"),
    ],
)
def test_broken_manifest(tiny_suite: Suite, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    raw = read_json(tiny_suite.folder / "suite.json")
    write_json(tmp_path / "suite.json", {**raw, **change})
    with pytest.raises(SuiteError, match=message):
        read_manifest(tmp_path)


def test_manifest_of_another_type(tmp_path: Path) -> None:
    write_json(tmp_path / "suite.json", [1])
    with pytest.raises(SuiteError, match="schema_version is 'list'"):
        read_manifest(tmp_path)


def test_digest_depends_on_values_not_on_bytes(tiny_suite: Suite) -> None:
    manifest = tiny_suite.manifest
    path, entry = next(iter(manifest.files.items()))
    repacked = {**manifest.files, path: dataclasses.replace(entry, sha256="0" * 64, bytes=1)}
    changed = {**manifest.files, path: dataclasses.replace(entry, content="0" * 64)}
    assert dataclasses.replace(manifest, files=repacked).digest == manifest.digest
    assert dataclasses.replace(manifest, files=changed).digest != manifest.digest
    assert dataclasses.replace(manifest, version="9").digest != manifest.digest
    assert dataclasses.replace(manifest, description="other words").digest == manifest.digest


def plain_content_hash(table: pa.Table) -> str:
    """The definition, a column at a time: little-endian int64 where nothing is null, else JSON."""
    digest = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(f"{name}:{column.type}:{len(column)}\n".encode())
        values = column.to_pylist()
        if pa.types.is_integer(column.type) and column.null_count == 0:
            digest.update(b"".join(value.to_bytes(8, "little", signed=True) for value in values))
        else:
            digest.update(json.dumps(values, ensure_ascii=False).encode())
    return digest.hexdigest()


TEXTS = st.text(st.sampled_from('aé好"\\\n\x00\x7f\u2028,[ '), max_size=6)


@given(
    st.lists(st.none() | TEXTS, max_size=20),
    st.lists(TEXTS, max_size=20),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20),
    st.integers(1, 7),
)
def test_content_hash_is_that_of_its_definition(
    some: list[str | None], texts: list[str], numbers: list[int], rows: int
) -> None:
    for values, kind in (
        (some, pa.string()),
        (texts, pa.string()),
        (texts, pa.large_string()),
        (numbers, pa.int64()),
    ):
        table = pa.table({"a": pa.array(values, kind)})
        pieces = [table.slice(start, rows) for start in range(0, len(values), rows)]
        for form in (table, pa.concat_tables(pieces) if pieces else table, table.slice(1)):
            assert content_hash(form) == plain_content_hash(form)


def test_content_hash_of_many_rows() -> None:
    names = [f"entity {i}" for i in range(40_000)]
    odd = [*names[:-1], 'say "so"']
    holes = pa.array([None if i % 3 else i for i in range(40_000)], pa.int64())
    table = pa.table({"name": names, "text": odd, "entity": holes})
    assert content_hash(table) == plain_content_hash(table)


def test_a_text_that_is_not_utf8_has_no_content_hash() -> None:
    column = pa.array([b"good", b"\xff\xfe"], pa.binary()).view(pa.string())
    with pytest.raises(ValueError, match="UTF8"):
        content_hash(pa.table({"a": column}))


def test_content_hash_sees_values_types_names_and_nulls() -> None:
    tables = [
        pa.table({"a": pa.array([1, 2], pa.int64())}),
        pa.table({"a": pa.array([2, 1], pa.int64())}),
        pa.table({"b": pa.array([1, 2], pa.int64())}),
        pa.table({"a": pa.array([1, 2], pa.int32())}),
        pa.table({"a": pa.array([1, None], pa.int64())}),
        pa.table({"a": ["1", "2"]}),
        pa.table({"a": ["1", None]}),
    ]
    assert len({content_hash(table) for table in tables}) == len(tables)
    chunked = pa.concat_tables([tables[0].slice(0, 1), tables[0].slice(1)])
    assert content_hash(chunked) == content_hash(tables[0])
