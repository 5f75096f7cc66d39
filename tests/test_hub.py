"""The Hub client is the real one; the Hub is a local server."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from _hub_server import REPO, REVISION, Fault, Hub, serve

from kpi_bench import hub as hub_module
from kpi_bench.errors import HubError, SuiteError
from kpi_bench.hub import fetch_dataset
from kpi_bench.suites import load
from kpi_bench.suites.recipes import build_suite

TOKEN = "hf_" + "x" * 34


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waits between its retries; these tests do not."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "suite"
    build_suite("kpi-mini", None, folder)
    return folder


@pytest.fixture
def published(built: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "published"
    shutil.copytree(built, folder)
    (folder / "loader.py").write_text("raise SystemExit('a loading script ran')")
    return folder


@pytest.fixture
def server(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serve(published) as running:
        yield running


def fetcher(server: Hub, tmp_path: Path) -> functools.partial[Path]:
    return functools.partial(fetch_dataset, endpoint=server.endpoint, cache=tmp_path / "cache")


def test_fetches_suite_files_and_no_script(server: Hub, tmp_path: Path, published: Path) -> None:
    folder = fetcher(server, tmp_path)(REPO, REVISION)
    fetched = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    expected = {path.relative_to(published).as_posix() for path in published.rglob("*") if path.is_file()}
    assert fetched == expected - {"loader.py"}
    assert not any("loader.py" in path for path in server.paths)


def test_second_fetch_is_served_from_the_cache_even_offline(server: Hub, tmp_path: Path) -> None:
    fetch = fetcher(server, tmp_path)
    first = fetch(REPO, REVISION)
    server.paths.clear()
    assert fetch(REPO, REVISION, offline=True) == first
    assert server.paths == []


def test_offline_without_a_copy_says_how_to_get_one(server: Hub, tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"not \(completely\) in the local Hub cache.*Fetch it once online"):
        fetcher(server, tmp_path)(REPO, REVISION, offline=True)
    assert server.paths == []


def test_the_environment_can_switch_the_network_off(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="network is off"):
        fetcher(server, tmp_path)(REPO, REVISION)
    assert server.paths == []


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "log in"), (403, "no access"), (404, "does not exist"), (500, "try again")]
)
def test_refusals_are_explained_without_the_token(
    server: Hub, tmp_path: Path, status: int, advice: str
) -> None:
    server.refuse = status
    with pytest.raises(HubError, match=rf"answered {status}.*") as caught:
        fetcher(server, tmp_path)(REPO, REVISION)
    assert advice in str(caught.value)
    assert REPO in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_an_unknown_revision_is_a_404(server: Hub, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="404"):
        fetcher(server, tmp_path)(REPO, "f" * 40)


def test_no_connection(server: Hub, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="could not be reached"):
        fetch_dataset(REPO, REVISION, endpoint="http://127.0.0.1:9", cache=tmp_path / "cache")


def test_invalid_repository_name(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="no valid name"):
        fetch_dataset("a/b/c", REVISION, cache=tmp_path)


def test_load_suite_from_the_hub(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "fetch_dataset", fetcher(server, tmp_path))
    address = f"hf://{REPO}@{REVISION}"
    suite = load.load_suite(address)
    assert (suite.name, suite.revision, suite.source) == ("kpi-mini", REVISION, address)
    assert load.load_suite(address, offline=True).manifest.digest == suite.manifest.digest


def test_a_download_that_is_cut_off_is_continued(server: Hub, tmp_path: Path) -> None:
    content = os.urandom(25_000_000)
    path = "tasks/large/train.parquet"
    server.repos["dataset", REPO].add({path: content}, "large", sha="a" * 40)
    # The client asks for the headers first.
    server.faults.append(Fault("resolve", half=True, skip=1))
    folder = fetcher(server, tmp_path)(REPO, "a" * 40)
    assert (folder / path).read_bytes() == content
    (asked,) = server.ranges
    assert int(asked.removeprefix("bytes=").removesuffix("-")) > 0


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429}, {"drop": True}])
@pytest.mark.parametrize("call", ["tree", "resolve"])
def test_a_fault_that_passes_is_survived(
    server: Hub, tmp_path: Path, call: str, fault: dict[str, object]
) -> None:
    server.faults.append(Fault(call, **fault))  # type: ignore[arg-type]
    assert (fetcher(server, tmp_path)(REPO, REVISION) / "suite.json").is_file()
    assert server.faults[0].times == 0


def test_a_tampered_file_is_refused(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = server.repos["dataset", REPO]
    files = repo.at(REVISION).files
    swapped = {"tasks/amazon_music/test.parquet": files["tasks/amazon_music/valid.parquet"]}
    repo.add({**files, **swapped}, "tamper", sha=REVISION)
    monkeypatch.setattr(load, "fetch_dataset", fetcher(server, tmp_path))
    with pytest.raises(SuiteError, match=r"tasks/amazon_music/test\.parquet"):
        load.load_suite(f"hf://{REPO}@{REVISION}")


def test_environment_alone_is_enough_online_and_then_offline(server: Hub, tmp_path: Path) -> None:
    script = f"from kpi_bench.suites.load import load_suite; print(load_suite('hf://{REPO}@{REVISION}').manifest.digest)"
    environment = {**os.environ, "HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home")}
    environment["PYTHONPATH"] = str(Path(hub_module.__file__).parents[2])

    def run(**extra: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script]
        return subprocess.run(
            command, env={**environment, **extra}, capture_output=True, text=True, timeout=120
        )

    online = run()
    assert online.returncode == 0, online.stderr
    server.paths.clear()
    offline = run(HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert offline.returncode == 0, offline.stderr
    assert offline.stdout == online.stdout
    assert server.paths == []
    assert TOKEN not in online.stderr + offline.stderr
