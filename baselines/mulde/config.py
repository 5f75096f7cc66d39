"""The switches of MulDE; parameters ``mulde_*`` of a submission."""

from __future__ import annotations

from dataclasses import dataclass

from baselines.common.config import check_fields
from baselines.common.kge import MODELS
from kpi_bench.errors import SubmissionError

CHOICES = {
    "attention": ("softmax", "sigmoid", "uniform"),
    "contrast": ("junior_teacher", "teacher_junior"),
    "senior_loss": ("combined", "each"),
    "asking": ("top", "random"),
}


@dataclass(frozen=True)
class MuldeConfig:
    """Defaults are the authors' code on FB15k-237.

    ``teachers``: model names, separated by commas. The Junior asks about its ``top_k`` candidates (``asking = "random"``: as many
    random ones). L = ``hard_weight`` L_hard + L_senior + ``gamma`` L_soft, the last one at ``temperature``.

    Contrast attention: ``attention`` is "softmax" (of -d / tau), "sigmoid" (each teacher by itself, times their number) or "uniform" (all
    equal); ``contrast`` names the direction of the divergence d; tau = exp(floor(e / 5)), without the floor where not ``floor_epoch``.
    ``scaling``: each relation scales each teacher. ``detach_targets``: no gradient into the Junior's side of d nor into the soft target.
    ``senior_loss``: of the combined answer, or the mean over that of "each" scaled teacher.

    ``warm_start``: the Junior is first trained alone. ``distil = false``: it is only trained alone, by the same code and budget.
    A KG of more than ``max_candidates`` entities is asked about in a pool of ``pool`` random entities and the tails of the batch.
    """

    teachers: str = "transh,disth,roth,refh"
    top_k: int = 500
    gamma: float = 0.5
    temperature: float = 1.0
    hard_weight: float = 1.0
    floor_epoch: bool = True
    attention: str = "softmax"
    contrast: str = "junior_teacher"
    scaling: bool = True
    detach_targets: bool = False
    senior_loss: str = "combined"
    asking: str = "top"
    warm_start: bool = False
    distil: bool = True
    max_candidates: int = 50_000
    pool: int = 8192

    def __post_init__(self) -> None:
        check_fields(
            self,
            choices=CHOICES,
            positive=("top_k", "pool", "temperature"),
            not_negative=("gamma", "hard_weight", "max_candidates"),
        )
        if not self.teacher_models or not set(self.teacher_models) <= set(MODELS):
            raise SubmissionError(f"teachers = {self.teachers!r}; name some of {', '.join(MODELS)}")

    @property
    def teacher_models(self) -> tuple[str, ...]:
        """The names in ``teachers``."""
        return tuple(name.strip() for name in self.teachers.split(",") if name.strip())
