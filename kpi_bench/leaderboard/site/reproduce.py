"""The commands that make a row again, check it and compare it, quoted so that contributed texts cannot add to them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kpi_bench.harness.results import Result
from kpi_bench.suites.official import OFFICIAL_DIGESTS

_GENERATED = "kpi-mini"
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_REPOSITORY = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")
_OFFICIAL = frozenset(pin.partition("@")[0] for pin in OFFICIAL_DIGESTS)


@dataclass(frozen=True)
class Step:
    """One thing to do: why in words, and the lines to type."""

    text: str
    commands: tuple[str, ...]


def reproduction(name: str, results: Mapping[str, Result], n_tasks: int) -> tuple[Step, ...]:
    """How to make a row's results again; ``results`` by task, of a suite with ``n_tasks`` tasks."""
    made = list(results.values())
    if any("self_reported" in result.flags for result in made) or any(
        result.submission.kind == "predictions" for result in made
    ):
        return (*_preparation(made), _scoring(name, made))
    return (*_preparation(made), *_evaluation(name, results, n_tasks))


def verification(name: str, results: Mapping[str, Result]) -> tuple[Step, ...]:
    """How to check the published values against the predictions that they were scored from."""
    suite = next(iter(results.values())).suite.name
    files = f"leaderboard/results/{shlex.quote(suite)}/*/{shlex.quote(name)}.json"
    return tuple(
        Step(
            "FOLDER holds the predictions of the row, with the hashes listed above: an --out folder, or one with <task>/seed<k>.parquet.",
            (f"kpi-bench verify {files} --suite {place} --predictions FOLDER",),
        )
        for place in _places(list(results.values()))
    )


def comparison(name: str, other: str, suite: str) -> str:
    """The command that compares two rows with more permutations than the page has."""
    names = f"{shlex.quote(name)} {shlex.quote(other)}"
    ends_options = "-- " if name.startswith("-") or other.startswith("-") else ""
    return f"kpi-bench compare --suite {shlex.quote(suite)} {ends_options}{names}"


def suite_place(result: Result) -> str:
    """What ``--suite`` takes, quoted: the Hub repository at its revision where the result names one, a folder otherwise."""
    suite = result.suite
    if (
        suite.repo
        and suite.revision
        and _REPOSITORY.fullmatch(suite.repo)
        and _COMMIT.fullmatch(suite.revision)
    ):
        return shlex.quote(f"hf://{suite.repo}@{suite.revision}")
    return shlex.quote(suite.name if suite.name == _GENERATED else f"suites/{suite.name}")


def _places(results: Sequence[Result]) -> list[str]:
    return sorted({suite_place(result) for result in results})


def _preparation(results: Sequence[Result]) -> tuple[Step, ...]:
    steps = []
    commits = {result.kpi_bench.git or "" for result in results}
    if len(commits) == 1 and _COMMIT.fullmatch(commit := commits.pop()):
        steps.append(Step("The code that made it, in a clone of kpi-bench.", (f"git checkout {commit}",)))
    elif len(commits) > 1:
        steps.append(Step("The tasks were run at different commits of kpi-bench: see provenance.", ()))
    name = results[0].suite.name
    if name in _OFFICIAL and name != _GENERATED and f"suites/{name}" in _places(results):
        steps.append(
            Step(
                "The suite, from its raw files (DIR: see docs/data.md). Its digest must be the one under provenance.",
                (f"kpi-bench data build {name} --raw DIR --out suites/{name}",),
            )
        )
    return tuple(steps)


def _evaluation(name: str, results: Mapping[str, Result], n_tasks: int) -> tuple[Step, ...]:
    """One command for all tasks that were run alike: with the same seeds, suite and kind of device."""
    groups: dict[tuple[tuple[int, ...], str, str], list[str]] = {}
    for task, result in results.items():
        groups.setdefault((result.seeds, suite_place(result), _device(result)), []).append(task)
    commands = []
    config = next(iter(results.values())).submission.config
    folder = name.removesuffix(f"@{config}") if config else name
    for (seeds, place, device), tasks in groups.items():
        parts = ["kpi-bench evaluate --submission", shlex.quote(f"submissions/{folder}")]
        parts += ["--config", shlex.quote(config)] if config else []
        parts += ["--suite", place]
        parts += ["--tasks", shlex.quote(",".join(tasks))] if len(tasks) < n_tasks else []
        parts += ["--seeds", ",".join(map(str, seeds))]
        parts += ["--device", device] if device else []
        commands.append(" ".join(parts))
    return (
        Step(
            "The runs. A submission that is not in the repository has to be fetched from its source; its SHA-256 is under provenance. "
            "Parameters that differ from those of its submission.toml have to be given with --param KEY=VALUE.",
            tuple(commands),
        ),
    )


def _scoring(name: str, results: Sequence[Result]) -> Step:
    return Step(
        "The harness did not run this submission, it scored predictions. FOLDER holds them as <task>/seed<k>.parquet.",
        tuple(
            f"kpi-bench score FOLDER --suite {place} --name {shlex.quote(name)}" for place in _places(results)
        ),
    )


def _device(result: Result) -> str:
    named = result.hardware.get("device")
    return next(
        (kind for kind in ("cpu", "cuda") if isinstance(named, str) and named.partition(":")[0] == kind), ""
    )
