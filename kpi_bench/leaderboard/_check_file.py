"""What is wrong with a contributed result by itself: form, privacy, suite, flags, numbers, per-query scores."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isclose
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import pyarrow.parquet as pq

from kpi_bench._secrets import find_private
from kpi_bench.errors import EvaluationError, ResultError, SubmissionError
from kpi_bench.evaluators.intervals import t_interval
from kpi_bench.evaluators.metrics import metric
from kpi_bench.harness.config import SubmissionKind, check_name
from kpi_bench.harness.results import FLAGS, VERIFIED, MetricSummary, Result, read_result
from kpi_bench.harness.rounds import spread, unsteady
from kpi_bench.leaderboard.load import StoredResult, stored_queries
from kpi_bench.leaderboard.queries import read_queries
from kpi_bench.suites.task import TaskKind

Severity = Literal["error", "warning", "note"]

LARGEST = 16 * 2**20
"""Bytes that a result file may have; the largest so far has a tenth of a megabyte."""
TOLERANCE = 1e-9
CEILING = 1e15
"""Beyond any rank, count, second or byte; sums of larger numbers could overflow."""


@dataclass(frozen=True)
class Finding:
    """``error``: the result cannot be merged. ``warning``: a person must look. ``note``: what a reader should know."""

    severity: Severity
    path: Path
    field: str
    message: str


@dataclass(frozen=True)
class Rules:
    """``digests`` are the known suites' by name@version; ``may_verify`` says that ``verified`` was set by a maintainer."""

    digests: Mapping[str, str]
    may_verify: bool
    now: datetime


def check_file(path: Path, rules: Rules) -> tuple[StoredResult | None, list[Finding]]:
    """Read and check one contributed file; None when it cannot be read as a result."""
    findings: list[Finding] = []

    def add(severity: Severity, field: str, message: str) -> None:
        findings.append(Finding(severity, path, field, message.removeprefix(f"{path}: ")))

    if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
        add("error", "file", f"no plain file of at most {LARGEST} bytes")
        return None, findings
    try:
        for where, why in find_private(_parse(path)):
            add("error", where, f"holds {why}; take it out: what is published cannot be taken back")
        result = read_result(path)
    except (ResultError, OSError, ValueError, RecursionError) as error:
        add("error", "schema", str(error))
        return None, findings
    for part in (
        _suite(result, rules),
        _head(result, rules),
        _numbers(result),
        _measures(result),
        _rounds(result),
    ):
        for finding in part:
            add(*finding)
    queries = None
    try:
        queries = stored_queries(path, result)
        if read_queries(StoredResult(path, result, queries)) is None:
            add("warning", "queries_sha256", "no per-query scores: the row gets no paired test and no rank")
        for finding in _columns(queries, result):
            add(*finding)
    except ResultError as error:
        add("error", "queries_sha256", str(error))
    return StoredResult(path, result, queries), findings


_Part = Iterator[tuple[Severity, str, str]]


def _columns(queries: Path | None, result: Result) -> _Part:
    """What a per-query file holds beside the scores: it is published as well."""
    if queries is None:
        return
    schema = pq.read_schema(queries)
    known = {f"{kind}_seed{seed}" for kind in ("main", "predicted") for seed in result.seeds}
    foreign = sorted(set(schema.names) - known - {"query", "label"})
    if foreign:
        yield (
            "error",
            "queries",
            f"{queries.name} has {len(foreign)} column(s) that are no scores: {foreign[0]}",
        )
    if schema.metadata:
        yield (
            "error",
            "queries",
            f"{queries.name} carries metadata; write it with kpi-bench evaluate or score",
        )


def _parse(path: Path) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # Python would keep the last of equal keys, a person reads the first.
        twice = len(pairs) - len({key for key, _ in pairs})
        if twice:
            raise ValueError(f"{twice} key(s) of an object occur twice")
        return dict(pairs)

    return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)


def _suite(result: Result, rules: Rules) -> _Part:
    suite = result.suite
    label = f"{suite.name}@{suite.version}"
    pinned = rules.digests.get(label)
    if pinned is None:
        yield "error", "suite", f"{label} is no official suite; known are {', '.join(sorted(rules.digests))}"
    elif suite.sha256 != pinned:
        yield (
            "error",
            "suite.sha256",
            f"is {suite.sha256[:12]}, the pin of {label} {pinned[:12]}; run it on the official suite",
        )
    if suite.revision is not None and not re.fullmatch(r"[0-9a-f]{40}", suite.revision):
        yield "error", "suite.revision", f"{suite.revision!r} is no full commit hash"
    if result.task.kind not in list(TaskKind):
        yield "error", "task.kind", f"{result.task.kind!r} is none of {', '.join(TaskKind)}"


