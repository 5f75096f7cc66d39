"""Tasks: what is asked of a submission, with its splits."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kpi_bench._csr import Csr
from kpi_bench.errors import SuiteError


class TaskKind(StrEnum):
    """The three kinds of task."""

    RECOMMENDATION = "recommendation"
    CLASSIFICATION = "classification"
    LINK_PREDICTION = "link_prediction"


@dataclass(frozen=True)
class TaskSpec:
    """A task's entry in ``suite.json``: everything about it but the rows.

    ``mask`` names the splits whose items are no candidates at test time (recommendation). ``variants`` are scored beside
    the official split: ``dedup`` and ``cold`` (classification), ``mudok`` (recommendation, masks train only).
    ``labels`` are the class names in id order; ``ordinal`` classes are ratings; ``positive`` is the class of P/R/F1 and AUROC.
    """

    name: str
    kind: TaskKind
    kg: str
    domain: str
    description: str
    reference: str
    main_metric: str
    ks: tuple[int, ...] = ()
    mask: tuple[str, ...] = ("train", "valid")
    n_users: int | None = None
    labels: tuple[str, ...] = ()
    ordinal: bool = False
    positive: int | None = None
    variants: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def k(self) -> int:
        """Length of a full recommendation list: the largest k."""
        return max(self.ks)


@dataclass(frozen=True, eq=False)
class Interactions:
    """User-item pairs, int64 ``[n]`` each; ``time`` (seconds) where the source has it."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True, eq=False)
class Examples:
    """Text examples about one entity each; ``examples``, ``entities``, ``labels`` are int64 ``[n]``."""

    examples: NDArray[np.int64]
    entities: NDArray[np.int64]
    texts: list[str]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True, eq=False)
class Triples:
    """Triples of a link-prediction split, int64 ``[n]`` each."""

    heads: NDArray[np.int64]
    relations: NDArray[np.int64]
    tails: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.heads)

    def array(self) -> NDArray[np.int64]:
        """The triples as int64 ``[n, 3]``."""
        return np.stack([self.heads, self.relations, self.tails], axis=1)


@dataclass(frozen=True, eq=False)
class RecommendationTask:
    """Rank items for users. ``item_entity`` maps item to KG entity, -1 where the KG lacks it. ``test`` is None when withheld."""

    spec: TaskSpec
    n_users: int
    item_entity: NDArray[np.int64]
    train: Interactions
    valid: Interactions
    test: Interactions | None = None

    @property
    def n_items(self) -> int:
        return len(self.item_entity)

    def matrix(self, *splits: str) -> Csr:
        """Users x items matrix of the named splits together."""
        parts = [_split(self, name) for name in splits]
        users = np.concatenate([part.users for part in parts])
        items = np.concatenate([part.items for part in parts])
        return Csr.from_pairs(users, items, (self.n_users, self.n_items))

    @cached_property
    def train_matrix(self) -> Csr:
        """Users x items matrix of the train split."""
        return self.matrix("train")


@dataclass(frozen=True, eq=False)
class ClassificationTask:
    """Assign one of ``spec.labels`` to a text about an entity. ``test`` is None when withheld."""

    spec: TaskSpec
    train: Examples
    valid: Examples
    test: Examples | None = None

    @property
    def n_classes(self) -> int:
        return len(self.spec.labels)


@dataclass(frozen=True, eq=False)
class LinkPredictionTask:
    """Complete (head, relation, ?) and (?, relation, tail). Entity ids are those of the task's KG. ``test`` is None when withheld."""

    spec: TaskSpec
    n_entities: int
    n_relations: int
    train: Triples
    valid: Triples
    test: Triples | None = None


Task: TypeAlias = RecommendationTask | ClassificationTask | LinkPredictionTask
Split: TypeAlias = Interactions | Examples | Triples


def _split(task: RecommendationTask, name: str) -> Interactions:
    split: Interactions | None = {"train": task.train, "valid": task.valid, "test": task.test}[name]
    if split is None:
        raise SuiteError(f"task {task.spec.name}: the {name} split is withheld from submissions")
    return split


@dataclass(frozen=True)
class KgSpec:
    """A KG's entry in ``suite.json``."""

    name: str
    description: str
    domains: tuple[str, ...] = field(default_factory=tuple)
