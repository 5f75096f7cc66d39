"""Where a result and its scored predictions contradict each other: suite, files, values, per-query scores."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kpi_bench._io import sha256_file, write_parquet
from kpi_bench._schema import encode
from kpi_bench.harness.assemble import Scored
from kpi_bench.harness.results import Result, queries_path
from kpi_bench.harness.scoring import scored_files
from kpi_bench.suites.suite import Suite
from kpi_bench.suites.task import Task

RELATIVE = 1e-9
ABSENT = "absent"


@dataclass(frozen=True)
class Reason:
    """Why a result is not verified: what a file states of a field (empty: nothing to compare), and what was found instead."""

    file: Path
    field: str
    recorded: str
    found: str

    def __str__(self) -> str:
        compared = f"recorded {self.recorded}, found {self.found}" if self.recorded else self.found
        return f"{self.file}: {self.field}: {compared}"


def suite_reasons(path: Path, result: Result, suite: Suite) -> Iterator[Reason]:
    """Whether this is the suite, and has the task, that the result was made on."""
    manifest, stated = suite.manifest, result.suite
    for field, recorded, found in (
        ("suite.name", stated.name, manifest.name),
        ("suite.version", stated.version, manifest.version),
        ("suite.sha256", stated.sha256, manifest.digest),
    ):
        if recorded != found:
            yield Reason(path, field, recorded, f"{found} in {suite.source}")
    if result.task.name not in suite.task_names():
        yield Reason(path, "task.name", result.task.name, f"tasks {', '.join(suite.task_names())}")


def file_reasons(path: Path, result: Result, task: Task, folder: Path) -> Iterator[Reason]:
    """Whether scoring would read the recorded files, all of them, and none else."""
    recorded = result.predictions.sha256
    files = {seed: scored_files(task, folder / f"seed{seed}") for seed in result.seeds}
    for name in sorted(set(recorded) - {file.name for of_seed in files.values() for file in of_seed}):
        yield Reason(path, f"predictions.sha256.{name}", recorded[name], "no file of a seed of this task")
    for needed, *others in files.values():
        for file in (needed, *others):
            stated = recorded.get(file.name)
            if not file.is_file():
                if stated is not None or file == needed:
                    yield Reason(file, "sha256", stated or ABSENT, "no file")
            elif stated is None:
                yield Reason(path, f"predictions.sha256.{file.name}", ABSENT, f"the file {file}")
            elif (found := sha256_file(file)) != stated:
                yield Reason(file, "sha256", stated, found)


def compare_scores(path: Path, result: Result, scored: Scored) -> tuple[int, list[Reason], tuple[str, ...]]:
    """How many values were compared, where a result says other than its scores, and which values it lacks."""
    stated = {field.name: encode(getattr(result, field.name)) for field in fields(Scored)}
    given = encode(scored)
    for side in (stated, given):
        # The same suite can come from the Hub and from a folder.
        side["suite"] = {key: side["suite"][key] for key in ("name", "version", "sha256")}
    reasons: list[Reason] = []
    for part in ("variants", "slices"):
        gone = sorted(set(given[part]) - set(stated[part]))
        reasons += [
            Reason(path, f"{part}.{name}", ABSENT, f"{len(given[part][name])} value(s)") for name in gone
        ]
    ours, theirs = dict(_entries(given)), dict(_entries(stated))
    main = f"metrics.{result.task.main_metric}"
    n_values = 0
    for field in ours.keys() | theirs.keys():
        if field not in ours:
            reasons.append(
                Reason(path, field, _shown(theirs[field]), "nothing: the scorer gives no such value")
            )
        elif field in theirs:
            for place, recorded, found in _leaves(field, theirs[field], ours[field]):
                n_values += 1
                if not _same(recorded, found):
                    reasons.append(Reason(path, place, _shown(recorded), _shown(found)))
    # The main metric first: the others follow from the same predictions.
    reasons.sort(key=lambda reason: (not reason.field.startswith(main), reason.field))
    return n_values, reasons, tuple(sorted(ours.keys() - theirs.keys()))


def _entries(scored: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The values of a result by field path, one a metric, slice value or count."""
    for part in ("suite", "task", "protocol", "metrics", "counts", "floors"):
        yield from ((f"{part}.{name}", value) for name, value in scored[part].items())
    yield "seeds", scored["seeds"]
    for name, variant in scored["variants"].items():
        yield from (
            (f"variants.{name}.metrics.{metric}", value) for metric, value in variant["metrics"].items()
        )
    for name, values in scored["slices"].items():
        yield from ((f"slices.{name}.{metric}", value) for metric, value in values.items())


