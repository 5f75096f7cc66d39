"""Publish a suite and load it again: the real client against a local Hub, without and with faults."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import pandas as pd
import pytest
import yaml
from _hub_fixtures import PATIENCE, TOKEN, hub_environment  # noqa: F401
from _hub_server import SILENCE, Fault, Hub, serve
from suite_factory import tiny_suite_frames

from kpi_bench.cli import main
from kpi_bench.errors import HubError, SuiteError
from kpi_bench.hub import fetch_dataset
from kpi_bench.publish import PublishedSuite, push_suite
from kpi_bench.publish.suite import evaluation_file
from kpi_bench.suites import load
from kpi_bench.suites.manifest import read_manifest, write_manifest
from kpi_bench.suites.suite import Suite
from kpi_bench.suites.writer import write_suite

REPO = "kpi/new"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as running:
        yield running


@pytest.fixture
def folder(tiny_suite: Suite, tmp_path: Path) -> Path:
    copy = tmp_path / "suite"
    shutil.copytree(tiny_suite.folder, copy)
    return copy


def push(hub: Hub, folder: Path, *, tag: str | None = None, private: bool = False) -> PublishedSuite:
    return push_suite(folder, REPO, tag=tag, private=private, endpoint=hub.endpoint, patience=PATIENCE)


def test_push_and_load(
    hub: Hub, folder: Path, tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "notes.txt").write_text("not listed in the manifest")
    done = push(hub, folder)
    repo = hub.repos["dataset", REPO]
    version = tiny_suite.manifest.version
    assert done == PublishedSuite(
        f"hf://{REPO}@{repo.at('main').sha}", repo.at("main").sha, f"v{version}", True
    )
    assert repo.tags == {f"v{version}": done.revision}
    assert len(repo.commits) == 2
    wanted = {"README.md", "suite.json", "eval.yaml", ".gitattributes", *tiny_suite.manifest.files}
    assert set(repo.at("main").files) == wanted

    def fetch(repo: str, revision: str, *, offline: bool | None = None) -> Path:
        return fetch_dataset(repo, revision, offline=offline, endpoint=hub.endpoint)

    monkeypatch.setattr(load, "fetch_dataset", fetch)
    assert load.load_suite(done.address).manifest.digest == tiny_suite.manifest.digest
    assert load.load_suite(done.address, offline=True).revision == done.revision


def test_evaluation_file_names_what_the_card_names(folder: Path) -> None:
    manifest = read_manifest(folder)
    odd = dataclasses.replace(manifest, description='Two: "KGs" # and\n- a list')
    found = yaml.safe_load(evaluation_file(odd))
    card = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert found["description"] == odd.description
    assert [task["id"] for task in found["tasks"]] == [task.name for task in manifest.tasks]
    configs = {config["config_name"]: config["data_files"] for config in card["configs"]}
    for task in found["tasks"]:
        assert task["split"] in {file["split"] for file in configs[task["config"]]}


def test_the_card_lists_links_where_there_are_some(tmp_path: Path) -> None:
    frames = tiny_suite_frames()
    row = {"entity": [0], "other_kg": ["library"], "other_entity": [1], "rule": ["name"]}
    linked, *others = frames.kgs
    kgs = (dataclasses.replace(linked, links=pd.DataFrame(row)), *others)
    write_suite(tmp_path / "linked", dataclasses.replace(frames, kgs=kgs))
    card = yaml.safe_load((tmp_path / "linked" / "README.md").read_text().split("---")[1])
    found = [
        c
        for c in card["configs"]
        if c["config_name"].endswith("_links") and c["config_name"].startswith("kg_")
    ]
    place = f"kgs/{linked.spec.name}/links.parquet"
    assert found == [{"config_name": f"kg_{linked.spec.name}_links", "data_files": place}]
    table = datasets.load_dataset(
        str(tmp_path / "linked"), found[0]["config_name"], split="train", cache_dir=str(tmp_path / "cache")
    )
    assert table.to_list() == [{name: values[0] for name, values in row.items()}]


def test_the_same_suite_is_not_sent_twice(hub: Hub, folder: Path) -> None:
    first = push(hub, folder)
    hub.calls.clear()
    assert push(hub, folder) == dataclasses.replace(first, changed=False)
    assert not {"commit", "preupload", "lfs-put", "tag"} & set(hub.calls)


def test_a_published_version_does_not_change(hub: Hub, folder: Path) -> None:
    first = push(hub, folder)
    with (folder / "README.md").open("a") as card:
        card.write("More.\n")
    with pytest.raises(HubError, match=rf"names commit {first.revision}, which has other content.*--tag"):
        push(hub, folder)
    second = push(hub, folder, tag="corrected-card")
    assert second.revision != first.revision
    assert set(hub.repos["dataset", REPO].tags.values()) == {first.revision, second.revision}


def test_a_new_version_removes_tables_that_are_gone(hub: Hub, folder: Path, tmp_path: Path) -> None:
    push(hub, folder)
    frames = tiny_suite_frames()
    gone = frames.tasks[-1].spec.name
    newer = dataclasses.replace(frames, version="9.9.9", tasks=frames.tasks[:-1])
    write_suite(tmp_path / "newer", newer)
    done = push(hub, tmp_path / "newer")
    repo = hub.repos["dataset", REPO]
    assert done.tag == "v9.9.9"
    assert not any(path.startswith(f"tasks/{gone}/") for path in repo.at("main").files)
    assert ".gitattributes" in repo.at("main").files
    assert len(repo.commits) == 3


CALLS = (
    "create_repo", "refs", "info", "tree", "paths-info", "validate-yaml", "preupload", "lfs-batch", "lfs-put", "lfs-verify", "commit", "tag",
)  # fmt: skip


@pytest.mark.parametrize("kind", [{"status": 503}, {}])
@pytest.mark.parametrize("call", CALLS)
def test_a_fault_that_passes_is_survived(hub: Hub, folder: Path, call: str, kind: dict[str, object]) -> None:
    hub.faults.append(Fault(call, **kind))  # type: ignore[arg-type]
    started = time.monotonic()
    done = push(hub, folder)
    assert time.monotonic() - started < SILENCE / 2
    repo = hub.repos["dataset", REPO]
    assert hub.faults[0].times == 0
    assert len(repo.commits) == 2
    assert repo.tags == {done.tag: done.revision}


@pytest.mark.parametrize("call", CALLS)
def test_a_fault_that_stays_leaves_nothing_half_done(hub: Hub, folder: Path, call: str) -> None:
    hub.faults.append(Fault(call, status=500, times=None))
    with pytest.raises(HubError, match=rf"dataset {REPO}: ") as caught:
        push(hub, folder)
    assert TOKEN not in str(caught.value)
    repo = hub.repos.get(("dataset", REPO))
    assert repo is None or len(repo.commits) == (2 if call == "tag" else 1)
    assert repo is None or repo.tags == {}
    hub.faults.clear()
    hub.paths.clear()
    there = set(hub.objects)
    done = push(hub, folder)
    repo = hub.repos["dataset", REPO]
    assert len(repo.commits) == 2
    assert repo.tags == {done.tag: done.revision}
    assert not any(path.removeprefix("PUT /lfs/") in there for path in hub.paths)


@pytest.mark.parametrize("call", ["create_repo", "commit", "tag"])
def test_an_answer_that_is_lost_is_no_failure(hub: Hub, folder: Path, call: str) -> None:
    hub.faults.append(Fault(call, drop=True, done=True))
    done = push(hub, folder)
    repo = hub.repos["dataset", REPO]
    assert done.changed
    assert len(repo.commits) == 2
    assert repo.tags == {done.tag: done.revision}


def test_a_private_repository(hub: Hub, folder: Path) -> None:
    push(hub, folder, private=True)
    assert hub.repos["dataset", REPO].private


def test_a_repository_that_may_not_be_made(hub: Hub, folder: Path) -> None:
    hub.faults.append(Fault("create_repo", status=403, times=None))
    with pytest.raises(HubError, match=r"create it: the Hub answered 403"):
        push(hub, folder)
    assert hub.calls.count("create_repo") == 1


def test_a_broken_suite_is_not_sent(hub: Hub, folder: Path, tmp_path: Path) -> None:
    manifest = read_manifest(folder)
    path = sorted(manifest.files)[0]
    (folder / path).write_bytes(b"PAR1")
    with pytest.raises(SuiteError, match=path):
        push(hub, folder)
    with pytest.raises(SuiteError, match="no folder"):
        push(hub, tmp_path / "absent")
    assert hub.calls == []


def test_what_must_not_be_published_is_refused(hub: Hub, folder: Path) -> None:
    manifest = dataclasses.replace(read_manifest(folder), sources=("/home/ann/raw.csv",))
    write_manifest(folder, manifest)
    with (folder / "README.md").open("a") as card:
        card.write("Ask ann@example.org.\n")
    with pytest.raises(
        SuiteError, match=r"(?s)sources\[0\]: an absolute path.*README\.md: line \d+: an e-mail"
    ):
        push(hub, folder)
    assert hub.calls == []


def test_the_copy_without_labels_is_refused(hub: Hub, folder: Path) -> None:
    write_manifest(folder, dataclasses.replace(read_manifest(folder), withheld=True))
    with pytest.raises(SuiteError, match="without test labels"):
        push(hub, folder)


def test_command(hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "push", str(folder), "--repo", REPO, "--endpoint", hub.endpoint, "--tag", "v7"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    revision = hub.repos["dataset", REPO].tags["v7"]
    assert f"{REPO} v7: published\nrevision {revision}\n" in printed
    assert f'load_suite("hf://{REPO}@{revision}")' in printed
    assert main(command) == 0
    assert "already there, nothing was sent" in capsys.readouterr().out
    files = hub.repos["dataset", REPO].at("main").files
    assert json.loads(files["suite.json"])["name"] == read_manifest(folder).name
