"""``kpi-bench submission new`` and ``check``: a working start, and faults found before a long run."""

from __future__ import annotations

import inspect
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kpi_bench.errors import KpiBenchError, SubmissionError
from kpi_bench.harness.config import SubmissionConfig, SubmissionKind, import_class, read_config
from kpi_bench.harness.evaluate import Listener, Options, evaluate
from kpi_bench.harness.protocol import Submission
from kpi_bench.harness.supervise import Limits
from kpi_bench.suites.suite import Suite

TEMPLATE = Path(__file__).parent / "template"
SMOKE_SECONDS = 30.0
PROTOCOL = (
    "pretrain", "save_pretrained", "load_pretrained", "adapt", "predict", "parameters", "export", "pretrains",
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One step of a check: what was looked at, and the fault found, if any."""

    name: str
    fault: str | None = None


def new_submission(folder: Path) -> list[Path]:
    """Write the template into a new folder whose name becomes the submission's; returns the files written.

    Raises:
        SubmissionError: the folder exists, or its name is no name for a submission.
    """
    name = folder.name
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise SubmissionError(
            f"{name!r} is no name for a submission: use letters, digits, '-' and '_', a letter first"
        )
    if folder.exists():
        raise SubmissionError(f"{folder} exists; name another folder")
    folder.mkdir(parents=True)
    # A module name of its own: two submissions on one path must not shadow each other.
    module = f"{re.sub(r'[^a-z0-9]', '_', name.lower())}_submission"
    written = []
    for source in sorted(TEMPLATE.iterdir()):
        if source.is_file():
            target = folder / (f"{module}.py" if source.name == "submission.py" else source.name)
            target.write_text(
                source.read_text(encoding="utf-8").replace("NAME_MODULE", module).replace("NAME", name),
                encoding="utf-8",
            )
            written.append(target)
    return written


def check_submission(
    folder: Path, mini: Callable[[], Suite], listener: Listener | None = None
) -> list[Check]:
    """Look at the toml, the import, the signatures, then run one seed on kpi-mini with 30 seconds a run.

    Stops at the first step that fails; ``mini`` loads the suite when it is needed.
    """
    checks: list[Check] = []

    def step(name: str, action: Callable[[], None]) -> bool:
        try:
            action()
        except KpiBenchError as error:
            checks.append(Check(name, str(error)))
            return False
        checks.append(Check(name))
        return True

    found: list[SubmissionConfig] = []
    if not step("submission.toml", lambda: found.append(read_config(folder))):
        return checks
    config = found[0]
    if not step(f"import {config.submission.entry}", lambda: check_signatures(_imported(config))):
        return checks
    step("smoke run on kpi-mini", lambda: _smoke(config, mini(), listener))
    return checks


def check_signatures(cls: type[Submission]) -> None:
    """Compare the methods of a submission with the protocol.

    Raises:
        SubmissionError: lists what is missing or takes other arguments.
    """
    faults = [
        f"{name} is not overridden"
        for name in ("adapt", "predict")
        if getattr(cls, name) is getattr(Submission, name)
    ]
    # Whatever ``pretrains`` says of one suite: another suite may have other kinds of tasks.
    if cls.pretrain is not Submission.pretrain:
        faults += [
            f"pretrain is overridden, {name} is not"
            for name in ("save_pretrained", "load_pretrained")
            if getattr(cls, name) is getattr(Submission, name)
        ]
    for name in PROTOCOL:
        wanted = list(inspect.signature(getattr(Submission, name)).parameters)
        given = list(inspect.signature(getattr(cls, name)).parameters)
        if len(given) != len(wanted):
            faults.append(f"{name} takes ({', '.join(given)}); the protocol wants ({', '.join(wanted)})")
    if faults:
        raise SubmissionError(f"{cls.__module__}.{cls.__qualname__}: " + "; ".join(faults))


def _imported(config: SubmissionConfig) -> type[Submission]:
    if config.submission.kind is not SubmissionKind.CODE:
        raise SubmissionError(
            f"a predictions submission has no code: `kpi-bench score {config.folder}` checks it"
        )
    return import_class(config)


def _smoke(config: SubmissionConfig, suite: Suite, listener: Listener | None) -> None:
    out = Path(tempfile.mkdtemp(prefix="kpi-bench-check-"))
    try:
        options = Options(out=out, results=out / "results", seeds=(0,), limits=Limits(seconds=SMOKE_SECONDS))
        report = evaluate(config, suite, options, listener)
        if report.failures:
            listed = "\n".join(f"  - {o.task or 'pretrain'}: {o.error}" for o in report.failures)
            raise SubmissionError(f"{len(report.failures)} of {len(report.outcomes)} runs failed:\n{listed}")
    finally:
        shutil.rmtree(out, ignore_errors=True)
