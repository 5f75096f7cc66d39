"""Classification floors: the majority class, a table of train texts, the label prior of the entity."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.reference._floor import Floor
from kpi_bench import ClassificationQueries, ClassificationTask, Context, Predictions, Queries, Task


class Majority(Floor):
    """Class frequencies in train, for every example."""

    def adapt(self, task: Task, ctx: Context) -> None:
        self.state = {"prior": _prior(self.expect(task, ClassificationTask))}

    def predict(self, task: Task, queries: Queries, ctx: Context) -> Predictions:
        asked = self.expect(queries, ClassificationQueries)
        return np.tile(self.state["prior"], (len(asked), 1))


class TextLookup(Floor):
    """Labels of the same text in train; class frequencies where the text is new. What leaks between splits, this shows."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__(params)
        self._row: dict[str, int] = {}

    def adapt(self, task: Task, ctx: Context) -> None:
        data = self.expect(task, ClassificationTask)
        self._row = {text: i for i, text in enumerate(dict.fromkeys(data.train.texts))}
        rows = np.array([self._row[text] for text in data.train.texts], dtype=np.int64)
        prior = _prior(data)
        # The prior weighs less than any label seen, and decides between equally frequent ones.
        counts = _counts(rows, data.train.labels, len(self._row), data.n_classes)
        self.state = {"prior": prior, "table": _normalised(counts + 1e-3 * prior)}

    def export(self, folder: Path) -> None:
        super().export(folder)
        (folder / "texts.json").write_text(json.dumps(list(self._row), ensure_ascii=False), encoding="utf-8")

    def predict(self, task: Task, queries: Queries, ctx: Context) -> Predictions:
        asked = self.expect(queries, ClassificationQueries)
        rows = np.array([self._row.get(text, -1) for text in asked.texts], dtype=np.int64)
        return _looked_up(rows, self.state["table"], self.state["prior"])


class ItemPrior(Floor):
    """Label frequencies of the example's entity in train, smoothed by ``smoothing`` examples at the classes' frequencies."""

    keys = frozenset({"smoothing"})

    def adapt(self, task: Task, ctx: Context) -> None:
        data = self.expect(task, ClassificationTask)
        smoothing = float(self.params.get("smoothing", 1.0))
        prior = _prior(data)
        entities, rows = np.unique(data.train.entities, return_inverse=True)
        counts = _counts(rows, data.train.labels, len(entities), data.n_classes)
        self.state = {"prior": prior, "entities": entities, "table": _normalised(counts + smoothing * prior)}

    def predict(self, task: Task, queries: Queries, ctx: Context) -> Predictions:
        asked = self.expect(queries, ClassificationQueries)
        known = self.state["entities"]
        place = np.minimum(np.searchsorted(known, asked.entities), len(known) - 1)
        rows = np.where(known[place] == asked.entities, place, -1)
        return _looked_up(rows, self.state["table"], self.state["prior"])


def _prior(task: ClassificationTask) -> NDArray[np.float64]:
    counts = np.bincount(task.train.labels, minlength=task.n_classes)
    return counts / counts.sum()


def _counts(
    rows: NDArray[np.int64], labels: NDArray[np.int64], n_rows: int, n_classes: int
) -> NDArray[np.float64]:
    cells = np.bincount(rows * n_classes + labels, minlength=n_rows * n_classes)
    return cells.reshape(n_rows, n_classes).astype(np.float64)


def _normalised(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = counts / counts.sum(axis=1, keepdims=True)
    return shares


def _looked_up(
    rows: NDArray[np.int64], table: NDArray[np.float64], prior: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Rows of ``table``, and ``prior`` for row -1."""
    return np.where(rows[:, None] >= 0, table[rows], prior)
