"""Tiny KGs, models whose every table is random, and a context that remembers: for the tests of KG embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.common.kge import create_model
from baselines.common.kge.hyperbolic import Hyperbolic
from baselines.common.kge.models import KgeModel
from kpi_bench import Context

N_ENTITIES, N_RELATIONS, DIM = 13, 3, 6
HYPERBOLIC = ("transh", "disth", "roth", "refh", "atth")
BILINEAR = ("distmult", "complex")


def random_model(
    name: str, *, seed: int = 0, std: float = 0.2, curvature: float = 1.0, **options: bool
) -> KgeModel:
    """A model with biases and angles drawn at random and curvature parameters around ``curvature``."""
    generator = torch.Generator().manual_seed(seed)
    model = create_model(name, N_ENTITIES, N_RELATIONS, DIM, generator, init_std=std, **options)
    with torch.no_grad():
        for bias in (model.head_bias, model.tail_bias):
            if bias is not None:
                bias.normal_(generator=generator)
        if isinstance(model, Hyperbolic):
            model.curvatures.normal_(curvature, 0.5, generator=generator)
    return model


def random_triples(
    n: int, n_entities: int = N_ENTITIES, n_relations: int = N_RELATIONS, seed: int = 0
) -> NDArray[np.int64]:
    """Distinct triples, int64 ``[n, 3]``."""
    cells = np.random.default_rng(seed).permutation(n_entities**2 * n_relations)[:n]
    return np.stack(np.unravel_index(cells, (n_entities, n_relations, n_entities)), axis=1).astype(np.int64)


def all_queries() -> tuple[Tensor, Tensor]:
    """Heads and relations, reciprocals included, of every query of the tiny KG."""
    cells = torch.cartesian_prod(torch.arange(N_ENTITIES), torch.arange(2 * N_RELATIONS))
    return cells[:, 0], cells[:, 1]


def context(seed: int = 0, events: list[tuple[str, dict[str, Any]]] | None = None) -> Context:
    """A context without graphs; what is reported is appended to ``events``."""

    def report(kind: str, **values: Any) -> None:
        if events is not None:
            events.append((kind, values))

    return Context(seed=seed, device="cpu", scratch=Path("/nonexistent"), graphs={}, report=report)
