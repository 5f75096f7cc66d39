"""Parameters ``kgglm_*`` of the submission."""

from __future__ import annotations

from dataclasses import dataclass

from baselines.common.config import check_fields
from kpi_bench.errors import SubmissionError

CHOICES = {
    "softmax": ("range", "type", "full"),
    "weighting": ("uniform", "degree"),
    "recommend": ("paths", "vectors"),
    "init": ("random", "kge"),
    "decode": ("beam", "sample"),
    "rank_by": ("path", "item"),
}


@dataclass(frozen=True)
class KgglmConfig:
    """The model, its two stages of training and its decoding.

    Model: GPT-2 of width ``hidden``; a node is predicted among those that its relation leads to ("range"), among all nodes ("type"), or
    among all tokens ("full", as the paper). ``init``: rows of entities from a KG embedding of the parameters ``kge_*``.

    Pre-training on a KG: ``pretrain_epochs`` times ``pretrain_walks`` walks of ``pretrain_hops`` hops from each entity; ``generic_epochs`` the same on a
    task's own graph, users included, before it is fine-tuned.

    Fine-tuning: at most ``epochs`` times ``paths`` paths of ``hops`` hops a user, from the user to another of the user's train items;
    ``collaborative`` walks may pass other users. Without epochs a task is answered straight after the generic stage. ``resample``: new
    paths in each epoch. For link prediction an epoch is each triple both ways.

    Optimisation (both stages): AdamW, the learning rate rises over ``warmup`` of all steps and falls to zero over the others. A weight
    that no gradient moves shrinks to exp(-``decay``) of itself in the course of a stage of more than a few steps.

    Decoding: ``beams`` partial paths a user; an item is ranked by its best path or by all paths found to it ("item"). ``explained``: how many
    items of a list keep their path. ``recommend`` "vectors" ranks by the shared recommender instead, with entity rows plugged in.
    """

    hidden: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.1
    softmax: str = "range"
    init: str = "random"
    weighting: str = "uniform"
    pretrain_hops: int = 5
    pretrain_epochs: int = 3
    pretrain_walks: int = 5
    generic_epochs: int = 0
    hops: int = 3
    paths: int = 50
    epochs: int = 16
    eval_every: int = 4
    patience: int = 3
    collaborative: bool = True
    resample: bool = True
    batch_size: int = 512
    lr: float = 4e-3
    decay: float = 1.5
    warmup: float = 0.05
    decode: str = "beam"
    beams: int = 50
    rank_by: str = "item"
    recommend: str = "paths"
    explained: int = 20

    def __post_init__(self) -> None:
        check_fields(
            self,
            choices=CHOICES,
            at_least_one=("hidden", "layers", "heads", "pretrain_hops", "pretrain_walks", "paths", "eval_every", "patience", "batch_size", "beams"),
            not_negative=("pretrain_epochs", "generic_epochs", "epochs", "decay", "explained"),
            positive=("lr",),
            shares={"dropout": 0.9, "warmup": 1.0},
            multiples={"hidden": "heads"},
        )  # fmt: skip
        if self.hops < 2:
            raise SubmissionError(
                f"hops = {self.hops}; a path from a user over an item to another has at least 2"
            )

    @property
    def positions(self) -> int:
        """Tokens of the longest path that the model reads."""
        return 2 * max(self.hops, self.pretrain_hops) + 1
