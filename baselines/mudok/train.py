"""Pre-training: two dropout views of each item in one packed pass, the contrastive loss between them and the loss of the triples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.common.device import ahead, sent
from baselines.common.parallel import ALONE, Part, Ranks
from baselines.common.training import Schedule, gradient_step, train
from baselines.mudok.config import MudokConfig
from baselines.mudok.encoder import Run, dropout
from baselines.mudok.losses import contrastive, knowledge, known_tails, same_inputs
from baselines.mudok.model import MudokModel
from baselines.mudok.sequences import Packed, Sequences
from kpi_bench import Context
from kpi_bench.errors import SubmissionError


def pretrain_mudok(
    model: MudokModel,
    sequences: Sequences,
    config: MudokConfig,
    ctx: Context,
    *,
    description: str,
) -> None:
    """Train ``model`` in place on all entities with a triple, for ``config.epochs`` epochs.

    Raises:
        SubmissionError: nothing to learn from (no loss is wanted, fewer than two heads, no head with the values that the loss
            reads), text and sequences of different entities, or the loss is NaN or infinite.
    """
    if config.epochs == 0:
        return
    heads = sequences.heads
    _check(model, sequences, config, description)
    rng = np.random.default_rng(ctx.seed)
    ranks = Ranks.of(ctx)
    losses = PretrainingLoss(model, config, ranks)

    def epoch() -> Iterator[Packed]:
        losses.forget()
        shuffled = rng.permutation(heads)
        for start in range(0, len(shuffled), config.batch_size):
            items = shuffled[start : start + config.batch_size]
            # An item alone has no negative.
            if len(items) > 1:
                yield sequences.pack(items, rng=rng if config.variant == "paper" else None)

    train(
        model,
        epoch=lambda: ahead(epoch(), model.device),
        step=gradient_step(losses, torch.optim.Adam(model.parameters(), lr=config.lr), ranks=ranks),
        evaluate=None,
        schedule=Schedule(config.epochs),
        ctx=ctx,
        metric="loss",
        description=description,
    )
    for name, value in losses.means().items():
        ctx.note(f"{name}_loss", value)


class PretrainingLoss:
    """Called with packed items it gives ``contrastive_weight`` L_con + ``knowledge_weight`` L_kg, and remembers the means of both
    since :meth:`forget`. A loss of weight 0 is not computed.

    Of several ranks each encodes its part of the items and contrasts it with those of all; the losses are its summands.
    """

    def __init__(self, model: MudokModel, config: MudokConfig, ranks: Ranks = ALONE) -> None:
        self.model, self.config, self.ranks = model, config, ranks
        self._encode: Callable[[Tensor, Sequence[Run]], Tensor] = model.encoder
        if config.compile:
            self._encode = torch.compile(model.encoder, dynamic=True)
        # Slots that the knowledge loss reads: the item, and one value or two.
        self._read = 1 if config.knowledge_weight == 0 else 2 if config.variant == "paper" else 3
        self.forget()

    def forget(self) -> None:
        """Start the means anew."""
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def means(self) -> dict[str, float]:
        """Mean of each computed loss over the batches seen."""
        return {name: self.ranks.add(value).item() / self._steps for name, value in self._sums.items()}

    def __call__(self, packed: Packed) -> Tensor:
        config, device = self.config, self.model.device
        part = self.ranks.part(len(packed.order))
        own = packed if part.whole else packed.part(part.rows)
        runs = [(length, count, self._read) for length, count in own.groups]
        if config.contrastive_weight > 0:
            runs += [(length, count, 1) for length, count in own.groups]
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            x = self.model.packed_inputs(own)
            views = x.expand(len(runs) // len(own.groups), *x.shape)
            x = dropout(views, config.dropout if self.model.training else 0.0).reshape(-1, x.shape[1])
            hidden = self._encode(x, runs)
        # Losses are float32 on all devices: cosines over a temperature need more digits than bfloat16 has.
        hidden = hidden.float()
        lengths = own.lengths
        widths = np.minimum(lengths, self._read)
        first = np.cumsum(widths) - widths
        total = hidden.new_zeros(())
        if config.contrastive_weight > 0:
            second = widths.sum() + np.arange(len(lengths))
            loss = self._contrastive(packed, part, hidden, np.concatenate([first, second]))
            total = total + config.contrastive_weight * self._note("contrastive", loss)
        if config.knowledge_weight > 0:
            loss = self._knowledge(packed, part, hidden, first)
            total = total + config.knowledge_weight * self._note("knowledge", loss)
        self._steps += 1
        return total

    def _contrastive(self, packed: Packed, part: Part, hidden: Tensor, first: NDArray[np.int64]) -> Tensor:
        """Of hidden states whose rows ``first`` are the part's items, in view 1 and then in view 2."""
        z1, z2 = self.model.encoder.pool(_rows(hidden, first)).chunk(2)
        places = torch.arange(part.n, device=hidden.device)[part.rows]
        same = None
        if self.config.mask_false_negatives:
            same = sent(same_inputs(packed, self.model.text)[part.rows], hidden.device)
        z2 = self.ranks.gathered(z2, part, places, part.n)
        return part.weigh(contrastive(z1, z2, self.config.temperature, same, places))

    def _knowledge(self, packed: Packed, part: Part, hidden: Tensor, first: NDArray[np.int64]) -> Tensor:
        """Of view 1, whose items are rows ``first``. Items without the slots that it reads are left out."""
        tail_slot = self._read - 1
        lengths = packed.lengths
        full = np.flatnonzero(lengths > tail_slot)
        if not len(full):
            return hidden.sum() * 0
        tail_tokens = (np.cumsum(lengths) - lengths)[full] + tail_slot
        # Which of the full items are the part's, and which of the part's items these are.
        mine = np.zeros(part.n, dtype=np.bool_)
        mine[part.rows] = True
        places, items = np.flatnonzero(mine[full]), np.flatnonzero((lengths > tail_slot)[part.rows])
        h = self.model.knowledge(_rows(hidden, first[items]))
        t = self.model.knowledge(_rows(hidden, first[items] + tail_slot))
        if self.config.variant == "paper":
            relations = packed.relations[tail_tokens[places]]
            r = self.model.relation_embedding(sent(relations, hidden.device))
        else:
            r = _rows(hidden, first[items] + 1)
        own = sent(places, hidden.device)
        t = self.ranks.gathered(t, part, own, len(full))
        if not len(places):
            # The others' gradients come through the gathered tails all the same.
            return t.sum() * 0
        known = None
        if self.config.mask_false_negatives:
            tails = known_tails(packed, packed.tokens[tail_tokens])
            known = sent(tails[torch.from_numpy(full[places])], hidden.device)
        return part.weigh(knowledge(h, r, t, known, own), len(places), len(full))

    def _note(self, name: str, loss: Tensor) -> Tensor:
        self._sums[name] = self._sums.get(name, 0) + loss.detach()
        return loss


def _rows(x: Tensor, rows: NDArray[np.int64]) -> Tensor:
    return x.index_select(0, sent(rows, x.device))


def _check(model: MudokModel, sequences: Sequences, config: MudokConfig, description: str) -> None:
    if config.contrastive_weight == 0 and config.knowledge_weight == 0:
        raise SubmissionError(
            f"{description}: contrastive_weight and knowledge_weight are both 0; set one, or epochs = 0"
        )
    if len(model.text) != sequences.n_entities:
        raise SubmissionError(
            f"{description}: text has {len(model.text)} rows for {sequences.n_entities} entities; it needs one row each"
        )
    heads = sequences.heads
    if len(heads) < 2:
        raise SubmissionError(
            f"{description}: {len(heads)} entities have a triple; in-batch negatives need at least 2"
        )
    if (
        config.contrastive_weight == 0
        and config.variant == "code"
        and int(sequences.lengths(heads).max()) < 3
    ):
        raise SubmissionError(
            f"{description}: no head has two triples, which the knowledge loss of variant 'code' reads; use variant 'paper'"
        )
