"""The way from tables to logits and back, for scores that are inner products. Only ``[b, dim]`` tensors go through autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.common.kge.bilinear import Bilinear
from baselines.common.kge.losses import relation_loss
from baselines.common.kge.regularizers import factor_penalty
from baselines.metasd.logits import cross_entropy_


@dataclass(frozen=True)
class Tables:
    """Entities ``[E, dim]`` and relations ``[2 R, dim]``: weights, their mask, gradient or direction."""

    entities: Tensor
    relations: Tensor

    @classmethod
    def of(cls, model: nn.Module) -> Tables:
        """The tables of a model, without their graph."""
        return cls(model.entities.detach(), model.relations.detach())  # type: ignore[operator]

    def times(self, other: Tables) -> Tables:
        """Element by element."""
        return Tables(self.entities * other.entities, self.relations * other.relations)

    def mul_(self, other: Tables) -> Tables:
        """Element by element, in place."""
        self.entities.mul_(other.entities)
        self.relations.mul_(other.relations)
        return self

    def add_(self, other: Tables, scale: float = 1.0) -> Tables:
        """Add ``scale * other`` in place."""
        self.entities.add_(other.entities, alpha=scale)
        self.relations.add_(other.relations, alpha=scale)
        return self

    def scale_(self, scale: float) -> Tables:
        """Multiply by a number in place."""
        self.entities.mul_(scale)
        self.relations.mul_(scale)
        return self


@dataclass(frozen=True)
class Batch:
    """Facts int64 ``[b]`` each. ``candidates`` int64 ``[n]`` are the entities that every softmax is over (None: all); tail i is
    ``columns[i]`` of them. ``weights [b]`` weigh the facts' cross-entropies; their mean is 1 (None: all are 1)."""

    heads: Tensor
    relations: Tensor
    tails: Tensor
    columns: Tensor
    candidates: Tensor | None = None
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.heads)


def make_batch(
    facts: Tensor,
    n_entities: int,
    *,
    sampled: int = 0,
    generator: torch.Generator | None = None,
    class_weights: Tensor | None = None,
) -> Batch:
    """Facts int64 ``[b, 3]`` against all entities or, with ``sampled``, against their tails and at least that many random others.

    ``class_weights [E]`` weigh the targets.
    """
    heads, relations, tails = facts.unbind(1)
    columns, candidates, weights = tails, None, None
    if 0 < sampled + len(facts) < n_entities and sampled:
        # The tails come first, then the largest random keys: distinct entities, in a number known without asking the device.
        keys = torch.rand(n_entities, generator=generator, device=facts.device)
        keys[tails] = 2.0
        candidates = keys.topk(sampled + len(facts)).indices
        place = torch.empty(n_entities, dtype=torch.int64, device=facts.device)
        place[candidates] = torch.arange(len(candidates), device=facts.device)
        columns = place[tails]
    if class_weights is not None:
        weights = class_weights[tails]
        weights = weights / weights.mean()
    return Batch(heads, relations, tails, columns, candidates, weights)


@dataclass(frozen=True)
class Rows:
    """What a batch looks up: rows ``[b, dim]`` of head and tail and the relation table as leaves of a small graph that ends in
    ``query [b, dim]``, and the candidates' vectors ``[n, dim]`` outside of it."""

    head: Tensor
    tail: Tensor
    table: Tensor
    relation: Tensor
    query: Tensor
    candidates: Tensor

    def logits(self, out: Tensor, temperature: float = 1.0) -> Tensor:
        """Scores over the temperature, into ``out [b, n]``."""
        return torch.mm(self.query.detach() / temperature, self.candidates.T, out=out)


def look_up(form: Bilinear, tables: Tables, batch: Batch) -> Rows:
    """Rows of a batch; ``form`` gives only the shape of the score."""
    with torch.enable_grad():
        head = tables.entities[batch.heads].requires_grad_()
        tail = tables.entities[batch.tails].requires_grad_()
        table = tables.relations.detach().requires_grad_()
        relation = nn.functional.embedding(batch.relations, table)
        query = form.compose(head, relation)
    candidates = tables.entities if batch.candidates is None else tables.entities[batch.candidates]
    return Rows(head, tail, table, relation, query, candidates)


Extra = Callable[[Rows, Batch], Tensor]
"""A further loss of the rows, without logits ``[b, n]``."""


def gradient(
    rows: Rows, batch: Batch, like: Tables, by_logits: Tensor, scale: float, extra: Extra | None = None
) -> Tables:
    """Gradient by the tables of <``scale * by_logits``, logits> + ``extra``: two matrix products; ``like`` gives the shapes."""
    by_query = (by_logits @ rows.candidates).mul_(scale)
    # Scaled on the small side. The product goes to all entities, or to the candidates' rows.
    by_candidates = by_logits.T @ (rows.query.detach() * scale)
    if batch.candidates is None:
        by_entities = by_candidates
    else:
        by_entities = torch.zeros_like(like.entities).index_add_(0, batch.candidates, by_candidates)
    outputs, weights = [rows.query], [by_query]
    if extra is not None:
        with torch.enable_grad():
            value = extra(rows, batch)
        if value.requires_grad:
            outputs.append(value)
            weights.append(torch.ones_like(value))
    by_head, by_tail, by_relations = torch.autograd.grad(
        outputs, [rows.head, rows.tail, rows.table], weights, allow_unused=True
    )
    by_entities.index_add_(0, batch.heads, by_head)
    if by_tail is not None:
        by_entities.index_add_(0, batch.tails, by_tail)
    return Tables(by_entities, by_relations)


def moved_logits(form: Bilinear, rows: Rows, along: Tables, batch: Batch, out: Tensor) -> Tensor:
    """Derivative of the logits when the tables move ``along`` a direction, into ``out [b, n]``: two matrix products.

    The query is linear in head and relation each, the score in query and candidate.
    """
    head, relation = rows.head.detach(), rows.relation.detach()
    turned = form.compose(along.entities[batch.heads], relation)
    turned += form.compose(head, along.relations[batch.relations])
    candidates = along.entities if batch.candidates is None else along.entities[batch.candidates]
    torch.mm(turned, rows.candidates.T, out=out)
    return out.addmm_(rows.query.detach(), candidates.T)


def tail_loss_gradient(
    form: Bilinear, tables: Tables, batch: Batch, out: Tensor, extra: Extra | None = None
) -> tuple[Tensor, Tables]:
    """Cross-entropy over the candidates (+ ``extra`` in the gradient only) and its gradient by the tables."""
    rows = look_up(form, tables, batch)
    logits = rows.logits(out)
    loss = cross_entropy_(logits, batch.columns, batch.weights)
    return loss, gradient(rows, batch, tables, logits, 1 / len(batch), extra)


def extra_loss(form: Bilinear, regularizer: str, reg: float, relation_weight: float) -> Extra | None:
    """``reg`` times the regulariser ("dura" or "n3") plus ``relation_weight`` times the cross-entropy of the relation over all of
    them (arXiv 2110.02834); None when both weights are zero."""
    if not reg and not relation_weight:
        return None

    def extra(rows: Rows, batch: Batch) -> Tensor:
        value = rows.head.new_zeros(())
        if reg:
            value = value + reg * factor_penalty(regularizer, form, rows.head, rows.relation, rows.tail)
        if relation_weight:
            value = value + relation_weight * relation_loss(
                form, rows.head, rows.tail, rows.table, batch.relations
            )
        return value

    return extra
