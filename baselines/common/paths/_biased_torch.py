"""Biased walks on any torch device. Agrees with ``_biased_kernels`` bit for bit."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from baselines.common.paths._walk_torch import on_walk, parts, pick, spread
from baselines.common.paths.random_numbers import below

ATTEMPTS = 6
COUNTERS = 16
SCALE = 1 << 20
"""The weight of the edges that are never rejected."""
CELLS = 1 << 22


def extend(
    indptr: Tensor,
    neighbours: Tensor,
    relations: Tensor,
    edge_keys: Tensor,
    n_relations: int,
    bridges: Tensor,
    weights: Tensor,
    keys: Tensor,
    paths: Tensor,
    hops: int,
) -> None:
    """As ``_biased_kernels.extend``; ``keys`` int64 ``[n]`` holds the same 64 bits, ``edge_keys`` those of the graph."""

    def weigh(walks: Tensor, step: int, edges: Tensor) -> Tensor:
        """Weights of edges, 0 for those that lead back to the walk given beside them."""
        nodes = neighbours[edges]
        wanted = (paths[walks, 0].long() * n_relations + relations[edges]) * (len(indptr) - 1) + nodes
        near = edge_keys[torch.searchsorted(edge_keys, wanted).clamp(max=len(edge_keys) - 1)] == wanted
        return torch.where(on_walk(paths, walks, step, nodes), 0, weights[near.long(), bridges[nodes].long()])

    live = torch.arange(len(keys), device=keys.device)
    for step in range(1, hops):
        at = paths[live, 2 * step].long()
        low, high = indptr[at], indptr[at + 1]
        edges = torch.full_like(live, -1)
        pending = (high > low).nonzero().squeeze(1)
        for attempt in range(ATTEMPTS):
            if len(pending) == 0:
                break
            walks, counter = live[pending], COUNTERS * step + 2 * attempt
            found = low[pending] + below(keys[walks], counter, high[pending] - low[pending])
            level = below(keys[walks], counter + 1, torch.full_like(walks, SCALE))
            taken = level < weigh(walks, step, found)
            edges[pending[taken]] = found[taken]
            pending = pending[~taken]
        for part in parts(high[pending] - low[pending], CELLS):
            some = pending[part]
            walks = live[some]
            among, owner = spread(low[some], high[some])
            draw = partial(_draw, keys[walks], COUNTERS * step + 2 * ATTEMPTS)
            edges[some] = pick(low[some], high[some], among, weigh(walks[owner], step, among), draw)
        going = edges >= 0
        live, edges = live[going], edges[going]
        paths[live, 2 * step + 1] = relations[edges]
        paths[live, 2 * step + 2] = neighbours[edges]


def _draw(keys: Tensor, counter: int, totals: Tensor) -> Tensor:
    return share(below(keys, counter, torch.full_like(totals, 1 << 30)), totals)


def share(bits: Tensor, total: Tensor) -> Tensor:
    """bits * total / 2**30 in whole numbers, of 30 bits and totals below 2**47; their product may be beyond 64 bits."""
    return (bits * (total >> 16) + ((bits * (total & 0xFFFF)) >> 16)) >> 14
