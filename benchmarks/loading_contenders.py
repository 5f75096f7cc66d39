"""Ways to read a KG of a suite, to group its edges, and to check the suite's files.

The suite is generated: 200,000 entities with texts, 50 relations, 1M distinct triples, one link-prediction task. ``pandas-read`` and
``pykeen-triples`` are the packages (PyKEEN reads the same triples as a table of tabs, the format that it takes), ``dgl-csr`` DGL's
grouping by both ends. ``plain-verify`` restates the checks with pandas. ``bare-arrow`` decodes the columns, ``bare-hash`` hashes the
bytes of all files and the numbers in them. The system's cache of files is warm for everybody. Each contender returns a count of triples.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from kpi_bench import KnowledgeGraph, TaskKind, TaskSpec
from kpi_bench._dgl import import_dgl
from kpi_bench._io import sha256_file
from kpi_bench.suites.manifest import read_manifest
from kpi_bench.suites.suite import open_suite
from kpi_bench.suites.task import KgSpec
from kpi_bench.suites.verify import verify_suite
from kpi_bench.suites.writer import KgFrames, SuiteFrames, TaskFrames, write_suite

FOLDER = "KPI_BENCH_LOADING"
N_ENTITIES, N_RELATIONS, N_TRIPLES = 200_000, 50, 1_000_000
N_HELD_OUT = 10_000
TABLES = ("triples", "entities", "relations")
COLUMNS = ["head", "relation", "tail"]


@cache
def triples() -> NDArray[np.int64]:
    """Distinct triples int64 ``[1.02M, 3]`` in random order; tails are skewed: the first 1,000 entities have a sixth of them."""
    rng = np.random.default_rng(0)
    n = N_TRIPLES + 2 * N_HELD_OUT
    heads, relations = rng.integers(0, N_ENTITIES, 2 * n), rng.integers(0, N_RELATIONS, 2 * n)
    tails = (N_ENTITIES * rng.random(2 * n) ** 3).astype(np.int64)
    codes = rng.permutation(np.unique((heads * N_RELATIONS + relations) * N_ENTITIES + tails))[:n]
    pairs, tails = np.divmod(codes, N_ENTITIES)
    return np.stack([pairs // N_RELATIONS, pairs % N_RELATIONS, tails], axis=1)


def in_kg() -> NDArray[np.int64]:
    return triples()[2 * N_HELD_OUT :]


@cache
def folder() -> Path:
    """The suite, and ``triples.tsv`` beside it; processes that measure memory find by the variable what this one has written."""
    if FOLDER not in os.environ:
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="kpi-bench-loading-")
        atexit.register(shutil.rmtree, os.environ[FOLDER], ignore_errors=True)
        write(Path(os.environ[FOLDER]))
    return Path(os.environ[FOLDER])


def write(place: Path) -> None:
    ids = np.arange(N_ENTITIES)
    entities = pd.DataFrame(
        {"entity": ids, "key": [f"entity:{i}" for i in ids], "name": [f"Entity {i}" for i in ids]}
    )
    entities = entities.assign(text="a thing with a short text", domain="generated", kind="thing")
    relations = pd.DataFrame({"relation": range(N_RELATIONS), "key": [f"r{i}" for i in range(N_RELATIONS)]})
    splits = {
        "train": in_kg(),
        "valid": triples()[:N_HELD_OUT],
        "test": triples()[N_HELD_OUT : 2 * N_HELD_OUT],
    }
    frames = {name: pd.DataFrame(part, columns=COLUMNS) for name, part in splits.items()}
    spec = TaskSpec(
        name="links", kind=TaskKind.LINK_PREDICTION, kg="kg", domain="generated", description="Generated.",
        reference="generated", main_metric="mrr",
    )  # fmt: skip
    kg = KgFrames(
        KgSpec("kg", "Generated.", ("generated",)),
        frames["train"],
        entities,
        relations.assign(name=relations.key),
    )
    suite = SuiteFrames(
        "loading", "0.0.1", "Generated.", "CC0-1.0", ("generated",), (kg,), (TaskFrames(spec, frames),)
    )
    write_suite(place / "suite", suite)
    frames["train"].to_csv(place / "triples.tsv", sep="\t", header=False, index=False)


def suite() -> Path:
    return folder() / "suite"


def kg_files() -> list[Path]:
    return [suite() / "kgs" / "kg" / f"{name}.parquet" for name in TABLES]


# --- Reading ----------------------------------------------------------------------------------------------------------------------------


def own_read() -> float:
    """A suite opened, its KG read."""
    return float(open_suite(suite()).graph("kg").n_triples)


def pandas_read() -> float:
    return float(max(len(pd.read_parquet(path)) for path in kg_files()))


def pykeen_triples() -> float:
    """PyKEEN's TriplesFactory, which numbers labels itself; triples alone."""
    factory = importlib.import_module("pykeen.triples").TriplesFactory
    return float(factory.from_path(folder() / "triples.tsv").num_triples)


