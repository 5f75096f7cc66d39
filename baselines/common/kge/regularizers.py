"""Regularisers of tensor-factorisation models, weighed on the rows of a batch's facts."""

from __future__ import annotations

from torch import Tensor

from baselines.common.kge.models import KgeModel
from kpi_bench.errors import SubmissionError

REGULARIZERS = ("l2", "n3", "dura")


def n3(head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
    """Mean over the batch of |h|^3 + |r|^3 + |t|^3, moduli ``[b, coordinates]`` each (arXiv 1806.07297)."""
    total = head.pow(3).sum() + relation.pow(3).sum() + tail.pow(3).sum()
    return total / len(head)


def dura(head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
    """Mean over the batch of (|h|^2 + |t|^2) / 2 + 3/2 (|h|^2 |r|^2 + |t|^2 |r|^2), moduli ``[b, coordinates]`` each (DURA, arXiv
    2011.05816, weighted as in MetaSD)."""
    hh, rr, tt = head.square(), relation.square(), tail.square()
    return (0.5 * (hh + tt) + 1.5 * (hh + tt) * rr).sum() / len(head)


def penalty(name: str, model: KgeModel, facts: Tensor, ends: tuple[Tensor, ...] | None = None) -> Tensor:
    """The named regulariser of a batch of facts int64 ``[b, 3]``; "l2" is the squared norm of query and tail vectors. ``ends`` are the rows
    of heads and tails, ``[b, dim]`` each, where they have been looked up.

    Raises:
        SubmissionError: an unknown name.
    """
    heads, relations, tails = facts.unbind(1)
    head_rows, tail_rows = model.rows_of(heads, tails) if ends is None else ends
    if name == "l2":
        query, _ = model.translate(head_rows, relations)
        return (query.square().sum(1) + tail_rows.square().sum(1)).mean()
    return factor_penalty(name, model, head_rows, model.rows(model.relations, relations), tail_rows)


def factor_penalty(name: str, model: KgeModel, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
    """ "n3" or "dura" of looked-up rows ``[b, width]``.

    Raises:
        SubmissionError: another name.
    """
    if name not in _OF_FACTORS:
        raise SubmissionError(f"unknown regulariser {name!r}; use one of {', '.join(REGULARIZERS)}")
    return _OF_FACTORS[name](*(model.moduli(rows) for rows in (head, relation, tail)))


_OF_FACTORS = {"n3": n3, "dura": dura}
