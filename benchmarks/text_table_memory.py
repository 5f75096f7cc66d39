"""Memory of a process that makes a table of text features, finds it again, and reads all its rows in batches.

    python -m benchmarks.text_table_memory 500000

prints JSON. Anonymous memory (RssAnon) is what a process needs for itself; the rest of its resident memory here is pages of the table's
file, which processes share and the system takes back when it wants them.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from baselines.common.encoders import HashedEncoder
from baselines.common.text_table import text_features

DIM = 768
ROWS_A_BATCH = 5000
"""About what a pre-training step of MuDoK looks up."""
T = TypeVar("T")


class Peak:
    """Highest anonymous memory seen, MB."""

    def __init__(self) -> None:
        self.mb = 0.0

    def watch(self, steps: Iterable[T]) -> Iterator[T]:
        """The same steps; memory is read after each."""
        for step in steps:
            yield step
            self.mb = max(self.mb, status_mb("RssAnon"))


def status_mb(field: str) -> float:
    """A field of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{field}:"))


def measure(n: int, folder: Path) -> dict[str, float]:
    """Anonymous memory before, and at its peak while the table of ``n`` texts is built and used, in MB."""
    words = [f"word{i}" for i in range(50_000)]
    draw = random.Random(0)
    texts = [" ".join(draw.choices(words, k=10)) for _ in range(n)]
    encoder = HashedEncoder(DIM)
    text_features(
        texts[:ROWS_A_BATCH], encoder, cache=folder
    )  # what libraries allocate on first use is not the table's
    before, building, using = status_mb("RssAnon"), Peak(), Peak()
    built = text_features(texts, encoder, cache=folder, progress=building.watch)
    del built
    found = text_features(texts, encoder, cache=folder)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for rows in using.watch(order.split(ROWS_A_BATCH)):  # type: ignore[no-untyped-call]
        total += float(found.vectors[rows].square().sum())
    if not found.cached or abs(total / n - 1) > 1e-3:
        raise RuntimeError("the table that was read is not the one that was made")
    return {
        "texts": n,
        "table_mb": n * DIM * 4 / 1e6,
        "anonymous_before_mb": before,
        "anonymous_building_mb": building.mb,
        "anonymous_using_mb": using.mb,
        "resident_peak_mb": status_mb("VmHWM"),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(measure(int(sys.argv[1]), Path(temporary))))
