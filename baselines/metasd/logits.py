"""The passes over logits ``[b, n]`` of MetaSD, in closed form and in place.

Every function works through its buffers in blocks of rows that stay in a CPU's cache, and leaves gradients by the (untempered)
logits **times b**: the mean over the batch is folded into smaller factors later. "Tempered" logits are divided by the temperature.
With p = softmax(teacher / tau) and q = softmax(student / tau), D(a; b) = c1 KL(a || b) + c2 KL(b || a); no tau^2 factor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CACHE_CELLS = 1 << 17
"""Cells of a buffer that a block has on a CPU: four such blocks fit into 2 MB."""


@dataclass(frozen=True)
class Distance:
    """D(a; b) = ``first`` KL(a || b) + ``second`` KL(b || a) of softmaxes at ``temperature``."""

    temperature: float = 3.0
    first: float = 3.0
    second: float = 1.0


def cross_entropy_(logits: Tensor, columns: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of the targets ``columns`` int64 ``[b]``; ``logits`` become its gradient.

    ``weights [b]`` weigh rows; their mean is 1.
    """
    total = logits.new_zeros(())
    for rows in row_blocks(logits):
        part, target = logits[rows], columns[rows]
        total += _cross_entropy_(part, target, None if weights is None else weights[rows])
    return total / len(logits)


def virtual_gradient_(
    teacher: Tensor, student: Tensor, out: Tensor, columns: Tensor, weights: Tensor | None, distance: Distance
) -> None:
    """Gradient of CE(student) + D(teacher; student) by the student's logits, into ``out``.

    ``teacher`` and ``student`` hold tempered logits and become p and q. With L = log q - log p:
    softmax - onehot + (c1 (q - p) + c2 q (L - <q, L>)) / tau.
    """
    tau, c1, c2 = distance.temperature, distance.first, distance.second
    for rows in row_blocks(out):
        p, q, gradient = teacher[rows], student[rows], out[rows]
        torch.mul(q, tau, out=gradient)
        _cross_entropy_(gradient, columns[rows], None if weights is None else weights[rows])
        gap = q - p  # L up to a constant of the row, which q (L - <q, L>) takes out
        torch.softmax(p, dim=1, out=p)
        torch.softmax(q, dim=1, out=q)
        gap.mul_(q)
        mean = gap.sum(1, keepdim=True)
        gradient.add_(gap, alpha=c2 / tau).addcmul_(q, (c1 - c2 * mean) / tau).add_(p, alpha=-c1 / tau)


def teacher_gradient_(p: Tensor, q: Tensor, moved: Tensor, distance: Distance) -> None:
    """Gradient of <dD/d(student logits), ``moved``> by the teacher's logits, into ``moved``, with its sign turned.

    D(teacher; student) mixes the two only in L, so the logs are gone in the mixed second derivative:
    -(c1 p (u - <p, u>) + c2 q (u - <q, u>)) / tau^2 with u = ``moved``.
    """
    first = distance.first / distance.temperature**2
    second = distance.second / distance.temperature**2
    for rows in row_blocks(moved):
        a, b, u = p[rows], q[rows], moved[rows]
        by_a = a * u
        u.mul_(b)
        mean_a, mean_b = by_a.sum(1, keepdim=True), u.sum(1, keepdim=True)
        u.mul_(second).add_(by_a, alpha=first)
        u.addcmul_(a, mean_a * -first).addcmul_(b, mean_b * -second)


def mutual_gradients_(
    teacher: Tensor, student: Tensor, columns: Tensor, weights: Tensor | None, distance: Distance
) -> Tensor:
    """CE(teacher) + D(teacher; student fixed) + CE(student) + D(student; teacher fixed): its mean over the batch.

    Both hold tempered logits and become the gradients by their own logits. With g = (teacher - student) / tau, that of the teacher is
    softmax - onehot + (c1 p (g - <p, g>) + c2 (p - q)) / tau, that of the student the same with sides exchanged.
    """
    tau, c1, c2 = (
        distance.temperature,
        distance.first / distance.temperature,
        distance.second / distance.temperature,
    )
    total = teacher.new_zeros(())
    for rows in row_blocks(teacher):
        p, q, target = teacher[rows], student[rows], columns[rows]
        weight = None if weights is None else weights[rows]
        by_teacher, by_student, gap = p * tau, q * tau, p - q
        total += _cross_entropy_(by_teacher, target, weight) + _cross_entropy_(by_student, target, weight)
        torch.softmax(p, dim=1, out=p)
        torch.softmax(q, dim=1, out=q)
        mean_p, mean_q = (p * gap).sum(1, keepdim=True), (q * gap).sum(1, keepdim=True)
        # KL(p || q) + KL(q || p) = <p - q, g>: the logarithms of the sums cancel, and both losses together weigh both by c1 + c2.
        total += (mean_p - mean_q).sum() * (distance.first + distance.second)
        by_teacher.addcmul_(p, gap, value=c1).addcmul_(p, c2 - c1 * mean_p).add_(q, alpha=-c2)
        by_student.addcmul_(q, gap, value=-c1).addcmul_(q, c2 + c1 * mean_q).add_(p, alpha=-c2)
        p.copy_(by_teacher)
        q.copy_(by_student)
    return total / len(teacher)


def row_blocks(logits: Tensor) -> Iterator[slice]:
    """Slices over the rows: of the size of a cache on a CPU, all rows elsewhere."""
    b, n = logits.shape
    size = b if logits.device.type != "cpu" else max(1, CACHE_CELLS // n)
    return (slice(first, first + size) for first in range(0, b, size))


def _softmax_(logits: Tensor) -> Tensor:
    """Softmax of each row in place; returns the logarithms of the sums, ``[rows]``."""
    top = logits.amax(1)
    torch.softmax(logits, dim=1, out=logits)
    return top - logits.amax(1).log()


def _cross_entropy_(logits: Tensor, columns: Tensor, weights: Tensor | None) -> Tensor:
    """Summed cross-entropy of a block, which becomes its gradient."""
    target = columns[:, None]
    own = logits.gather(1, target).squeeze(1)
    losses = _softmax_(logits) - own
    if weights is None:
        logits.scatter_add_(1, target, torch.full_like(target, -1, dtype=logits.dtype))
        return losses.sum()
    logits.mul_(weights[:, None]).scatter_add_(1, target, -weights[:, None])
    return (losses * weights).sum()
