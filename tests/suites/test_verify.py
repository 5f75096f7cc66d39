from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from suite_factory import N_MUSIC, N_USERS, tiny_suite_frames

from kpi_bench._io import sha256_file
from kpi_bench.errors import SuiteError
from kpi_bench.suites.manifest import FileEntry, Manifest, content_hash, read_manifest
from kpi_bench.suites.suite import Suite
from kpi_bench.suites.verify import _triple_keys, expected_files, verify_suite
from kpi_bench.suites.writer import write_suite

Change = Callable[[pd.DataFrame], pd.DataFrame]


def put(column: str, row: int, value: object) -> Change:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        changed = frame.copy()
        changed.loc[row, column] = value
        return changed

    return change


def repeat_row(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame, frame.iloc[[0]]], ignore_index=True)


def rewrite(folder: Path, manifest: Manifest, path: str, table: pa.Table) -> Manifest:
    """Replace one table and its entry, so that only the rules on contents can object."""
    target = folder / path
    pq.write_table(table, target)
    entry = FileEntry(sha256_file(target), target.stat().st_size, table.num_rows, content_hash(table))
    return dataclasses.replace(manifest, files={**manifest.files, path: entry})


@pytest.fixture
def copy(tiny_suite: Suite, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_suite.folder, tmp_path / "copy"))


def test_a_sound_suite_passes(tiny_suite: Suite) -> None:
    verify_suite(tiny_suite.folder, tiny_suite.manifest)


def test_all_files_of_the_manifest_are_expected(tiny_suite: Suite) -> None:
    assert sorted(expected_files(tiny_suite.manifest)) == sorted(tiny_suite.manifest.files)


def test_missing_file(copy: Path) -> None:
    (copy / "tasks/shop_music/test.parquet").unlink()
    with pytest.raises(
        SuiteError, match=r"tasks/shop_music/test\.parquet: the file is listed in suite\.json but missing"
    ):
        verify_suite(copy, read_manifest(copy))


def test_file_of_another_size(copy: Path) -> None:
    with (copy / "kgs/shop/triples.parquet").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(SuiteError, match=r"kgs/shop/triples\.parquet: \d+ bytes, suite\.json says \d+"):
        verify_suite(copy, read_manifest(copy))


def test_file_with_another_hash(copy: Path) -> None:
    target = copy / "kgs/shop/triples.parquet"
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.write_bytes(data)
    with pytest.raises(SuiteError, match=r"kgs/shop/triples\.parquet: its SHA-256 differs"):
        verify_suite(copy, read_manifest(copy), contents=False)


@pytest.mark.parametrize(
    ("field", "message"), [("rows", "rows, suite.json says 999"), ("content", "content hash")]
)
def test_entry_that_contradicts_the_file(copy: Path, field: str, message: str) -> None:
    manifest = read_manifest(copy)
    path = "kgs/library/entities.parquet"
    value = 999 if field == "rows" else "0" * 64
    files = {**manifest.files, path: dataclasses.replace(manifest.files[path], **{field: value})}
    with pytest.raises(SuiteError, match=message):
        verify_suite(copy, dataclasses.replace(manifest, files=files))


def test_a_table_that_cannot_be_read(copy: Path) -> None:
    manifest, path = read_manifest(copy), "kgs/library/entities.parquet"
    table = pq.read_table(copy / path)
    keys = pa.array([b"\xff"] * table.num_rows, pa.binary()).view(pa.string())
    pq.write_table(table.set_column(1, "key", keys), copy / path)
    other = "kgs/library/triples.parquet"
    (copy / other).write_bytes(b"no table")
    files = {
        name: dataclasses.replace(
            manifest.files[name], sha256=sha256_file(copy / name), bytes=(copy / name).stat().st_size
        )
        for name in (path, other)
    }
    with pytest.raises(SuiteError) as caught:
        verify_suite(copy, dataclasses.replace(manifest, files=manifest.files | files))
    assert f"{path}: it cannot be read: Invalid UTF8" in str(caught.value)
    assert f"{other}: it cannot be read: " in str(caught.value)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), max_size=30))
