"""A KG embedding in one process whose entity rows fit no device: they stay in their file, which is mapped into memory, and visit the
device a block at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from baselines.common.device import sent
from baselines.common.kge import create_model
from baselines.common.kge.checkpoint import reading
from baselines.common.kge.models import Candidates, Query
from baselines.common.plugs import Plug
from kpi_bench import Context, LinkPredictionQueries, Predictions, Queries
from kpi_bench.errors import SubmissionError

HOST_SCORES = 1 << 27
"""Scores on the host at once (512 MB), but for one query at least: the whole table visits the device for each such block."""
DEVICE_NUMBERS = 1 << 24
"""Numbers of a block on the device, of candidates and of their scores (64 MB each)."""
QUERIES = 1024
"""The most queries of a block: more make no product faster."""


class TableFile:
    """A file of :func:`~baselines.common.kge.checkpoint.save_model` or of its sharded form: per-entity tables on the host, the rest of
    the model on the device."""

    def __init__(self, path: Path, device: str) -> None:
        """Raises SubmissionError as :func:`~baselines.common.kge.checkpoint.reading` says."""
        self.path, self._device = path, device
        with reading(path):
            with safe_open(path, framework="pt") as file:
                shape = json.loads((file.metadata() or {})["kge"])
                # On the CPU these are views of the mapped file: a page is read when it is asked for.
                tables = {name: file.get_tensor(name) for name in list(file.keys())}
            self.n_entities: int = shape.pop("n_entities")
            self.n_relations: int = shape["n_relations"]
            model = create_model(shape.pop("model"), 1, generator=torch.Generator(), **shape)
            self.entities = tables["entities"]
            self._head_bias, self._tail_bias = tables.get("head_bias"), tables.get("tail_bias")
            per_entity = {name for name in tables if name in ("entities", "head_bias", "tail_bias")}
            if {len(tables[name]) for name in per_entity} != {self.n_entities}:
                raise SubmissionError(f"its tables do not have {self.n_entities} rows")
            self.n_parameters = sum(table.numel() for table in tables.values())
            model.load_state_dict(
                {name: table[:1] if name in per_entity else table for name, table in tables.items()}
            )
        self._model = model.to(device).eval()

    def score_blocks(
        self, entities: NDArray[np.int64], relations: NDArray[np.int64]
    ) -> Iterator[NDArray[np.float32]]:
        """As :func:`~baselines.common.kge.scoring.score_blocks`; the device holds a block of candidates and one of scores."""
        step = max(1, min(QUERIES, HOST_SCORES // self.n_entities))
        for start in range(0, len(entities), step):
            yield self._scores(entities[start : start + step], relations[start : start + step])

    @torch.inference_mode()
    def _scores(self, entities: NDArray[np.int64], relations: NDArray[np.int64]) -> NDArray[np.float32]:
        query = self._query(torch.tensor(entities), torch.tensor(relations).to(self._device))
        scores = np.empty((len(entities), self.n_entities), np.float32)
        width = max(1, DEVICE_NUMBERS // max(len(entities), self.entities.shape[1]))
        for first in range(0, self.n_entities, width):
            rows = slice(first, first + width)
            bias = None if self._tail_bias is None else self._tail_bias[rows, 0].to(self._device)
            block = Candidates(self.entities[rows].to(self._device), bias)
            scores[:, rows] = self._model.scores(query, block).float().cpu().numpy()
        return scores

    def _query(self, heads: Tensor, relations: Tensor) -> Query:
        """Queries of ids int64 ``[b]``, heads on the host and relations on the device."""
        vectors, curvature = self._model.translate(self.entities[heads].to(self._device), relations)
        bias = None if self._head_bias is None else self._head_bias[heads, 0].to(self._device)
        return Query(vectors, bias, curvature)


class AdaptedTable:
    """Scores all entities for link-prediction queries, a block of the table at a time. Nothing of it is trained for a task."""

    trainable_parameters = 0

    def __init__(self, table: TableFile) -> None:
        self._table = table
        self.total_parameters = self.kept_parameters = table.n_parameters

    def predict(self, queries: Queries, ctx: Context) -> Predictions:
        """Blocks of float32 rows; direction 1 asks the reciprocal relation."""
        if not isinstance(queries, LinkPredictionQueries):
            raise SubmissionError(f"a KG embedding cannot answer {type(queries).__name__}")
        relations = queries.relations + queries.directions * self._table.n_relations
        return self._table.score_blocks(queries.entities, relations)

    def export(self, folder: Path) -> None:
        """The tables."""
        shutil.copyfile(self._table.path, folder / "kge.safetensors")


class HostVectors(Plug):
    """As :class:`~baselines.common.plugs.FrozenVectors` of a whole table that stays on the host, float32 ``[n, dim]``: rows go to the
    device as they are asked for, and are centred and scaled there. Ids that lie on a GPU come to the host first, which waits for them."""

    vectors: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.dim = table.shape[1]
        blocks = table.split(max(1, DEVICE_NUMBERS // self.dim))
        mean = sum((block.double().sum(0) for block in blocks), torch.zeros(self.dim, dtype=torch.float64))
        mean = mean / max(len(table), 1)
        squares = sum(float((block.double() - mean).square().sum()) for block in blocks)
        scale = torch.tensor(squares / max(table.numel(), 1)).sqrt().clamp_min(1e-12)
        self.register_buffer("vectors", table)
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", scale.float())

    def forward(self, rows: Tensor | None = None) -> Tensor:
        chosen = self.vectors if rows is None else self.vectors[rows.cpu()]
        return (sent(chosen, self.mean.device) - self.mean) / self.scale

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HostVectors:
        """What moves a module moves all of it but the table."""
        table = self._buffers.pop("vectors")
        super()._apply(fn, recurse)
        self._buffers["vectors"] = table
        return self
