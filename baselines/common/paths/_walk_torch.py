"""Walks on any torch device: each step is a few operations over all walks. Agrees with ``_walk_kernels`` bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from baselines.common.paths.random_numbers import below

ATTEMPTS = 4
COUNTERS = 8
CELLS = 1 << 22


def walk(
    indptr: Tensor,
    neighbours: Tensor,
    relations: Tensor,
    cumulative: Tensor,
    keys: Tensor,
    paths: Tensor,
    hops: int,
) -> None:
    """As ``_walk_kernels.walk``; ``keys`` int64 ``[n]`` holds the same 64 bits."""
    live = torch.arange(len(keys), device=keys.device)
    for step in range(hops):
        at = paths[live, 2 * step].long()
        low, high = indptr[at], indptr[at + 1]
        edges = torch.full_like(live, -1)
        pending = _weight(cumulative, low, high).nonzero().squeeze(1)
        for attempt in range(ATTEMPTS):
            if len(pending) == 0:
                break
            walks = live[pending]
            found = _draw(low[pending], high[pending], cumulative, keys[walks], COUNTERS * step + attempt)
            fresh = ~on_walk(paths, walks, step, neighbours[found])
            edges[pending[fresh]] = found[fresh]
            pending = pending[~fresh]
        for part in parts(high[pending] - low[pending], CELLS):
            some = pending[part]
            edges[some] = _unvisited(
                low[some], high[some], neighbours, cumulative, keys[live[some]], step, paths, live[some]
            )
        going = edges >= 0
        live, edges = live[going], edges[going]
        paths[live, 2 * step + 1] = relations[edges]
        paths[live, 2 * step + 2] = neighbours[edges]


def parts(sizes: Tensor, cells: int) -> Iterator[slice]:
    """Slices of consecutive rows of about ``cells`` entries at most, never less than one row."""
    ends = sizes.cumsum(0)
    first = 0
    while first < len(sizes):
        done = int(ends[first - 1]) if first else 0
        last = int(torch.searchsorted(ends, done + cells, right=True))
        last = max(last, first + 1)
        yield slice(first, last)
        first = last


def spread(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """All whole numbers of the ranges ``low..high - 1``, and the range each is of; int64 ``[sum of sizes]``."""
    sizes = high - low
    owner = torch.repeat_interleave(sizes)
    offset = low - (sizes.cumsum(0) - sizes)
    return torch.arange(len(owner), device=low.device) + offset[owner], owner


def on_walk(paths: Tensor, walks: Tensor, step: int, nodes: Tensor) -> Tensor:
    """Whether each node is on the walk given beside it, up to ``step``; columnwise, for bounded memory."""
    seen = torch.zeros(len(nodes), dtype=torch.bool, device=nodes.device)
    for column in range(0, 2 * step + 1, 2):
        seen |= paths[walks, column] == nodes
    return seen


def pick(
    low: Tensor, high: Tensor, edges: Tensor, weights: Tensor, draw: Callable[[Tensor], Tensor]
) -> Tensor:
    """One of the edges of each range ``low..high``, as :func:`spread` gives them, by weight; -1 where all weigh nothing.

    ``draw`` gives a number below each range's total.
    """
    sums = torch.cat([weights.new_zeros(1), weights.cumsum(0)])
    ends = (high - low).cumsum(0)
    base, totals = sums[ends - (high - low)], sums[ends] - sums[ends - (high - low)]
    place = torch.searchsorted(sums, base + draw(totals), right=True) - 1
    return torch.where(totals > 0, edges[place.clamp(max=len(edges) - 1)], -1)


def _weight(cumulative: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return cumulative[high] - cumulative[low] if len(cumulative) else high - low


def _draw(low: Tensor, high: Tensor, cumulative: Tensor, keys: Tensor, counter: int) -> Tensor:
    draw = below(keys, counter, _weight(cumulative, low, high))
    if len(cumulative) == 0:
        return low + draw
    return torch.searchsorted(cumulative, cumulative[low] + draw, right=True) - 1


def _unvisited(
    low: Tensor,
    high: Tensor,
    neighbours: Tensor,
    cumulative: Tensor,
    keys: Tensor,
    step: int,
    paths: Tensor,
    walks: Tensor,
) -> Tensor:
    """One of each walk's edges that lead off it, by weight; -1 where there is none."""
    edges, owner = spread(low, high)
    weights = _weight(cumulative, edges, edges + 1)
    weights = torch.where(on_walk(paths, walks[owner], step, neighbours[edges]), 0, weights)
    return pick(low, high, edges, weights, partial(below, keys, COUNTERS * step + ATTEMPTS))


def finish(
    indptr: Tensor,
    ends: Tensor,
    relations: Tensor,
    wanted_ptr: Tensor,
    wanted: Tensor,
    users: Tensor,
    keys: Tensor,
    paths: Tensor,
    hops: int,
) -> None:
    """As ``_walk_kernels.finish``, but ``ends`` and ``wanted`` hold row * n_nodes + node, int64, so that one search serves all rows.

    Each walk looks the shorter of its two lists up in the longer one.
    """
    n_nodes = len(indptr) - 1
    live = (paths[:, 2 * hops - 2] >= 0).nonzero().squeeze(1)
    at, who = paths[live, 2 * hops - 2].long(), users[live]
    reach, wish = indptr[at + 1] - indptr[at], wanted_ptr[who + 1] - wanted_ptr[who]
    for by_wish in (False, True):
        rows = ((wish < reach) == by_wish).nonzero().squeeze(1)
        for part in parts((wish if by_wish else reach)[rows], CELLS):
            some, v, u = live[rows[part]], at[rows[part]], who[rows[part]]
            if by_wish:
                entries, owner = spread(wanted_ptr[u], wanted_ptr[u + 1])
                nodes = wanted[entries] - (u * n_nodes)[owner]
                sought = (v * n_nodes)[owner] + nodes
                places = torch.searchsorted(ends, sought)
                counts = torch.searchsorted(ends, sought, right=True) - places
            else:
                places, owner = spread(indptr[v], indptr[v + 1])
                nodes = ends[places] - (v * n_nodes)[owner]
                sought = (u * n_nodes)[owner] + nodes
                counts = torch.searchsorted(wanted, sought, right=True) - torch.searchsorted(wanted, sought)
            counts[on_walk(paths, some[owner], hops - 1, nodes)] = 0
            totals = torch.zeros_like(u).index_add_(0, owner, counts)
            base = totals.cumsum(0) - totals
            has = totals > 0
            draw = (base + below(keys[some], COUNTERS * (hops - 1), totals))[has]
            sums = counts.cumsum(0)
            entry = torch.searchsorted(sums, draw, right=True)
            place = places[entry] + draw - (sums - counts)[entry]
            paths[some[has], 2 * hops - 1] = relations[place]
            paths[some[has], 2 * hops] = (ends[place] - (v * n_nodes)[has]).int()
