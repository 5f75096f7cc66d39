"""The registry of metrics: what each name means, which way is better and what values are possible."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from math import inf

from kpi_bench.errors import EvaluationError
from kpi_bench.suites.task import TaskKind


@dataclass(frozen=True)
class Metric:
    """A metric's declaration. ``minimum`` and ``maximum`` are attainable bounds, infinite where there is none."""

    name: str
    higher_is_better: bool
    minimum: float
    maximum: float
    description: str
    kinds: tuple[TaskKind, ...]


def metric(name: str) -> Metric:
    """The declaration of a metric name such as ``ndcg@20``, ``macro_f1`` or ``tail/hits@10_pessimistic``.

    Raises EvaluationError, which lists what is allowed, for a name that is not declared.
    """
    cutoffs = _CUTOFF.findall(name)
    template = _CUTOFF.sub("@k", name)
    # "@k" itself is how templates are written, never a metric of a result.
    declared = _TEMPLATES.get(template) if "@k" not in name else None
    if declared is None:
        allowed = "; ".join(f"{kind.value}: {names}" for kind, names in _ALLOWED.items())
        raise EvaluationError(
            f"unknown metric {name!r}; must be one of [{allowed}], with k a positive integer"
        )
    if not cutoffs:
        return declared
    k = int(cutoffs[0])
    return Metric(
        name=name,
        higher_is_better=declared.higher_is_better,
        minimum=declared.minimum,
        maximum=_harmonic(k) if template == "mrr_sum@k" else declared.maximum,
        description=declared.description.replace("top k", f"top {k}").replace("than k", f"than {k}"),
        kinds=declared.kinds,
    )


def metric_templates(kind: TaskKind) -> tuple[str, ...]:
    """Every metric name declared for a kind of task, with ``@k`` standing for a cutoff."""
    return tuple(name for name, declared in _TEMPLATES.items() if kind in declared.kinds)


def _harmonic(k: int) -> float:
    """Largest ``mrr_sum@k``: every one of the first k ranks is a hit."""
    return sum(1.0 / rank for rank in range(1, k + 1))


_CUTOFF = re.compile(r"(?<=[a-z])@([1-9][0-9]*)(?![0-9])")

# name, higher is better, minimum, maximum, description
_Declaration = tuple[str, bool, float, float, str]

_RECOMMENDATION: tuple[_Declaration, ...] = (
    ("recall@k", True, 0, 1, "test items in the top k, over the user's test items"),
    ("ndcg@k", True, 0, 1, "discounted (log2) gain of the top k, over that of an ideal top k"),
    ("mrr@k", True, 0, 1, "1 / rank of the first test item, 0 when none is in the top k"),
    ("hit@k", True, 0, 1, "1 when a test item is in the top k"),
    ("precision@k", True, 0, 1, "test items in the top k, over k"),
    ("mrr_sum@k", True, 0, inf, "sum of 1 / rank of all test items in the top k: SSLRec's mrr, can exceed 1"),
    ("coverage@k", True, 0, 1, "share of the catalogue that is in the top k of some user"),
    ("gini@k", False, 0, 1, "Gini index of how often each item is in a top k; 0 is even"),
    (
        "novelty@k",
        True,
        0,
        inf,
        "mean bits of surprise of the top k: -log2 of the share of train users with the item",
    ),
    ("path_validity", True, 0, 1, "share of explanations that are true paths from the user to the item"),
    ("explained@k", True, 0, 1, "items of the top k with a valid path, over the items of the top k"),
    (
        "path_types@k",
        True,
        0,
        inf,
        "distinct relation patterns among the valid paths of the top k",
    ),
)

_CLASSIFICATION: tuple[_Declaration, ...] = (
    ("accuracy", True, 0, 1, "share of examples whose class is right"),
    ("macro_f1", True, 0, 1, "F1 averaged over the task's fixed list of classes; 0 where undefined"),
    ("precision", True, 0, 1, "precision of the positive class; 0 where undefined"),
    ("recall", True, 0, 1, "recall of the positive class; 0 where undefined"),
    ("f1", True, 0, 1, "F1 of the positive class; 0 where undefined"),
    ("auroc", True, 0, 1, "share of (positive, negative) pairs in the right order, ties half"),
    ("mae", False, 0, inf, "mean absolute difference between predicted and true rating"),
    ("quadratic_kappa", True, -1, 1, "agreement of ratings beyond chance, by squared difference"),
)

_RANKS: tuple[_Declaration, ...] = (
    ("mrr", True, 0, 1, "mean of 1 / rank"),
    ("mr", False, 1, inf, "mean rank"),
    ("amri", True, -1, 1, "1 - (mean rank - 1) / (its expectation - 1): 0 is chance, 1 is perfect"),
    ("hits@k", True, 0, 1, "share of ranks not worse than k"),
)

_SIDES = {"": "", "head/": ", head queries only", "tail/": ", tail queries only"}
_AVERAGES = {"": "", "macro_": ", averaged within each relation first"}
_TIES = {
    "": "",
    "_optimistic": ", a tied answer ranked first among its equals",
    "_pessimistic": ", a tied answer ranked last among its equals",
}

_ALLOWED: dict[TaskKind, str] = {
    TaskKind.RECOMMENDATION: ", ".join(name for name, *_ in _RECOMMENDATION),
    TaskKind.CLASSIFICATION: ", ".join(name for name, *_ in _CLASSIFICATION),
    TaskKind.LINK_PREDICTION: "(head/|tail/)?(macro_)?("
    + "|".join(name for name, *_ in _RANKS)
    + ")(_optimistic|_pessimistic)?",
}


def _templates() -> dict[str, Metric]:
    """All declarations by name; link prediction is every side x average x base x tie policy."""
    table: dict[str, Metric] = {}
    plain = ((_RECOMMENDATION, TaskKind.RECOMMENDATION), (_CLASSIFICATION, TaskKind.CLASSIFICATION))
    for declarations, kind in plain:
        for declaration in declarations:
            table[declaration[0]] = Metric(*declaration, kinds=(kind,))
    for side, average, base, ties in product(_SIDES, _AVERAGES, _RANKS, _TIES):
        stem, higher, low, high, text = base
        name = f"{side}{average}{stem}{ties}"
        description = text + _SIDES[side] + _AVERAGES[average] + _TIES[ties]
        table[name] = Metric(name, higher, low, high, description, (TaskKind.LINK_PREDICTION,))
    return table


_TEMPLATES = _templates()
