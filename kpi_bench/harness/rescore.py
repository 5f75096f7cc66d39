"""Score a folder of predictions that anything may have made: ``<task>/seed<k>.parquet``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kpi_bench._io import sha256_file
from kpi_bench.errors import KpiBenchError, PredictionError
from kpi_bench.harness.assemble import Costs, Provenance, scored_result, write_with_queries
from kpi_bench.harness.config import (
    TOML,
    SubmissionConfig,
    SubmissionHead,
    SubmissionKind,
    check_name,
    read_config,
)
from kpi_bench.harness.environment import environment, git_revision
from kpi_bench.harness.records import RunSite
from kpi_bench.harness.results import Memory, Result, Size, Timing
from kpi_bench.harness.scoring import RunScores, Scorer, kept_files, make_scorer
from kpi_bench.harness.source import source_sha256
from kpi_bench.suites.suite import Suite

SEED_FILE = re.compile(r"seed(\d+)\.(parquet|npy|ranks\.parquet)")


@dataclass(frozen=True)
class Rescored:
    """What scoring a folder gave: results by task, and the tasks whose predictions were refused, with the reason."""

    results: tuple[Result, ...]
    refused: Mapping[str, str]


def score_folder(
    folder: Path, suite: Suite, *, name: str | None = None, results: Path | None = None
) -> Rescored:
    """Score every task that the folder (or its ``predictions/``) has predictions for; costs are unknown and stay empty.

    With ``results`` the result files are written there, flagged ``self_reported``.

    Raises:
        PredictionError: there is nothing to score.
    """
    config = _config(folder, name)
    root = folder / "predictions" if (folder / "predictions").is_dir() else folder
    seeds = {task: found for task in suite.task_names() if (found := seeds_of(root / task))}
    if not seeds:
        wanted = ", ".join(f"{task}/seed<k>.parquet" for task in suite.task_names())
        raise PredictionError(f"{root} has no predictions for suite {suite.name}; looked for {wanted}")
    unknown = sorted(
        p.name for p in root.iterdir() if p.is_dir() and seeds_of(p) and p.name not in suite.task_names()
    )
    refused = dict.fromkeys(unknown, f"suite {suite.name} has no task of this name")
    origin = Provenance(config, {}, None, source_sha256(config), suite)
    made: list[Result] = []
    for task, found in seeds.items():
        scorer = make_scorer(suite.task(task), suite.graph, rows="keep")
        try:
            scores = [scorer.score(root / task / f"seed{seed}") for seed in found]
        except KpiBenchError as error:
            refused[task] = str(error)
            continue
        made.append(_result(origin, suite, task, scorer, found, scores, root, results))
    return Rescored(tuple(made), refused)


def seeds_of(folder: Path) -> tuple[int, ...]:
    """Seeds that a task's predictions folder has files of, ascending."""
    if not folder.is_dir():
        return ()
    return tuple(sorted({int(m[1]) for path in folder.iterdir() if (m := SEED_FILE.fullmatch(path.name))}))


def _config(folder: Path, name: str | None) -> SubmissionConfig:
    if (folder / TOML).is_file():
        return read_config(folder)
    row = name or folder.resolve().name
    check_name(row, "--name" if name else str(folder))
    head = SubmissionHead(row, "0", "predictions made elsewhere", SubmissionKind.PREDICTIONS)
    return SubmissionConfig(head, folder=folder.resolve())


def _result(
    origin: Provenance,
    suite: Suite,
    task: str,
    scorer: Scorer,
    seeds: tuple[int, ...],
    scores: Sequence[RunScores],
    root: Path,
    results: Path | None,
) -> Result:
    # Nobody knows where the predictions were made: only the scoring is described.
    site = RunSite({"hw_id": None}, environment(), git_revision())
    kept = [
        path
        for seed in seeds
        for path in kept_files(suite.task(task), root / task / f"seed{seed}")
        if path.is_file()
    ]
    costs = Costs(Timing({}, (), (), ()), Memory(()), Size(), {}, site, ("self_reported",))
    hashes = {path.name: sha256_file(path) for path in kept}
    result, queries = scored_result(origin, suite.task(task), scorer.protocol, seeds, scores, costs, hashes)
    return result if results is None else write_with_queries(results, result, queries)
