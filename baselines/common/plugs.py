"""Plugs: where a pre-trained representation enters a task's model. Everything around a plug is the same for all methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Plug(nn.Module):
    """Gives one vector for each row: the items of a recommendation task, or the KG entities of a classification task.

    Frozen vectors and trainable prompt modules are both plugs; parameters with ``requires_grad`` are trained with the task.
    """

    dim: int
    """Width of the vectors."""

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """Float32 ``[len(rows), dim]``; of all rows when ``rows`` (int64) is None."""
        raise NotImplementedError

    def known(self, rows: Tensor | None = None) -> Tensor | None:
        """Float32 ``[len(rows), 1]``: 1 where the plug has something to say, 0 where the row is the backbone's alone; None: everywhere."""
        return None

    def before_update(self) -> None:
        """Called between the backward pass and the optimizer's step: a plug that keeps vectors over several steps hands the gradient
        that they have gathered to its parameters here."""

    def settled(self) -> Plug:
        """What serves once training is over: the vectors of the parameters as they are now, and no more than serving needs."""
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Its trainable parameters as groups of an optimizer."""
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [{"params": trainable}] if trainable else []


def groups_with_plug(model: nn.Module, plug: Plug | None) -> list[dict[str, Any]]:
    """All trainable parameters of a task's model as groups of an optimizer: those around the plug, then the plug's own."""
    own = [] if plug is None else plug.parameter_groups()
    plugged = {id(parameter) for group in own for parameter in group["params"]}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in plugged]
    return [{"params": rest}, *own]


def standardisation(vectors: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``[dim]`` of the known rows of ``vectors`` ``[n, dim]`` and the root mean square, a scalar, of what differs from it."""
    rows = vectors[known]
    if len(rows) == 0:
        return vectors.new_zeros(vectors.shape[1]), vectors.new_ones(())
    mean = rows.mean(0)
    return mean, (rows - mean).square().mean().sqrt().clamp_min(1e-12)


class VectorTable(Plug):
    """Vectors as they are, float32 ``[n, dim]``. Rows where ``known`` (bool ``[n]``; None: everywhere) is False are zero: the plug says
    nothing about them."""

    vectors: Tensor
    mask: Tensor

    def __init__(self, vectors: Tensor, known: Tensor | None = None) -> None:
        super().__init__()
        mask = torch.ones(len(vectors), dtype=torch.bool) if known is None else known
        self.dim = vectors.shape[1]
        self.register_buffer("vectors", torch.where(mask[:, None], vectors, 0.0))
        self.register_buffer("mask", mask[:, None].float())

    def forward(self, rows: Tensor | None = None) -> Tensor:
        return self.vectors if rows is None else self.vectors[rows]

    def known(self, rows: Tensor | None = None) -> Tensor:
        return self.mask if rows is None else self.mask[rows]


class FrozenVectors(VectorTable):
    """A fixed table, float32 ``[n, dim]``, centred and scaled to a root mean square of one so that methods differ by geometry
    and not by scale."""

    def __init__(self, vectors: NDArray[np.float32], known: NDArray[np.bool_] | None = None) -> None:
        table = torch.tensor(vectors, dtype=torch.float32)
        mask = torch.ones(len(table), dtype=torch.bool) if known is None else torch.tensor(known)
        mean, scale = standardisation(table, mask)
        super().__init__((table - mean) / scale, mask)


class Projection(nn.Module):
    """``scale * (W_o z + b_o)``, the layer between a plug and a task's model (MuDoK, arXiv 2405.13085)."""

    def __init__(self, plug: Plug, dim: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.plug = plug
        self.scale = scale
        weight = torch.empty(dim, plug.dim)
        nn.init.xavier_uniform_(weight, generator=generator)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(dim))

    def settle(self) -> None:
        """Training is over, the state to keep is back: see :meth:`Plug.settled`."""
        self.plug = self.plug.settled()

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """Float32 ``[len(rows), dim]``; zero, bias included, in rows that the plug does not know."""
        projected = self.scale * nn.functional.linear(self.plug(rows), self.weight, self.bias)
        known = self.plug.known(rows)
        return projected if known is None else projected * known
