"""The suite that trials see: its valid splits are what is asked, and the real test files are not there."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from kpi_bench._io import atomic_folder, sha256_file
from kpi_bench.errors import SuiteError
from kpi_bench.harness.withhold import file_states
from kpi_bench.suites.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from kpi_bench.suites.suite import Suite, open_suite
from kpi_bench.suites.task import TaskKind, TaskSpec


def valid_view(suite: Suite, parent: Path) -> Suite:
    """Make, or find, under ``parent`` a suite in which each task's test split is the valid split of ``suite``.

    Items of train alone are masked, link prediction filters with train and valid, and there are no variants. The test files of
    ``suite`` are neither opened nor copied, and the view's digest does not depend on them. Its name differs from the suite's, so
    that no score on it can pass for a result.

    Raises:
        SuiteError: a file of the suite is missing or is not what its manifest says.
    """
    manifest = _manifest(suite.manifest)
    folder = parent / f"{manifest.name}-{manifest.digest[:16]}"
    if not _intact(folder, manifest):
        with atomic_folder(folder, MANIFEST) as staged:
            for path, entry in manifest.files.items():
                source, target = suite.folder / _source(path, manifest), staged / path
                if not source.is_file():
                    raise SuiteError(f"{source} is missing; fetch or build the suite again")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
                if sha256_file(target) != entry.sha256:
                    raise SuiteError(
                        f"{source}: its SHA-256 differs from suite.json; fetch or build the suite again"
                    )
            write_manifest(staged, manifest)
    return open_suite(folder)


def _manifest(manifest: Manifest) -> Manifest:
    files = {path: manifest.files[_source(path, manifest)] for path in manifest.files}
    return dataclasses.replace(
        manifest,
        name=f"{manifest.name}-on-valid",
        description=f"{manifest.name} for the search of parameters: every test split is the valid split.",
        tasks=tuple(_task(spec) for spec in manifest.tasks),
        files=files,
    )


def _task(spec: TaskSpec) -> TaskSpec:
    mask = ("train",) if spec.kind is TaskKind.RECOMMENDATION else spec.mask
    return dataclasses.replace(spec, mask=mask, variants=())


def _source(path: str, manifest: Manifest) -> str:
    """The suite's file that the view has at ``path``."""
    tests = {f"tasks/{spec.name}/test.parquet": f"tasks/{spec.name}/valid.parquet" for spec in manifest.tasks}
    return tests.get(path, path)


def _intact(folder: Path, manifest: Manifest) -> bool:
    if not (folder / MANIFEST).is_file() or set(file_states(folder)) != {MANIFEST, *manifest.files}:
        return False
    try:
        found = read_manifest(folder)
    except SuiteError:
        return False
    return found == manifest and all(
        sha256_file(folder / path) == entry.sha256 for path, entry in manifest.files.items()
    )
