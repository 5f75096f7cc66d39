"""What a KG embedding is trained on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from baselines.common.kge.scoring import LinkValidation
from kpi_bench import KnowledgeGraph, LinkPredictionTask
from kpi_bench.errors import SubmissionError


@dataclass(frozen=True)
class Knowledge:
    """``triples`` int64 ``[n, 3]``, their sizes, and the valid triples that early stopping asks: None on a KG, which has no task."""

    triples: NDArray[np.int64]
    n_entities: int
    n_relations: int
    valid: NDArray[np.int64] | None = None
    _validations: dict[int, LinkValidation] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of_graph(cls, kg: KnowledgeGraph) -> Knowledge:
        """All triples of a KG."""
        return cls(kg.triples(), kg.n_entities, kg.n_relations)

    @classmethod
    def of_task(cls, task: LinkPredictionTask) -> Knowledge:
        """Train and valid of a link-prediction task."""
        return cls(task.train.array(), task.n_entities, task.n_relations, task.valid.array())

    def require_triples(self, description: str) -> None:
        """Raise SubmissionError where there is nothing to learn."""
        if len(self.triples) == 0:
            raise SubmissionError(f"{description}: the KG has no triples")

    def validation(self, max_triples: int) -> LinkValidation | None:
        """What early stopping asks, one for all models that rank as many triples (0: all); None without a valid triple."""
        if self.valid is None or len(self.valid) == 0:
            return None
        if max_triples not in self._validations:
            self._validations[max_triples] = LinkValidation(
                self.triples, self.valid, self.n_entities, self.n_relations, max_triples=max_triples
            )
        return self._validations[max_triples]