def _head(result: Result, rules: Rules) -> _Part:
    head, flags = result.submission, result.flags
    try:
        check_name(head.name.removesuffix(f"@{head.config}") if head.config else head.name, "submission.name")
        check_name(head.config or "default", "submission.config")
    except SubmissionError as error:
        yield "error", "submission.name", str(error)
    if head.config and not head.name.endswith(f"@{head.config}"):
        yield "error", "submission.name", f"a row of config {head.config!r} is named NAME@{head.config}"
    if min(result.seeds) < 0:
        yield "error", "seeds", f"{list(result.seeds)}: a seed is negative"
    unknown = sorted(set(flags) - set(FLAGS))
    if unknown or len(set(flags)) < len(flags):
        yield "error", "flags", f"{list(flags)}: wanted are flags of {', '.join(FLAGS)}, each once"
    if VERIFIED in flags and not rules.may_verify:
        yield (
            "error",
            "flags",
            f"a contributor does not call a result {VERIFIED}: take the flag out; a maintainer sets it with kpi-bench verify --write",
        )
    if ("single_seed" in flags) != (len(result.seeds) == 1):
        yield "error", "flags", f"single_seed does not go with {len(result.seeds)} seed(s)"
    if "self_reported" in flags or head.kind == SubmissionKind.PREDICTIONS:
        yield "note", "flags", "self-reported: its predictions were made elsewhere and its costs are unknown"
    if not result.predictions.sha256:
        yield "warning", "predictions.sha256", "no file is recorded, so nobody can verify the result"
    try:
        created = datetime.fromisoformat(result.created)
        if created.tzinfo is None or created > rules.now + timedelta(days=1):
            yield "error", "created", f"{result.created}: wanted is a time with its zone, not in the future"
    except ValueError:
        yield "error", "created", f"{result.created!r} is no ISO time"


def _numbers(result: Result) -> _Part:
    tables = {"metrics": result.metrics} | {
        f"variants.{name}.metrics": variant.metrics for name, variant in result.variants.items()
    }
    for part, metrics in tables.items():
        for name, summary in metrics.items():
            yield from _summary(f"{part}.{name}", name, summary, result)
    plain = {f"slices.{name}": values for name, values in result.slices.items()} | {"floors": result.floors}
    for part, values in plain.items():
        for name, value in values.items():
            if part == "floors" or name != "n_queries":
                yield from _within(f"{part}.{name}", name, [value], result)
    for name, count in result.counts.items():
        if not 0 <= count <= CEILING:
            yield "error", f"counts.{name}", f"{count} is no count"


def _summary(field: str, name: str, summary: MetricSummary, result: Result) -> _Part:
    intervals = {"ci95_seeds": summary.ci95_seeds, "ci95_queries": summary.ci95_queries}
    ends = summary.ci95_queries or ()
    wrong = list(_within(field, name, [summary.mean, *summary.per_seed, *ends], result))
    if wrong:
        yield from wrong
        return
    if summary.higher_is_better != metric(name).higher_is_better:
        yield "error", f"{field}.higher_is_better", f"must be {not summary.higher_is_better}"
    slack = TOLERANCE * max(1.0, abs(summary.mean))
    if not isclose(summary.mean, fmean(summary.per_seed), rel_tol=TOLERANCE, abs_tol=1e-12):
        yield "error", f"{field}.mean", f"is {summary.mean}, the mean of its seeds {fmean(summary.per_seed)}"
    for kind, interval in intervals.items():
        if interval is not None and not interval[0] - slack <= summary.mean <= interval[1] + slack:
            yield "error", f"{field}.{kind}", f"{list(interval)} does not contain the mean {summary.mean}"
    wanted = t_interval(summary.per_seed)
    given = summary.ci95_seeds
    if (wanted is None) != (given is None) or any(
        not isclose(a, b, rel_tol=1e-6, abs_tol=slack)
        for a, b in zip(wanted or (), given or (), strict=False)
    ):
        yield (
            "error",
            f"{field}.ci95_seeds",
            f"is {_listed(given)}, the t interval of its seeds {_listed(wanted)}",
        )
    if summary.n_queries < 1 or summary.n_excluded < 0:
        yield (
            "error",
            field,
            f"{summary.n_queries} queries, {summary.n_excluded} excluded: not counts of a test",
        )


