"""``search.json``: a search with every trial, and the parameters it found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from tabulate import tabulate

from kpi_bench._io import write_json, write_text
from kpi_bench._schema import encode, read_versioned
from kpi_bench._version import __version__
from kpi_bench.errors import RunError
from kpi_bench.harness.results import SearchInfo
from kpi_bench.harness.tuning.space import Parameter, space_sha256

SEARCH = "search.json"
BEST = "best.toml"
SAMPLER = "tpe"
SCHEMA_VERSION = 1


class Ended(StrEnum):
    """How a trial ended: scored, given up on its learning curve, or broken."""

    FINISHED = "finished"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass(frozen=True)
class Plan:
    """What a search is: two searches with equal plans draw the same trials. ``params`` are those of trial 0; ``space`` replaces some of them.

    ``view_sha256`` is the digest of the suite that trials saw (:func:`kpi_bench.harness.tuning.view.valid_view`). ``parallel`` trials
    are made at once: a trial knows nothing of those.
    """

    submission: str
    config: str | None
    source_sha256: str
    params: Mapping[str, Any]
    space: Mapping[str, Parameter]
    suite: str
    view_sha256: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    seed: int
    device: str
    pruned_by: str | None
    objective: str
    higher_is_better: bool
    sampler: str = SAMPLER
    parallel: int = 1
    kpi_bench: str = __version__


@dataclass(frozen=True)
class Trial:
    """One trial. ``params`` holds the searched ones alone; ``values`` the main metrics on valid by task, means over seeds.

    ``seconds`` is the wall time of its runs together; ``why`` says what ended a trial that did not finish.
    """

    number: int
    ended: Ended
    params: Mapping[str, Any]
    value: float | None
    values: Mapping[str, float]
    seconds: float
    why: str | None = None


@dataclass(frozen=True)
class Search:
    """A search as far as it has come. ``best`` is the number of the best finished trial, the first of equals; None without one."""

    plan: Plan
    suite_sha256: str
    space_sha256: str
    optuna: str
    best: int | None
    trials: tuple[Trial, ...]
    schema_version: int = SCHEMA_VERSION

    @property
    def counts(self) -> dict[Ended, int]:
        """Trials by how they ended."""
        found = Counter(trial.ended for trial in self.trials)
        return {ended: found[ended] for ended in Ended}

    @property
    def seconds(self) -> float:
        """Wall time of the runs of all trials together."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def best_trial(self) -> Trial | None:
        """The best finished trial."""
        return next((trial for trial in self.trials if trial.number == self.best), None)

    def tuned(self, row: str, config: str | None, suite_sha256: str) -> tuple[dict[str, Any], SearchInfo]:
        """All parameters of the best trial, and what a result says of the search; for a row on the suite with that digest.

        Raises:
            RunError: no trial finished, or the search was for another row, config or suite.
        """
        best = self.best_trial
        if best is None or best.value is None:
            raise RunError(
                f"the search for {self.plan.submission} on {self.plan.suite} has no finished trial"
            )
        if (self.plan.submission, self.plan.config) != (row, config):
            raise RunError(f"the search was for {self.plan.submission}, not for {row}")
        if self.suite_sha256 != suite_sha256:
            raise RunError(
                f"the search was on {self.plan.suite} ({self.suite_sha256[:16]}), not on the suite with digest {suite_sha256[:16]}"
            )
        counts = self.counts
        info = SearchInfo(
            trials=len(self.trials),
            finished=counts[Ended.FINISHED],
            pruned=counts[Ended.PRUNED],
            failed=counts[Ended.FAILED],
            seconds=self.seconds,
            sampler=self.plan.sampler,
            pruner=self.plan.pruned_by,
            seed=self.plan.seed,
            seeds=self.plan.seeds,
            tasks=self.plan.tasks,
            parameters=tuple(self.plan.space),
            objective=self.plan.objective,
            value=best.value,
            best=best.number,
            space_sha256=self.space_sha256,
            suite_sha256=self.suite_sha256,
            source_sha256=self.plan.source_sha256,
        )
        return {**self.plan.params, **best.params}, info


def make_search(plan: Plan, suite_sha256: str, optuna: str, trials: tuple[Trial, ...]) -> Search:
    """A search of these trials, in the order of their numbers."""
    sign = 1.0 if plan.higher_is_better else -1.0
    scored = [(sign * trial.value, -trial.number) for trial in trials if trial.value is not None]
    best = -max(scored)[1] if scored else None
    return Search(plan, suite_sha256, space_sha256(plan.space), optuna, best, trials)


def write_search(folder: Path, search: Search) -> None:
    """Write ``search.json`` and, once a trial has finished, ``best.toml``."""
    write_json(folder / SEARCH, encode(search))
    if search.best_trial is not None:
        write_text(folder / BEST, best_toml(search))


def read_search(path: Path) -> Search:
    """Read and check ``search.json``.

    Raises:
        RunError: missing, not JSON, another schema version, or an unknown or missing key.
    """
    return read_versioned(Search, path, SCHEMA_VERSION, RunError, wanted="what `kpi-bench tune` wrote")


def best_toml(search: Search) -> str:
    """The best trial's parameters as a table of ``submission.toml``: of the suite, or of the named config."""
    best = search.best_trial
    if best is None:
        return ""
    plan = search.plan
    table = f"configs.{_key(plan.config)}" if plan.config else f"suites.{_key(plan.suite)}.params"
    lines = [
        f"# Trial {best.number} of {len(search.trials)} of a search on the valid split: {plan.objective} {best.value:.6g}.",
        f"[{table}]",
        *(f"{_key(name)} = {_toml(value)}" for name, value in best.params.items()),
    ]
    return "\n".join(lines) + "\n"


def render_search(search: Search) -> str:
    """Every trial as a row, and the budget."""
    plan, names = search.plan, list(search.plan.space)
    # Of a single task the objective is the metric itself.
    tasks = plan.tasks if len(plan.tasks) > 1 else ()
    rows = [
        [
            f"{trial.number}{' best' if trial.number == search.best else ''}",
            trial.ended,
            _score(trial.value),
            *(_score(trial.values.get(task)) for task in tasks),
            *(_shown(trial.params.get(name)) for name in names),
            f"{trial.seconds:.1f}",
        ]
        for trial in search.trials
    ]
    table = tabulate(rows, headers=["trial", "ended", "valid", *tasks, *names, "s"], disable_numparse=True)
    counts = ", ".join(f"{count} {ended}" for ended, count in search.counts.items())
    lines = [
        table,
        f"{plan.submission} on {plan.suite}, {plan.objective} on valid: {len(search.trials)} trials ({counts}), {search.seconds:.1f} s of runs",
    ]
    if search.best_trial is not None:
        own = _score(search.trials[0].value) or "none"
        lines.append(
            f"best: trial {search.best} with {_score(search.best_trial.value)}; the submission's own parameters (trial 0): {own}"
        )
    return "\n".join(lines)


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _key(name: str) -> str:
    return name if name.isascii() and name.replace("-", "").replace("_", "").isalnum() else json.dumps(name)


def _toml(value: Any) -> str:
    """A value as TOML; JSON's texts, numbers and truth values are TOML's."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(name)} = {_toml(inner)}" for name, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
