"""``submission.toml``: who and what a submission is, and its parameters for a suite."""

from __future__ import annotations

import importlib
import json
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from kpi_bench._schema import decode
from kpi_bench.errors import SubmissionError
from kpi_bench.harness.protocol import Submission
from kpi_bench.suites.task import TaskKind

TOML = "submission.toml"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
ENTRY = re.compile(r"\w+(\.\w+)*:\w+")


class SubmissionKind(StrEnum):
    """``code`` is run by the harness; ``predictions`` were made elsewhere and are only scored."""

    CODE = "code"
    PREDICTIONS = "predictions"


class Fidelity(StrEnum):
    """How close a baseline is to what its paper describes."""

    FAITHFUL = "faithful"
    RECONSTRUCTION = "reconstruction"


@dataclass(frozen=True)
class FidelityNote:
    """The ``[fidelity]`` table."""

    level: Fidelity = Fidelity.FAITHFUL
    notes: str = ""


@dataclass(frozen=True)
class SubmissionHead:
    """The ``[submission]`` table. ``entry`` is ``module:Class``; ``tasks`` the kinds of task it answers; ``size`` the config size label."""

    name: str
    version: str
    description: str
    kind: SubmissionKind
    authors: tuple[str, ...] = ()
    paper: str = ""
    url: str = ""
    license: str = ""
    entry: str = ""
    tasks: tuple[TaskKind, ...] = tuple(TaskKind)
    tags: tuple[str, ...] = ()
    size: str = "small"


@dataclass(frozen=True)
class SuiteOverrides:
    """A ``[suites."NAME"]`` table: parameters that replace the general ones on that suite."""

    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SubmissionConfig:
    """A parsed ``submission.toml`` with the folder it lies in. ``configs`` are named parameter sets, chosen by ``--config``."""

    submission: SubmissionHead
    params: Mapping[str, Any] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fidelity: FidelityNote = FidelityNote()
    suites: Mapping[str, SuiteOverrides] = field(default_factory=dict)
    folder: Path = Path()

    @property
    def name(self) -> str:
        return self.submission.name

    def row_name(self, config: str | None) -> str:
        """Name of the row on the board, and of its folders and files: a named config is a row of its own, ``name@config``."""
        return f"{self.name}@{config}" if config else self.name

    def resolve_params(self, suite: str, config: str | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters of a run: ``[params]``, then the suite's, then the named config's, then ``overrides``; whole numbers are floats where
        ``[params]`` has one (:func:`fitted`).

        Raises:
            SubmissionError: no such config, an override of a parameter that ``[params]`` does not have, or a value that a result
                cannot hold.
        """
        if config is not None and config not in self.configs:
            known = ", ".join(self.configs) or "none"
            raise SubmissionError(f"submission {self.name} has no config {config!r}; it has: {known}")
        suite_params = self.suites[suite].params if suite in self.suites else {}
        merged = {**self.params, **suite_params, **(self.configs[config] if config else {}), **overrides}
        unknown = sorted(set(merged) - set(self.params))
        if unknown:
            raise SubmissionError(
                f"submission {self.name}: unknown parameter(s) {', '.join(unknown)}; [params] declares {', '.join(self.params) or 'none'}"
            )
        for key, value in merged.items():
            try:
                merged[key] = fitted(value, self.params[key])
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError, OverflowError):
                raise SubmissionError(
                    f"submission {self.name}: parameter {key} is {value!r}; wanted are texts, booleans, finite numbers, lists and tables"
                ) from None
        return merged


def fitted(value: Any, declared: Any) -> Any:
    """``value`` for a parameter that ``[params]`` declares as ``declared``: where that is a float, a whole number is the same float.

    Raises:
        OverflowError: no float is as large.
    """
    return float(value) if type(declared) is float and type(value) is int else value


def read_config(folder: Path) -> SubmissionConfig:
    """Read ``submission.toml`` of a submission folder.

    Raises:
        SubmissionError: the folder or file is missing, is not TOML, or has unknown or wrong keys.
    """
    path = folder / TOML
    if not path.is_file():
        raise SubmissionError(
            f"{folder} is no submission: it has no {TOML}. `kpi-bench submission new NAME` writes a template."
        )
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SubmissionError(f"{path}: not valid TOML: {error}") from error
    if "folder" in raw:
        raise SubmissionError(f"{path}: unknown key(s) folder")
    config = decode(SubmissionConfig, raw, str(path), SubmissionError)
    head = config.submission
    check_name(head.name, str(path))
    if head.kind is SubmissionKind.CODE and not ENTRY.fullmatch(head.entry):
        raise SubmissionError(f"{path}: entry {head.entry!r} must be 'module:Class'")
    return SubmissionConfig(**{**vars(config), "folder": folder.resolve()})


def check_name(name: str, where: str) -> None:
    """Refuse a submission's name that is no plain file name.

    Raises:
        SubmissionError: the message starts with ``where``.
    """
    if not NAME.fullmatch(name):
        raise SubmissionError(
            f"{where}: name {name!r} must be letters, digits, '-', '_' and '.' only, a letter or digit first: it becomes a file name"
        )


def load_class(config: SubmissionConfig) -> type[Submission]:
    """Import the submission's class; modules beside ``submission.toml`` come first.

    Raises:
        SubmissionError: the module or class is not there, or is no ``kpi_bench.Submission``. Errors raised while the module runs pass through.
    """
    module_name, _, class_name = config.submission.entry.partition(":")
    if str(config.folder) in sys.path:
        sys.path.remove(str(config.folder))
    sys.path.insert(0, str(config.folder))
    _forget_namesakes(config.folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SubmissionError(
            f"{config.folder / TOML}: entry {config.submission.entry!r}: cannot import {error.name!r}; is its package installed or on PYTHONPATH?"
        ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type) or not issubclass(found, Submission):
        raise SubmissionError(
            f"{config.folder / TOML}: {module_name} has no class {class_name!r} derived from kpi_bench.Submission"
        )
    return found


def import_class(config: SubmissionConfig) -> type[Submission]:
    """:func:`load_class` for the harness itself: whatever the module raises becomes a fault of the submission.

    Raises:
        SubmissionError: the class cannot be had; the message says why.
    """
    try:
        return load_class(config)
    except SubmissionError:
        raise
    except Exception as error:
        # Foreign code may raise anything while it is imported.
        raise SubmissionError(
            f"{config.submission.entry} raised {type(error).__name__} when imported: {error}"
        ) from error


def _forget_namesakes(folder: Path) -> None:
    """Drop other submissions' modules that have the names of files in ``folder``: each may have its own ``submission.py``."""
    for entry in folder.iterdir():
        own = (
            entry.stem if entry.suffix == ".py" else entry.name if (entry / "__init__.py").is_file() else None
        )
        loaded = Path(getattr(sys.modules.get(own or ""), "__file__", None) or "")
        home = loaded.parents[1] if loaded.name == "__init__.py" else loaded.parent
        if home.resolve() != folder and (home / TOML).is_file():
            for name in [name for name in sys.modules if name.partition(".")[0] == own]:
                del sys.modules[name]
    importlib.invalidate_caches()
