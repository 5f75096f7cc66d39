"""What the Junior asks its teachers about: the candidates that it scores highest (section 3 of arXiv 2010.07152)."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.common.kge.models import KgeModel, Query
from baselines.common.kge.tables import CandidateTable
from baselines.mulde.config import MuldeConfig


def ask(
    junior: KgeModel,
    heads: Tensor,
    relations: Tensor,
    tails: Tensor,
    config: MuldeConfig,
    generator: torch.Generator,
    rows: slice = slice(None),
) -> Tensor:
    """Entities int64 ``[b, k]`` that the Junior asks about for queries (heads, relations), ids int64 ``[b]``, in no order; only for the
    ``rows`` of the batch that are named.

    k = min(top_k, candidates). The true ``tails`` are asked about only where the Junior ranks them so high; they join a sampled pool.
    """
    n = junior.n_entities
    if config.asking == "random":
        return draw_distinct(n, len(heads), config.top_k, generator)[rows]
    with torch.no_grad():
        query = junior.query(heads[rows], relations[rows])
        if n <= config.max_candidates:
            return best_positions(CandidateTable(junior), query, min(config.top_k, n))
        pool, repeated = draw_pool(n, config.pool, tails, generator)
        k = min(config.top_k, config.pool, n)
        return pool[best_positions(CandidateTable(junior, pool), query, k, repeated)]


def draw_pool(n_entities: int, size: int, tails: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Candidates shared by a batch: ``size`` distinct random entities (all if there are fewer) and the batch's ``tails`` int64 ``[b]``.

    Returns ids int64 ``[n]`` and which of them repeat an earlier one, bool ``[n]``. Repeats stay: removing them would make the
    shape depend on values, and a GPU wait for it. Without the tails the Senior's labels would be almost all false.
    """
    drawn = draw_distinct(n_entities, 1, size, generator)[0]
    ordered, among = tails.sort().values, drawn.sort().values
    # Not torch.isin: on a GPU it waits for the device.
    seen = among[torch.searchsorted(among, ordered).clamp_max(len(among) - 1)] == ordered
    seen[1:] |= ordered[1:] == ordered[:-1]
    return torch.cat([drawn, ordered]), torch.cat([torch.zeros_like(drawn, dtype=torch.bool), seen])


def draw_distinct(n_entities: int, rows: int, size: int, generator: torch.Generator) -> Tensor:
    """``size`` distinct random entities in each row (all if there are fewer), int64 ``[rows, min(size, n_entities)]``.

    One of each run of ids from a random start: distinct without a permutation of all ids, each id as likely.
    """
    device = generator.device
    size = min(size, n_entities)
    step = n_entities // size
    start = torch.randint(n_entities, (rows, 1), generator=generator, device=device)
    inside = torch.randint(step, (rows, size), generator=generator, device=device)
    return (start + step * torch.arange(size, device=device) + inside) % n_entities


def best_positions(table: CandidateTable, query: Query, k: int, repeated: Tensor | None = None) -> Tensor:
    """Positions int64 ``[b, k]`` of the ``k`` best candidates of each query, in no order; ``repeated`` bool ``[n]`` are left out.

    Computed in blocks of queries: no tensor is as large as batch x candidates.
    """
    found = []
    for rows in table.blocks(len(query.vectors)):
        scores = table.all(slice_query(query, rows))
        if repeated is not None:
            scores.masked_fill_(repeated, -torch.inf)
        found.append(top_positions(scores, k))
    return torch.cat(found)


def slice_query(query: Query, rows: slice) -> Query:
    """Some of the queries."""
    own = query.curvature is not None and len(query.curvature) > 1
    return Query(
        query.vectors[rows],
        None if query.bias is None else query.bias[rows],
        query.curvature[rows] if own and query.curvature is not None else query.curvature,
    )


def top_positions(scores: Tensor, k: int) -> Tensor:
    """Positions int64 ``[b, k]`` of the ``k`` largest of each row of ``scores [b, n]``, in no order.

    On a CPU in two rounds: the columns are dealt into groups, and the k best lie in the k groups of largest maximum. That
    leaves about 2 sqrt(k n) numbers to select from instead of n.
    """
    n = scores.shape[1]
    size = int((n / k) ** 0.5)
    if scores.device.type != "cpu" or size < 4:
        return scores.topk(k, dim=1, sorted=False).indices
    groups = n // size
    # Group j holds columns j, j + groups, j + 2 groups, ...: the maximum is then a vector operation.
    largest = scores[:, : size * groups].view(-1, size, groups).amax(1)
    best = largest.topk(k, dim=1, sorted=False).indices
    members = (best[:, None, :] + groups * torch.arange(size)[:, None]).flatten(1)
    rest = torch.arange(size * groups, n).expand(len(scores), -1)
    members = torch.cat([members, rest], dim=1)
    return members.gather(1, scores.gather(1, members).topk(k, dim=1, sorted=False).indices)
