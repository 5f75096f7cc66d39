"""Put the scores of a submission into the model repository of its trained state."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from kpi_bench._schema import encode
from kpi_bench._secrets import find_private
from kpi_bench.errors import HubError, ResultError, SuiteError
from kpi_bench.harness.results import Result
from kpi_bench.hub import Patience, Published, Repository, Upload, fetch_dataset
from kpi_bench.hub.repository import MAIN
from kpi_bench.publish.card import NEW_CARD, with_results, with_scores
from kpi_bench.suites.manifest import MANIFEST, read_manifest

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CARD, SCORES = "README.md", ".eval_results"
# The Hub's names of tasks: it has none for recommendation and link prediction over graphs.
HUB_TASKS = {
    "classification": "text-classification",
    "recommendation": "graph-ml",
    "link_prediction": "graph-ml",
}
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def push_model(
    results: Sequence[Result],
    repo: str,
    *,
    dataset: str | None = None,
    direct: bool = False,
    endpoint: str | None = None,
    patience: Patience | None = None,
) -> Published:
    """Write the main metric of each result into a model repository: ``.eval_results/<suite>.yaml`` and the card's ``model-index``.

    One pull request, or one commit with ``direct``. Values of the same tasks are replaced; everything else in both files stays, and so
    do values that the Hub itself has verified (``verifyToken``, which is not ours to set). See :func:`with_results` for the card.

    Args:
        results: of one submission on one suite.
        repo: ``OWNER/NAME`` of the model; it must be there.
        dataset: ``OWNER/NAME`` of the suite on the Hub, for results on a suite that did not come from there.
        direct: commit to main.
        endpoint: another Hub, None for the client's own (HF_ENDPOINT).
        patience: how long to insist, None for the usual.

    Raises:
        ResultError: no result, several submissions or suites, no dataset, or a credential, absolute path or e-mail address inside.
        HubError: the dataset is not the suite that was scored on, no such model repository, a file of it that cannot be merged or that
            somebody else changed meanwhile, or the Hub refused.
    """
    results = _of_one_kind(results)
    name = _dataset_of(results, dataset)
    _refuse_private(results)
    repository = Repository(repo, kind="model", endpoint=endpoint, patience=patience)
    if not repository.exists():
        raise _absent(repo, Repository(repo, endpoint=endpoint, patience=patience).exists())
    revisions = _revisions(results, name, endpoint, patience)
    pairs = [(result, revisions[_stated(result)]) for result in results]
    scores = f"{SCORES}/{results[0].suite.name}.yaml"
    head = repository.resolve()
    there = set(repository.paths(head))

    raw = {path: repository.read(path, head) for path in (scores, CARD) if path in there}
    try:
        texts = {path: content.decode("utf-8") for path, content in raw.items()}
        files = {
            scores: with_scores(
                texts.get(scores, ""), [_entry(result, name, revision) for result, revision in pairs]
            ),
            CARD: with_results(
                texts.get(CARD, NEW_CARD),
                repo.partition("/")[2],
                [_evaluation(result, name, revision) for result, revision in pairs],
            ),
        }
    except UnicodeDecodeError:
        raise HubError(f"model {repo}: {CARD} or {scores} is no UTF-8 text; correct it first") from None
    except HubError as error:
        raise HubError(f"model {repo}: {error}") from None
    return repository.publish(
        [Upload(path, text.encode("utf-8")) for path, text in files.items()],
        title=f"kpi-bench: {results[0].submission.name} on {results[0].suite.name}",
        description=_describe(results),
        pull_request=not direct,
        base=head,
    )


def _of_one_kind(results: Sequence[Result]) -> list[Result]:
    """The results in the order of their tasks."""
    for what, found in {
        "submissions": {f"{r.submission.name} {r.submission.version}" for r in results},
        "suites": {f"{r.suite.name} {r.suite.version} ({r.suite.sha256[:12]})" for r in results},
    }.items():
        if len(found) != 1:
            listed = ", ".join(sorted(found)) or "none"
            raise ResultError(
                f"a model gets the results of one submission on one suite; {what} here: {listed}"
            )
    if not _FILE_NAME.fullmatch(suite := results[0].suite.name):
        raise ResultError(f"suite {suite!r}: the name cannot be that of a file; rename the suite")
    tasks = [result.task.name for result in results]
    if twice := sorted({task for task in tasks if tasks.count(task) > 1}):
        raise ResultError(f"given twice: {', '.join(twice)}; name one result a task")
    return sorted(results, key=lambda result: result.task.name)


def _dataset_of(results: Sequence[Result], named: str | None) -> str:
    """Dataset repository of the suite."""
    stated = {result.suite.repo for result in results if result.suite.repo}
    if named and stated - {named}:
        raise ResultError(f"scored on {', '.join(sorted(stated))}, not on {named}; leave --dataset out")
    if len(stated) > 1:
        raise ResultError(f"scored on several datasets: {', '.join(sorted(stated))}; push those of one")
    if not (found := named or next(iter(stated), None)):
        raise ResultError(
            f"suite {results[0].suite.name} did not come from the Hub, so the results name no dataset. Name the one that "
            "`kpi-bench data push` made of this suite with --dataset OWNER/NAME."
        )
    return found


def _revisions(
    results: Sequence[Result], name: str, endpoint: str | None, patience: Patience | None
) -> dict[str | None, str]:
    """Full commit hash by the revision that results state (None: the tag of the suite's version, else main), each of which has the suite
    that was scored on."""
    suite = results[0].suite
    dataset = Repository(name, endpoint=endpoint, patience=patience)
    revisions: dict[str | None, str] = {}
    for stated in dict.fromkeys(map(_stated, results)):
        revision = dataset.resolve(stated or dataset.tags().get(f"v{suite.version}") or MAIN)
        # Not the usual cache: there a folder with the manifest alone would look like a suite that was fetched.
        with tempfile.TemporaryDirectory() as cache:
            folder = fetch_dataset(
                name, revision, patterns=(MANIFEST,), endpoint=endpoint, cache=Path(cache), patience=patience
            )
            try:
                digest = read_manifest(folder).digest
            except SuiteError:
                digest = None
        if digest != suite.sha256:
            has = (
                f"no suite ({MANIFEST} of this schema)"
                if digest is None
                else f"a suite with digest {digest[:12]}"
            )
            raise HubError(
                f"dataset {name} at {revision} holds {has}; the results are of {suite.name} {suite.version} with digest "
                f"{suite.sha256[:12]}. Name the dataset of that suite, or push it (`kpi-bench data push`)."
            )
        revisions[stated] = revision
    return revisions


def _stated(result: Result) -> str | None:
    return result.suite.revision if result.suite.repo else None


def _entry(result: Result, dataset: str, revision: str) -> dict[str, Any]:
    """The Hub's entry of one score.

    Source: huggingface.co/docs/hub/eval-results; huggingface/hub-docs, eval_results.yaml.
    """
    try:
        from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    except ImportError:
        raise HubError(
            "evaluation results of models need huggingface-hub 1.4 or newer: pip install --upgrade huggingface-hub"
        ) from None
    source = _source(result)
    entry = EvalResultEntry(
        dataset_id=dataset,
        task_id=result.task.name,
        value=result.main.mean,
        dataset_revision=revision,
        date=_date(result),
        source_url=source.get("source_url"),
        source_name=source.get("source_name"),
        notes=_notes(result),
    )
    written: dict[str, Any] = eval_result_entries_to_yaml([entry])[0]
    return written


def _evaluation(result: Result, dataset: str, revision: str) -> EvalResult:
    """The same for ``model-index``, where a dataset's config is the task."""
    from huggingface_hub import EvalResult

    seeds = len(result.seeds)
    return EvalResult(
        task_type=HUB_TASKS.get(result.task.kind, "other"),
        task_name=result.task.kind.replace("_", " "),
        dataset_type=dataset,
        dataset_name=f"{result.suite.name} {result.suite.version} ({result.task.name})",
        dataset_config=result.task.name,
        dataset_split="test",
        dataset_revision=revision,
        metric_type=result.task.main_metric,
        metric_name=f"{result.task.main_metric} (mean of {seeds} seed{'s'[: seeds > 1]})",
        metric_value=result.main.mean,
        **_source(result),
    )


def _source(result: Result) -> dict[str, Any]:
    """The submission's code. Not its paper, whose numbers these are not."""
    url = result.submission.source_url.strip()
    if not url.startswith(("https://", "http://")):
        return {}
    return {"source_url": url, "source_name": f"Code of {result.submission.name}"}


def _notes(result: Result) -> str:
    """One line: metric, seeds, interval, who measured, and the result's flags as they are."""
    main, seeds = result.main, result.seeds
    metric = (
        result.task.main_metric if main.higher_is_better else f"{result.task.main_metric} (lower is better)"
    )
    parts = [f"{metric}, mean of {len(seeds)} seed{'s'[: len(seeds) > 1]} ({', '.join(map(str, seeds))})"]
    # The interval over queries is there for a single seed as well.
    for interval, over in ((main.ci95_queries, "queries"), (main.ci95_seeds, "seeds")):
        if interval is not None:
            parts.append(f"95 % interval over {over} {interval[0]:.4f} to {interval[1]:.4f}")
    parts.append(
        f"{result.submission.name} {result.submission.version}, kpi-bench {result.kpi_bench.version}"
    )
    if result.flags:
        parts.append(f"flags: {', '.join(result.flags)}")
    return " ".join("; ".join(parts).split())


def _date(result: Result) -> str:
    try:
        return datetime.fromisoformat(result.created).isoformat()
    except ValueError:
        raise ResultError(f"{result.key}: created is {result.created!r}, which is no ISO 8601 time") from None


def _refuse_private(results: Sequence[Result]) -> None:
    found = [f"  - {r.key}: {where}: {why}" for r in results for where, why in find_private(encode(r))]
    if found:
        raise ResultError(
            "\n".join(["nothing was sent; take these out and run the submission again:", *found])
        )


def _absent(repo: str, is_dataset: bool) -> HubError:
    if is_dataset:
        return HubError(
            f"{repo} is a dataset repository; wanted is that of a model (`kpi-bench push` is for results)"
        )
    return HubError(
        f"model {repo}: no such repository, or a private one that your token may not read. It is made by its owner: "
        f"`hf repos create {repo}`, then upload the trained state; or take another name."
    )


def _describe(results: Sequence[Result]) -> str:
    rows = [(r.task.name, r.task.main_metric, f"{r.main.mean:.4f}", len(r.seeds)) for r in results]
    return str(tabulate(rows, ("task", "metric", "mean", "seeds"), tablefmt="github", disable_numparse=True))
