"""What MetaSD does with one batch: up to three updates of the source (section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.common.kge.bilinear import Bilinear
from baselines.common.kge.train import KgeConfig, adagrad, optimizer_of
from baselines.metasd.config import MetasdConfig
from baselines.metasd.logits import Distance, mutual_gradients_
from baselines.metasd.mask import kept_tables, training_mask
from baselines.metasd.meta import Buffers, meta_gradient
from baselines.metasd.quiz import quiz_parts
from baselines.metasd.tables import (
    Batch,
    Tables,
    extra_loss,
    gradient,
    look_up,
    make_batch,
    tail_loss_gradient,
)


class MetasdStep:
    """Called with facts int64 ``[b, 3]`` it updates ``model``, the source, and returns the loss of its last phase.

    ``kept`` are the student's weights, bool tables. While it is None there is no student and a step is one of plain training.
    """

    def __init__(
        self,
        model: Bilinear,
        config: MetasdConfig,
        kge: KgeConfig,
        sampler: torch.Generator,
        *,
        quiz: Tensor | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        self.model, self.config = model, config
        self.kept: list[Tensor] | None = None
        self.sampled = config.candidates if model.n_entities > config.full_up_to else 0
        self._mask: Tables | None = None
        self._batch_size = kge.batch_size
        self._quiz, self._class_weights, self._sampler = quiz, class_weights, sampler
        self._optimizer = optimizer_of(model.parameters(), kge)
        # Accumulators of its own: meta-gradients are orders of magnitude smaller than those of the losses.
        self._meta_optimizer = adagrad(model.parameters(), config.meta_lr)
        self._distance = Distance(config.temperature, config.first_kl, config.second_kl)
        self._mutual = self._distance if config.mutual else Distance(1.0, 0.0, 0.0)
        self._extra = extra_loss(model, kge.regularizer, kge.reg, kge.relation_weight)
        self._regularize = extra_loss(model, kge.regularizer, kge.reg, 0.0)
        self._buffers = Buffers()

    def renew_mask(self) -> None:
        """Prune the present weights anew: what was pruned can return."""
        self.kept = self.magnitudes_kept()
        entities, relations = (
            training_mask(kept, table)
            for kept, table in zip(self.kept, (self.model.entities, self.model.relations), strict=True)
        )
        self._mask = Tables(entities, relations)

    def magnitudes_kept(self) -> list[Tensor]:
        """The mask that the present weights ask for."""
        tables = [self.model.entities.detach(), self.model.relations.detach()]
        if not self.config.prune:
            return [torch.ones_like(table, dtype=torch.bool) for table in tables]
        return kept_tables(tables, self.config.share)

    def __call__(self, facts: Tensor) -> Tensor:
        batch = self._batch(facts)
        if self._mask is None:
            return self._source_step(batch)
        if self.config.source_step:
            self._source_step(batch)
        if self.config.meta:
            self._meta_step(batch, self._mask)
        return self._mutual_step(batch, self._mask)

    def _source_step(self, batch: Batch) -> Tensor:
        """Step 0: cross-entropies of tail and relation and the regulariser, dense."""
        source = Tables.of(self.model)
        logits = self._logits(0, batch)
        loss, by_source = tail_loss_gradient(self.model, source, batch, logits, self._extra)
        self._update(self._optimizer, by_source)
        return loss

    def _meta_step(self, batch: Batch, mask: Tables) -> None:
        """Steps 1 and 2: a virtual student learns from the source, and the source from the student's quiz."""
        assert self._quiz is not None, "the meta step needs a quiz"
        parts = quiz_parts(self._quiz, self._batch_size, self.config.quiz_batches, self._sampler)
        by_source = meta_gradient(
            self.model,
            Tables.of(self.model),
            mask,
            batch,
            [self._batch(part) for part in parts],
            distance=self._distance,
            inner_lr=self.config.inner_lr,
            regularize=self._regularize,
            buffers=self._buffers,
        )
        self._update(self._meta_optimizer, by_source)

    def _mutual_step(self, batch: Batch, mask: Tables) -> Tensor:
        """Step 3: source and student learn from the facts and from each other; they share the weights, so gradients add up."""
        source = Tables.of(self.model)
        student = source.times(mask)
        of_source, of_student = look_up(self.model, source, batch), look_up(self.model, student, batch)
        by_source, by_student = self._logits(0, batch), self._logits(1, batch)
        of_source.logits(by_source, self._mutual.temperature)
        of_student.logits(by_student, self._mutual.temperature)
        loss = mutual_gradients_(by_source, by_student, batch.columns, batch.weights, self._mutual)
        total = gradient(of_student, batch, student, by_student, 1 / len(batch), self._extra).mul_(mask)
        total.add_(gradient(of_source, batch, source, by_source, 1 / len(batch), self._extra))
        self._update(self._optimizer, total)
        return loss

    def _update(self, optimizer: torch.optim.Optimizer, by_tables: Tables) -> None:
        self.model.entities.grad = by_tables.entities
        self.model.relations.grad = by_tables.relations
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _batch(self, facts: Tensor) -> Batch:
        return make_batch(
            facts,
            self.model.n_entities,
            sampled=self.sampled,
            generator=self._sampler,
            class_weights=self._class_weights,
        )

    def _logits(self, slot: int, batch: Batch) -> Tensor:
        n = self.model.n_entities if batch.candidates is None else len(batch.candidates)
        return self._buffers.get(slot, len(batch), n, self.model.entities.detach())
