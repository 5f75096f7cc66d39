"""Prefix prompt tuning (arXiv 2405.13085): trainable codes at the item slot of a frozen encoder.

The vector of an entity h is ``z_h = pool(Encoder(x_h))`` with ``P c_h`` added to slot 0 of its input ``x_h``. With the encoder frozen
and its dropout off, z depends on the codes ``c`` and on ``P`` alone, and these change only when the optimizer is given a gradient
for them. So z is computed once a *refresh* and is a leaf of the task's graph in between: the task's steps add up ``dL/dz`` there, and
at the next refresh one pass through the encoder turns the sum into the gradient of ``c`` and ``P``. That is exactly the gradient of
the summed losses of these steps, not an approximation; what differs from a pass through the encoder in every step (``refresh`` 1,
the authors' way) is that codes take one larger step instead of several. The authors keep dropout on while they tune; with it on, z
would be another sample at every step and could not be kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.common.plugs import Plug, standardisation
from baselines.mudok.config import MudokConfig
from baselines.mudok.encoder import PackedBert, Run
from baselines.mudok.model import MudokModel
from baselines.mudok.sequences import Sequences

BLOCK = 1024
"""Sequences that pass through the encoder at a time: bounds the activations that a refresh keeps."""


@dataclass(frozen=True, eq=False)
class _Block:
    """Sequences of similar length: the rows of the table that they stand for, which of the distinct inputs their tokens are, where
    their first tokens lie, and the codes of the rows (``coded`` are those of the sequences that have one)."""

    rows: Tensor
    inputs: Tensor
    first: Tensor
    runs: list[Run]
    coded: Tensor
    codes: Tensor


class PromptPlug(Plug):
    """Vectors of the entities of a task, float32 ``[n, hidden]``, centred and scaled by what they are without codes.

    ``model`` is frozen and lies on ``device``. ``entities`` int64 ``[n]`` gives the KG entity of each row of the vectors, -1 where the KG lacks it; rows where ``coded`` is True
    have a trainable code. With ``place`` (int64, for each entity of the KG its row, or -1) callers ask by entity, and the vector of
    one that has no row is computed when asked for, without a code; else they ask by row.
    """

    mean: Tensor
    scale: Tensor
    mask: Tensor
    inputs: Tensor

    def __init__(
        self,
        model: MudokModel,
        sequences: Sequences,
        entities: NDArray[np.int64],
        coded: NDArray[np.bool_],
        config: MudokConfig,
        *,
        place: NDArray[np.int64] | None = None,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.dim = config.hidden
        self._every, self._lr = config.refresh, config.prompt_lr
        self._device = device
        self._place = None if place is None else torch.from_numpy(place).to(device)
        self._unseen: Callable[[NDArray[np.int64]], Tensor] = lambda ids: model.vectors(sequences, ids)
        self.encoder: PackedBert = model.encoder.eval()
        known, coded = entities >= 0, coded & (entities >= 0)
        self.register_buffer("mask", torch.from_numpy(known)[:, None].float())
        codes = torch.randn(int(coded.sum()), config.code_dim, generator=generator) * config.code_std
        prompt = (
            torch.rand(config.hidden, config.code_dim, generator=generator) * 2 - 1
        ) / config.code_dim**0.5
        self.codes = nn.Parameter(codes, requires_grad=len(codes) > 0)
        self.prompt = nn.Parameter(prompt, requires_grad=len(codes) > 0)
        self._blocks, tokens, relations = _blocks(sequences, entities, coded, device)
        with torch.no_grad():
            self.register_buffer("inputs", model.inputs(tokens, relations))
            self.to(device)
            bare = self._encoded(with_codes=False)
            mean, scale = standardisation(bare, self.mask[:, 0].bool())
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self._steps = 0
        self._table: Tensor | None = None
        self._made_of: tuple[int, int] | None = None

    def forward(self, rows: Tensor | None = None) -> Tensor:
        table = self._current()
        if rows is None:
            return table
        if self._place is None:
            return table[rows]
        places = self._place[rows]
        vectors = table[places.clamp_min(0)]
        if self.training or bool((places >= 0).all()):  # what a task trains on has a row
            return vectors
        unseen, which = rows[places < 0].unique(return_inverse=True)
        found = self._unseen(unseen.cpu().numpy()).to(vectors.device)
        vectors[places < 0] = ((found - self.mean) / self.scale)[which]
        return vectors

    def known(self, rows: Tensor | None = None) -> Tensor | None:
        if self._place is not None:
            return None
        return self.mask if rows is None else self.mask[rows]

    def before_update(self) -> None:
        """Every ``refresh`` steps: the gradient that z has gathered becomes that of codes and ``P``."""
        self._steps += 1
        if (
            self._table is None
            or self._table.grad is None
            or self._steps % self._every
            or not len(self.codes)
        ):
            return
        gathered, self._table.grad = self._table.grad / self.scale, None
        for block in self._blocks:
            if len(block.codes):
                self._encode(block).backward(gathered[block.rows])  # type: ignore[no-untyped-call]

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{**group, "lr": self._lr} for group in super().parameter_groups()]

    def train(self, mode: bool = True) -> PromptPlug:
        """The encoder stays in eval mode: see the module's text."""
        super().train(mode)
        self.encoder.eval()
        return self

    def _current(self) -> Tensor:
        """The vectors of the current codes: computed again after an update, or when an earlier state was put back."""
        made_of = (self.codes._version, self.prompt._version)
        if self._table is None or self._made_of != made_of:
            with torch.no_grad():
                table = (self._encoded() - self.mean).div_(self.scale).mul_(self.mask)
            self._table, self._made_of = table.requires_grad_(len(self.codes) > 0), made_of
        return self._table

    def _encoded(self, *, with_codes: bool = True) -> Tensor:
        """z of all rows, ``[n, hidden]``; zero where the KG lacks the entity."""
        z = torch.zeros(len(self.mask), self.dim, device=self._device)
        for block in self._blocks:
            z[block.rows] = self._encode(block, with_codes=with_codes)
        return z

    def _encode(self, block: _Block, *, with_codes: bool = True) -> Tensor:
        x = self.inputs[block.inputs]
        if with_codes and len(block.codes):
            offset = nn.functional.linear(self.codes[block.codes], self.prompt)
            x = x.index_add(0, block.first[block.coded], offset)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            return self.encoder.pool(self.encoder(x, block.runs)).float()


