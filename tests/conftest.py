"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from suite_factory import tiny_suite_frames

from kpi_bench.suites.suite import Suite, open_suite
from kpi_bench.suites.writer import write_suite

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def raw_data() -> Path:
    """Folder of the real raw files; skips the test where they are absent."""
    folder = Path(os.environ.get("KPI_BENCH_DATA", REPOSITORY.parent / "shared" / "data" / "raw"))
    if not folder.is_dir():
        pytest.skip(f"real data are absent: {folder} does not exist (set KPI_BENCH_DATA to the raw folder)")
    return folder


@pytest.fixture(scope="session")
def tiny_suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """The generated suite on disk, shared by all tests: read it, never write into its folder."""
    folder = tmp_path_factory.mktemp("suites") / "tiny"
    write_suite(folder, tiny_suite_frames())
    return open_suite(folder, source="tiny")
