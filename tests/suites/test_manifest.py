from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

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
