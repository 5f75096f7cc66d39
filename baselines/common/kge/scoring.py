"""Scores of all entities in blocks, and the filtered MRR of a valid split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from baselines.common.kge.models import KgeModel
from baselines.common.kge.sharded import rank_over_shards, shard_of
from baselines.common.kge.tables import CandidateTable
from kpi_bench.evaluators.link_prediction import LinkPredictionIndex, Ranks, rank_scores


def score_blocks(
    model: KgeModel, entities: NDArray[np.int64], relations: NDArray[np.int64]
) -> Iterator[NDArray[np.float32]]:
    """Scores of all entities for (entity, relation, ?) queries, int64 ``[n]`` each, as float32 blocks ``[rows, n_entities]``.

    Relations from ``n_relations`` on are reciprocals.
    """
    device = model.entities.device
    heads, kinds = torch.tensor(entities, device=device), torch.tensor(relations, device=device)
    table = CandidateTable(model)
    for rows in table.blocks(len(heads)):
        with torch.inference_mode():
            scores = table.all(model.query(heads[rows], kinds[rows]))
        yield scores.float().cpu().numpy()


class LinkValidation:
    """The filtered MRR (train and valid filtered, both directions, realistic ties) on a valid split."""

    def __init__(
        self,
        train: NDArray[np.int64],
        valid: NDArray[np.int64],
        n_entities: int,
        n_relations: int,
        *,
        max_triples: int = 0,
    ) -> None:
        """``train`` and ``valid`` int64 ``[n, 3]``; with ``max_triples`` a fixed random choice of valid triples is ranked."""
        none = np.empty((0, 3), dtype=np.int64)
        known = train
        if 0 < max_triples < len(valid):
            chosen = np.random.default_rng(0).permutation(len(valid))
            known = np.concatenate([train, valid[chosen[max_triples:]]])
            valid = valid[chosen[:max_triples]]
        self._index = LinkPredictionIndex.build(known, valid, none, n_entities, n_relations, "valid")

        relations = self._index.relation + self._index.direction.astype(np.int64) * n_relations
        self.queries = self._index.entity, relations
        """Entities and relations of the questions, int64 ``[n]``; relations from ``n_relations`` on are reciprocals."""

    def score(self, model: KgeModel) -> float:
        """:meth:`mrr` of a KG embedding; of one whose rows are shared out, all ranks call it at once."""
        shard = shard_of(model)
        if shard is None:
            return self.mrr(score_blocks(model, *self.queries))
        return _mrr(rank_over_shards(model, shard, self._index, *self.queries))

    def mrr(self, blocks: Iterable[NDArray[np.float32]]) -> float:
        """MRR of scores of all entities for :attr:`queries`, float32 blocks ``[rows, n_entities]``; NaN when a score is not finite,
        which the evaluator would refuse to rank."""
        try:
            return _mrr(rank_scores(self._index, _finite(blocks)))
        except FloatingPointError:
            return math.nan


def _mrr(ranks: Ranks | None) -> float:
    return math.nan if ranks is None else float((1 / ranks.realistic).mean())


def _finite(blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """The same blocks; raises FloatingPointError at a score that is NaN or infinite."""
    for block in blocks:
        if not np.isfinite(block).all():
            raise FloatingPointError
        yield block
