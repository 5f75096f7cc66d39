"""Parameters ``mudok_*`` of the submission."""

from __future__ import annotations

from dataclasses import dataclass

from baselines.common.config import check_fields
from kpi_bench.errors import SubmissionError

CHOICES = {"variant": ("paper", "code"), "scope": ("single", "joint"), "text_pooling": ("mean", "pooler")}
RANDOM_TEXT = "random"


@dataclass(frozen=True)
class MudokConfig:
    """The model, its pre-training and the tuning of codes.

    ``variant``: the knowledge loss scores (h, r, t) of one triple ("paper"), or the first two values of an item in the places of
    relation and tail ("code", as the authors' code). ``scope``: one model a KG ("single"), or one over all KGs of the suite
    ("joint").

    Text: ``text`` is an encoder's name, or "random" for N(0, 0.02) noise; ``text_dim`` is the width of "hashed" and "random". The
    authors' BERT has ``text_pooling`` "pooler".

    Model: an item and its first ``slots`` - 1 attributes through ``layers`` BERT layers of width ``hidden``.

    Pre-training: ``epochs`` 0 leaves the encoder random. ``knowledge_weight`` is the paper's mu, ``temperature`` its tau.
    ``mask_false_negatives`` takes a tail that is among item i's slots out of i's negatives, and items that the encoder cannot tell apart
    out of each other's. ``compile``: torch.compile of the encoder.

    Tuning: ``prompt`` off serves frozen vectors alone. A code has ``code_dim`` numbers, drawn from N(0, ``code_std``), and learns at
    ``prompt_lr``. ``refresh``: steps between passes through the encoder (1: the authors' way).
    """

    variant: str = "paper"
    scope: str = "single"
    text: str = "hashed"
    text_max_length: int = 64
    text_pooling: str = "mean"
    text_dim: int = 768
    item_keys: bool = True
    slots: int = 8
    hidden: int = 256
    layers: int = 2
    heads: int = 4
    ffn: int = 512
    dropout: float = 0.1
    epochs: int = 5
    batch_size: int = 1024
    lr: float = 3e-4
    temperature: float = 0.1
    contrastive_weight: float = 1.0
    knowledge_weight: float = 0.1
    mask_false_negatives: bool = False
    compile: bool = False
    prompt: bool = True
    code_dim: int = 16
    code_std: float = 0.0
    prompt_lr: float = 0.01
    refresh: int = 24

    def __post_init__(self) -> None:
        check_fields(
            self,
            choices=CHOICES,
            at_least_one=(
                "text_max_length",
                "text_dim",
                "hidden",
                "layers",
                "heads",
                "ffn",
                "code_dim",
                "refresh",
            ),
            positive=("lr", "temperature", "prompt_lr"),
            not_negative=("epochs", "contrastive_weight", "knowledge_weight", "code_std"),
            shares={"dropout": 0.9},
            multiples={"hidden": "heads"},
        )
        if not self.text:
            raise SubmissionError(f"text is empty; name an encoder, or {RANDOM_TEXT!r}")
        for name in ("slots", "batch_size"):
            if getattr(self, name) < 2:
                raise SubmissionError(f"{name} = {getattr(self, name)}; it must be at least 2")
        if self.variant == "code" and self.slots < 3 and self.knowledge_weight > 0:
            raise SubmissionError(
                "slots = 2; variant 'code' reads two values of an item, which needs 3 slots"
            )
