"""MulDE as a submission: the distilled Junior embeds the KG; teachers and Senior are not shipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from baselines.common.config import config_keys, read_config
from baselines.common.kge.knowledge import Knowledge
from baselines.common.kge.models import KgeModel
from baselines.common.kge.submission import KgeSubmission
from baselines.common.kge.train import KgeConfig
from baselines.mulde.config import MuldeConfig
from baselines.mulde.train import train_mulde
from kpi_bench import Context
from kpi_bench.errors import SubmissionError


class Mulde(KgeSubmission):
    """Parameters: ``kge_*`` of the Junior, ``teacher_*`` (the same fields) of the teachers, whose models ``mulde_teachers`` names,
    ``mulde_*`` of the method."""

    data_parallel: ClassVar[bool] = True
    own_keys: ClassVar[frozenset[str]] = KgeSubmission.own_keys | frozenset(
        config_keys(KgeConfig, "teacher_") - {"teacher_model"} | config_keys(MuldeConfig, "mulde_")
    )

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__(params)
        self.mulde = read_config(MuldeConfig, self.params, "mulde_")
        # Each teacher's own model decides which settings go together: refused here, not after the first ones have trained.
        teachers = [
            read_config(KgeConfig, {**self.params, "teacher_model": name}, "teacher_")
            for name in self.mulde.teacher_models
        ]
        self.teacher = teachers[0]
        for prefix, kge in (("kge_", self.kge), ("teacher_", self.teacher)):
            if kge.sparse_rows:
                raise SubmissionError(
                    f"MulDE cannot use {prefix}sparse_rows = true: its batches are small and its Adam is dense"
                )

    def fit(self, kg: Knowledge, ctx: Context, *, description: str) -> KgeModel:
        return train_mulde(
            kg,
            self.kge,
            self.teacher,
            self.mulde,
            ctx,
            description=description,
        )
