"""Knowledge graph embeddings: models, losses, training, scoring of all entities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from baselines.common.kge.bilinear import ComplEx, DistMult
from baselines.common.kge.euclidean import DistE, RefE, RotE, TransE
from baselines.common.kge.hyperbolic import AttH, DistH, Hyperbolic, RefH, RotH, TransH
from baselines.common.kge.models import KgeModel
from baselines.common.shards import Shard
from kpi_bench.errors import SubmissionError

MODELS: Mapping[str, type[KgeModel]] = {
    cls.__name__.lower(): cls
    for cls in (DistMult, ComplEx, TransE, DistE, RotE, RefE, TransH, DistH, RotH, RefH, AttH)
}
UNPAIRED = ("distmult", "transe", "diste", "transh", "disth")
"""Models that take coordinates one by one; the others take pairs."""


def check_shape(name: str, dim: int, *, relation_curvature: bool = False) -> None:
    """Refuse what the named model cannot have.

    Raises:
        SubmissionError: ``dim`` is below 1, or odd where coordinates are paired; ``relation_curvature`` in a flat space.
    """
    if dim < 1:
        raise SubmissionError(f"dim = {dim}; it must be at least 1")
    if dim % 2 and name not in UNPAIRED:
        raise SubmissionError(f"dim = {dim}; it must be even: {name} pairs coordinates")
    if relation_curvature and not issubclass(MODELS[name], Hyperbolic):
        raise SubmissionError(f"relation_curvature: {name} has no curvature")


def create_model(
    name: str,
    n_entities: int,
    n_relations: int,
    dim: int,
    generator: torch.Generator,
    *,
    bias: bool = False,
    init_std: float = 0.0,
    relation_curvature: bool = False,
    sparse_rows: bool = False,
    shard: Shard | None = None,
) -> KgeModel:
    """A model by name, freshly initialised; with ``shard`` this process's rows of that.

    Raises:
        SubmissionError: an unknown name, a ``dim`` or an option that the model cannot have.
    """
    if name not in MODELS:
        raise SubmissionError(f"unknown KGE model {name!r}; use one of {', '.join(MODELS)}")
    check_shape(name, dim, relation_curvature=relation_curvature)
    options: dict[str, Any] = {"bias": bias, "init_std": init_std, "sparse_rows": sparse_rows, "shard": shard}
    cls = MODELS[name]
    if issubclass(cls, Hyperbolic):
        options["relation_curvature"] = relation_curvature
    return cls(n_entities, n_relations, dim, generator, **options)
