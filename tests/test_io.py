"""Files are written whole or not at all."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kpi_bench._io import (
    atomic_path,
    read_json,
    sha256_file,
    sha256_text,
    write_json,
    write_parquet,
    write_text,
)


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def interrupted() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_nothing_where_nothing_was(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "new" / "a.json", {"loss": float("nan")})
    with pytest.raises(pa.ArrowInvalid):
        write_parquet(
            tmp_path / "new" / "a.parquet", pd.DataFrame({"a": ["x"]}), schema=pa.schema([("a", pa.int64())])
        )
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_new_file_replaces_the_old_and_can_be_read_by_others(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    write_text(path, "old")
    write_text(path, "nü")
    assert path.read_bytes() == "nü".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"ä": [1, 2.5, None, True, "x"], "third": 1 / 3}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert '\n  "ä": [' in text
    assert text.endswith("}\n")


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [3, 1], "b": ["x", None]})
    write_parquet(tmp_path / "1.parquet", frame)
    write_parquet(tmp_path / "2.parquet", frame.set_index(pd.Index([7, 9])))
    assert sha256_file(tmp_path / "1.parquet") == sha256_file(tmp_path / "2.parquet")
    assert pq.read_schema(tmp_path / "1.parquet").metadata is None
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "1.parquet"), frame)


def test_a_schema_sets_types_and_order(tmp_path: Path) -> None:
    schema = pa.schema([("b", pa.float32()), ("a", pa.int64())])
    write_parquet(tmp_path / "a.parquet", pd.DataFrame({"a": [1], "b": [2]}), schema=schema)
    assert pq.read_schema(tmp_path / "a.parquet").equals(schema)


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("ä".encode())
    assert sha256_file(tmp_path / "a") == sha256_text("ä") == hashlib.sha256("ä".encode()).hexdigest()
