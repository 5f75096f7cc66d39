"""The submission: a pruned model a KG, in the shared heads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from baselines.common.config import config_keys, read_config
from baselines.common.kge.knowledge import Knowledge
from baselines.common.kge.models import KgeModel
from baselines.common.kge.submission import AdaptedKge, KgeSubmission
from baselines.metasd.config import MetasdConfig, check_kge
from baselines.metasd.pack import save_packed
from baselines.metasd.train import kept_weights, train_metasd
from kpi_bench import Context


class Metasd(KgeSubmission):
    """Source and student of MetaSD; link prediction is answered and shipped by the student alone, with exact zeros."""

    own_keys: ClassVar[frozenset[str]] = KgeSubmission.own_keys | config_keys(MetasdConfig, "metasd_")

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__(params)
        self.metasd = read_config(MetasdConfig, self.params, "metasd_")
        check_kge(self.kge)

    def fit(self, kg: Knowledge, ctx: Context, *, description: str) -> KgeModel:
        """The student; on a KG, which only gives vectors to the heads, the model that ``vectors`` names."""
        trained = train_metasd(kg, self.metasd, self.kge, ctx, description=description)
        on_kg = kg.valid is None
        return trained.source if on_kg and self.metasd.vectors == "source" else trained.student

    def serve(self, model: KgeModel) -> AdaptedKge:
        return AdaptedPruned(model, half=self.metasd.half)


class AdaptedPruned(AdaptedKge):
    """Scores with the masked tables; ships their kept weights."""

    def __init__(self, model: KgeModel, *, half: bool) -> None:
        super().__init__(model)
        self.kept_parameters = kept_weights(model)
        self._half = half

    def export(self, folder: Path) -> None:
        """The packed tables, or plain ones where nothing was pruned and a mask would only add bytes."""
        if self.kept_parameters == self.total_parameters and not self._half:
            super().export(folder)
        else:
            save_packed(self.model, folder / "kge.packed.safetensors", half=self._half)
