"""Prefix prompt tuning (arXiv 2405.13085): trainable codes at the item slot of a frozen encoder.

The vector of an entity h is ``z_h = pool(Encoder(x_h))`` with ``P c_h`` added to slot 0 of its input ``x_h``. With the encoder frozen
and its dropout off, z depends on the codes ``c`` and on ``P`` alone, and these change only when the optimizer is given a gradient
for them. So z is computed once a *refresh* and is a leaf of the task's graph in between: the task's steps add up ``dL/dz`` there, and
at the next refresh one pass through the encoder turns the sum into the gradient of ``c`` and ``P``. That is exactly the gradient of
the summed losses of these steps at the codes that they used, not an approximation; what differs from a pass through the encoder in
every step (``refresh`` 1, the authors' way) is that codes take one step of the optimizer instead of several. The authors keep dropout
on while they tune; with it on, z would be another sample at every step and could not be kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.common.plugs import Plug, VectorTable, standardisation
from baselines.mudok.config import MudokConfig
from baselines.mudok.encoder import PackedBert, Run
from baselines.mudok.model import MudokModel
from baselines.mudok.sequences import Sequences

BLOCK = 1024
"""Sequences that pass through the encoder at a time: bounds the activations that a refresh keeps."""


@dataclass(frozen=True, eq=False)
class _Block:
    """Sequences of similar length: the codes that they have, which of the distinct inputs their tokens are, and where their first
    tokens lie."""

    codes: Tensor
    inputs: Tensor
    first: Tensor
    runs: list[Run]


class PromptPlug(Plug):
    """Vectors of entities, float32 ``[n, hidden]``, centred and scaled by what they are without codes.

    ``entities`` int64 ``[n]`` gives the KG entity of each row, -1 where the KG lacks it; rows where ``coded`` is True have a trainable
    code. ``model`` is frozen and lies on ``device``.
    """

    vectors: Tensor
    mask: Tensor
    mean: Tensor
    scale: Tensor
    inputs: Tensor

    def __init__(
        self,
        model: MudokModel,
        sequences: Sequences,
        entities: NDArray[np.int64],
        coded: NDArray[np.bool_],
        config: MudokConfig,
        *,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.dim = config.hidden
        self._every, self._lr = config.refresh, config.prompt_lr
        self.encoder: PackedBert = model.eval().encoder
        known = entities >= 0
        rows = np.flatnonzero(coded & known)
        code = np.full(len(entities), -1, dtype=np.int64)
        code[rows] = np.arange(len(rows))
        codes = torch.randn(len(rows), config.code_dim, generator=generator) * config.code_std
        prompt = (
            torch.rand(config.hidden, config.code_dim, generator=generator) * 2 - 1
        ) / config.code_dim**0.5
        self.codes = nn.Parameter(codes, requires_grad=len(rows) > 0)
        self.prompt = nn.Parameter(prompt, requires_grad=len(rows) > 0)
        bare = torch.zeros(len(entities), config.hidden)
        bare[torch.from_numpy(known)] = model.vectors(sequences, entities[known])
        mean, scale = standardisation(bare, torch.from_numpy(known))
        table = VectorTable((bare - mean) / scale, torch.from_numpy(known))
        self._blocks, tokens, relations = _blocks(sequences, entities[rows], device)
        with torch.no_grad():
            inputs = model.inputs(tokens, relations)
        buffers = {
            "vectors": table.vectors,
            "mask": table.mask,
            "mean": mean,
            "scale": scale,
            "inputs": inputs,
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)
        self.to(device)
        self._rows, self._code = torch.from_numpy(rows).to(device), torch.from_numpy(code).to(device)
        self._steps = 0
        self._leaf: Tensor | None = None

    def forward(self, rows: Tensor | None = None) -> Tensor:
        leaf = self._current()
        if not torch.is_grad_enabled():
            return self.vectors if rows is None else self.vectors[rows]
        if rows is None:
            everything = len(leaf) == len(self.vectors)
            return leaf if everything else self.vectors.index_copy(0, self._rows, leaf)
        if len(leaf) == 0:
            return self.vectors[rows]
        code = self._code[rows]
        return torch.where((code >= 0)[:, None], leaf[code.clamp_min(0)], self.vectors[rows])

    def known(self, rows: Tensor | None = None) -> Tensor:
        return self.mask if rows is None else self.mask[rows]

    def before_update(self) -> None:
        """Every ``refresh`` steps: the gradient that z has gathered becomes that of codes and ``P``."""
        self._steps += 1
        if self._leaf is None or self._leaf.grad is None or self._steps % self._every:
            return
        gathered = self._leaf.grad / self.scale
        for block in self._blocks:
            self._encode(block).backward(gathered[block.codes])  # type: ignore[no-untyped-call]
        # The optimizer is about to change the codes.
        self._leaf = None

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.codes, self.prompt], "lr": self._lr}] if len(self.codes) else []

    def settled(self) -> VectorTable:
        self._leaf = None  # early stopping has put earlier codes back
        self._current()
        return VectorTable(self.vectors, self.mask[:, 0].bool())

    def train(self, mode: bool = True) -> PromptPlug:
        """The encoder stays in eval mode: see the module's text."""
        super().train(mode)
        self.encoder.eval()
        return self

    def _current(self) -> Tensor:
        """z of the rows with a code, ``[n_codes, hidden]``, computed when there is none of the present codes."""
        if self._leaf is None:
            with torch.no_grad():
                for block in self._blocks:
                    z = (self._encode(block) - self.mean) / self.scale
                    self.vectors[self._rows[block.codes]] = z
                leaf = self.vectors[self._rows]
            self._leaf = leaf.requires_grad_(len(self.codes) > 0)
        return self._leaf

    def _encode(self, block: _Block) -> Tensor:
        """Vectors of a block, ``[b, hidden]``, not yet standardised."""
        offset = nn.functional.linear(self.codes[block.codes], self.prompt)
        x = self.inputs[block.inputs].index_add(0, block.first, offset)
        return self.encoder.first_pooled(x, block.runs)


def _blocks(
    sequences: Sequences, entities: NDArray[np.int64], device: torch.device
) -> tuple[list[_Block], Tensor, Tensor]:
    """The entities in blocks of similar length, and the distinct (token, relation) pairs of all, int64 ``[m]`` each: an attribute that
    many items share goes through the input layer once."""
    order = np.argsort(sequences.lengths(entities), kind="stable")
    parts = [order[i : i + BLOCK] for i in range(0, len(order), BLOCK)]
    packs = [sequences.pack(entities[part]) for part in parts]
    width = sequences.n_relations + 1
    keys = [pack.tokens * width + pack.relations for pack in packs]
    distinct, inverse = np.unique(np.concatenate([*keys, np.empty(0, np.int64)]), return_inverse=True)
    places = np.split(inverse, np.cumsum([len(key) for key in keys])[:-1]) if keys else []
    blocks = []
    for part, pack, place in zip(parts, packs, places, strict=True):
        lengths = np.repeat(*np.array(pack.groups).T)
        blocks.append(
            _Block(
                codes=torch.from_numpy(part[pack.order]).to(device),
                inputs=torch.from_numpy(place).to(device),
                first=torch.from_numpy(np.cumsum(lengths) - lengths).to(device),
                runs=[(length, count, 1) for length, count in pack.groups],
            )
        )
    return blocks, torch.from_numpy(distinct // width), torch.from_numpy(distinct % width)
