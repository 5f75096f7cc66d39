"""Training by sampled softmax: the true tail against negatives shared by the batch, for every triple and its reciprocal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.common.allocator import keep_freed_memory
from baselines.common.kge.models import KgeModel, create_model
from kpi_bench import Context
from kpi_bench.errors import SubmissionError


@dataclass(frozen=True)
class KgeConfig:
    """Parameters ``kge_*`` of a submission. ``negatives`` entities are drawn uniformly for each batch and scored by one matrix
    product for all its rows; ``reg`` weighs the squared norm of the batch's vectors."""

    model: str = "distmult"
    dim: int = 64
    epochs: int = 15
    batch_size: int = 4096
    negatives: int = 256
    lr: float = 5e-3
    reg: float = 1e-3


def train_kge(
    triples: NDArray[np.int64],
    n_entities: int,
    n_relations: int,
    config: KgeConfig,
    ctx: Context,
    *,
    description: str,
) -> KgeModel:
    """Train on ``triples`` int64 ``[n, 3]`` for a fixed number of epochs (pre-training sees no task, so there is no valid to stop on).

    Raises:
        SubmissionError: no triples, or the loss is NaN or infinite.
    """
    if len(triples) == 0:
        raise SubmissionError(f"{description}: the KG has no triples")
    keep_freed_memory()
    device = torch.device(ctx.device)
    initial = torch.Generator().manual_seed(ctx.seed)
    model = create_model(config.model, n_entities, n_relations, config.dim, initial).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, fused=True)
    sampler = torch.Generator(device=device).manual_seed(ctx.seed + 1)
    facts = _with_reciprocals(triples, n_relations).to(device)
    for _ in ctx.progress(range(config.epochs), description):
        total = torch.zeros((), device=device)
        for batch in _batches(facts, config.batch_size, sampler):
            negatives = torch.randint(n_entities, (config.negatives,), generator=sampler, device=device)
            optimizer.zero_grad(set_to_none=True)
            value = sampled_softmax(model, batch, negatives, n_entities, config.reg)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += value.detach()
        if not math.isfinite(total.item()):
            raise SubmissionError(f"{description}: the loss is {total.item()}; lower kge_lr")
    return model.eval()


def sampled_softmax(model: KgeModel, batch: Tensor, negatives: Tensor, n_entities: int, reg: float) -> Tensor:
    """Mean cross-entropy of the true tail over itself and ``negatives`` int64 ``[n]``, which stand for all entities.

    ``batch`` is int64 ``[b, 3]``. A negative that is the true tail is taken out of its row. The log of how many entities a
    negative stands for is added to its score, so that the softmax estimates the one over all entities.
    """
    heads, relations, tails = batch.unbind(1)
    queries = model.queries(heads, relations)
    targets = torch.nn.functional.embedding(tails, model.entities)
    candidates = torch.nn.functional.embedding(negatives, model.entities)
    others = model.scores(queries, candidates) + math.log(max(n_entities - 1, 1) / len(negatives))
    others = others.masked_fill(tails[:, None] == negatives[None, :], -torch.inf)
    own = model.pair_scores(queries, targets)
    loss = (torch.logaddexp(own, torch.logsumexp(others, dim=1)) - own).mean()
    if reg:
        loss = loss + reg * (queries.square().sum(1) + targets.square().sum(1)).mean()
    return loss


def score_blocks(
    model: KgeModel, entities: Tensor, relations: Tensor, *, rows: int = 512
) -> Iterator[NDArray[np.float32]]:
    """Scores of all entities for (entity, relation) queries, int64 ``[n]``, in float32 blocks of at most ``rows`` rows.

    Relations from ``n_relations`` on are reciprocals.
    """
    for part in _row_ranges(len(entities), rows):
        with torch.inference_mode():
            yield (
                model.scores(model.queries(entities[part], relations[part]), model.entities)
                .float()
                .cpu()
                .numpy()
            )


def _with_reciprocals(triples: NDArray[np.int64], n_relations: int) -> Tensor:
    forward = torch.from_numpy(np.ascontiguousarray(triples))
    heads, relations, tails = forward.unbind(1)
    return torch.cat([forward, torch.stack([tails, relations + n_relations, heads], dim=1)])


def _batches(facts: Tensor, size: int, generator: torch.Generator) -> Iterable[Tensor]:
    order = torch.randperm(len(facts), generator=generator, device=facts.device)
    return (facts[rows] for rows in order.split(size))


def _row_ranges(n: int, rows: int) -> Iterator[slice]:
    return (slice(start, min(start + rows, n)) for start in range(0, n, rows))
