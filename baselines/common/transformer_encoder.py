"""A pre-trained transformer as text encoder: frozen features, or token ids for a model that is being tuned."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.common.device import sent
from baselines.common.distill.teachers import fingerprint
from baselines.common.text_encoder import HASHED, MINILM, Block, TextEncoder
from kpi_bench.errors import SubmissionError

POOLINGS = ("mean", "pooler", "last")

_TOKENS_PER_BATCH = 8192
_TEXTS_PER_CHUNK = 4096


class TransformerEncoder(TextEncoder):
    """A pre-trained encoder with its tokenizer; :meth:`encode` gives frozen features.

    ``pooling``: ``mean`` of the last hidden states over real tokens, ``pooler`` (the model's own pooled output), or ``last``: the last
    hidden state of the last real token, for causal models (GPT-2). Padding is on the right. Under a causal mask that equals padding on
    the left with positions counted from the first real token; the MuDoK authors pad on the left and count positions from the first
    pad, so that their vectors depend on the padded length.
    """

    def __init__(
        self, name: str, source: str | Path, *, max_length: int, pooling: str, local_only: bool = False
    ) -> None:
        from transformers import AutoModel, AutoTokenizer

        if pooling not in POOLINGS:
            raise SubmissionError(f"unknown pooling {pooling!r}; use one of {', '.join(POOLINGS)}")
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source, local_files_only=local_only)
            # Weights that a checkpoint lacks (often a pooler's) are drawn: the same whatever ran before.
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                self.model: Any
                self.model, info = AutoModel.from_pretrained(
                    source, local_files_only=local_only, use_safetensors=True, output_loading_info=True
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
        self._pooler_is_noise = any(key.startswith("pooler.") for key in info["missing_keys"])

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with special tokens, cut to ``max_length``; a text of none is the start token alone."""
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(list(texts), truncation=True, max_length=self.max_length)[
            "input_ids"
        ]
        marks = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, 0)
        start = next(mark for mark in marks if mark is not None)
        return [row or [start] for row in ids]

    def pad(self, ids: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
        """``input_ids`` and ``attention_mask``, int64 ``[b, longest]``."""
        lengths = torch.tensor([len(row) for row in ids])
        width = int(lengths.max())
        # GPT-2 has no pad token. Padding is masked and on the right, so any id gives the same vectors.
        pad = self.tokenizer.pad_token_id or 0
        tokens = torch.tensor([[*row, *([pad] * (width - len(row)))] for row in ids])
        mask = (torch.arange(width)[None, :] < lengths[:, None]).long()
        return sent(tokens, device), sent(mask, device)

    def pooled(self, model: nn.Module, tokens: Tensor, mask: Tensor) -> Tensor:
        """Text vectors ``[b, dim]`` of padded tokens under ``model`` (this encoder's, frozen or being tuned)."""
        output = model(input_ids=tokens, attention_mask=mask)
        if self.pooling == "pooler":
            if getattr(output, "pooler_output", None) is None:
                raise SubmissionError(f"text encoder {self.name!r} has no pooler; use text_pooling = 'mean'")
            pooled: Tensor = output.pooler_output
            return pooled
        hidden: Tensor = output.last_hidden_state
        if self.pooling == "last":
            return hidden[torch.arange(len(mask), device=mask.device), mask.sum(1) - 1]
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1)

    def blocks(self, texts: Sequence[str], device: str = "cpu") -> Iterator[Block]:
        """Batches of similar length, longest first (the largest fails first, if any). The model is left on ``device``.

        Raises:
            SubmissionError: the pooler is asked for and the checkpoint holds no weights of one: its output would be noise.
        """
        if self.pooling == "pooler" and self._pooler_is_noise:
            raise SubmissionError(
                f"text encoder {self.name!r} was saved without its pooler, so its frozen pooler output is noise; use text_pooling = 'mean'"
            )
        target = torch.device(device)
        model = self.model.to(target).eval()
        # Bytes stand in for tokens, in English and in Chinese, so that a chunk is tokenized at a time and not all texts at once.
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i].encode()))
        for start in range(0, len(order), _TEXTS_PER_CHUNK):
            chunk = order[start : start + _TEXTS_PER_CHUNK]
            ids = self.tokenize([texts[i] for i in chunk])
            for batch in _length_batches(ids):
                yield (
                    np.array([chunk[i] for i in batch]),
                    self._features(model, [ids[i] for i in batch], target),
                )

    def identity(self, device: str = "cpu") -> dict[str, str | int]:
        """Name, pooling, ``max_length``, the arithmetic of the device, and hashes of the weights, the configuration and the tokenizer."""
        settings = self.model.config.to_dict()
        for key in ("_name_or_path", "transformers_version"):
            settings.pop(key, None)
        return {
            "name": self.name,
            "pooling": self.pooling,
            "max_length": self.max_length,
            "precision": "bfloat16" if torch.device(device).type == "cuda" else "float32",
            "weights": fingerprint(self.model),
            "config": hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest(),
            "tokenizer": self._tokenizer_hash(),
        }

    @torch.inference_mode()
    def _features(
        self, model: nn.Module, ids: Sequence[Sequence[int]], device: torch.device
    ) -> NDArray[np.float32]:
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            features: NDArray[np.float32] = self.pooled(model, *self.pad(ids, device)).float().cpu().numpy()
        return features

    def _tokenizer_hash(self) -> str:
        # A saved tokenizer holds the truncation of its last call: one call first, so that it is always the same.
        self.tokenize([""])
        digest = hashlib.sha256()
        with tempfile.TemporaryDirectory() as folder:
            self.tokenizer.save_pretrained(folder)
            for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
                digest.update(f"{file.name}:{file.stat().st_size};".encode())
                digest.update(file.read_bytes())
        return digest.hexdigest()


def _length_batches(ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Rows in batches of similar length, longest first (the largest batch fails first, if any), by a budget of padded tokens."""
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    start = 0
    while start < len(order):
        size = max(1, _TOKENS_PER_BATCH // max(1, len(ids[order[start]])))
        yield order[start : start + size]
        start += size
