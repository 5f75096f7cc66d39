"""Paths on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from baselines.common.paths.corpus import WrittenPaths, read_paths, write_paths
from kpi_bench.errors import SubmissionError


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    width=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_rows_come_back_in_order_without_the_empty_ones(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], width: int, seed: int
) -> None:
    file = tmp_path_factory.mktemp("corpus") / "paths.arrow"
    rng = np.random.default_rng(seed)
    blocks = [rng.integers(-1, 2, (size, width)).astype(np.int32) for size in sizes]
    rows = np.concatenate(blocks)
    real = [row for row in rows.tolist() if any(value != -1 for value in row)]
    assert write_paths(file, iter(blocks)) == WrittenPaths(len(real), len(rows) - len(real))
    found = read_paths(file)
    assert found.dtype == np.int32
    assert found.shape == (len(real), width)
    assert found.tolist() == real
    assert [path.name for path in file.parent.iterdir()] == ["paths.arrow"]


def test_the_file_is_plain_arrow_and_its_rows_are_a_view(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "paths.arrow"
    rows = np.arange(7 * 1000, dtype=np.int32).reshape(1000, 7)
    before = pa.total_allocated_bytes()
    write_paths(file, [rows[:10], np.asfortranarray(rows[10:])])  # the second block does not lie row by row
    found = read_paths(file)
    assert pa.total_allocated_bytes() - before < rows.nbytes // 2
    assert not found.flags.owndata
    assert not found.flags.writeable
    np.testing.assert_array_equal(found, rows)
    table = pa.ipc.open_file(str(file)).read_all()
    assert table.schema == pa.schema([("path", pa.list_(pa.field("item", pa.int32()), 7))])
    assert table.column("path")[3].as_py() == list(range(21, 28))


def test_a_failing_stream_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "paths.arrow"
    write_paths(file, [np.zeros((2, 3), np.int32)])

    def blocks() -> Iterator[NDArray[np.int32]]:
        yield np.ones((4, 3), np.int32)
        raise RuntimeError("the walk broke")

    with pytest.raises(RuntimeError, match="broke"):
        write_paths(file, blocks())
    np.testing.assert_array_equal(read_paths(file), np.zeros((2, 3)))
    assert [path.name for path in tmp_path.iterdir()] == ["paths.arrow"]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], "no block"),
        ([np.zeros((2, 3), np.int64)], r"int32 \[any, 3\]; got int64 \[2, 3\]"),
        ([np.zeros((2, 3), np.int32), np.zeros((2, 5), np.int32)], r"int32 \[any, 3\]; got int32 \[2, 5\]"),
        ([np.zeros(3, np.int32)], r"got int32 \[3\]"),
        ([np.zeros((3, 0), np.int32)], r"got int32 \[3, 0\]"),
    ],
)
def test_wrong_blocks_are_refused(tmp_path: Path, blocks: list[NDArray[np.int32]], message: str) -> None:
    with pytest.raises(SubmissionError, match=message):
        write_paths(tmp_path / "paths.arrow", blocks)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "columns",
    [
        {"rows": pa.array([[1, 2]], pa.list_(pa.int32(), 2))},
        {"path": pa.array([[1, 2]], pa.list_(pa.int32()))},
        {"path": pa.array([[1, 2]], pa.list_(pa.int64(), 2))},
        {"path": pa.array([[1, 2], None], pa.list_(pa.int32(), 2))},
        {"path": pa.array([[1, None]], pa.list_(pa.int32(), 2))},
    ],
)
def test_other_arrow_files_are_refused(tmp_path: Path, columns: dict[str, pa.Array]) -> None:
    file = tmp_path / "paths.arrow"
    batch = pa.record_batch(columns)
    with pa.ipc.new_file(str(file), batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(SubmissionError, match="paths"):
        read_paths(file)


def test_absent_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match="cannot be read as paths"):
        read_paths(tmp_path / "absent.arrow")
    (tmp_path / "broken.arrow").write_bytes(b"not an arrow file at all")
    with pytest.raises(SubmissionError, match="Write it with write_paths"):
        read_paths(tmp_path / "broken.arrow")
    (tmp_path / "empty.arrow").touch()
    with pytest.raises(SubmissionError, match="cannot be read as paths"):
        read_paths(tmp_path / "empty.arrow")
