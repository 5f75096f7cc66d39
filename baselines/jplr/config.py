"""Parameters ``jplr_*`` of the submission."""

from __future__ import annotations

from dataclasses import dataclass

from baselines.common.config import check_fields
from kpi_bench.errors import SubmissionError

CHOICES = {
    "teacher": ("joint", "own", "none"),
    "serve": ("student", "teacher"),
    "links": ("given", "name", "none"),
    "encoder": ("transformer", "rsn", "rnn"),
    "precision": ("auto", "bfloat16", "float32"),
}


@dataclass(frozen=True)
class JplrConfig:
    """The teacher, the student and the paths both are trained on.

    ``teacher``: one over all KGs of the suite and the links between them ("joint"), one for each KG ("own"), or "none": the student is trained
    from scratch. ``serve``: "teacher" answers with the teacher itself, its rows brought to ``hidden`` numbers for the shared heads.
    ``links``: those of the suite, with "name" also those between entities of the same normalised name, or "none".

    Paths: each triple, both ways, is the first of ``hops`` hops in each epoch. Later hops prefer edges that the first entity does not
    have, by ``depth`` to 1 - ``depth``, and linked entities by ``crossing``; a node of more than ``hub_limit`` edges keeps ``hub_keep``
    random ones an epoch in them, and their loss weighs ``later_weight``.

    Encoders read one path at a time ("transformer", "rsn" or "rnn"). An entity is predicted among the targets of its batch and
    ``negatives`` random ones, corrected for how often each is among them. ``align``: weight of the loss that brings linked entities
    together, a softmax of cosines over ``align_temperature``.

    Student: trained on the task's part of its KG and the teacher's triples within ``link_hops`` hops, at most ``link_triples`` an
    entity. ``feature``, ``network`` and ``prediction`` weigh the three losses of distillation; ``temperature`` is that of predictions.
    It stops on the task's valid triples (at most ``valid_triples`` of them, 0: all). Tasks without any stop on triples of their KG: a share ``holdout`` of each
    KG's is kept from the teacher and from the students that stop on it.

    Optimisation (both): AdamW, the learning rate rises over a share ``warmup`` of all steps and falls to zero over the others; a
    weight that no gradient moves shrinks to exp(-``decay``) of itself. ``precision``: matrix products of training take bfloat16 numbers where
    the device has them ("auto"), always, or never.
    """

    teacher: str = "joint"
    serve: str = "student"
    links: str = "given"
    encoder: str = "transformer"
    hops: int = 2
    depth: float = 0.7
    crossing: float = 0.5
    hub_limit: int = 1000
    hub_keep: int = 64
    later_weight: float = 0.5
    negatives: int = 1024
    batch_size: int = 512
    precision: str = "auto"
    warmup: float = 0.05
    decay: float = 1.0
    dropout: float = 0.1
    teacher_hidden: int = 128
    teacher_layers: int = 2
    teacher_heads: int = 4
    teacher_epochs: int = 8
    teacher_lr: float = 2e-3
    align: float = 1.0
    align_temperature: float = 0.1
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    epochs: int = 15
    lr: float = 2e-3
    eval_every: int = 3
    patience: int = 2
    valid_triples: int = 0
    holdout: float = 0.05
    link_hops: int = 1
    link_triples: int = 16
    feature: float = 1.0
    network: float = 1.0
    prediction: float = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        check_fields(
            self,
            choices=CHOICES,
            at_least_one=("hops", "hub_limit", "hub_keep", "negatives", "batch_size", "link_triples", "eval_every", "patience", "teacher_hidden", "teacher_layers", "teacher_heads", "teacher_epochs", "hidden", "layers", "heads", "epochs"),
            not_negative=("link_hops", "later_weight", "decay", "align", "feature", "network", "prediction", "valid_triples"),
            positive=("teacher_lr", "lr", "temperature", "align_temperature"),
            shares={"dropout": 0.9, "warmup": 1.0, "holdout": 0.5},
            multiples={"teacher_hidden": "teacher_heads", "hidden": "heads"},
        )  # fmt: skip
        for name in ("depth", "crossing"):
            if not 0 < getattr(self, name) < 1:
                raise SubmissionError(f"{name} = {getattr(self, name)}; it must lie between 0 and 1")
        if self.hub_keep > self.hub_limit:
            raise SubmissionError(
                f"hub_keep = {self.hub_keep}; a hub of more than hub_limit = {self.hub_limit} edges cannot keep more than that"
            )
        if self.serve == "teacher" and self.teacher == "none":
            raise SubmissionError("serve = 'teacher' needs a teacher; teacher is 'none'")
        if self.serve == "teacher" and self.hidden > self.teacher_hidden:
            raise SubmissionError(
                f"hidden = {self.hidden}; the teacher has rows of teacher_hidden = {self.teacher_hidden} numbers only"
            )
