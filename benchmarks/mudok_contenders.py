"""Ways to take one pre-training step of MuDoK on the same 1,024 items: two dropout views, both losses, gradients, Adam.

``own-*`` is kpi-bench from item ids to updated weights. ``bert-sdpa`` and ``authors-form`` are restatements in our own words of the model
that our specification describes, with transformers' ``BertModel`` over padded rows that are passed through it twice: the first as one
writes it today (fused attention, cosines as one product of unit vectors), the second with what the published code does about both
(attention by plain products, cosines of all pairs by broadcasting). ``paper`` and ``code`` are the two readings of the loss of the triples
(:class:`baselines.mudok.config.MudokConfig`). Each contender takes a step of a training that goes on, and returns its loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel

from baselines.common.allocator import keep_freed_memory
from baselines.common.training import gradient_step
from baselines.mudok.config import MudokConfig
from baselines.mudok.model import MudokModel
from baselines.mudok.sequences import Sequences
from baselines.mudok.train import PretrainingLoss
from benchmarks.workloads import item_workload

PAPER = MudokConfig(batch_size=1024, slots=8, hidden=256, layers=2, heads=4, ffn=512, text_dim=768)
CODE = replace(PAPER, variant="code")

Similarity = Callable[[Tensor, Tensor], Tensor]
Items = NDArray[np.int64]


@cache
def sequences(skewed: bool = True) -> Sequences:
    w = item_workload(skewed)
    return Sequences(w.starts, w.values, w.relations, w.n_relations)


def model(config: MudokConfig, *, skewed: bool = True) -> MudokModel:
    """A model with the weights of seed 0, in training mode."""
    w = item_workload(skewed)
    return MudokModel(config, torch.from_numpy(w.text), w.n_relations, torch.Generator().manual_seed(0))


def draw(rng: np.random.Generator, config: MudokConfig = PAPER) -> Items:
    """The items of a batch, int64 ``[batch_size]``."""
    return rng.choice(sequences().heads, config.batch_size, replace=False)


# --- Ours -------------------------------------------------------------------------------------------------------------------------------


@cache
def own(config: MudokConfig, skewed: bool = True) -> Callable[[], float]:
    """What :func:`baselines.mudok.train.pretrain_mudok` does with a batch, packing included."""
    keep_freed_memory()
    trained, rows, rng = model(config, skewed=skewed), sequences(skewed), np.random.default_rng(0)
    step = gradient_step(
        PretrainingLoss(trained, config), torch.optim.Adam(trained.parameters(), lr=config.lr)
    )
    shuffled = rng if config.variant == "paper" else None
    return lambda: float(step(rows.pack(draw(rng), rng=shuffled)))


# --- transformers' BertModel over padded rows -------------------------------------------------------------------------------------------


def cosines_by_product(z1: Tensor, z2: Tensor) -> Tensor:
    """Cosines ``[b, b]`` as one product of unit vectors."""
    return functional.normalize(z1, dim=1) @ functional.normalize(z2, dim=1).T


def cosines_by_broadcasting(z1: Tensor, z2: Tensor) -> Tensor:
    """Cosines ``[b, b]`` by broadcasting ``[b, 1, d]`` with ``[1, b, d]``."""
    return functional.cosine_similarity(z1[:, None], z2[None], dim=2)


class PaddedLoss(nn.Module):
    """The losses of ``ours`` with a copy of its weights: a table of padded rows, ``BertModel`` whose own embeddings add the types, norm
    and drop out (positions are zero and stay so), two forward passes."""

    bert: Any

    def __init__(self, ours: MudokModel, config: MudokConfig, attention: str, similarity: Similarity) -> None:
        super().__init__()
        self.config, self.similarity = config, similarity
        self.text = nn.Embedding.from_pretrained(ours.text, freeze=True)  # type: ignore[no-untyped-call]
        self.project = nn.Linear(ours.text.shape[1], config.hidden)
        self.relations = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
            ours.relation_embedding.weight.detach().clone(), freeze=False, padding_idx=0
        )
        self.knowledge = nn.Linear(config.hidden, config.hidden)
        self.bert = BertModel(
            BertConfig(
                vocab_size=1,
                pad_token_id=None,
                max_position_embeddings=config.slots,
                type_vocab_size=3,
                hidden_size=config.hidden,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.ffn,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=config.dropout,
                attn_implementation=attention,  # type: ignore[call-arg]
            )
        )
        embeddings = self.bert.embeddings
        embeddings.word_embeddings.requires_grad_(False)
        nn.init.zeros_(embeddings.position_embeddings.requires_grad_(False).weight)
        self.bert.encoder.load_state_dict(ours.encoder.bert.encoder.state_dict())
        self.bert.pooler.load_state_dict(ours.encoder.bert.pooler.state_dict())
        for copied, source in (
            (embeddings.token_type_embeddings, ours.type_embedding),
            (embeddings.LayerNorm, ours.input_norm),
            (self.project, ours.text_projection),
            (self.knowledge, ours.knowledge),
        ):
            copied.load_state_dict(source.state_dict())
        self.rows = _padded(sequences(), config.slots)

    def forward(self, items: Tensor) -> Tensor:
        tokens, relations, mask = (table[items] for table in self.rows)
        hidden, z1 = self._encode(tokens, relations, mask)
        _, z2 = self._encode(tokens, relations, mask)
        target = torch.arange(len(items))
        cosines = self.similarity(z1, z2) / self.config.temperature
        loss = self.config.contrastive_weight * functional.cross_entropy(cosines, target)
        # As ours, and not as the published code, which takes the states of pads: items without the slots that are read are left out.
        paper = self.config.variant == "paper"
        tail = 1 if paper else 2
        full = mask[:, tail].bool()
        r = self.relations(relations[full, 1]) if paper else hidden[full, 1]
        h, t = self.knowledge(hidden[full, 0]), self.knowledge(hidden[full, tail])
        scores = (h * r) @ t.T
        return loss + self.config.knowledge_weight * functional.cross_entropy(scores, target[: len(scores)])

    def _encode(self, tokens: Tensor, relations: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Last hidden states ``[b, slots, hidden]`` and pooled vectors ``[b, hidden]``."""
        types = torch.ones_like(tokens)
        types[:, 0] = 0
        out = self.bert(
            inputs_embeds=self.project(self.text(tokens)) + self.relations(relations),
            token_type_ids=types,
            attention_mask=mask,
        )
        return out.last_hidden_state, out.pooler_output


