"""Pre-training: a margin between triples and corrupted ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from baselines.common.kge.facts import batches
from baselines.common.kge.knowledge import Knowledge
from baselines.common.parallel import Ranks
from baselines.common.training import Schedule, gradient_step, one_thread, train
from baselines.pkgm.config import PkgmConfig
from baselines.pkgm.model import PkgmModel
from kpi_bench import Context


def train_pkgm(kg: Knowledge, config: PkgmConfig, ctx: Context, *, description: str) -> PkgmModel:
    """Train on all triples of a KG; nothing is held out, so the state after the last epoch is kept.

    Raises:
        SubmissionError: no triples, or the loss is NaN or infinite.
    """
    kg.require_triples(description)
    device, ranks = torch.device(ctx.device), Ranks.of(ctx)
    generator = torch.Generator().manual_seed(ctx.seed)
    model = PkgmModel(kg.n_entities, kg.n_relations, config.dim, generator).to(device)
    sampler = torch.Generator(device=device).manual_seed(ctx.seed + 1)
    triples = torch.from_numpy(kg.triples).to(device)

    def loss(batch: Tensor) -> Tensor:
        part = ranks.part(len(batch))
        corrupted = corrupt(batch, config.negatives, kg.n_entities, kg.n_relations, sampler)
        return part.weigh(margin_loss(model, batch[part.rows], corrupted[:, part.rows], config.margin))

    with one_thread(device):
        train(
            model,
            epoch=lambda: batches(triples, config.batch_size, sampler),
            step=gradient_step(
                loss, torch.optim.Adam(model.parameters(), lr=config.lr, fused=True), ranks=ranks
            ),
            evaluate=None,
            schedule=Schedule(config.epochs),
            ctx=ctx,
            metric="",
            description=description,
        )
    return model


def margin_loss(model: PkgmModel, triples: Tensor, corrupted: Tensor, margin: float) -> Tensor:
    """Mean of [margin + f(triple) - f(corrupted)]_+ over ``triples [b, 3]`` and the ``corrupted [n, b, 3]`` of each."""
    scores = model(torch.cat([triples, corrupted.flatten(0, 1)]))
    held, others = scores[: len(triples)], scores[len(triples) :].view(len(corrupted), -1)
    return functional.relu(margin + held - others).mean()


def corrupt(
    triples: Tensor, negatives: int, n_entities: int, n_relations: int, generator: torch.Generator
) -> Tensor:
    """``negatives`` copies of triples int64 ``[b, 3]``, one random column of each replaced by another id: ``[negatives, b, 3]``.

    The new id is uniform over all others; where there is no other the triple stays, and the margin then has no gradient. True
    triples among the copies are not filtered.
    """
    copies = triples.repeat(negatives, 1)
    device, n = triples.device, len(copies)
    columns = torch.randint(3, (n, 1), generator=generator, device=device)
    sizes = torch.where(columns == 1, n_relations, n_entities)
    # A step of 1 .. size - 1 around the ring of ids never returns to its start.
    uniform = torch.rand((n, 1), generator=generator, device=device, dtype=torch.float64)
    steps = 1 + (uniform * (sizes - 1)).long()
    replaced = (copies.gather(1, columns) + steps) % sizes
    return copies.scatter(1, columns, replaced).view(negatives, -1, 3)