def test_triples_beyond_int64_have_numbers_of_their_own(drawn: list[tuple[int, int, int]]) -> None:
    columns = np.array(drawn, dtype=np.int64).reshape(-1, 3).T
    small, large = _triple_keys(*columns, 3, 3), _triple_keys(*columns, 1 << 30, 1 << 4)
    assert len(set(small.tolist())) == len(set(large.tolist())) == len(set(drawn))
    assert (small[:, None] == small).tolist() == (large[:, None] == large).tolist()


def test_triples_that_wrap_around_to_one_number_are_two() -> None:
    # (head * 16 + relation) * 2 ** 31 + tail of both is the same modulo 2 ** 64.
    head, relation, tail = np.array([[0, 1 << 30], [0, 0], [5, 5]])
    assert len(set(_triple_keys(head, relation, tail, 1 << 31, 16).tolist())) == 2


def test_unlisted_file(copy: Path) -> None:
    manifest = read_manifest(copy)
    files = {path: entry for path, entry in manifest.files.items() if not path.endswith("items.parquet")}
    with pytest.raises(SuiteError, match=r"tasks/shop_music/items\.parquet is required"):
        verify_suite(copy, dataclasses.replace(manifest, files=files))


MUSIC, QA, LINKS = "tasks/shop_music", "tasks/shop_games_qa", "tasks/library_links"

BROKEN: list[tuple[str, Change, str]] = [
    ("kgs/shop/triples.parquet", put("head", 3, 61), "row 3: head is outside 0..60"),
    ("kgs/shop/triples.parquet", put("tail", 2, -1), "row 2: tail is outside 0..60"),
    ("kgs/shop/triples.parquet", put("relation", 1, 4), "row 1: relation is outside 0..3"),
    ("kgs/library/triples.parquet", repeat_row, "row 58: the triple occurs before"),
    ("kgs/shop/entities.parquet", put("entity", 5, 7), "row 5: entity ids are not 0..n-1 in order"),
    ("kgs/shop/entities.parquet", put("key", 4, "music:item:0"), "row 4: key is not unique"),
    ("kgs/shop/entities.parquet", put("domain", 4, None), "row 4: domain is null"),
    ("kgs/shop/relations.parquet", put("relation", 1, 0), "row 1: relation ids are not 0..n-1 in order"),
    (f"{MUSIC}/items.parquet", put("item", 2, 9), "row 2: item ids are not 0..n-1 in order"),
    (f"{MUSIC}/items.parquet", put("entity", 0, 61), "row 0: entity is outside 0..60"),
    (f"{MUSIC}/train.parquet", put("user", 0, N_USERS), f"row 0: user is outside 0..{N_USERS - 1}"),
    (f"{MUSIC}/valid.parquet", put("item", 0, N_MUSIC), f"row 0: item is outside 0..{N_MUSIC - 1}"),
    (f"{MUSIC}/train.parquet", repeat_row, "row 194: the (user, item) pair occurs before"),
    (f"{QA}/test.parquet", put("label", 6, 2), "row 6: label is outside 0..1"),
    (f"{QA}/valid.parquet", put("entity", 0, 70), "row 0: entity is outside 0..60"),
    (f"{QA}/train.parquet", repeat_row, "row 64: the example id occurs before"),
    (f"{QA}/test.parquet", put("example", 1, 0), "row 1: the example id is also in train"),
    (f"{QA}/train.parquet", put("text", 8, None), "row 8: text is null"),
    (f"{LINKS}/test.parquet", put("relation", 2, 3), "row 2: relation is outside 0..2"),
    (f"{LINKS}/valid.parquet", repeat_row, "row 6: the triple occurs before"),
]


