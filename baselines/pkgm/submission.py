"""The submission: one PKGM a KG, its service vectors in the shared heads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from baselines.common.config import config_keys, read_config
from baselines.common.kge.knowledge import Knowledge
from baselines.common.submission import TaskSubmission
from baselines.pkgm.config import PkgmConfig
from baselines.pkgm.model import PkgmModel
from baselines.pkgm.service import KeyRelations, key_relations, load_service, save_service, service_vectors
from baselines.pkgm.train import train_pkgm
from kpi_bench import Context, KnowledgeGraph
from kpi_bench.errors import SubmissionError


class PKGM(TaskSubmission):
    """Frozen service vectors; link prediction is not answered."""

    data_parallel: ClassVar[bool] = True
    own_keys: ClassVar[frozenset[str]] = frozenset(config_keys(PkgmConfig, "pkgm_"))

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__(params)
        self.pkgm = read_config(PkgmConfig, self.params, "pkgm_")
        self._trained: dict[str, tuple[PkgmModel, KeyRelations]] = {}
        self._folder: Path | None = None

    def pretrain(self, graphs: Mapping[str, KnowledgeGraph], ctx: Context) -> None:
        for name, kg in graphs.items():
            model = train_pkgm(Knowledge.of_graph(kg), self.pkgm, ctx, description=f"{name}: pkgm")
            self._trained[name] = model, key_relations(kg, self.pkgm.key_relations)

    def save_pretrained(self, folder: Path) -> None:
        for name, trained in self._trained.items():
            save_service(*trained, folder / f"{name}.safetensors")

    def load_pretrained(self, folder: Path) -> None:
        self._folder = folder

    def entity_vectors(self, kg: str, ctx: Context) -> NDArray[np.float32]:
        """Service vectors float32 ``[n_entities, 2 dim]``, from the tables alone: no triple is read."""
        trained = self._trained.get(kg)
        if trained is None:
            if self._folder is None:
                raise SubmissionError(f"PKGM has no vectors of KG {kg!r}: nothing was pre-trained")
            # Not kept: the heads need its vectors alone.
            trained = load_service(self._folder / f"{kg}.safetensors")
        return service_vectors(*trained).cpu().numpy()
