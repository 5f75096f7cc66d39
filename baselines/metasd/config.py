"""Parameters ``metasd_*`` of the submission; those of model, batches, regulariser and Adagrad are ``kge_*``."""

from __future__ import annotations

from dataclasses import dataclass

from baselines.common.config import check_fields
from baselines.common.kge.train import KgeConfig
from kpi_bench.errors import SubmissionError

CHOICES = {"mask": ("dynamic", "static"), "quiz": ("heldout", "train_head"), "vectors": ("student", "source")}


@dataclass(frozen=True)
class MetasdConfig:
    """How source and student train, with the ablations.

    Pruning: ``share`` of all weights is zero in the student. ``prune`` off: the student is the source. ``mask`` "dynamic" is drawn
    again each epoch; "static" once, after ``static_after`` epochs of plain training. ``one_shot``: plain training of the source and
    one pruning at the end, nothing else.

    Distillation: D(a; b) = ``first_kl`` KL(a || b) + ``second_kl`` KL(b || a) at ``temperature``. ``mutual`` off: no D in the mutual
    phase. ``meta`` off: no virtual student and no quiz. ``source_step`` off: no update before them. ``inner_lr`` is the virtual
    student's, ``meta_lr`` that of the meta update; both other phases use ``kge_lr``.

    Quiz: ``quiz_share`` of train, drawn and left out of training ("heldout") or the first facts, still trained on ("train_head",
    as the authors' code); ``quiz_batches`` random mini-batches a step (0: all of the quiz).

    Cost: above ``full_up_to`` entities each softmax is over its batch's targets and ``candidates`` random entities.
    ``weighted_classes`` weighs a target by .1 + .9 degree / largest degree. ``half`` stores kept weights as float16. ``vectors``: whose
    entity vectors the heads of other tasks get.
    """

    share: float = 0.9
    prune: bool = True
    mask: str = "dynamic"
    static_after: int = 5
    one_shot: bool = False
    temperature: float = 3.0
    first_kl: float = 3.0
    second_kl: float = 1.0
    mutual: bool = True
    meta: bool = True
    source_step: bool = True
    inner_lr: float = 0.1
    meta_lr: float = 1e-4
    quiz: str = "heldout"
    quiz_share: float = 0.02
    quiz_batches: int = 1
    full_up_to: int = 50_000
    candidates: int = 8192
    weighted_classes: bool = False
    half: bool = False
    vectors: str = "student"

    def __post_init__(self) -> None:
        check_fields(
            self,
            choices=CHOICES,
            positive=("temperature", "inner_lr", "meta_lr"),
            not_negative=("static_after", "quiz_batches", "first_kl", "second_kl"),
            at_least_one=("candidates",),
        )
        for name in ("share", "quiz_share"):
            if not 0 < getattr(self, name) < 1:
                raise SubmissionError(f"{name} = {getattr(self, name)}; it must be above 0 and below 1")

    @property
    def uses_quiz(self) -> bool:
        """Whether training needs a quiz at all."""
        return self.meta and not self.one_shot


def check_kge(kge: KgeConfig) -> None:
    """Refuse ``kge_*`` values that the closed forms do not cover.

    Raises:
        SubmissionError: see above.
    """
    for name, allowed in {
        "model": ("complex", "distmult"),
        "loss": ("softmax",),
        "optimizer": ("adagrad",),
        "regularizer": ("dura", "n3"),
        "bias": (False,),
        "sparse_rows": (False,),
        "grouped": (False,),
    }.items():
        if getattr(kge, name) not in allowed:
            raise SubmissionError(
                f"MetaSD cannot use kge_{name} = {getattr(kge, name)!r}; use {' or '.join(map(repr, allowed))}"
            )