def _within(field: str, name: str, values: list[float], result: Result) -> _Part:
    """Whether a metric is declared for this kind of task and its values are possible."""
    try:
        # The bound of mrr_sum@k is a sum over k: a cutoff without end would never come back.
        declared = metric("" if re.search(r"\d{6}", name) else name)
    except EvaluationError:
        yield "error", field, "no metric of this name is registered"
        return
    if result.task.kind not in declared.kinds:
        yield "error", field, f"no metric of a {result.task.kind} task"
    slack = TOLERANCE * max(1.0, *(abs(value) for value in values))
    low, high = max(declared.minimum, -CEILING), min(declared.maximum, CEILING)
    beyond = [v for v in values if not low - slack <= v <= high + slack]
    if beyond:
        yield "error", field, f"{beyond[0]} is outside {low:g}..{high:g}"


def _measures(result: Result) -> _Part:
    """Costs: nothing can be checked but that they are possible."""
    size = result.size
    numbers: dict[str, Sequence[float]] = {
        "timing.queries_per_s": result.timing.queries_per_s,
        "timing.harness_s": result.timing.harness_s,
        "memory.peak_rss": result.memory.peak_rss,
        "memory.peak_device": result.memory.peak_device or (),
        "size": [
            n for n in (size.parameters, size.trainable, size.serving_bytes, size.kept) if n is not None
        ],
    }
    for name, phase in result.timing.phases.items():
        numbers[f"timing.phases.{name}"] = (*phase.wall_s, *phase.cpu_s, *(phase.gpu_s or ()))
    if (rounds := result.timing.rounds) is not None:
        numbers["timing.rounds.queries"] = (rounds.queries,)
        for name, timed in rounds.phases.items():
            numbers[f"timing.rounds.phases.{name}"] = (
                *timed.wall_s,
                *timed.cpu_s,
                *(timed.gpu_s or ()),
                timed.warm_up_wall_s,
                timed.warm_up_cpu_s,
            )
        for place, speeds in enumerate(rounds.calibration):
            numbers[f"timing.rounds.calibration[{place}]"] = tuple(speeds.values())
    for field, values in numbers.items():
        impossible = [value for value in values if not 0 <= value <= CEILING]
        if impossible:
            yield "error", field, f"{impossible[0]} is outside 0..{CEILING:g}"


def _rounds(result: Result) -> _Part:
    """Timed rounds: complete, and what is stated of them follows from them."""
    rounds = result.timing.rounds
    if rounds is None:
        for flag in {"unsteady", "inexact_rounds"} & set(result.flags):
            yield "error", "flags", f"{flag} does not go with a result without timing rounds"
        return
    if rounds.seed not in result.seeds:
        yield "error", "timing.rounds.seed", f"{rounds.seed} is none of {list(result.seeds)}"
    if set(rounds.phases) != {"adapt", "predict"} or {len(p.wall_s) for p in rounds.phases.values()} & {0}:
        yield "error", "timing.rounds.phases", "wanted are adapt and predict, each timed at least once"
        return
    if len({len(v) for p in rounds.phases.values() for v in (p.wall_s, p.cpu_s, p.gpu_s or p.wall_s)}) > 1:
        yield "error", "timing.rounds.phases", "not every list has one value a round"
    for name, timed in rounds.phases.items():
        stated = (timed.median_wall_s, timed.iqr_wall_s)
        for found, what, own in zip(
            spread(timed.wall_s), ("median_wall_s", "iqr_wall_s"), stated, strict=True
        ):
            if not isclose(own, found, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                yield "error", f"timing.rounds.phases.{name}.{what}", f"is {own}, that of its rounds {found}"
    before, after = rounds.calibration
    if before.keys() != after.keys() or not before:
        yield "error", "timing.rounds.calibration", "the two must be of the same kernels"
    elif unsteady(rounds) != ("unsteady" in result.flags):
        yield (
            "error",
            "flags",
            f"unsteady must {'' if unsteady(rounds) else 'not '}be there: see timing.rounds.calibration",
        )


def _listed(interval: tuple[float, float] | None) -> str:
    return "null" if interval is None else str(list(interval))