def _leaves(field: str, recorded: Any, found: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(recorded, dict) and isinstance(found, dict) and recorded.keys() == found.keys():
        for key in recorded:
            yield from _leaves(f"{field}.{key}", recorded[key], found[key])
    elif isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        for index, (a, b) in enumerate(zip(recorded, found, strict=True)):
            yield from _leaves(f"{field}[{index}]", a, b)
    else:
        yield field, recorded, found


def _same(recorded: Any, found: Any) -> bool:
    if isinstance(recorded, float) and isinstance(found, float):
        return isclose(recorded, found, rel_tol=RELATIVE, abs_tol=1e-12)
    return bool(recorded == found)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        # A metric's summary: its mean stands for it.
        value = value.get("mean", value)
    return "null" if value is None else str(value)[:120]


def query_reasons(
    path: Path, result: Result, scored: pd.DataFrame | None, *, write: bool
) -> Iterator[Reason]:
    """Whether the per-query file is the recorded one and says what the predictions give."""
    file, stated = queries_path(path), result.queries_sha256
    if stated is None:
        if file.is_file():
            yield Reason(path, "queries_sha256", "null", f"the file {file.name}")
    elif scored is None:
        yield Reason(path, "queries_sha256", stated, "nothing: this task has no per-query scores")
    elif not file.is_file():
        yield from _missing_queries(file, stated, scored, write)
    elif (found := sha256_file(file)) != stated:
        yield Reason(file, "sha256", stated, found)
    else:
        yield from _column_reasons(file, scored)


def _missing_queries(file: Path, stated: str, scored: pd.DataFrame, write: bool) -> Iterator[Reason]:
    if not write:
        yield Reason(file, "sha256", stated, "no file; --write makes it again")
        return
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".verify.") as workplace:
        made = Path(workplace) / file.name
        write_parquet(made, scored)
        if (found := sha256_file(made)) == stated:
            made.replace(file)
        else:
            yield Reason(
                file, "sha256", stated, f"no file; made again it is {found} (another version of pyarrow?)"
            )


def _column_reasons(file: Path, scored: pd.DataFrame) -> Iterator[Reason]:
    try:
        recorded = pq.read_table(file).to_pandas()
    except (OSError, pa.ArrowException) as error:
        yield Reason(file, "content", "Parquet", f"cannot be read: {error}")
        return
    if list(recorded.columns) != list(scored.columns) or len(recorded) != len(scored):
        sizes = [f"{len(frame)} rows of {', '.join(map(str, frame.columns))}" for frame in (recorded, scored)]
        yield Reason(file, "content", *sizes)
        return
    for name in scored.columns:
        theirs, ours = recorded[name].to_numpy(), scored[name].to_numpy()
        if not pd.api.types.is_numeric_dtype(recorded[name]):
            yield Reason(file, name, str(recorded[name].dtype), str(scored[name].dtype))
            continue
        # They are float32, whose last digit may differ from machine to machine.
        other = ~np.isclose(theirs.astype(np.float64), ours.astype(np.float64), rtol=1e-6, atol=1e-9)
        if other.any():
            row = int(np.argmax(other))
            yield Reason(file, f"{name}[{row}]", f"{theirs[row]} ({other.sum()} rows differ)", str(ours[row]))
