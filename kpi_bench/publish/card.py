"""Put results into the card of a model, as the Hub's ``model-index``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from kpi_bench.errors import HubError
from kpi_bench.harness.results import Result
from kpi_bench.hub import Patience, Published, Repository, Upload

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CARD = "README.md"
NEW_CARD = "---\ntags:\n- kpi-bench\n---\n"
# The Hub's names of tasks: it has none for recommendation and link prediction over graphs.
HUB_TASKS = {
    "classification": "text-classification",
    "recommendation": "graph-ml",
    "link_prediction": "graph-ml",
}


def add_to_model(
    results: Sequence[Result],
    model: str,
    *,
    direct: bool = False,
    endpoint: str | None = None,
    patience: Patience | None = None,
) -> Published:
    """Write the main metric of each result into a model's card (pull request, or a commit with ``direct``).

    Entries of other benchmarks stay; one of the same task, data and metric is replaced. A model without a card gets one.

    Raises:
        HubError: the card's metadata are unreadable, or the Hub refused.
    """
    repository = Repository(model, kind="model", endpoint=endpoint, patience=patience)
    head = repository.resolve()
    content = repository.read(CARD, head).decode("utf-8") if CARD in repository.paths(head) else NEW_CARD
    card = _with_results(content, model, results)
    tasks = ", ".join(sorted({f"{result.suite.name}/{result.task.name}" for result in results}))
    return repository.publish(
        [Upload(CARD, card.encode("utf-8"))],
        title=f"kpi-bench results on {tasks}"[:120],
        pull_request=not direct,
    )


def _with_results(content: str, model: str, results: Sequence[Result]) -> str:
    from huggingface_hub import ModelCard, ModelCardData

    try:
        card = ModelCard(content)
    except ValueError as error:
        raise HubError(
            f"model {model}: the metadata of its card cannot be read ({error}); correct them first"
        ) from error
    data = cast(ModelCardData, card.data)
    new = [_entry(result) for result in results]
    replaced = {(entry.unique_identifier, entry.metric_type) for entry in new}
    old = [e for e in data.eval_results or [] if (e.unique_identifier, e.metric_type) not in replaced]
    data.model_name = data.model_name or model.partition("/")[2]
    data.eval_results = [*old, *new]
    return str(card)


def _entry(result: Result) -> EvalResult:
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type=HUB_TASKS.get(result.task.kind, "other"),
        task_name=result.task.kind.replace("_", " "),
        dataset_type=result.suite.repo or result.suite.name,
        dataset_name=f"{result.suite.name} {result.suite.version} ({result.task.name})",
        dataset_config=result.task.name,
        dataset_split="test",
        dataset_revision=result.suite.revision,
        metric_type=result.task.main_metric,
        metric_name=f"{result.task.main_metric} (mean of {len(result.seeds)} seed{'s'[: len(result.seeds) > 1]})",
        metric_value=result.main.mean,
    )
