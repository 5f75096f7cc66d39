"""Knowledge graph embeddings: models, losses, training, scoring of all entities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from baselines.common.kge.bilinear import ComplEx, DistMult
from baselines.common.kge.euclidean import DistE, RefE, RotE, TransE
from baselines.common.kge.hyperbolic import AttH, DistH, Hyperbolic, RefH, RotH, TransH
from baselines.common.kge.models import KgeModel
from kpi_bench.errors import SubmissionError

MODELS: Mapping[str, type[KgeModel]] = {
    cls.__name__.lower(): cls
    for cls in (DistMult, ComplEx, TransE, DistE, RotE, RefE, TransH, DistH, RotH, RefH, AttH)
}


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
) -> KgeModel:
    """A model by name, freshly initialised.

    Raises:
        SubmissionError: an unknown name, an odd ``dim`` where coordinates are paired, or an option that the model lacks.
    """
    if name not in MODELS:
        raise SubmissionError(f"unknown KGE model {name!r}; use one of {', '.join(MODELS)}")
    if dim < 1 or (dim % 2 and name not in ("distmult", "transe", "diste", "transh", "disth")):
        raise SubmissionError(f"{name} pairs coordinates: dim must be even and positive, got {dim}")
    options: dict[str, Any] = {"bias": bias, "init_std": init_std, "sparse_rows": sparse_rows}
    cls = MODELS[name]
    if issubclass(cls, Hyperbolic):
        options["relation_curvature"] = relation_curvature
    elif relation_curvature:
        raise SubmissionError(f"{name} has no curvature: relation_curvature is for hyperbolic models")
    return cls(n_entities, n_relations, dim, generator, **options)
