"""The workloads of the benchmarks, and the memory measurement in a process of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kpi_bench._csr import Csr
from kpi_bench.evaluators.ranking import tie_order

ROOT = Path(__file__).resolve().parents[1]

KS = (5, 10, 20, 50, 100)


@dataclass(frozen=True)
class KgeWorkload:
    """FB15k-237 and ComplEx weights: int64 triples ``[n, 3]``, complex64 ``[E, 100]`` and ``[R, 100]``."""

    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    test: NDArray[np.int64]
    entities: NDArray[np.complex64]
    relations: NDArray[np.complex64]

    @property
    def table(self) -> NDArray[np.float32]:
        """Entities as float32 ``[E, 200]``, real parts first."""
        return np.concatenate([self.entities.real, self.entities.imag], axis=1)

    def tail_vectors(self, entity: NDArray[np.int64], relation: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors whose product with the table scores tails: Re<h, r, conj(t)>."""
        product = self.entities[entity] * self.relations[relation]
        return np.concatenate([product.real, product.imag], axis=1)

    def head_vectors(self, entity: NDArray[np.int64], relation: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors whose product with the table scores heads."""
        product = np.conj(self.entities[entity]) * self.relations[relation]
        return np.concatenate([product.real, -product.imag], axis=1)


@dataclass(frozen=True)
class TrainingWorkload:
    """A KG to train on: distinct triples int64 ``[n, 3]``, its sizes, and whether it is "FB15k-237" or "generated"."""

    triples: NDArray[np.int64]
    n_entities: int
    n_relations: int
    source: str


@dataclass(frozen=True)
class RecommendationWorkload:
    """10,000 users x 20,000 items x 64 factors, 30 masked and 10 test items a user, all float32 or Csr."""

    users: NDArray[np.float32]
    items: NDArray[np.float32]
    masked: Csr
    positives: Csr
    order: NDArray[np.int64]


@dataclass(frozen=True)
class ItemWorkload:
    """80,000 items with 1 to 7 attributes among 20,000 values, 34 % of 8 slots empty: 100,000 entities with ``text`` float32 ``[E, 768]``.

    Row e of the sparse rows ``starts`` int64 ``[E + 1]`` holds ``values`` (entities) and ``relations`` of its attributes, int32 ``[n]``.
    """

    text: NDArray[np.float32]
    starts: NDArray[np.int64]
    values: NDArray[np.int32]
    relations: NDArray[np.int32]
    n_relations: int


def fb15k237_archive() -> Path | None:
    """The raw archive, from the folder in KPI_BENCH_DATA or from ../shared/data; None where there is none."""
    folder = Path(os.environ.get("KPI_BENCH_DATA", ROOT.parent / "shared" / "data"))
    return next(iter(sorted(folder.rglob("FB15k-237.tar.gz"))), None) if folder.is_dir() else None


@cache
def _fb15k237() -> tuple[dict[str, NDArray[np.int64]], int, int]:
    """The three splits as ids int64 ``[n, 3]``, and how many entities and relations they have."""
    archive = fb15k237_archive()
    if archive is None:
        raise FileNotFoundError("FB15k-237.tar.gz")
    entities: dict[str, int] = {}
    relations: dict[str, int] = {}
    parts = {}
    with tarfile.open(archive) as tar:
        members = {Path(member.name).name: member for member in tar.getmembers() if member.isfile()}
        for split in ("train", "valid", "test"):
            stream = tar.extractfile(members[f"{split}.txt"])
            assert stream is not None
            rows = [line.split() for line in io.TextIOWrapper(stream, "utf-8")]
            parts[split] = np.array(
                [
                    (
                        entities.setdefault(head, len(entities)),
                        relations.setdefault(relation, len(relations)),
                        entities.setdefault(tail, len(entities)),
                    )
                    for head, relation, tail in rows
                ]
            )
    return parts, len(entities), len(relations)


@cache
def kge_workload() -> KgeWorkload:
    """Read FB15k-237 and draw ComplEx weights (100 complex numbers = 200 reals an entity)."""
    parts, n_entities, n_relations = _fb15k237()
    rng = np.random.default_rng(0)

    def weights(n: int) -> NDArray[np.complex64]:
        pair = rng.standard_normal((2, n, 100), dtype=np.float32) * np.float32(0.1)
        return (pair[0] + 1j * pair[1]).astype(np.complex64)

    return KgeWorkload(**parts, entities=weights(n_entities), relations=weights(n_relations))


@cache
def training_workload() -> TrainingWorkload:
    """The train split of FB15k-237; without the archive a generated KG of its sizes."""
    if fb15k237_archive() is None:
        return TrainingWorkload(generated_triples(), 14_541, 237, "generated")
    parts, n_entities, n_relations = _fb15k237()
    return TrainingWorkload(parts["train"], n_entities, n_relations, "FB15k-237")


def generated_triples(
    n: int = 272_115, n_entities: int = 14_541, n_relations: int = 237
) -> NDArray[np.int64]:
    """Distinct random triples that repeat queries about as often as those of FB15k-237: 150,000 distinct ones, both directions."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, n_relations + 1) ** 0.9
    sizes = rng.multinomial(2 * n, share / share.sum())  # twice as many as wanted: repeats are thrown away
    parts = []
    for relation, size in enumerate(sizes):
        # A relation has its own heads and tails, a few of them in many triples.
        pool = min(n_entities, int(0.143 * size) + 20)
        heads, tails = (
            rng.permutation(n_entities)[(pool * rng.random(size) ** 2).astype(np.int64)] for _ in range(2)
        )
        parts.append(np.stack([heads, np.full(size, relation), tails], axis=1))
    distinct = np.unique(np.concatenate(parts), axis=0)
    return rng.permutation(distinct)[:n]


@cache
def recommendation_workload() -> RecommendationWorkload:
    """Draw factors, masks and test items."""
    n_users, n_items = 10_000, 20_000
    rng = np.random.default_rng(0)
    users = rng.standard_normal((n_users, 64), dtype=np.float32)
    items = rng.standard_normal((n_items, 64), dtype=np.float32)
    step = n_items // 40  # one item from each of 40 ranges of ids, so that a user's 40 are distinct
    chosen = np.arange(0, n_items, step) + rng.integers(0, step, (n_users, 40))
    shuffled = rng.permuted(chosen, axis=1)
    rows = np.arange(n_users)[:, None]

    def matrix(columns: NDArray[np.int64]) -> Csr:
        return Csr.from_pairs(
            np.broadcast_to(rows, columns.shape).ravel(), columns.ravel(), (n_users, n_items)
        )

    order = tie_order(n_items, "benchmark")
    return RecommendationWorkload(users, items, matrix(shuffled[:, :30]), matrix(shuffled[:, 30:]), order)


@cache
def item_workload(skewed: bool = True) -> ItemWorkload:
    """Draw texts and attributes; ``skewed``: the v-th most frequent value by 1/v, else all values alike."""
    n_items, n_values, n_relations, n_attributes = 80_000, 20_000, 12, 7
    rng = np.random.default_rng(0)
    # Uniform over 1..7 leaves 37.5 % of the slots empty; a tenth more full rows leave 34 %.
    counts = rng.integers(1, n_attributes + 1, n_items)
    counts[rng.random(n_items) < 0.093] = n_attributes
    starts = np.concatenate([[0], np.cumsum(counts), np.full(n_values, counts.sum())])
    drawn = _power_law(rng, n_values, 1.0 if skewed else 0.0, int(counts.sum()))
    return ItemWorkload(
        text=rng.standard_normal((n_items + n_values, 768), dtype=np.float32),
        starts=starts,
        values=(n_items + drawn).astype(np.int32),
        relations=(drawn % n_relations).astype(np.int32),
        n_relations=n_relations,
    )


@cache
def interaction_workload() -> Csr:
    """500,000 interactions of 40,000 users with 20,000 items, popularity by power laws: a graph of 60,000 nodes and 1M edges."""
    n_users, n_items, n = 40_000, 20_000, 500_000
    rng = np.random.default_rng(0)
    users = _power_law(rng, n_users, 0.5, 2 * n)  # twice as many as wanted: repeats are thrown away
    items = _power_law(rng, n_items, 0.75, 2 * n)
    chosen = rng.permutation(np.unique(users * n_items + items))[:n]
    return Csr.from_pairs(*np.divmod(chosen, n_items), (n_users, n_items))


def _power_law(rng: np.random.Generator, n_values: int, exponent: float, n: int) -> NDArray[np.int64]:
    """``n`` of ``n_values`` ids; which ids are the frequent ones is random."""
    share = np.cumsum(1 / np.arange(1, n_values + 1) ** exponent)
    drawn: NDArray[np.int64] = rng.permutation(n_values)[np.searchsorted(share, rng.random(n) * share[-1])]
    return drawn


def peak_rss_mb(module: str, contender: str) -> float:
    """Peak memory in MB of a new Python process that loads the workload and runs one contender once."""
    code = (
        f"from benchmarks import {module} as m; m.CONTENDERS[{contender!r}]();"
        "print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
    )
    return round(int(result.stdout.split()[-1]) * 1024 / 1e6, 1)
