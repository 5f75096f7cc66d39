"""Put evaluation results into the texts of a model repository: the card's ``model-index``, and a file of scores.

Source: huggingface/hub-docs, modelcard.md and eval_results.yaml.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from kpi_bench._secrets import redact
from kpi_bench.errors import HubError

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

INDEX = "model-index"
NEW_CARD = "---\ntags:\n- kpi-bench\n---\n"
# What the client and its YAML parser raise on metadata that make no sense.
_UNREADABLE = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError)


def with_results(card: str, model: str, new: Sequence[EvalResult]) -> str:
    """The card with these results; an older value of the same dataset, config, split and metric is replaced.

    Only the block ``model-index`` is written anew: other entries keep all that they say, but not their comments and layout. Text and
    other metadata stay as they are, byte for byte, and so does the whole card when it has these results already. A value with a
    ``verifyToken`` is the Hub's own and is never replaced.

    Args:
        card: content of README.md.
        model: name of the model in a card that has no results yet.
        new: the results.

    Raises:
        HubError: the metadata cannot be read, or cannot be changed without touching others.
    """
    from huggingface_hub import ModelCard
    from huggingface_hub.repocard import REGEX_YAML_BLOCK
    from huggingface_hub.repocard_data import eval_results_to_model_index

    mark = "\ufeff" if card.startswith("\ufeff") else ""
    card = card.removeprefix(mark)
    line_break = "\r\n" if "\r\n" in card else "\n"
    found = REGEX_YAML_BLOCK.search(card)
    try:
        # Refuses what the Hub would refuse: metadata that are no mapping, entries without their required keys.
        if found is not None:
            ModelCard(card)
        metadata = (yaml.safe_load(found[2]) if found else None) or {}
        fresh = eval_results_to_model_index(model, list(new))[0]["results"]
        index = _merged(metadata.get(INDEX) or [], model, fresh)
        if index == metadata.get(INDEX):
            return mark + card
        if found is None:
            block = _dump({INDEX: index}, line_break)
            return f"{mark}---{line_break}{block}---{line_break}{card}"
        block = _spliced(found[2], index, line_break)
        # An anchor may be used on both sides of the seam, and metadata may be laid out in ways that cannot be cut.
        kept = _dump(yaml.safe_load(block)) == _dump({**metadata, INDEX: index})
    except _UNREADABLE as error:
        what = redact(" ".join(str(error).split()))[:300]
        raise HubError(
            f"the metadata of its card (README.md) cannot be read: {what}. Correct them first."
        ) from None
    if not kept:
        raise HubError(
            f"the metadata of its card (README.md) cannot be changed in part; write {INDEX} as a plain block of YAML first"
        )
    return mark + card[: found.start(2)] + block + card[found.end(2) :]


def with_scores(content: str, entries: Sequence[Mapping[str, Any]]) -> str:
    """A file of ``.eval_results`` with these entries, as it is when it has them all.

    Entries of other datasets and tasks keep what they say, as do those with a ``verifyToken``.

    Raises:
        HubError: the content is no list of entries.
    """
    try:
        found = yaml.safe_load(content) or []
        keys = [(entry["dataset"]["id"], entry["dataset"]["task_id"]) for entry in found]
        missing = [entry for entry in entries if entry not in found]
        if not missing:
            return content
        replaced = {(entry["dataset"]["id"], entry["dataset"]["task_id"]) for entry in missing}
        stay = [e for e, key in zip(found, keys, strict=True) if key not in replaced or "verifyToken" in e]
        return _dump([*stay, *missing])
    except _UNREADABLE:
        raise HubError(
            "its file of evaluation results is no list of entries with dataset.id and dataset.task_id; correct it first"
        ) from None


def _merged(
    index: Sequence[Mapping[str, Any]], model: str, fresh: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The parsed ``model-index`` with fresh results in its first model."""
    present = [result for element in index for result in element["results"]]
    missing = [result for result in fresh if result not in present]
    replaced = {key for result in missing for key in _keys(result)}
    merged = [{**element, "results": list(_without(element["results"], replaced))} for element in index] or [
        {"name": model, "results": []}
    ]
    merged[0]["results"] += missing
    return merged


def _without(
    results: Iterable[Mapping[str, Any]], replaced: set[tuple[Any, ...]]
) -> Iterable[Mapping[str, Any]]:
    for result in results:
        stay = [
            metric
            for metric, key in zip(result["metrics"], _keys(result), strict=True)
            if key not in replaced or "verifyToken" in metric
        ]
        if len(stay) == len(result["metrics"]):
            yield result
        elif stay:
            yield {**result, "metrics": stay}


def _keys(result: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """What a value is of, by metric: dataset, config, split, metric. Not the revision: a newer one takes the place of an older."""
    data = result["dataset"]
    names = [data["type"], data.get("config"), data.get("split")]
    return [tuple(str(name) for name in (*names, metric["type"])) for metric in result["metrics"]]


def _spliced(block: str, index: Sequence[Mapping[str, Any]], line_break: str) -> str:
    """A block of YAML with this ``model-index`` in place of the one it has, or at its end."""
    node = yaml.compose(block, Loader=yaml.SafeLoader)
    keys = [key for key, _ in node.value] if node else []
    places = [position for position, key in enumerate(keys) if key.value == INDEX]
    indent = " " * (keys[0].start_mark.column if keys else 0)
    text = _dump({INDEX: index}, line_break).rstrip().replace(line_break, line_break + indent)
    if not places:
        return f"{block}{line_break if block else ''}{indent}{text}"
    start = keys[places[-1]].start_mark.index
    after = keys[places[-1] + 1 :]
    lines = block[start : after[0].start_mark.index if after else len(block)].splitlines(keepends=True)
    while lines and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        lines.pop()
    old = "".join(lines)
    end = start + len(old.rstrip("\r\n"))
    return block[:start] + text + block[end:]


def _dump(value: Any, line_break: str = "\n") -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, line_break=line_break))
