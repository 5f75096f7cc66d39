"""MuDoK's model: frozen text features, relations and types as inputs of a BERT encoder over an item and its attributes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from baselines.common.device import sent
from baselines.mudok.config import MudokConfig
from baselines.mudok.encoder import PackedBert
from baselines.mudok.sequences import Packed, Sequences
from kpi_bench.errors import SubmissionError

_EPS = 1e-12
_INIT_STD = 0.02


class MudokModel(nn.Module):
    """x = LayerNorm(W E_text[token] + b + e_relation + e_type) into the encoder; the knowledge projection serves the losses.

    ``text`` ``[n_entities, d]`` is an input: it stays where it is (on the CPU, mapped from a file), is no parameter and no buffer,
    and is not saved. Relation 0, that of the item itself, is a zero vector that does not train.
    """

    def __init__(
        self, config: MudokConfig, text: Tensor, n_relations: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.text = text
        self.text_projection = nn.Linear(text.shape[1], config.hidden)
        self.relation_embedding = nn.Embedding(n_relations + 1, config.hidden, padding_idx=0)
        self.type_embedding = nn.Embedding(3, config.hidden)
        self.input_norm = nn.LayerNorm(config.hidden, eps=_EPS)
        self.knowledge = nn.Linear(config.hidden, config.hidden)
        with torch.no_grad():
            for linear in (self.text_projection, self.knowledge):
                linear.weight.normal_(std=_INIT_STD, generator=generator)
                linear.bias.zero_()
            for table in (self.relation_embedding, self.type_embedding):
                table.weight.normal_(std=_INIT_STD, generator=generator)
            self.relation_embedding.weight[0] = 0
        self.encoder = PackedBert(
            hidden=config.hidden,
            layers=config.layers,
            heads=config.heads,
            ffn=config.ffn,
            dropout=config.dropout,
            generator=generator,
        )

    @property
    def device(self) -> torch.device:
        return self.text_projection.weight.device

    def inputs(self, tokens: Tensor, relations: Tensor) -> Tensor:
        """Inputs of the encoder before dropout, ``[n_tokens, hidden]``, of packed int64 ``[n_tokens]`` on any device."""
        distinct, place = torch.unique(tokens, return_inverse=True)
        features = sent(self.text[distinct.to(self.text.device)], self.device)
        texts = functional.embedding(sent(place, self.device), self.text_projection(features))
        every = torch.arange(self.relation_embedding.num_embeddings, device=self.device)
        slots = self.relation_embedding(every) + self.type_embedding(every.clamp(max=1))
        x: Tensor = self.input_norm(texts + functional.embedding(sent(relations, self.device), slots))
        return x

    def packed_inputs(self, packed: Packed) -> Tensor:
        """:meth:`inputs` of packed sequences."""
        return self.inputs(torch.from_numpy(packed.tokens), torch.from_numpy(packed.relations))

    @torch.no_grad()
    def vectors(self, sequences: Sequences, entities: NDArray[np.int64], *, batch: int = 1024) -> Tensor:
        """Frozen vectors z of entities, float32 ``[len(entities), hidden]`` on the CPU; dropout is off."""
        training = self.training
        self.eval()
        z = torch.empty(len(entities), self.knowledge.in_features)
        for start in range(0, len(entities), batch):
            packed = sequences.pack(entities[start : start + batch])
            runs = [(length, count, 1) for length, count in packed.groups]
            vectors = self.encoder.first_pooled(self.packed_inputs(packed), runs)
            z[start + torch.from_numpy(packed.order)] = vectors.cpu()
        self.train(training)
        return z

    def save(self, path: Path) -> None:
        """Write the trained tensors; the text features are not among them."""
        save_file({name: p.detach().cpu().contiguous() for name, p in self.named_parameters()}, path)

    @classmethod
    def load(cls, path: Path, config: MudokConfig, text: Tensor, n_relations: int) -> MudokModel:
        """Read what :meth:`save` wrote, on the CPU, in evaluation mode.

        Raises:
            SubmissionError: the file is missing or damaged, or was written with other sizes.
        """
        if not path.is_file():
            raise SubmissionError(f"{path}: no such checkpoint; pre-train again")
        model = cls(config, text, n_relations, torch.Generator())
        try:
            model.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as error:
            raise SubmissionError(
                f"{path} does not hold a MuDoK model of these sizes ({error}); pre-train again"
            ) from error
        return model.eval()
