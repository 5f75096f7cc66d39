"""Text tasks of KPI: balanced samples, split per class into test, valid, train as the authors' scripts do.

Their shuffles were not seeded, so a split drawn here is ours; where the published file is given, that file is the split.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kpi_bench.errors import RecipeError
from kpi_bench.suites.recipes._kpi_fingerprints import Check, TextFingerprint
from kpi_bench.suites.task import TaskSpec
from kpi_bench.suites.writer import SPLITS, TaskFrames

SEED = 42
COLUMNS = ["item", "text", "label"]


@dataclass(frozen=True)
class TextRow:
    """One candidate row: key of the item in the KG, text, class."""

    item: str
    text: str
    label: int


class Reservoir:
    """A seeded uniform sample of ``size`` rows of each class from a stream of any length (algorithm R)."""

    def __init__(self, n_classes: int, size: int) -> None:
        self.size = size
        self.seen = [0] * n_classes
        self.rows: list[list[TextRow]] = [[] for _ in range(n_classes)]
        self._random = [random.Random(SEED + label) for label in range(n_classes)]

    def add(self, row: TextRow) -> None:
        """Offer one row."""
        rows, seen = self.rows[row.label], self.seen[row.label]
        self.seen[row.label] += 1
        if seen < self.size:
            rows.append(row)
        elif (place := self._random[row.label].randrange(seen + 1)) < self.size:
            rows[place] = row


def split_classes(
    name: str, rows: Sequence[Sequence[TextRow]], per_class: tuple[int, int, int]
) -> dict[str, pd.DataFrame]:
    """Shuffle each class (seeded) and cut test, valid, train from it in this order, ``per_class`` rows in train, valid, test.

    Raises:
        RecipeError: a class has too few rows.
    """
    n_train, n_valid, n_test = per_class
    parts: dict[str, list[TextRow]] = {split: [] for split in SPLITS}
    for label, candidates in enumerate(rows):
        if len(candidates) < sum(per_class):
            raise RecipeError(
                f"{name}: class {label} has {len(candidates)} rows; KPI takes {sum(per_class)} of each class"
            )
        shuffled = list(candidates)
        random.Random(SEED + label).shuffle(shuffled)
        parts["test"] += shuffled[:n_test]
        parts["valid"] += shuffled[n_test : n_test + n_valid]
        parts["train"] += shuffled[n_test + n_valid : n_test + n_valid + n_train]
    return {split: pd.DataFrame(found, columns=COLUMNS) for split, found in parts.items()}


def text_task(spec: TaskSpec, splits: dict[str, pd.DataFrame], entity_of: dict[str, int]) -> TaskFrames:
    """The task from rows (item, text, label); examples are numbered through train, valid and test.

    Raises:
        RecipeError: an item is not in the KG.
    """
    start, frames = 0, {}
    for split in SPLITS:
        rows = splits[split]
        unknown = sorted(set(rows["item"]) - entity_of.keys())
        if unknown:
            raise RecipeError(
                f"{spec.name}: {len(unknown)} items of {split} are not in the KG, first {unknown[:3]}"
            )
        frames[split] = pd.DataFrame(
            {
                "example": np.arange(start, start + len(rows)),
                "entity": [entity_of[item] for item in rows["item"]],
                "text": rows["text"].to_list(),
                "label": rows["label"].to_numpy(),
            }
        )
        start += len(rows)
    return TaskFrames(spec, frames)


def check_text(
    name: str, known: TextFingerprint, n_classes: int, splits: dict[str, pd.DataFrame]
) -> list[Check]:
    """Compare class sizes of each split, and the number of items where it is known."""
    checks = []
    for split, size in zip(SPLITS, known.per_class, strict=True):
        counts = np.bincount(splits[split]["label"], minlength=n_classes).tolist()
        checks.append(
            Check(
                f"{name}: rows per class in {split}",
                str([size] * n_classes),
                str(counts),
                counts == [size] * n_classes,
            )
        )
    if known.items is not None:
        items = pd.concat(list(splits.values()))["item"].nunique()
        checks.append(Check(f"{name}: items", str(known.items), str(items), items == known.items))
    return checks


def check_rows_found(
    name: str, published: dict[str, pd.DataFrame], ours: Iterable[tuple[str, str, int]]
) -> Check:
    """How many published rows occur among ours, counting repeats. Not binding: the published file, not ours, is then the split."""
    wanted = Counter(
        (str(item), str(text), int(label))
        for frame in published.values()
        for item, text, label in frame[COLUMNS].itertuples(index=False)
    )
    total = wanted.total()
    for row in ours:
        if wanted[row] > 0:
            wanted[row] -= 1
    found = total - wanted.total()
    return Check(
        f"{name}: published rows found in the raw file", str(total), str(found), found == total, binding=False
    )
