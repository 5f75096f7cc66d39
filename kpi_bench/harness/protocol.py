"""What a submission implements, what it is handed, and what it hands back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from kpi_bench._csr import Csr
from kpi_bench.errors import SubmissionError
from kpi_bench.evaluators.ranking import TopK
from kpi_bench.suites.graph import KnowledgeGraph
from kpi_bench.suites.task import Task, TaskKind

T = TypeVar("T")

PROGRESS_S = 0.2


@dataclass(frozen=True, eq=False)
class RecommendationQueries:
    """Users to rank items for.

    ``users`` int64 ``[n]``; row ``i`` of ``exclude`` holds the items that must not be returned for ``users[i]``; at most ``k`` items a user.
    Equal scores are ordered by ``tie_order[item]``, int64 ``[n_items]``: ``kpi_bench.top_k_from_factors`` and ``top_k_from_scores`` do all of this.
    """

    users: NDArray[np.int64]
    exclude: Csr
    k: int
    tie_order: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True, eq=False)
class ClassificationQueries:
    """Texts to classify, each about one entity of the task's KG; ids int64 ``[n]``."""

    examples: NDArray[np.int64]
    entities: NDArray[np.int64]
    texts: list[str]

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True, eq=False)
class LinkPredictionQueries:
    """Distinct queries, int64 ``[n]`` each: direction 0 asks (entity, relation, ?), direction 1 asks (?, relation, entity)."""

    entities: NDArray[np.int64]
    relations: NDArray[np.int64]
    directions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.entities)


Queries: TypeAlias = RecommendationQueries | ClassificationQueries | LinkPredictionQueries


Predictions: TypeAlias = TopK | NDArray[np.floating] | Iterable[NDArray[np.float32]]


class Reporter(Protocol):
    """Where a context sends what the submission reports (the harness's pipe; a list in tests)."""

    def __call__(self, kind: str, **values: Any) -> None: ...


def silent(kind: str, **values: Any) -> None:
    """A reporter that drops everything."""


class LazyGraphs(Mapping[str, KnowledgeGraph]):
    """The suite's KGs by name, each read when first asked for."""

    def __init__(self, names: Sequence[str], read: Callable[[str], KnowledgeGraph]) -> None:
        self._names = list(names)
        self._read = read

    def __getitem__(self, name: str) -> KnowledgeGraph:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True, eq=False)
class Context:
    """What the harness lends a submission: seed, device, a scratch folder, the KGs, and ways to report.

    ``device`` is a torch device name (``cpu``, ``cuda:0``). ``scratch`` is empty at the start of a run and deleted after it.
    ``cache`` is shared by the runs of one row, for files that depend on public inputs alone and are named by their content (text
    features); None where nothing can be kept. What a run finds there it has not paid for: say so with :meth:`note`.

    ``world_size`` processes pre-train together (``--processes``), of which this one is ``rank``: docs/scale.md. They share scratch and
    cache; what ranks above 0 report is dropped.
    """

    seed: int
    device: str
    scratch: Path
    graphs: Mapping[str, KnowledgeGraph]
    report: Reporter = silent
    cache: Path | None = None
    rank: int = 0
    world_size: int = 1

    def log(self, step: int, value: float, metric: str = "valid") -> None:
        """Add a point (now, step, value) to the learning curve; ``value`` is a score on valid, higher or lower as ``metric`` says.

        Raises:
            SubmissionError: the value is NaN or infinite.
        """
        if not math.isfinite(value):
            raise SubmissionError(f"ctx.log: {metric} at step {step} is {value}; training has diverged")
        self.report("curve", step=int(step), value=float(value), metric=metric)

    def note(self, key: str, value: str | float | bool) -> None:
        """Record a fact of this run in the result: which encoder was found, the epoch that was kept.

        Raises:
            SubmissionError: the value is no text, bool or finite number.
        """
        if not isinstance(value, str | bool | int | float) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise SubmissionError(
                f"ctx.note: {key} is {value!r}; wanted is a text, a bool or a finite number"
            )
        self.report("note", key=key, value=value)

    def progress(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yield ``items`` while the harness's progress bar follows."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        due = 0.0
        for done, item in enumerate(items):
            # A message an item would cost a fast loop more than its work.
            if (now := time.perf_counter()) >= due:
                due = now + PROGRESS_S
                self.report("progress", description=description, done=done, total=total)
            yield item


class Submission:
    """Base class of a submission. ``params`` is the ``[params]`` table of ``submission.toml``, with the suite's overrides.

    The harness makes one instance a run (with ``--timing`` one a round, in one process) and calls, in this order: ``pretrain`` (once a suite
    and seed, in a process of its own, followed by ``save_pretrained``) or ``load_pretrained``; ``adapt``; ``predict``; ``parameters`` and ``export``.

    ``data_parallel`` says that ``pretrain`` may be called in several processes at once, each with its own ``ctx.rank``; rank 0 then saves.

    ``adapt_only`` names parameters that ``pretrain`` never gets: they are not among the ``params`` of an instance that pre-trains. So what
    was pre-trained cannot depend on them, and runs that differ in nothing else share it.
    """

    data_parallel: ClassVar[bool] = False
    adapt_only: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = dict(params)

    def pretrain(self, graphs: Mapping[str, KnowledgeGraph], ctx: Context) -> None:
        """Learn from the KGs alone; leave it out when there is nothing to pre-train."""

    def save_pretrained(self, folder: Path) -> None:
        """Write what :meth:`pretrain` learned (safetensors, JSON, Parquet) into an existing empty folder."""
        raise SubmissionError(
            f"{type(self).__name__} overrides pretrain, so it must also override save_pretrained and load_pretrained"
        )

    def load_pretrained(self, folder: Path) -> None:
        """Read what :meth:`save_pretrained` wrote; a run that changes anything there fails."""
        raise SubmissionError(
            f"{type(self).__name__} overrides pretrain, so it must also override save_pretrained and load_pretrained"
        )

    def adapt(self, task: Task, ctx: Context) -> None:
        """Learn the task from its train and valid splits (``task.test`` is None)."""
        raise NotImplementedError

    def predict(self, task: Task, queries: Queries, ctx: Context) -> Predictions:
        """Answer queries: a :class:`TopK`, or an :class:`ExplainedTopK` with paths to its items (recommendation), scores ``[n, n_classes]``
        (classification), or blocks of float32 rows ``[rows, n_entities]`` that cover the queries in order (link prediction)."""
        raise NotImplementedError

    def parameters(self) -> Mapping[str, int]:
        """Counts behind the result's size columns: ``total``, ``trainable`` (during adapt) and, where the model was pruned,
        ``kept``: the non-zero parameters that serving needs (``total`` when left out)."""
        return {"total": 0, "trainable": 0}

    def export(self, folder: Path) -> None:
        """Write what must be shipped to serve the adapted task; the harness measures its bytes. Nothing by default."""

    @classmethod
    def pretrains(cls, kinds: Collection[TaskKind]) -> bool:
        """Whether :meth:`pretrain` is called on a suite where the submission answers tasks of ``kinds``; by default, when it is overridden.

        A method that would learn nothing more from the KG than its ``adapt`` learns from the task returns False: the KG of a
        link-prediction suite is its task's train split. Then ``load_pretrained`` is not called either.
        """
        return cls.pretrain is not Submission.pretrain
