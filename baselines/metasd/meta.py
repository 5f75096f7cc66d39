"""The meta-gradient of MetaSD (section 3, steps 1 and 2) in closed form.

Literally: l(S) = CE(S m) + Reg(S m) + D(T; S m); S' = S - a dl/dS with S a copy of T that carries no gradient; Lq = CE(S' m) on the
quiz; g = dLq/dT, which flows only through T's logits in D. So g = -a d/dT <dD/dS, v> with v = dLq/dS'. In the masked weights s = S m:

    s' = s - a m^2 dl/ds,    w = m v = m^2 dLq/ds',    <dD/dS, v> = <dD/dz, J w>

where J w is the derivative of the student's logits z along w: no graph through a ``[b, n]`` tensor, none twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from baselines.common.kge.bilinear import Bilinear
from baselines.metasd.logits import Distance, teacher_gradient_, virtual_gradient_
from baselines.metasd.tables import (
    Batch,
    Extra,
    Tables,
    gradient,
    look_up,
    moved_logits,
    tail_loss_gradient,
)


class Buffers:
    """Three ``[b, n]`` buffers that all steps share; the memory of the largest batch is kept."""

    def __init__(self) -> None:
        self._flat: dict[int, Tensor] = {}

    def get(self, slot: int, rows: int, columns: int, like: Tensor) -> Tensor:
        """Buffer ``slot`` in a shape, with whatever it holds."""
        flat = self._flat.get(slot)
        if flat is None or flat.numel() < rows * columns:
            flat = self._flat[slot] = like.new_empty(rows * columns)
        return flat[: rows * columns].view(rows, columns)


def meta_gradient(
    form: Bilinear,
    source: Tables,
    mask: Tables,
    batch: Batch,
    quiz: Sequence[Batch],
    *,
    distance: Distance,
    inner_lr: float,
    regularize: Extra | None,
    buffers: Buffers,
) -> Tables:
    """Gradient by ``source`` of the quiz loss (mean over the quiz's mini-batches) of the student after its virtual step."""
    student = source.times(mask)
    of_source, of_student = look_up(form, source, batch), look_up(form, student, batch)
    n = len(of_source.candidates)
    p, q, work = (buffers.get(slot, len(batch), n, source.entities) for slot in range(3))
    of_source.logits(p, distance.temperature)
    of_student.logits(q, distance.temperature)
    virtual_gradient_(p, q, work, batch.columns, batch.weights, distance)
    step = gradient(of_student, batch, student, work, 1 / len(batch), regularize)
    virtual = step.mul_(mask).mul_(mask).scale_(-inner_lr).add_(student)

    direction = quiz_gradient(form, virtual, quiz, buffers).mul_(mask).mul_(mask)
    work = buffers.get(2, len(batch), n, source.entities)
    moved_logits(form, of_student, direction, batch, work)
    teacher_gradient_(p, q, work, distance)
    return gradient(of_source, batch, source, work, inner_lr / len(batch))


def quiz_gradient(form: Bilinear, tables: Tables, quiz: Sequence[Batch], buffers: Buffers) -> Tables:
    """Gradient of the mean of the mini-batches' cross-entropies by the tables."""
    total: Tables | None = None
    for part in quiz:
        n = tables.entities.shape[0] if part.candidates is None else len(part.candidates)
        # The third buffer: the first two hold the softmaxes that the meta-gradient still needs.
        _, by_tables = tail_loss_gradient(form, tables, part, buffers.get(2, len(part), n, tables.entities))
        total = by_tables if total is None else total.add_(by_tables)
    if total is None:
        raise ValueError("the quiz has no mini-batch")
    return total if len(quiz) == 1 else total.scale_(1 / len(quiz))