def _blocks(
    sequences: Sequences, entities: NDArray[np.int64], coded: NDArray[np.bool_], device: torch.device
) -> tuple[list[_Block], Tensor, Tensor]:
    """The known rows in blocks of similar length, and the distinct (token, relation) pairs of all, int64 ``[m]`` each: an attribute
    that many items share goes through the input layer once."""
    code = np.cumsum(coded) - 1
    rows = np.flatnonzero(entities >= 0)
    rows = rows[np.argsort(sequences.lengths(entities[rows]), kind="stable")]
    parts = [rows[i : i + BLOCK] for i in range(0, len(rows), BLOCK)]
    packs = [sequences.pack(entities[part]) for part in parts]
    width = sequences.n_relations + 1
    keys = [pack.tokens * width + pack.relations for pack in packs]
    distinct, inverse = np.unique(np.concatenate([*keys, np.empty(0, np.int64)]), return_inverse=True)
    places = np.split(inverse, np.cumsum([len(key) for key in keys])[:-1]) if keys else []
    blocks = []
    for part, pack, place in zip(parts, packs, places, strict=True):
        part = part[pack.order]
        lengths = np.repeat(*np.array(pack.groups).T)
        blocks.append(
            _Block(
                rows=torch.from_numpy(part).to(device),
                inputs=torch.from_numpy(place).to(device),
                first=torch.from_numpy(np.cumsum(lengths) - lengths).to(device),
                runs=[(length, count, 1) for length, count in pack.groups],
                coded=torch.from_numpy(np.flatnonzero(coded[part])).to(device),
                codes=torch.from_numpy(code[part[coded[part]]]).to(device),
            )
        )
    return blocks, torch.from_numpy(distinct // width), torch.from_numpy(distinct % width)
