"""What a text encoder is: texts to rows of floats, a block at a time, with an identity that a cache can rely on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MINILM = "all-MiniLM-L6-v2"
HASHED = "hashed"
VALUES_PER_BLOCK = 2**20

Block = tuple[NDArray[np.int64], NDArray[np.float32]]
Progress = Callable[[Iterable[Block]], Iterable[Block]]


class TextEncoder(ABC):
    """Texts to rows of ``dim`` float32 values; a row depends on its text alone, not on the texts beside it."""

    name: str
    dim: int
    n_parameters: int

    @abstractmethod
    def blocks(self, texts: Sequence[str], device: str = "cpu") -> Iterator[Block]:
        """``rows`` int64 ``[b]`` and their features float32 ``[b, dim]``, each row of ``texts`` once, in any order."""

    @abstractmethod
    def identity(self, device: str = "cpu") -> dict[str, str | int]:
        """All that decides a text's features: equal identities give equal features."""

    def encode(self, texts: Sequence[str], device: str = "cpu") -> Tensor:
        """Frozen features, float32 ``[n, dim]``, on the CPU. Repeated texts are encoded once."""
        features = np.empty((len(texts), self.dim), dtype=np.float32)
        self.fill(features, texts, device)
        return torch.from_numpy(features)

    def fill(
        self,
        table: NDArray[np.float32],
        texts: Sequence[str],
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> None:
        """Write the features of ``texts`` into ``table`` ``[n, dim]``, with memory for a block at a time beside it."""
        seen: dict[str, int] = {}
        first = np.fromiter((seen.setdefault(text, i) for i, text in enumerate(texts)), np.int64, len(texts))
        distinct = np.fromiter(seen.values(), np.int64, len(seen))
        blocks = self.blocks(list(seen), device)
        for rows, features in blocks if progress is None else progress(blocks):
            table[distinct[rows]] = features
        repeated = np.flatnonzero(first != np.arange(len(texts)))
        step = max(1, VALUES_PER_BLOCK // self.dim)
        for start in range(0, len(repeated), step):
            rows = repeated[start : start + step]
            table[rows] = table[first[rows]]