@pytest.mark.parametrize(("path", "change", "rule"), BROKEN, ids=[f"{p}: {r}" for p, _, r in BROKEN])
def test_each_broken_rule_names_file_row_and_rule(copy: Path, path: str, change: Change, rule: str) -> None:
    original = pq.read_table(copy / path)
    frame = change(original.to_pandas(types_mapper=pd.ArrowDtype))
    table = pa.Table.from_pandas(frame, schema=original.schema, preserve_index=False).replace_schema_metadata(
        None
    )
    manifest = rewrite(copy, read_manifest(copy), path, table)
    with pytest.raises(SuiteError) as caught:
        verify_suite(copy, manifest)
    assert f"  - {path}: {rule}" in str(caught.value)
    verify_suite(copy, manifest, contents=False)


def test_pair_in_two_splits(copy: Path) -> None:
    train, test = (
        pq.read_table(copy / MUSIC / f"{split}.parquet").to_pandas() for split in ("train", "test")
    )
    test.loc[3, ["user", "item"]] = train.loc[0, ["user", "item"]]
    manifest = rewrite(
        copy, read_manifest(copy), f"{MUSIC}/test.parquet", pa.Table.from_pandas(test, preserve_index=False)
    )
    with pytest.raises(
        SuiteError, match=r"test\.parquet: row 3: the \(user, item\) pair is also in train \(1 such rows\)"
    ):
        verify_suite(copy, manifest)


@pytest.mark.parametrize(
    "path",
    [
        "kgs/shop/entities.parquet",
        "kgs/shop/triples.parquet",
        f"{MUSIC}/items.parquet",
        f"{MUSIC}/test.parquet",
        f"{QA}/train.parquet",
    ],
)
def test_other_columns(copy: Path, path: str) -> None:
    manifest = rewrite(copy, read_manifest(copy), path, pa.table({"surprise": [1.5]}))
    with pytest.raises(SuiteError, match=rf"{path}: columns are \(surprise:double\); the format wants \("):
        verify_suite(copy, manifest)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("shop_music", {"kg": "nowhere"}, "its KG 'nowhere' is not in the suite"),
        ("shop_music", {"ks": ()}, "needs n_users and ks"),
        ("shop_music", {"n_users": None}, "needs n_users and ks"),
        ("shop_games_qa", {"labels": ()}, "needs labels"),
    ],
)
def test_broken_task_entry(tiny_suite: Suite, name: str, change: dict[str, object], message: str) -> None:
    tasks = tuple(
        dataclasses.replace(task, **change) if task.name == name else task
        for task in tiny_suite.manifest.tasks
    )
    with pytest.raises(SuiteError, match=rf"task {name}: .*{message}"):
        verify_suite(tiny_suite.folder, dataclasses.replace(tiny_suite.manifest, tasks=tasks))


@pytest.mark.parametrize(
    ("link", "rule"),
    [
        ((61, "library", 0), "entity is outside 0..60"),
        ((0, "library", 34), "other_entity is outside 0..33"),
        ((0, "nowhere", 0), "other_kg 'nowhere' is not in the suite"),
    ],
)
def test_broken_links(tmp_path: Path, link: tuple[int, str, int], rule: str) -> None:
    frames = tiny_suite_frames()
    links = pd.DataFrame([(*link, "same")], columns=["entity", "other_kg", "other_entity", "rule"])
    shop = dataclasses.replace(frames.kgs[0], links=links)
    manifest = write_suite(tmp_path, dataclasses.replace(frames, kgs=(shop, frames.kgs[1])))
    with pytest.raises(SuiteError, match=rule):
        verify_suite(tmp_path, manifest)


def test_faults_are_counted_and_the_list_is_cut(copy: Path) -> None:
    shutil.rmtree(copy / "tasks")
    manifest = read_manifest(copy)
    absent = {f"x{i}.parquet": next(iter(manifest.files.values())) for i in range(30)}
    with pytest.raises(SuiteError) as caught:
        verify_suite(copy, dataclasses.replace(manifest, files={**manifest.files, **absent}))
    assert "breaks 43 rule(s)" in str(caught.value)
    assert "... and 23 more" in str(caught.value)