def bare_arrow() -> float:
    """The columns decoded by Arrow."""
    return float(max(pq.read_table(path).num_rows for path in kg_files()))


# --- Edges by head and by tail ----------------------------------------------------------------------------------------------------------


@cache
def graph() -> KnowledgeGraph:
    return open_suite(suite()).graph("kg")


def fresh_graph() -> KnowledgeGraph:
    """The same columns, nothing grouped yet."""
    kg = graph()
    return KnowledgeGraph(kg.name, kg.heads, kg.relations, kg.tails, kg.entities, kg.relation_table)


def own_edges() -> float:
    kg = fresh_graph()
    return float(len(kg.out_edges.neighbours) + len(kg.in_edges.neighbours)) / 2


@cache
def ends() -> tuple[torch.Tensor, torch.Tensor]:
    """Heads and tails as DGL takes them."""
    return torch.tensor(graph().heads), torch.tensor(graph().tails)


def dgl_csr() -> float:
    """Rows are not sorted by relation within, as ours are."""
    grouped = import_dgl().graph(ends(), num_nodes=N_ENTITIES).formats(["coo", "csr", "csc"])
    grouped.create_formats_()
    return float(grouped.num_edges())


def plain_argsort() -> float:
    """numpy's stable sort by each end, columns taken in that order."""
    kg, n = graph(), 0
    for rows, others in ((kg.heads, kg.tails), (kg.tails, kg.heads)):
        order = np.argsort(rows, kind="stable")
        grouped = rows[order], kg.relations[order], others[order]
        np.searchsorted(grouped[0], np.arange(kg.n_entities + 1))
        n += len(grouped[2])
    return n / 2


# --- Checking ---------------------------------------------------------------------------------------------------------------------------


def own_verify() -> float:
    """Hashes, row counts, contents, then ids, duplicates and overlaps, as ``load_suite`` does."""
    manifest = read_manifest(suite())
    verify_suite(suite(), manifest)
    return float(manifest.files["kgs/kg/triples.parquet"].rows)


def plain_verify() -> float:
    """Hashes of the bytes, ids in range, no duplicate, no overlap, with pandas."""
    manifest = read_manifest(suite())
    for path, entry in manifest.files.items():
        if sha256_file(suite() / path) != entry.sha256:
            raise ValueError(path)
    kg = pd.read_parquet(kg_files()[0])
    names = ("train", "valid", "test")
    splits = [pd.read_parquet(suite() / "tasks" / "links" / f"{name}.parquet") for name in names]
    keys = pd.read_parquet(kg_files()[1], columns=["key"])
    if kg.duplicated().any() or pd.concat(splits).duplicated().any() or keys.key.duplicated().any():
        raise ValueError("duplicates")
    for frame in (kg, *splits):
        if frame.min().min() < 0 or (frame.max() >= [N_ENTITIES, N_RELATIONS, N_ENTITIES]).any():
            raise ValueError("ids")
    return float(len(kg))


def bare_hash() -> float:
    """SHA-256 of every file, and of the numbers that Arrow decodes from it."""
    for path in read_manifest(suite()).files:
        data = (suite() / path).read_bytes()
        hashlib.sha256(data).digest()
        values = hashlib.sha256()
        for column in pq.read_table(pa.BufferReader(data)).columns:
            if pa.types.is_integer(column.type):
                values.update(np.ascontiguousarray(column.to_numpy()))
        values.digest()
    return float("nan")


READING: dict[str, Callable[[], float]] = {
    "bare-arrow": bare_arrow,
    "own-read": own_read,
    "pandas-read": pandas_read,
    "pykeen-triples": pykeen_triples,
}
EDGES: dict[str, Callable[[], float]] = {
    "own-edges": own_edges,
    "dgl-csr": dgl_csr,
    "plain-argsort": plain_argsort,
}
CHECKING: dict[str, Callable[[], float]] = {
    "bare-hash": bare_hash,
    "own-verify": own_verify,
    "plain-verify": plain_verify,
}
CONTENDERS: dict[str, Callable[[], float]] = {**READING, **EDGES, **CHECKING}
