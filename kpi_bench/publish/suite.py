"""Publish a suite as a dataset repository."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from kpi_bench._schema import encode
from kpi_bench._secrets import find_private
from kpi_bench.errors import HubError, SuiteError
from kpi_bench.hub import Patience, Repository, Upload
from kpi_bench.publish._private import private_in_parquet, private_in_text
from kpi_bench.suites.load import HUB_PREFIX, load_suite
from kpi_bench.suites.manifest import MANIFEST, Manifest

CARD, EVALUATION = "README.md", "eval.yaml"
TABLE_FOLDERS = ("kgs/", "tasks/")


@dataclass(frozen=True)
class PublishedSuite:
    """The suite's address for ``load_suite``, its tag, and whether anything had to be written."""

    address: str
    revision: str
    tag: str
    changed: bool


def push_suite(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    tag: str | None = None,
    endpoint: str | None = None,
    patience: Patience | None = None,
) -> PublishedSuite:
    """Verify a suite's folder, write it as one commit of a dataset repository (made if absent), and tag the commit.

    Only what the manifest lists is sent, with the card and :func:`evaluation_file`; tables of an earlier version that are no longer
    listed are removed. A second call after a failure goes on where the first ended.

    Args:
        folder: the suite.
        repo: ``OWNER/NAME``.
        private: visibility of a repository that is made now.
        tag: name of the version; None takes the manifest's, ``v1.0.0``.
        endpoint: another Hub, None for the client's own (HF_ENDPOINT).
        patience: how long to insist, None for the usual.

    Raises:
        SuiteError: a file or rule is broken, test labels are withheld, or a credential, absolute path or address is inside.
        HubError: the tag names other content, somebody else changed the files meanwhile, or the Hub refused.
    """
    if not folder.is_dir():
        raise SuiteError(
            f"{folder} is no folder; name the folder of a suite (`kpi-bench data build` makes one)"
        )
    manifest = load_suite(folder).manifest
    if manifest.withheld:
        raise SuiteError(
            f"{folder} is the copy without test labels that submissions see; publish the suite itself"
        )
    if not (folder / CARD).is_file():
        raise SuiteError(f"{folder} has no {CARD}, the dataset card; build the suite again")
    if found := _private(folder, manifest):
        listed = "\n".join(f"  - {line}" for line in found)
        raise SuiteError(f"{folder}: not published; take these out and build the suite again:\n{listed}")
    uploads = [
        *(Upload(path, folder / path) for path in (CARD, MANIFEST, *sorted(manifest.files))),
        Upload(EVALUATION, evaluation_file(manifest).encode("utf-8")),
    ]
    name = tag or f"v{manifest.version}"
    repository = Repository(repo, endpoint=endpoint, patience=patience)
    repository.create(private=private)
    tagged = repository.tags().get(name)
    if tagged is not None:
        if repository.holds(uploads, tagged):
            return PublishedSuite(f"{HUB_PREFIX}{repo}@{tagged}", tagged, name, False)
        raise HubError(
            f"dataset {repo}: tag {name} names commit {tagged}, which has other content. A published version does not change: "
            "give the suite a new version, or choose another tag with --tag."
        )
    sent = {upload.path for upload in uploads}
    stale = [path for path in repository.paths("main") if path.startswith(TABLE_FOLDERS) and path not in sent]
    done = repository.publish(
        uploads,
        title=f"{manifest.name} {manifest.version}",
        description=f"Digest {manifest.digest}",
        delete=stale,
    )
    repository.tag(name, done.revision)
    return PublishedSuite(f"{HUB_PREFIX}{repo}@{done.revision}", done.revision, name, done.changed)


def evaluation_file(manifest: Manifest) -> str:
    """``eval.yaml``, by which the Hub knows a benchmark: one entry a task, its dataset config and split as the card names them.

    Source: huggingface.co/docs/hub/eval-results.
    """
    # A JSON string is a YAML string as well.
    lines = [
        f"name: {json.dumps(f'{manifest.name} {manifest.version}')}",
        f"description: {json.dumps(manifest.description)}",
        "evaluation_framework: kpi-bench",
        "tasks:",
    ]
    for task in manifest.tasks:
        lines += [f"- id: {json.dumps(task.name)}", f"  config: {json.dumps(task.name)}", "  split: test"]
    return "\n".join(lines) + "\n"


def _private(folder: Path, manifest: Manifest) -> list[str]:
    found = [f"{MANIFEST}: {where}: {why}" for where, why in find_private(encode(manifest))]
    found += private_in_text(folder / CARD, CARD)
    for path in sorted(manifest.files):
        found += private_in_parquet(folder / path, path)
    return found
