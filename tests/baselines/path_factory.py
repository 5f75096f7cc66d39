"""What several tests of paths share."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.int32]


class Numbered:
    """Epochs of ``n`` paths that name themselves: path i of epoch e is [e, i, i], in blocks, with ``lost`` walks that found none."""

    def __init__(self, n: int, lost: int = 0) -> None:
        self.n, self.lost = n, lost
        self.asked: list[int] = []

    def rows(self, epoch: int) -> Rows:
        number = np.arange(self.n)
        return np.stack([np.full(self.n, epoch), number, number], axis=1).astype(np.int32)

    def __call__(self, epoch: int) -> Iterable[Rows]:
        self.asked.append(epoch)
        middle = self.n // 2
        yield self.rows(epoch)[:middle]
        yield np.full((self.lost, 3), -1, dtype=np.int32)
        yield self.rows(epoch)[middle:]


def sorted_rows(batches: list[Tensor]) -> list[list[int]]:
    return sorted(torch.cat(batches).tolist())
