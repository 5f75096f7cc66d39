"""The two pre-training losses and the masks of their false negatives."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from baselines.mudok.sequences import Packed


def contrastive(
    z1: Tensor, z2: Tensor, temperature: float, same: Tensor | None = None, own: Tensor | None = None
) -> Tensor:
    """InfoNCE over cosines between two views ``[b, hidden]``, from the first to the second (arXiv 2104.08821, equation 1).

    ``same`` bool ``[b, b]``: item j is no negative of item i. ``own`` int64 ``[a]`` says which rows of ``z2`` are those of a shorter
    ``z1 [a, hidden]`` (and ``same [a, b]``).
    """
    logits = functional.normalize(z1, dim=1) @ functional.normalize(z2, dim=1).T / temperature
    return _own_cross_entropy(logits, same, own)


def knowledge(
    h: Tensor, r: Tensor, t: Tensor, known: Tensor | None = None, own: Tensor | None = None
) -> Tensor:
    """Cross-entropy of each triple's own tail under s_ij = <h_i * r_i, t_j>; ``h``, ``r``, ``t`` are ``[b, hidden]``.

    ``known`` bool ``[b, b]``: tail j is no negative of triple i. ``own`` int64 ``[a]`` says which rows of ``t`` are those of shorter
    ``h`` and ``r`` ``[a, hidden]`` (and ``known [a, b]``).
    """
    return _own_cross_entropy((h * r) @ t.T, known, own)


def known_tails(packed: Packed, tails: NDArray[np.int64]) -> Tensor:
    """Whether tail j is among the attribute values of packed sequence i, bool ``[b, len(tails)]`` on the CPU."""
    tokens, wanted = torch.from_numpy(packed.tokens), torch.from_numpy(tails)
    rows, token = [], 0
    for length, count in packed.groups:
        values = tokens[token : token + length * count].view(count, length, 1)[:, 1:]
        rows.append((values == wanted).any(1))
        token += length * count
    return torch.cat(rows)


def same_inputs(packed: Packed, text: Tensor) -> Tensor:
    """Whether the encoder sees packed sequences i and j as one: equal rows of ``text`` ``[n_entities, d]`` for the items, and the
    same attributes in any order. Bool ``[b, b]`` on the CPU."""
    lengths = np.concatenate([np.full(count, length) for length, count in packed.groups])
    first = np.cumsum(lengths) - lengths
    _, looks = torch.unique(text[torch.from_numpy(packed.tokens[first])].cpu(), dim=0, return_inverse=True)
    # One row a sequence: -1 for the item and where there is no attribute, then the attributes by a number for (relation, value).
    attributes = np.full((len(lengths), int(lengths.max())), -1, dtype=np.int64)
    pairs = packed.relations * (int(packed.tokens.max()) + 1) + packed.tokens
    attributes[np.arange(attributes.shape[1]) < lengths[:, None]] = pairs
    attributes[:, 0] = -1
    attributes.sort(1)
    keys = np.column_stack([looks.numpy(), attributes])
    group = torch.from_numpy(np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1))
    return group[:, None] == group


def _own_cross_entropy(logits: Tensor, left_out: Tensor | None, own: Tensor | None) -> Tensor:
    logits = logits.float()
    if own is None:
        own = torch.arange(len(logits), device=logits.device)
    if left_out is not None:
        others = left_out.scatter(1, own[:, None], False)
        logits = logits.masked_fill(others, float("-inf"))
    return functional.cross_entropy(logits, own)
