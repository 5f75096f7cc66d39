"""KG embeddings whose entity rows are shared out over the processes of a pre-training."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from baselines.common.kge.knowledge import Knowledge
from baselines.common.kge.models import KgeModel
from baselines.common.kge.sharded import save_sharded, shard_of
from baselines.common.kge.sharded_table import AdaptedTable, HostVectors, TableFile
from baselines.common.kge.submission import KgeSubmission
from baselines.common.kge.train import train_kge
from baselines.common.plugs import Plug
from baselines.common.submission import Adapted
from kpi_bench import ClassificationTask, Context, LinkPredictionTask
from kpi_bench.errors import SubmissionError

SHARDS = "kge_shard_entities"


class ShardableKge(KgeSubmission):
    """With ``kge_shard_entities`` each process of a pre-training holds a part of the entity rows, with their gradient and the
    optimizer's state, and writes it to the one file of a KG. Tasks read that file by rows and blocks: docs/scale.md."""

    data_parallel: ClassVar[bool] = True
    own_keys: ClassVar[frozenset[str]] = KgeSubmission.own_keys | {SHARDS}

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__(params)
        self.shards = self.params.get(SHARDS, False)
        if not isinstance(self.shards, bool):
            raise SubmissionError(f"parameter {SHARDS} = {self.shards!r}; it must be true or false")

    def fit(self, kg: Knowledge, ctx: Context, *, description: str) -> KgeModel:
        return train_kge(kg, self.kge, ctx, description=description, shard_entities=self.shards)

    def keep(self, name: str, model: KgeModel, ctx: Context) -> None:
        shard = shard_of(model)
        if shard is None:
            super().keep(name, model, ctx)
            return
        # Written at once, so that the rows of one KG are gone before the next is trained; and only rank 0 is asked to save.
        self._folder = ctx.scratch / "kge"
        self._folder.mkdir(exist_ok=True)
        save_sharded(model, shard, self._file(name))

    def save_pretrained(self, folder: Path) -> None:
        super().save_pretrained(folder)
        if self.shards and self._folder is not None:
            for file in self._folder.iterdir():
                _link(file, folder / file.name)

    def entity_vectors(self, kg: str, ctx: Context) -> NDArray[np.float32]:
        if not self.shards:
            return super().entity_vectors(kg, ctx)
        vectors: NDArray[np.float32] = self.table(
            kg, ctx
        ).entities.numpy()  # mapped: rows are read as they are asked for
        return vectors

    def text_plug(self, task: ClassificationTask, ctx: Context) -> Plug | None:
        if not self.shards:
            return super().text_plug(task, ctx)
        return HostVectors(self.table(task.spec.kg, ctx).entities)

    def table(self, kg: str, ctx: Context) -> TableFile:
        """The table that was pre-trained on a KG, on the host."""
        return TableFile(self._file(kg), ctx.device)

    def _file(self, kg: str) -> Path:
        if self._folder is None:
            raise SubmissionError(
                f"{type(self).__name__} has no vectors of KG {kg!r}: nothing was pre-trained"
            )
        return self._folder / f"{kg}.safetensors"


class PretrainedLinks(ShardableKge):
    """Always with shards; link prediction is answered from the pre-training on the task's KG, without early stopping on valid triples:
    for a KG whose table fits no one device, on which :meth:`adapt`, in its one process, could not train."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__({**params, SHARDS: True})

    @classmethod
    def pretrains(cls, kinds: object) -> bool:
        return True

    def adapt_link_prediction(self, task: LinkPredictionTask, ctx: Context) -> Adapted:
        table = self.table(task.spec.kg, ctx)
        if (table.n_entities, table.n_relations) != (task.n_entities, task.n_relations):
            raise SubmissionError(
                f"task {task.spec.name}: its KG has {table.n_entities} entities and {table.n_relations} relations, the task"
                f" {task.n_entities} and {task.n_relations}; use KgEmbedding, which trains on the task's triples"
            )
        return AdaptedTable(table)


def _link(file: Path, to: Path) -> None:
    """The same file under another name; a copy where the file system cannot do that."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)
