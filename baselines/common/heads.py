"""The text head: logits = W_c (u + s (W_o z_h + b_o)), u the text's features, z_h what the plug knows about its entity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.common.plugs import Plug, Projection


@dataclass(frozen=True)
class TextConfig:
    """Parameters ``text_*`` of a submission; the same for all methods of a comparison.

    ``hidden`` > 0 puts a layer of that width before W_c. ``tune_encoder`` trains the whole encoder with the head, at
    ``encoder_lr``; otherwise its features are computed once. ``plug_scale`` is s.
    """

    encoder: str = "auto"
    max_length: int = 128
    pooling: str = "mean"
    hashed_dim: int = 1024
    tune_encoder: bool = False
    encoder_lr: float = 2e-5
    hidden: int = 0
    dropout: float = 0.1
    epochs: int = 60
    eval_every: int = 1
    patience: int = 8
    batch_size: int = 256
    lr: float = 1e-3
    weight_decay: float = 1e-2
    plug_scale: float = 1.0


class ClassificationHead(nn.Module):
    """Class logits from text features ``[b, feature_dim]`` and, with a plug, the entities' vectors."""

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        feature_dim: int,
        n_classes: int,
        config: TextConfig,
        *,
        plug: Plug | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("scale", torch.ones(feature_dim))
        self.projection = (
            None if plug is None else Projection(plug, feature_dim, config.plug_scale, generator)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = _linear(feature_dim, config.hidden, generator) if config.hidden else None
        self.output = _linear(config.hidden or feature_dim, n_classes, generator)

    def standardise(self, features: Tensor) -> None:
        """Take mean and standard deviation from the train features ``[n, feature_dim]`` (frozen encoders only)."""
        self.mean.copy_(features.mean(0))
        # Features that never vary (an unused hash bucket) stay what they are instead of exploding.
        deviation = features.std(0)
        self.scale.copy_(torch.where(deviation > 1e-6, deviation, 1.0))

    def forward(self, features: Tensor, entities: Tensor) -> Tensor:
        """Logits ``[b, n_classes]``; ``entities`` int64 ``[b]`` are KG ids."""
        x = (features - self.mean) / self.scale
        if self.projection is not None:
            x = x + self.projection(entities)
        x = self.dropout(x)
        if self.hidden is not None:
            x = self.dropout(nn.functional.gelu(self.hidden(x)))
        logits: Tensor = self.output(x)
        return logits


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        layer.bias.zero_()
    return layer
