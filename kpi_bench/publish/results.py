"""Push results to a results repository: as a pull request, or as a commit of its maintainer.

The repository is laid out as an evaluation's ``--out`` folder: ``results/<suite>/<task>/<submission>.json`` with ``.queries.parquet``
beside, and ``<suite>/<submission>/predictions/<task>/seed<k>.parquet``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tabulate import tabulate

from kpi_bench._io import sha256_file, sha256_text
from kpi_bench._secrets import find_private
from kpi_bench.errors import ResultError
from kpi_bench.harness.results import (
    Result,
    predictions_folder,
    predictions_place,
    queries_path,
    read_result,
    result_files,
    result_path,
)
from kpi_bench.hub import Patience, Published, Repository, Upload
from kpi_bench.publish._private import private_in_json, private_in_parquet

RESULTS = "results"
TITLE_LENGTH = 100
MOST_NAMED = 6


@dataclass(frozen=True)
class Parcel:
    """Checked results and the files that go with them. ``predictions`` says whether these are among the files."""

    results: tuple[Result, ...]
    uploads: tuple[Upload, ...]
    predictions: bool

    @property
    def digest(self) -> str:
        """Hex SHA-256 over paths and bytes of all files."""
        return sha256_text(
            "\n".join(f"{u.path} {u.sha256()}" for u in sorted(self.uploads, key=lambda u: u.path))
        )


def pack_results(paths: Sequence[Path], *, predictions: bool = False) -> Parcel:
    """Read and check result files (of a folder: all in it) before anything is sent.

    Args:
        paths: ``.../<suite>/<task>/<submission>.json``.
        predictions: also take the predictions, which lie at ``../<suite>/<submission>/predictions`` of the results folder, as
            ``kpi-bench evaluate`` leaves them; without them their hashes are in the result all the same.

    Raises:
        ResultError: lists every problem: schema, place, a missing or changed file, a credential, absolute path or e-mail address,
            the same result twice.
    """
    files = result_files(paths)
    if not files:
        raise ResultError(
            f"no result file in {', '.join(map(str, paths)) or 'nothing'}; name .json files or folders of them"
        )
    results: list[Result] = []
    uploads: dict[str, Upload] = {}
    problems: list[str] = []
    for file in files:
        try:
            result = read_result(file)
        except ResultError as error:
            problems.append(str(error))
            continue
        target = result_path(
            Path(RESULTS), result.suite.name, result.task.name, result.submission.name
        ).as_posix()
        if target in uploads:
            problems.append(f"{file}: {result.key} is given twice: {uploads[target].source!s} is the other")
            continue
        results.append(result)
        mine = [Upload(target, file), *_beside(file, result, predictions=predictions)]
        problems += _problems(file, result, mine)
        uploads |= {upload.path: upload for upload in mine}
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise ResultError(f"nothing was sent; {len(problems)} problem(s):\n{listed}")
    return Parcel(tuple(results), tuple(uploads.values()), predictions)


def push_results(
    parcel: Parcel,
    repo: str,
    *,
    direct: bool = False,
    message: str | None = None,
    endpoint: str | None = None,
    patience: Patience | None = None,
) -> Published:
    """Send results as one pull request (one commit of a maintainer with ``direct``); the same content is never sent twice.

    Raises:
        ResultError: the message holds a credential, absolute path or e-mail address.
        HubError: somebody else changed the same results meanwhile, or the Hub refused.
    """
    headline = " ".join((message or _headline(parcel.results)).split())
    if found := find_private(headline):
        raise ResultError(f"--message holds {found[0][1]}; write it without")
    # The digest lets a second call find what the first one opened.
    title = f"{headline[:TITLE_LENGTH]} [{parcel.digest[:12]}]"
    repository = Repository(repo, endpoint=endpoint, patience=patience)
    return repository.publish(
        parcel.uploads, title=title, description=describe(parcel, repo), pull_request=not direct
    )


def describe(parcel: Parcel, repo: str) -> str:
    """Markdown for reviewers: what is pushed, and how to check it."""
    rows = [
        (
            result.suite.name,
            result.task.name,
            result.submission.name,
            f"{result.main.mean:.4f} {result.task.main_metric}",
            len(result.seeds),
            ", ".join(result.flags) or "-",
        )
        for result in parcel.results
    ]
    table = tabulate(
        rows,
        ("suite", "task", "submission", "main metric", "seeds", "flags"),
        tablefmt="github",
        disable_numparse=True,
    )
    attached = "attached" if parcel.predictions else "not attached (the results hold their hashes)"
    files = [result_path(Path("review") / RESULTS, *result.key.split("/")) for result in parcel.results]
    named = " ".join(map(str, files)) if len(files) <= MOST_NAMED else f"review/{RESULTS}"
    pull = f"kpi-bench pull --repo {repo}"
    steps = [
        f"{pull} --out board",
        f"{pull} --revision refs/pr/N --out review{' --with-predictions' if parcel.predictions else ''}",
        f"kpi-bench leaderboard check {named} --board board/{RESULTS}",
    ]
    if parcel.predictions:
        steps += sorted(
            {f"kpi-bench verify review/{RESULTS}/{r.suite.name} --suite {_suite(r)}" for r in parcel.results}
        )
    commands = "\n".join(f"    {step}" for step in steps)
    return f"{table}\n\nPredictions: {attached}.\n\nTo check it, with N the number of this pull request:\n\n{commands}\n"


def misplaced_names(result: Result) -> list[str]:
    """Names of prediction files that would lead out of their folder."""
    return [
        name for name in result.predictions.sha256 if PurePosixPath(name).parts != (name,) or name == ".."
    ]


def _beside(file: Path, result: Result, *, predictions: bool) -> Iterator[Upload]:
    if result.queries_sha256 is not None:
        target = result_path(Path(RESULTS), *result.key.split("/"))
        yield Upload(queries_path(target).as_posix(), queries_path(file))
    if predictions:
        for name in result.predictions.sha256:
            source = predictions_folder(file.resolve().parents[3], result) / name
            yield Upload(predictions_folder(Path(), result).joinpath(name).as_posix(), source)


def _problems(file: Path, result: Result, uploads: Sequence[Upload]) -> Iterator[str]:
    yield from private_in_json(file, str(file))
    if result.predictions.path != (place := predictions_place(result.task.name)):
        yield f"{file}: predictions.path is {result.predictions.path!r}; wanted is {place}"
    if odd := misplaced_names(result):
        yield f"{file}: predictions.sha256 names {odd[0]!r}, which is no plain file name"
        return
    for upload in uploads[1:]:
        source = Path(str(upload.source))
        is_queries = upload.path.startswith(f"{RESULTS}/")
        stated = result.queries_sha256 if is_queries else result.predictions.sha256[source.name]
        if not source.is_file():
            yield f"{file}: {source} is missing" + (
                "" if is_queries else "; without --with-predictions only hashes are sent"
            )
        elif sha256_file(source) != stated:
            yield f"{source}: its SHA-256 differs from the one in the result"
        else:
            yield from private_in_parquet(source, str(source), rows=True)


def _suite(result: Result) -> str:
    suite = result.suite
    return (
        f"hf://{suite.repo}@{suite.revision}" if suite.repo and suite.revision else f"FOLDER_OF_{suite.name}"
    )


def _headline(results: Sequence[Result]) -> str:
    if len(results) == 1:
        return f"Result: {results[0].submission.name} on {results[0].suite.name}/{results[0].task.name}"
    names = sorted({result.submission.name for result in results})
    suites = sorted({result.suite.name for result in results})
    who = ", ".join(names) if len(names) <= 3 else f"{len(names)} submissions"
    return f"{len(results)} results: {who} on {', '.join(suites)}"
