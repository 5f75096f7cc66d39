"""Two layers of LightGCN's propagation and their gradient over a graph of 60,000 nodes and 1M directed edges, 64 floats a node.

``own-*`` is :class:`baselines.common.propagation.Propagation`. The others are what one writes with the libraries' own operators and
autograd: a normalised adjacency matrix as torch COO (``coo-uncoalesced``: as it is after SSLRec drops edges from it; ``coo-coalesced``:
sorted once) and as torch CSR (``csr``), and DGL's neighbour sum with a weight an edge (``dgl-weighted``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from baselines.common.allocator import keep_freed_memory
from baselines.common.propagation import Propagation
from benchmarks.workloads import interaction_workload
from kpi_bench._dgl import import_dgl

LAYERS, DIM = 2, 64
Mean = Callable[[Tensor], Tensor]


@cache
def edges() -> tuple[Tensor, Tensor, Tensor, int]:
    """Sources and targets int64 ``[2 nnz]``, weights float32 ``[2 nnz]`` of D^-1/2 A D^-1/2, and the number of nodes."""
    matrix = interaction_workload()
    users = torch.from_numpy(matrix.row_ids())
    items = torch.from_numpy(matrix.indices.astype("int64")) + matrix.n_rows
    n_nodes = matrix.n_rows + matrix.n_columns
    source, target = torch.cat([users, items]), torch.cat([items, users])
    degree = torch.bincount(source, minlength=n_nodes).float()
    return source, target, (degree[source] * degree[target]).rsqrt(), n_nodes


@cache
def signals() -> tuple[Tensor, Tensor]:
    """What is propagated, and the gradient of the result, float32 ``[n_nodes, DIM]``."""
    generator = torch.Generator().manual_seed(0)
    x, gradient = torch.randn(2, edges()[3], DIM, generator=generator).unbind(0)
    return x, gradient


def own(backend: str) -> Mean:
    propagation = Propagation(interaction_workload(), torch.device("cpu"), backend)
    return lambda x: propagation.mean(x, LAYERS)


def layer_by_layer(product: Mean) -> Mean:
    """Mean of x, A x, A (A x), ..."""

    def mean(x: Tensor) -> Tensor:
        total = h = x
        for _ in range(LAYERS):
            h = product(h)
            total = total + h
        return total / (LAYERS + 1)

    return mean


def coo(coalesced: bool) -> Mean:
    source, target, weight, n_nodes = edges()
    matrix = torch.sparse_coo_tensor(
        torch.stack([target, source]), weight, (n_nodes, n_nodes), check_invariants=False
    )
    if coalesced:
        matrix = matrix.coalesce()
    return layer_by_layer(partial(torch.sparse.mm, matrix))


def csr() -> Mean:
    source, target, weight, n_nodes = edges()
    matrix = torch.sparse_coo_tensor(
        torch.stack([target, source]), weight, (n_nodes, n_nodes), check_invariants=False
    )
    return layer_by_layer(partial(torch.sparse.mm, matrix.coalesce().to_sparse_csr()))


def dgl_weighted() -> Mean:
    dgl = import_dgl()
    source, target, weight, n_nodes = edges()
    graph = dgl.graph((source.int(), target.int()), num_nodes=n_nodes).formats(["coo", "csr", "csc"])
    graph.create_formats_()
    return layer_by_layer(lambda x: dgl.ops.u_mul_e_sum(graph, x, weight))


MAKE: dict[str, Callable[[], Mean]] = {
    "own-dgl": partial(own, "dgl"),
    "own-torch": partial(own, "torch"),
    "coo-coalesced": partial(coo, True),
    "coo-uncoalesced": partial(coo, False),
    "csr": csr,
    "dgl-weighted": dgl_weighted,
}


def work() -> dict[str, int]:
    """What a call cannot avoid: ``flops`` of an addition and a product for each edge and float, ``bytes`` of each layer reading and
    writing all nodes once, were its cache perfect; forward and backward."""
    _, _, _, n_nodes = edges()
    passes = 2 * LAYERS
    return {"flops": passes * 2 * len(edges()[0]) * DIM, "bytes": passes * 2 * n_nodes * DIM * 4}


@cache
def mean_of(name: str) -> Mean:
    """A contender's operator: the graph in its layout, made once."""
    keep_freed_memory()
    return MAKE[name]()


def forward_backward(name: str) -> tuple[Tensor, Tensor]:
    """The mean over layers, and its gradient for the input."""
    x, gradient = signals()
    x = x.detach().requires_grad_()
    result = mean_of(name)(x)
    result.backward(gradient)  # type: ignore[no-untyped-call]
    assert x.grad is not None
    return result.detach(), x.grad


def once(name: str) -> float:
    return float(forward_backward(name)[1][0, 0])


CONTENDERS: dict[str, Callable[[], float]] = {name: partial(once, name) for name in MAKE}
