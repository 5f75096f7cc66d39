"""Score the predictions of a result again and hold what comes out against what the result states."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path

from tabulate import tabulate

from kpi_bench._io import read_json, write_json
from kpi_bench.errors import EvaluationError, KpiBenchError, PredictionError
from kpi_bench.harness.assemble import Scored, summarise_scores
from kpi_bench.harness.contradictions import (
    Reason,
    compare_scores,
    file_reasons,
    query_reasons,
    suite_reasons,
)
from kpi_bench.harness.results import VERIFIED, Result, predictions_folder, predictions_place, read_result
from kpi_bench.harness.scoring import Scorer, make_scorer
from kpi_bench.suites.suite import Suite
from kpi_bench.suites.task import Task, TaskKind

"""The flag of a result whose stored predictions were scored again with the same outcome."""
MOST_REASONS = 20
NOT_RESCORED = tuple(
    field.name
    for field in fields(Result)
    if field.name
    not in {"schema_version", "predictions", "queries_sha256", "flags"}
    | {scored.name for scored in fields(Scored)}
)


class Verdict(StrEnum):
    """``CONTRADICTED``: the recorded predictions give other scores. ``NOT_VERIFIED``: they, or the suite, are not the recorded ones."""

    VERIFIED = "verified"
    CONTRADICTED = "contradicted"
    NOT_VERIFIED = "not verified"


@dataclass(frozen=True)
class Verification:
    """The outcome for one result file. ``result`` is None when it cannot be read, ``scored`` when nothing was scored.

    ``n_values`` were compared; ``unrecorded`` are values that the scorer gives and the result lacks (its scorer was older);
    ``flag`` says what became of the flag: ``set``, ``taken away``, or empty when the file was left as it was.
    """

    path: Path
    verdict: Verdict
    reasons: tuple[Reason, ...]
    result: Result | None = None
    scored: Scored | None = None
    n_values: int = 0
    unrecorded: tuple[str, ...] = ()
    flag: str = ""


class Verifier:
    """Scores the predictions of results on one suite again; what scoring needs of a task is built once.

    ``predictions`` is an ``--out`` folder, a submission's folder in it, or a folder with ``<task>/seed<k>.parquet``; by default the
    ``--out`` folder whose ``results/`` holds the file. With ``write`` the flag of a verified result is set and its per-query file
    made again where it is missing, and a contradicted result loses the flag. Nothing else in the file changes.
    """

    def __init__(self, suite: Suite, predictions: Path | None = None, *, write: bool = False) -> None:
        self.suite, self.predictions, self.write = suite, predictions, write
        self._scorers: dict[str, Scorer] = {}

    def verify(self, path: Path) -> Verification:
        """Verify one result file; whatever is wrong with it or its predictions is a reason, never an error."""
        try:
            verification = self._verify(path)
        except KpiBenchError as error:
            reason = Reason(path, "file", "", str(error).removeprefix(f"{path}: "))
            return Verification(path, Verdict.NOT_VERIFIED, (reason,))
        if not self.write or verification.verdict is Verdict.NOT_VERIFIED:
            return verification
        return dataclasses.replace(verification, flag=_write_flag(verification))

    def _verify(self, path: Path) -> Verification:
        result = read_result(path)
        reasons = list(suite_reasons(path, result, self.suite))
        if reasons:
            return Verification(path, Verdict.NOT_VERIFIED, tuple(reasons), result)
        task = self.suite.task(result.task.name)
        folder = _folder(path, result, self.predictions)
        reasons = [folder] if isinstance(folder, Reason) else list(file_reasons(path, result, task, folder))
        if isinstance(folder, Reason) or reasons:
            return Verification(path, Verdict.NOT_VERIFIED, tuple(reasons), result)
        scorer = self._scorer(task)
        try:
            runs = [scorer.score(folder / f"seed{seed}") for seed in result.seeds]
        except (PredictionError, EvaluationError) as error:
            reason = Reason(path, "predictions", "", f"cannot be scored: {error}")
            return Verification(path, Verdict.CONTRADICTED, (reason,), result)
        scored, queries = summarise_scores(self.suite, task, scorer.protocol, result.seeds, runs)
        n_values, differing, unrecorded = compare_scores(path, result, scored)
        reasons = [*differing, *query_reasons(path, result, queries, write=self.write and not differing)]
        verdict = Verdict.CONTRADICTED if reasons else Verdict.VERIFIED
        return Verification(path, verdict, tuple(reasons), result, scored, n_values, unrecorded)

    def _scorer(self, task: Task) -> Scorer:
        name = task.spec.name
        if name not in self._scorers:
            self._scorers[name] = make_scorer(task, self.suite.graph, rows="ignore")
        return self._scorers[name]


def _folder(path: Path, result: Result, predictions: Path | None) -> Path | Reason:
    """Folder of the recorded predictions. Its name is not taken from the result: that could lead anywhere."""
    place = predictions_place(result.task.name)
    if result.predictions.path != place:
        return Reason(path, "predictions.path", result.predictions.path, f"a result's is {place}")
    if predictions is None:
        # <out>/results/<suite>/<task>/<submission>.json
        places = [predictions_folder(path.resolve().parents[3], result)]
    else:
        places = [
            predictions_folder(predictions, result),
            predictions / place,
            predictions / result.task.name,
        ]
    found = [folder for folder in places if folder.is_dir()]
    looked = " nor ".join(str(folder) for folder in places)
    advice = "" if predictions else "; name where they lie with --predictions"
    return found[0] if found else Reason(path, "predictions.path", place, f"no folder {looked}{advice}")


def _write_flag(verification: Verification) -> str:
    """Set or take away the flag in the file, and nothing else; says what was done."""
    raw = read_json(verification.path)
    flags = raw.get("flags", [])
    verified = verification.verdict is Verdict.VERIFIED
    if verified == (VERIFIED in flags):
        return ""
    raw["flags"] = [*flags, VERIFIED] if verified else [flag for flag in flags if flag != VERIFIED]
    write_json(verification.path, raw)
    return "set" if verified else "taken away"


def render_verifications(verifications: Sequence[Verification]) -> str:
    """A line a result, then the reasons and what scoring again cannot say."""
    headers = ("result", "verdict", "seeds", "values", "metric", "recorded", "re-scored", "flag")
    table = tabulate([_row(v) for v in verifications], headers=headers, disable_numparse=True)
    lines = [table, ""]
    for verification in verifications:
        shown = verification.reasons[:MOST_REASONS]
        lines += [str(reason) for reason in shown]
        if len(verification.reasons) > len(shown):
            lines.append(f"{verification.path}: and {len(verification.reasons) - len(shown)} more")
        if verification.unrecorded:
            names = ", ".join(verification.unrecorded)
            lines.append(f"{verification.path}: not recorded, so not compared: {names}")
    kinds = {v.result.task.kind for v in verifications if v.scored is not None and v.result is not None}
    if TaskKind.LINK_PREDICTION in kinds:
        lines.append("Link prediction starts from the kept ranks: whether a model gives them needs a re-run.")
    lines.append(f"Not verified, since nobody can score it again: {', '.join(NOT_RESCORED)}.")
    return "\n".join(lines)


def _row(verification: Verification) -> tuple[str, ...]:
    result, scored = verification.result, verification.scored
    if result is None:
        return (str(verification.path), verification.verdict.value, *[""] * 6)
    main = result.task.main_metric
    again = scored.metrics.get(main) if scored is not None else None
    return (
        result.key,
        verification.verdict.value,
        str(len(result.seeds)),
        f"{verification.n_values:,}",
        main,
        f"{result.main.mean:.6f}",
        "" if again is None else f"{again.mean:.6f}",
        verification.flag or ("kept" if VERIFIED in result.flags else ""),
    )