def _padded(rows: Sequences, slots: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, relations (0: the item, and pads) and mask of each entity, int64 ``[n_entities, slots]``; pads have token 0."""
    counts = np.diff(rows.starts)
    slot = np.arange(slots - 1)
    there = slot < counts[:, None]
    place = (rows.starts[:-1, None] + slot)[there]
    tokens, relations = np.zeros((2, rows.n_entities, slots), dtype=np.int64)
    tokens[:, 0] = np.arange(rows.n_entities)
    tokens[:, 1:][there] = rows.tails[place]
    relations[:, 1:][there] = rows.relations[place] + 1
    mask = np.concatenate([np.ones((rows.n_entities, 1), bool), there], axis=1)
    return torch.from_numpy(tokens), torch.from_numpy(relations), torch.from_numpy(mask.astype(np.int64))


RESTATED: dict[str, tuple[MudokConfig, Callable[[MudokModel], PaddedLoss]]] = {
    "bert-sdpa": (
        PAPER,
        partial(PaddedLoss, config=PAPER, attention="sdpa", similarity=cosines_by_product),
    ),
    "authors-form": (
        CODE,
        partial(PaddedLoss, config=CODE, attention="eager", similarity=cosines_by_broadcasting),
    ),
}


@cache
def restated(name: str) -> Callable[[], float]:
    """A step with padded rows, from item ids to updated weights."""
    keep_freed_memory()
    config, make = RESTATED[name]
    loss, rng = make(model(config)).train(), np.random.default_rng(0)
    trained = [p for p in loss.parameters() if p.requires_grad]
    step = gradient_step(loss, torch.optim.Adam(trained, lr=config.lr))
    return lambda: float(step(torch.from_numpy(draw(rng))))


def check_same_loss(name: str, n_items: int = 192) -> None:
    """With dropout off a restatement has our loss (to 1e-5) and our gradients on the same items, from weights large enough to matter.

    Raises:
        AssertionError: they differ.
    """
    config, make = RESTATED[name]
    ours = model(config).eval()
    with torch.no_grad():
        for parameter in ours.encoder.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    theirs = make(ours).eval()
    items = draw(np.random.default_rng(1))[:n_items]
    pairs = [
        (ours.text_projection.weight, theirs.project.weight),
        (ours.relation_embedding.weight, theirs.relations.weight),
        (ours.type_embedding.weight, theirs.bert.embeddings.token_type_embeddings.weight),
        (ours.input_norm.weight, theirs.bert.embeddings.LayerNorm.weight),
        (ours.knowledge.weight, theirs.knowledge.weight),
        *zip(ours.encoder.bert.encoder.parameters(), theirs.bert.encoder.parameters(), strict=True),
        *zip(ours.encoder.bert.pooler.parameters(), theirs.bert.pooler.parameters(), strict=True),
    ]
    found = PretrainingLoss(ours, config)(sequences().pack(items))
    wanted = theirs(torch.from_numpy(items))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0.0)
    found.backward()  # type: ignore[no-untyped-call]
    wanted.backward()
    # One scale for all: the gradient of a key's bias is zero but for rounding.
    scale = max(float(other.grad.abs().max()) for _, other in pairs)
    for mine, other in pairs:
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-5 * scale)


# --- All of them ------------------------------------------------------------------------------------------------------------------------

CONTENDERS: dict[str, Callable[[], float]] = {
    "own-paper": lambda: own(PAPER)(),
    "own-paper-uniform": lambda: own(PAPER, skewed=False)(),
    "own-code": lambda: own(CODE)(),
    "bert-sdpa": lambda: restated("bert-sdpa")(),
    "authors-form": lambda: restated("authors-form")(),
}
