"""The copy of a suite that a submission sees: test labels removed, queries in their place."""

from __future__ import annotations

import dataclasses
import shutil
import stat
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kpi_bench._io import sha256_file, write_parquet
from kpi_bench._sorted import distinct
from kpi_bench.errors import SuiteError
from kpi_bench.evaluators.ranking import tie_order
from kpi_bench.harness.protocol import (
    ClassificationQueries,
    LinkPredictionQueries,
    Queries,
    RecommendationQueries,
)
from kpi_bench.suites.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from kpi_bench.suites.suite import Suite
from kpi_bench.suites.task import (
    ClassificationTask,
    RecommendationTask,
    Task,
    TaskSpec,
)

QUERIES = "queries.parquet"

S = TypeVar("S")


def withheld_copy(suite: Suite, parent: Path) -> Path:
    """Make, or find, the copy of ``suite`` without test labels under ``parent``; its name carries the suite's digest.

    Files are copied, not linked, so that a submission can neither follow a link to the labels nor change the original.
    A copy that a submission has changed is made anew.
    """
    folder = parent / f"{suite.name}-{suite.manifest.digest[:16]}"
    hidden = {f"tasks/{name}/test.parquet" for name in suite.task_names()}
    files = {path: entry for path, entry in suite.manifest.files.items() if path not in hidden}
    manifest = dataclasses.replace(suite.manifest, files=files, withheld=True)
    if _intact(folder, manifest, suite):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    for path in files:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(suite.folder / path, target)
    for name in suite.task_names():
        write_parquet(folder / "tasks" / name / QUERIES, query_frame(suite.task(name)))
    write_manifest(folder, manifest)
    return folder


def file_states(folder: Path) -> dict[str, tuple[int, ...]]:
    """What the system knows of each file below ``folder``; it differs after any write, rename or removal."""
    states: dict[str, tuple[int, ...]] = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            states[path.relative_to(folder).as_posix()] = (
                status.st_ino,
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
            )
    return states


def _intact(folder: Path, manifest: Manifest, suite: Suite) -> bool:
    """True when the copy is there and holds what it should, no more and no less."""
    queries = {f"tasks/{name}/{QUERIES}": name for name in suite.task_names()}
    if set(file_states(folder)) != {MANIFEST, *manifest.files, *queries}:
        return False
    try:
        if read_manifest(folder) != manifest:
            return False
        return all(
            sha256_file(folder / path) == entry.sha256 for path, entry in manifest.files.items()
        ) and all(
            pq.read_table(folder / path).to_pandas().equals(query_frame(suite.task(name)))
            for path, name in queries.items()
        )
    except (OSError, SuiteError, pa.ArrowException):
        return False


def query_frame(task: Task) -> pd.DataFrame:
    """The inputs of a task's test queries, without labels, as a table."""
    if isinstance(task, RecommendationTask):
        return pd.DataFrame({"user": test_users(task)})
    if isinstance(task, ClassificationTask):
        test = _present(task.test, task.spec)
        return pd.DataFrame({"example": test.examples, "entity": test.entities, "text": test.texts})
    triples = _present(task.test, task.spec)
    tail, head = np.zeros_like(triples.heads), np.ones_like(triples.heads)
    asked = pd.DataFrame(
        {
            "entity": np.concatenate([triples.heads, triples.tails]),
            "relation": np.concatenate([triples.relations, triples.relations]),
            "direction": np.concatenate([tail, head]),
        }
    )
    # Distinct and sorted as in LinkPredictionIndex: neither order nor repetition tells which triples are asked about.
    return asked.drop_duplicates().sort_values(["direction", "relation", "entity"], ignore_index=True)


def test_users(task: RecommendationTask) -> NDArray[np.int64]:
    """Users with at least one test item, ascending, int64 ``[n]``."""
    return distinct(_present(task.test, task.spec).users)


def read_queries(folder: Path, task: Task, *, mask: tuple[str, ...] | None = None) -> Queries:
    """Queries of a task from a withheld copy; ``mask`` replaces the task's own mask policy (recommendation)."""
    table = pq.read_table(folder / "tasks" / task.spec.name / QUERIES)
    columns = {name: table.column(name) for name in table.column_names}
    if isinstance(task, RecommendationTask):
        return recommendation_queries(task, columns["user"].to_numpy(), mask or task.spec.mask)
    if isinstance(task, ClassificationTask):
        return ClassificationQueries(
            columns["example"].to_numpy(), columns["entity"].to_numpy(), columns["text"].to_pylist()
        )
    return LinkPredictionQueries(*(columns[name].to_numpy() for name in ("entity", "relation", "direction")))


def recommendation_queries(
    task: RecommendationTask, users: NDArray[np.int64], mask: tuple[str, ...]
) -> RecommendationQueries:
    """Queries for the given users; items of the splits in ``mask`` are excluded."""
    return RecommendationQueries(
        users=users,
        exclude=task.matrix(*mask).select(users),
        k=task.spec.k,
        tie_order=tie_order(task.n_items, task.spec.name),
    )


def _present(split: S | None, spec: TaskSpec) -> S:
    if split is None:
        raise SuiteError(f"task {spec.name}: the test split is withheld here; nothing can be scored")
    return split
