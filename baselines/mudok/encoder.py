"""A BERT encoder over packed sequences: no pad is computed, and the last layer computes only what is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel

Run: TypeAlias = tuple[int, int, int]
"""(length, count, read): ``count`` sequences of ``length`` tokens, of which the first ``min(read, length)`` are wanted."""

_INIT_STD = 0.02
_STEPS = 1 << 16


class PackedBert(nn.Module):
    """Encoder and pooler of a transformers ``BertModel``, whose parameters keep their names; its embeddings are left out.

    Weights are N(0, 0.02), biases 0, LayerNorms 1 and 0.
    """

    bert: Any

    def __init__(
        self, *, hidden: int, layers: int, heads: int, ffn: int, dropout: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=1,
            max_position_embeddings=1,
            type_vocab_size=1,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=ffn,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        # On the meta device transformers' own initialisation costs nothing and draws nothing from the global generator.
        with torch.device("meta"):
            self.bert = BertModel(config, add_pooling_layer=True)
        self.bert.embeddings = None
        self.bert.to_empty(device="cpu")
        self.heads, self.dropout = heads, dropout
        for module in self.bert.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=_INIT_STD, generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, groups: Sequence[Run]) -> Tensor:
        """Last hidden states of the slots that are read, ``[n_read, hidden]``, from inputs ``[n_tokens, hidden]``, run after run."""
        everything = [(length, count, length) for length, count, _ in groups]
        last = len(self.bert.encoder.layer) - 1
        for i, layer in enumerate(self.bert.encoder.layer):
            x = self._layer(layer, x, groups if i == last else everything)
        return x

    def pool(self, first: Tensor) -> Tensor:
        """BERT's pooler, tanh(W h + b), of hidden states ``[b, hidden]`` of first tokens."""
        pooled: Tensor = self.bert.pooler(first[:, None])
        return pooled

    def first_pooled(self, x: Tensor, groups: Sequence[Run]) -> Tensor:
        """Pooled vectors of sequences of which one slot is read, float32 ``[b, hidden]``; bfloat16 inside on a GPU."""
        with torch.autocast("cuda", torch.bfloat16, enabled=x.device.type == "cuda"):
            return self.pool(self(x, groups)).float()

    def _layer(self, layer: Any, x: Tensor, groups: Sequence[Run]) -> Tensor:
        attention, p = layer.attention, self.dropout if self.training else 0.0
        dense, norm = attention.output.dense, attention.output.LayerNorm
        read = first_slots(x, groups)
        states = dense(self._attention(attention.self, x, read, groups, p))
        x = norm(dropout(states, p) + read)
        states = layer.output.dense(functional.gelu(layer.intermediate.dense(x)))
        out: Tensor = layer.output.LayerNorm(dropout(states, p) + x)
        return out

    def _attention(self, own: Any, x: Tensor, read: Tensor, groups: Sequence[Run], p: float) -> Tensor:
        """Attention of the slots ``read [n_read, hidden]`` to all slots of their sequences, ``[n_read, hidden]``."""
        # One product for all that is computed from the same rows.
        if read is x:
            query, key, value = _together(x, own.query, own.key, own.value)
        else:
            query = own.query(read)
            key, value = _together(x, own.key, own.value)
        width = x.shape[1] // self.heads
        tokens = [count * length for length, count, _ in groups]
        places = [count * min(read, length) for length, count, read in groups]
        # Split and not sliced: the gradient of a slice is a table of zeros as large as what it was cut from.
        parts = zip(
            query.split_with_sizes(places),
            key.split_with_sizes(tokens),
            value.split_with_sizes(tokens),
            strict=True,
        )
        states = []
        for (_, count, _), run in zip(groups, parts, strict=True):
            q, k, v = (rows.view(count, -1, self.heads, width).transpose(1, 2) for rows in run)
            mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=p)
            states.append(mixed.transpose(1, 2).reshape(-1, x.shape[1]))
        return torch.cat(states) if states else torch.zeros_like(read)


def first_slots(x: Tensor, groups: Sequence[Run]) -> Tensor:
    """Rows of the slots that are read, ``[n_read, width]``, of packed rows ``[n_tokens, width]``; ``x`` itself where all are."""
    if all(read >= length for length, _, read in groups):
        return x
    runs = x.split_with_sizes([count * length for length, count, _ in groups])
    parts = [
        rows.view(count, length, -1)[:, :read].reshape(-1, x.shape[1])
        for (length, count, read), rows in zip(groups, runs, strict=True)
    ]
    return torch.cat(parts)


def dropout(x: Tensor, p: float) -> Tensor:
    """Dropout with probability ``p`` (to 1/65536 on a CPU), survivors scaled up so that the mean stays."""
    if p == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return functional.dropout(x, p)
    # Four decisions of 16 bits from each draw of 64: torch's bernoulli_ takes six times as long, a tenth of a training step.
    dropped = round(p * _STEPS)
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    noise = torch.empty(x.shape)
    torch.ge(bits.view(torch.int16)[: x.numel()].view(x.shape), dropped - _STEPS // 2, out=noise)
    return x * noise.mul_(_STEPS / (_STEPS - dropped))


def _together(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
    return functional.linear(x, weight, bias).chunk(len(layers), 1)
