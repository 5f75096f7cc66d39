"""Symmetric-normalised propagation over the user-item graph (LightGCN, arXiv 2002.02126, equations 3-4 and 8).

Nodes are users, then items; the operator is ``A_hat = D^-1/2 A D^-1/2``. Because A_hat is symmetric, so is every polynomial
of it: the backward pass of :meth:`Propagation.mean` is :meth:`Propagation.mean` of the gradient, and nothing is saved for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kpi_bench import Csr
from kpi_bench._dgl import dgl_available, import_dgl
from kpi_bench.errors import SubmissionError

Kernel = Callable[[Tensor], Tensor]


class Propagation:
    """``A_hat`` of a users x items matrix, for float32 ``[n_users + n_items, d]`` inputs on one device.

    ``backend``: ``dgl`` (CPU: plain neighbour sums, D^-1/2 outside, because DGL's weighted sum is an order slower), ``torch``
    (CSR, any device), or ``auto``: DGL on a CPU where it is installed. Both give the same numbers.
    """

    def __init__(self, matrix: Csr, device: torch.device, backend: str = "auto") -> None:
        if backend == "auto":
            backend = "dgl" if device.type == "cpu" and dgl_available() else "torch"
        if backend not in ("dgl", "torch"):
            raise SubmissionError(f"unknown propagation backend {backend!r}; use auto, dgl or torch")
        self.backend = backend
        self.n_nodes = matrix.n_rows + matrix.n_columns
        users = torch.from_numpy(matrix.row_ids())
        items = torch.from_numpy(matrix.indices.astype("int64")) + matrix.n_rows
        source, target = torch.cat([users, items]), torch.cat([items, users])
        degree = torch.bincount(source, minlength=self.n_nodes)
        # Sorted by (row, column): CSR order. The same undirected edge appears twice, under one edge id.
        order = torch.argsort(source * self.n_nodes + target)
        self._edge = torch.arange(len(users)).repeat(2)[order].to(device)
        self._crow = torch.cat([torch.zeros(1, dtype=torch.int64), degree.cumsum(0)]).to(device)
        self._column = target[order].to(device)
        self._root = degree.to(device, torch.float32).sqrt()[:, None]
        self._inverse = torch.where(self._root > 0, 1 / self._root.square(), 0.0)
        self._sum = (
            _dgl_sum(source, target, self.n_nodes)
            if backend == "dgl"
            else self._csr_sum(torch.ones(len(source), device=device))
        )

    def mean(self, x: Tensor, layers: int, *, kernel: Kernel | None = None) -> Tensor:
        """Mean of ``x, A_hat x, ..., A_hat^layers x``; differentiable."""
        if layers == 0:
            return x
        result: Tensor = _LayerMean.apply(x, self, kernel or self._sum, layers)
        return result

    def apply(self, x: Tensor, *, kernel: Kernel | None = None) -> Tensor:
        """``A_hat x``; differentiable."""
        result: Tensor = _Product.apply(x, self, kernel or self._sum)
        return result

    def dropped(self, keep: float, generator: torch.Generator) -> Kernel:
        """A kernel with each undirected edge kept with probability ``keep`` and scaled by ``1 / keep``; degrees stay those of the whole graph."""
        n_edges = len(self._edge) // 2
        kept = torch.rand(n_edges, generator=generator, device=self._edge.device) < keep
        return self._csr_sum((kept.to(torch.float32) / keep)[self._edge])

    def polynomial(self, x: Tensor, layers: int, kernel: Kernel) -> Tensor:
        """:meth:`mean` without autograd. With y = D^-1/2 h a layer is one neighbour sum and one scaling: y' = D^-1 (A y)."""
        y = torch.where(self._root > 0, x / self._root, 0.0)
        total = torch.zeros_like(x)
        for _ in range(layers):
            y = kernel(y).mul_(self._inverse)
            total += y
        return total.mul_(self._root).add_(x).div_(layers + 1)

    def product(self, x: Tensor, kernel: Kernel) -> Tensor:
        """:meth:`apply` without autograd."""
        y = torch.where(self._root > 0, x / self._root, 0.0)
        return kernel(y).mul_(torch.where(self._root > 0, 1 / self._root, 0.0))

    def _csr_sum(self, values: Tensor) -> Kernel:
        matrix = torch.sparse_csr_tensor(
            self._crow, self._column, values, size=(self.n_nodes, self.n_nodes), check_invariants=False
        )
        return lambda x: matrix @ x


class _LayerMean(torch.autograd.Function):
    """Forward and backward are the same symmetric operator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: Propagation, kernel: Kernel, layers: int) -> Tensor:
        ctx.operator, ctx.kernel, ctx.layers = operator, kernel, layers
        return operator.polynomial(x, layers, kernel)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        return ctx.operator.polynomial(gradient.contiguous(), ctx.layers, ctx.kernel), None, None, None


class _Product(torch.autograd.Function):
    """As :class:`_LayerMean` for one product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: Propagation, kernel: Kernel) -> Tensor:
        ctx.operator, ctx.kernel = operator, kernel
        return operator.product(x, kernel)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return ctx.operator.product(gradient.contiguous(), ctx.kernel), None, None


def _dgl_sum(source: Tensor, target: Tensor, n_nodes: int) -> Kernel:
    dgl = import_dgl()
    graph = dgl.graph((source.int(), target.int()), num_nodes=n_nodes).formats(["csc"])
    graph.create_formats_()
    return lambda x: dgl.ops.copy_u_sum(graph, x)
