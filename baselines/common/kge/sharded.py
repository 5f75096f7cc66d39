"""A KG embedding whose entity rows are shared out over processes: its softmax, its filtered ranks and its file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.common.kge.checkpoint import metadata
from baselines.common.kge.models import KgeModel
from baselines.common.kge.tables import CandidateTable
from baselines.common.parallel import Part
from baselines.common.shards import Shard, ShardedRows, cross_entropy
from kpi_bench import Csr
from kpi_bench.evaluators import link_prediction
from kpi_bench.evaluators.ranking import count_ties_from_scores

SCORES = 1 << 22
"""Scores of a rank at once when it ranks (16 MB), but for a few answers at least."""
ANSWERS = 16
"""The fewest: a product of fewer queries reads the whole table for each."""


def shard_of(model: KgeModel) -> Shard | None:
    """How a model's entities are shared out; None where they are not."""
    return model.entities.shard if isinstance(model.entities, ShardedRows) else None


def sharded_softmax(model: KgeModel, shard: Shard, batch: Tensor, part: Part, *, grouped: bool) -> Tensor:
    """Mean cross-entropy of the part's facts over all entities. ``batch`` int64 ``[b, 3]`` is all of it: each rank scores all its
    queries against its own entities. ``grouped``: facts of one query are adjacent, and it is scored once."""
    heads, relations, tails = batch.unbind(1)
    rows = torch.arange(len(batch), device=batch.device)
    if grouped:
        key = heads * (2 * model.n_relations) + relations
        distinct, rows = torch.unique_consecutive(key, return_inverse=True)
        heads, relations = distinct // (2 * model.n_relations), distinct % (2 * model.n_relations)
    # A head's bias shifts all scores of its query alike: its gradient would be rounding, of which Adam makes steps.
    query = replace(model.query(heads, relations), bias=None)
    return cross_entropy(model.scores(query, model.candidates()), rows, tails, shard)[part.rows].mean()


@torch.no_grad()
def rank_over_shards(
    model: KgeModel,
    shard: Shard,
    index: link_prediction.LinkPredictionIndex,
    heads: NDArray[np.int64],
    relations: NDArray[np.int64],
) -> link_prediction.Ranks | None:
    """Filtered ranks of the index's positives for its queries (heads, relations), int64 ``[Q]``; None where a score is not finite.

    All ranks call it at once. The owner of an answer tells its score, each rank counts the greater and equal ones among its own
    entities, and counts add up: the ranks are those that the evaluator gives to the scores of all ranks side by side.
    """
    device, table = model.entities.device, CandidateTable(model)
    known = _own_columns(index.filters, shard)
    asked = torch.from_numpy(index.positives.indices.astype(np.int64)).to(device)
    query_of = index.positives.row_ids()
    ids = torch.from_numpy(np.stack([heads, relations])).to(device)
    counted = np.zeros((2, index.positives.nnz), np.int64)
    step = max(ANSWERS, SCORES // shard.widest)
    for start in range(0, index.positives.nnz, step):
        span = slice(start, start + step)
        asking = query_of[span]  # ascending
        scores = table.all(model.query(*ids[:, asking[0] : asking[-1] + 1])).float()
        lines = torch.from_numpy(asking - asking[0]).to(device)
        mine, places = shard.held(asked[span])
        own = torch.where(mine, scores[lines, places], 0.0)
        told = shard.ranks.add(torch.cat([own, (~torch.isfinite(scores)).any()[None].float()]))
        if not torch.isfinite(told).all() or told[-1]:
            return None
        # The answer is one more column of its row, so that the evaluator counts: a row for each answer.
        block = torch.cat([scores[lines], told[:-1, None]], dim=1).cpu().numpy()
        n, width = len(block), block.shape[1]
        answers = Csr(np.arange(n + 1), np.full(n, width - 1), width)
        counts = count_ties_from_scores([block], answers, known.select(asking))
        counted[:, span] = counts.greater, counts.equal
    greater, equal = shard.ranks.add(torch.from_numpy(counted).to(device)).cpu().numpy()
    return link_prediction.Ranks(1 + greater, 1 + greater + equal)


def save_sharded(model: KgeModel, shard: Shard, path: Path) -> None:
    """The file that :func:`~baselines.common.kge.checkpoint.save_model` writes, each rank its own rows of it; complete when this
    returns. All ranks call it at once, and see one file system."""
    header: dict[str, object] = {"__metadata__": metadata(model)}
    places, end = {}, 0
    for name, parameter in model.named_parameters():
        held = isinstance(parameter, ShardedRows)
        rows, row_bytes = (shard.n if held else len(parameter)), parameter[:1].nbytes
        if held or shard.ranks.rank == 0:
            places[name] = end + shard.lo * row_bytes if held else end
        header[name] = {
            "dtype": "F32",
            "shape": [rows, *parameter.shape[1:]],
            "data_offsets": [end, end + rows * row_bytes],
        }
        end += rows * row_bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with shard.ranks.first() as first:
        if first:
            with path.open("wb") as file:
                file.write(len(text).to_bytes(8, "little") + text)
                file.truncate(8 + len(text) + end)
    with path.open("r+b") as file:
        for name, place in places.items():
            file.seek(8 + len(text) + place)
            file.write(model.get_parameter(name).detach().cpu().contiguous().numpy().data)
    shard.ranks.add(torch.zeros(1, device=shard.ranks.device))  # all have written


def _own_columns(filters: Csr, shard: Shard) -> Csr:
    """The filters' columns among this rank's entities, counted from its first one, and one column more."""
    held = (filters.indices >= shard.lo) & (filters.indices < shard.hi)
    before = np.concatenate([[0], np.cumsum(held)])
    columns = filters.indices[held] - shard.lo
    return Csr(before[filters.indptr], columns, shard.hi - shard.lo + 1)
