"""Read a results repository into a folder."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from kpi_bench._io import atomic_folder, sha256_file, write_text
from kpi_bench.errors import HubError
from kpi_bench.harness.results import predictions_folder, queries_path
from kpi_bench.hub import RESULT_FILES, Patience, Repository, fetch_dataset
from kpi_bench.hub.retry import network_off
from kpi_bench.leaderboard.load import StoredResult, load_results
from kpi_bench.publish.results import RESULTS, misplaced_names

PREDICTION_FILES = ("*/predictions/*.parquet",)
# Names what a folder was pulled from, and marks it as one that the next pull may replace.
SOURCE = "PULLED.txt"
_FULL_HASH = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Pulled:
    """Results at a revision (full commit hash), as they lie under ``folder/results``; ``problems`` says what was left out, and why."""

    folder: Path
    revision: str
    stored: tuple[StoredResult, ...]
    problems: tuple[str, ...]


def pull_results(
    repo: str,
    out: Path,
    *,
    revision: str = "main",
    predictions: bool = False,
    offline: bool | None = None,
    endpoint: str | None = None,
    cache: Path | None = None,
    patience: Patience | None = None,
) -> Pulled:
    """All results of a repository at one revision, each checked; bad ones are left out and reported.

    ``out`` becomes what an evaluation's ``--out`` folder is (``results/``, and predictions where ``verify`` looks for them). It is
    written as a whole or not at all; a folder of an earlier pull is replaced.

    Args:
        repo: ``OWNER/NAME``.
        out: new or empty folder, or one of an earlier pull.
        revision: branch, tag, ``refs/pr/N`` or full hash; without a network only a full hash that was pulled before.
        predictions: also those that are attached.
        offline: use the cache alone; None follows HF_HUB_OFFLINE.
        endpoint: another Hub, None for the client's own (HF_ENDPOINT).
        cache: another cache folder, None for the client's own.
        patience: how long to insist, None for the usual.

    Raises:
        ResultError: ``out`` holds something else.
        HubError: offline and not cached, no access, no such repository or revision, or no connection.
    """
    alone = network_off() if offline is None else offline
    with atomic_folder(out, SOURCE) as staged:
        commit = _commit(repo, revision, alone, endpoint, patience)
        patterns = (*RESULT_FILES, *(PREDICTION_FILES if predictions else ()))
        fetched = fetch_dataset(
            repo,
            commit,
            patterns=patterns,
            offline=alone,
            endpoint=endpoint,
            cache=cache,
            patience=patience,
        )
        (staged / RESULTS).mkdir()
        # The cache holds links into a store of blobs; copies have the names that results are checked by.
        if (fetched / RESULTS).is_dir():
            shutil.copytree(fetched / RESULTS, staged / RESULTS, dirs_exist_ok=True)
        kept: list[StoredResult] = []
        loaded = load_results(staged / RESULTS)
        problems = [problem.replace(f"{staged}/", "") for problem in loaded.problems]
        for entry in loaded.stored:
            fault = _copy_predictions(fetched, staged, entry) if predictions else None
            if fault is None:
                kept.append(entry)
            else:
                problems.append(fault)
        _keep_only(staged / RESULTS, kept)
        write_text(staged / SOURCE, f"{repo}@{commit}\n")
    out = out.absolute()
    moved = tuple(_moved(entry, staged, out) for entry in kept)
    return Pulled(out, commit, moved, tuple(problems))


def _commit(repo: str, revision: str, alone: bool, endpoint: str | None, patience: Patience | None) -> str:
    """Full hash of a revision."""
    if _FULL_HASH.fullmatch(revision):
        return revision
    if alone:
        raise HubError(
            f"dataset {repo} at {revision}: the network is off, and a branch or tag cannot be looked up. "
            f"Give --revision the full hash of an earlier pull ({SOURCE} in its folder has it)."
        )
    return Repository(repo, endpoint=endpoint, patience=patience).resolve(revision)


def _copy_predictions(fetched: Path, staged: Path, entry: StoredResult) -> str | None:
    """Copy what is attached to a result; a reason when it is not what the result says."""
    result = entry.result
    if odd := misplaced_names(result):
        return f"{entry.path.relative_to(staged)}: predictions.sha256 names {odd[0]!r}, which is no plain file name"
    source, target = predictions_folder(fetched, result), predictions_folder(staged, result)
    attached = {name: source / name for name in result.predictions.sha256 if (source / name).is_file()}
    for name, file in attached.items():
        if sha256_file(file) != result.predictions.sha256[name]:
            return f"{entry.path.relative_to(staged)}: the attached {name} is not the file whose SHA-256 the result states"
    for name, file in attached.items():
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / name)
    return None


def _keep_only(root: Path, kept: list[StoredResult]) -> None:
    wanted = {entry.path for entry in kept} | {queries_path(entry.path) for entry in kept if entry.queries}
    for path in [path for path in root.rglob("*") if path.is_file() and path not in wanted]:
        path.unlink()


def _moved(entry: StoredResult, before: Path, after: Path) -> StoredResult:
    path = after / entry.path.relative_to(before)
    return StoredResult(path, entry.result, None if entry.queries is None else queries_path(path))
