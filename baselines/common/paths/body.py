"""The layers of a GPT-2 over given input vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, GPT2Config, GPT2Model

_INIT_STD = 0.02


@dataclass(frozen=True)
class BodyShape:
    """Sizes of a model that reads paths; one of h hops needs ``2 * h`` positions, and one more where its last node is read. ``heads`` and
    ``positions`` are a Transformer's alone."""

    hidden: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.1
    positions: int = 16


class GptBody(nn.Module):
    """Positions, blocks and last norm of a transformers ``GPT2Model``, whose parameters keep their names; its token table is left out.

    Weights are N(0, 0.02), those into the residual stream over sqrt(2 layers), biases 0, LayerNorms 1 and 0. The layers run here
    because transformers before 5 takes no ``DynamicCache`` for a GPT-2.
    """

    gpt2: Any

    def __init__(self, shape: BodyShape, generator: torch.Generator) -> None:
        super().__init__()
        config = GPT2Config(
            vocab_size=1,
            n_positions=shape.positions,
            n_embd=shape.hidden,
            n_layer=shape.layers,
            n_head=shape.heads,
            activation_function="gelu_pytorch_tanh",
            bos_token_id=None,
            eos_token_id=None,
        )
        # On the meta device transformers' own initialisation costs nothing and draws nothing from the global generator.
        with torch.device("meta"):
            self.gpt2 = GPT2Model(config)
        self.gpt2.wte = None
        self.gpt2.to_empty(device="cpu")
        self.heads, self.dropout = shape.heads, shape.dropout
        with torch.no_grad():
            for name, weight in self.gpt2.named_parameters():
                if "ln_" in name:
                    weight.fill_(float(name.endswith("weight")))
                elif name.endswith("bias"):
                    weight.zero_()
                else:
                    residual = name.endswith("c_proj.weight")
                    std = _INIT_STD / math.sqrt(2 * shape.layers) if residual else _INIT_STD
                    weight.normal_(std=std, generator=generator)

    def forward(self, inputs: Tensor, cache: DynamicCache | None = None) -> Tensor:
        """Last hidden states ``[b, t, hidden]`` of inputs ``[b, t, hidden]``; with a cache, of those after what it holds (it grows)."""
        p = self.dropout if self.training else 0.0
        past, length = 0 if cache is None else int(cache.get_seq_length()), inputs.shape[1]
        x = functional.dropout(inputs + self.gpt2.wpe.weight[past : past + length], p)
        # SDPA's own causal mask is aligned to the first key: with a past it would be wrong.
        mask = (
            torch.ones(length, past + length, dtype=torch.bool, device=x.device).tril(past) if past else None
        )
        for i, block in enumerate(self.gpt2.h):
            query, key, value = (
                part.unflatten(2, (self.heads, -1)).transpose(1, 2)
                for part in block.attn.c_attn(block.ln_1(x)).chunk(3, 2)
            )
            if cache is not None:
                key, value = cache.update(key, value, i)
            mixed = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=mask is None, dropout_p=p
            )
            x = x + functional.dropout(block.attn.c_proj(mixed.transpose(1, 2).flatten(2)), p)
            x = x + functional.dropout(block.mlp.c_proj(block.mlp.act(block.mlp.c_fc(block.ln_2(x)))), p)
        out: Tensor = self.gpt2.ln_f(x)
        return out
