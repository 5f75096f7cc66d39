"""What every test against the local Hub needs: a token, no pauses, a cache of its own, and an eye on the token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from kpi_bench.hub import Patience

TOKEN = "hf_" + "y" * 34
PATIENCE = Patience(timeout=0.4)


@pytest.fixture(autouse=True)
def hub_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A token, no pauses between attempts, a cache of the test's own, and uploads over LFS, which the local Hub speaks."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def no_token_is_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    caplog.set_level("DEBUG")
    yield
    captured = capfd.readouterr()
    assert TOKEN not in captured.out + captured.err + caplog.text
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()
