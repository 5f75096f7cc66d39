"""DCCF (arXiv 2305.02759): graph propagation next to latent intents, contrasted with each other and with adaptively masked propagation."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.common.recommenders.base import drawn_items
from baselines.common.recommenders.contrast import check_contrast, info_nce
from baselines.common.recommenders.lightgcn import GraphRecommender
from baselines.common.sampling import PairBatch
from kpi_bench import Csr
from kpi_bench.errors import SubmissionError

_LEAST_MASS = 1e-6


class _Layer(NamedTuple):
    """The four outputs of a layer, float32 ``[n_nodes, dim]``: propagation, intents, and propagation masked by the similarity of each."""

    graph: Tensor
    intent: Tensor
    graph_masked: Tensor
    intent_masked: Tensor


class DCCF(GraphRecommender):
    """The final factors are the sum over layers; a layer is the one below plus the four outputs of :class:`_Layer`. The masks are a
    function of the embeddings, without noise, and part of the factors in evaluation too.

    Contrast: per layer, InfoNCE between the propagated vectors and each of the other three, over the batch's distinct users and over its
    distinct positive and negative items (a mean over nodes for each side). Gradients flow through everything: the masks'
    similarities and their normalisation as well as the vectors that they carry. ``edge_keep`` thins out the
    propagation, not the masks.

    Raises:
        SubmissionError: ``intents`` is below 1, or a parameter that :func:`check_contrast` refuses.
    """

    def build(self, train: Csr, generator: torch.Generator, device: torch.device) -> None:
        check_contrast(self.config)
        if self.config.intents < 1:
            raise SubmissionError(f"intents = {self.config.intents} must be at least 1")
        super().build(train, generator, device)
        self.user_intents = self._intents(generator, device)
        self.item_intents = self._intents(generator, device)
        self._edges = Edges(train, device)

    def factors(self, item_inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self._split(self._propagate(item_inputs)[0])

    def loss(self, batch: PairBatch) -> Tensor:
        """Ranking, penalty and ``contrast`` times the contrastive loss."""
        inputs = self.item_inputs()
        final, layers = self._propagate(inputs)
        contrast = final.new_zeros(())
        for rows in (torch.unique(batch.users), torch.unique(drawn_items(batch)) + len(self.user_table)):
            for layer in layers:
                anchors, *views = (functional.embedding(rows, output) for output in layer)
                for view in views:
                    contrast = contrast + info_nce(anchors, view, self.config.temperature)
        return (
            self.ranking(*self._split(final), batch)
            + self.penalty(inputs, batch)
            + self.config.contrast * contrast
        )

    def _propagate(self, item_inputs: Tensor) -> tuple[Tensor, list[_Layer]]:
        """The sum over layers, float32 ``[n_nodes, dim]``, and what each layer adds."""
        kernel = self._step_kernel()
        nodes = torch.cat([self.user_table, item_inputs])
        total, layers = nodes, []
        for _ in range(self.config.layers):
            graph = self._propagation.apply(nodes, kernel=kernel)
            users, items = self._split(nodes)
            intent = torch.cat([_mixed(users, self.user_intents), _mixed(items, self.item_intents)])
            layer = _Layer(
                graph,
                intent,
                masked_mean(nodes, graph, self._edges),
                masked_mean(nodes, intent, self._edges),
            )
            nodes = torch.stack([nodes, *layer]).sum(0)
            total = total + nodes
            layers.append(layer)
        return total, layers

    def _split(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        return nodes[: len(self.user_table)], nodes[len(self.user_table) :]

    def _intents(self, generator: torch.Generator, device: torch.device) -> nn.Parameter:
        table = torch.empty(self.config.dim, self.config.intents)
        nn.init.xavier_uniform_(table, generator=generator)
        return nn.Parameter(table.to(device))


def _mixed(x: Tensor, intents: Tensor) -> Tensor:
    """The intents ``[dim, K]`` as each row of ``x`` weighs them, ``[n, dim]``."""
    return torch.softmax(x @ intents, dim=1) @ intents.T


class Edges:
    """Sums and inner products over the edges of a users x items matrix; nodes are users, then items. One value an edge."""

    def __init__(self, matrix: Csr, device: torch.device) -> None:
        self.n_users, self.n_items = matrix.n_rows, matrix.n_columns
        users = torch.from_numpy(matrix.row_ids())
        items = torch.from_numpy(matrix.indices.astype("int64"))
        # Stable: within an item, users stay ascending.
        by_item = torch.argsort(items, stable=True)
        ends = torch.bincount(items, minlength=self.n_items).cumsum(0)
        self.user, self.item = users.to(device), items.to(device)
        self._by_item = by_item.to(device)
        self._user_rows = torch.from_numpy(matrix.indptr).to(device), self.item
        self._item_rows = torch.cat([ends.new_zeros(1), ends]).to(device), users[by_item].to(device)

    def sums(self, values: Tensor, nodes: Tensor) -> Tensor:
        """Each node's sum over its edges of ``values`` ``[n_edges]`` times the vector of the edge's other end, ``[n_nodes, d]``."""
        users, items = nodes[: self.n_users], nodes[self.n_users :]
        of_users = _csr(self._user_rows, values, (self.n_users, self.n_items))
        of_items = _csr(self._item_rows, values[self._by_item], (self.n_items, self.n_users))
        return torch.cat([of_users @ items, of_items @ users])

    def products(self, users: Tensor, items: Tensor) -> Tensor:
        """The inner product of ``users[u]`` and ``items[i]`` for each edge, ``[n_edges]``; no ``[n_edges, d]`` tensor is made."""
        pattern = _csr(self._user_rows, users.new_zeros(len(self.user)), (self.n_users, self.n_items))
        products: Tensor = torch.sparse.sampled_addmm(pattern, users, items.T, beta=0.0).values()
        return products


def _csr(rows: tuple[Tensor, Tensor], values: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.sparse_csr_tensor(*rows, values, size=size, check_invariants=False)


def masked_mean(nodes: Tensor, similar: Tensor, edges: Edges) -> Tensor:
    """Each node's mean of its neighbours' vectors in ``nodes`` with weights ``(1 + cos) / 2``, the cosine between the two ends' vectors in
    ``similar``; float ``[n_nodes, d]``. Zero where a node has no edge, or only neighbours that point the other way.

    Differentiable once, in both arguments; keeps one number an edge for it.
    """
    mean: Tensor = _MaskedMean.apply(nodes, functional.normalize(similar, eps=1e-8), edges)
    return mean


class _MaskedMean(torch.autograd.Function):
    """With weights a_e, mass m = sum a_e, mean y and gradient g: dL/da_e = (g_u x_i - g_u y_u) / m_u + (g_i x_u - g_i y_i) / m_i, because
    both directions of an edge share a_e; dL/dx is the weighted sum of g / m over the same edges."""

    @staticmethod
    def forward(ctx: Any, nodes: Tensor, unit: Tensor, edges: Edges) -> Tensor:
        cosine = edges.products(unit[: edges.n_users], unit[edges.n_users :])
        weights = cosine.add_(1).div_(2).clamp_min_(0)
        mass = edges.sums(weights, nodes.new_ones(len(nodes), 1))
        inverse = torch.where(mass > _LEAST_MASS, 1 / mass, 0.0)
        mean = edges.sums(weights, nodes).mul_(inverse)
        ctx.save_for_backward(nodes, unit, weights, inverse, mean)
        ctx.edges = edges
        return mean

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        nodes, unit, weights, inverse, mean = ctx.saved_tensors
        edges, n_users = ctx.edges, ctx.edges.n_users
        shared = gradient * inverse
        own = (shared * mean).sum(1)
        left = torch.cat([shared[:n_users], nodes[:n_users]], dim=1)
        right = torch.cat([nodes[n_users:], shared[n_users:]], dim=1)
        of_weights = edges.products(left, right) - own[edges.user] - own[n_users + edges.item]
        return edges.sums(weights, shared), edges.sums(of_weights / 2, unit), None
