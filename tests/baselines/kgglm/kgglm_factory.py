"""What several tests of KGGLM share: contexts that keep what is reported, and a small world whose law is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from baselines.common.paths.body import BodyShape
from baselines.common.paths.interactions import TaskGraph
from baselines.kgglm.config import KgglmConfig
from baselines.kgglm.model import PathLM
from kpi_bench import Context, Interactions, KnowledgeGraph, RecommendationTask, TaskKind, TaskSpec

SMALL = {"hidden": 8, "layers": 1, "heads": 1, "pretrain_walks": 2, "batch_size": 64, "beams": 8}


@dataclass
class Reports:
    """Notes by key and the points of the learning curve."""

    notes: dict[str, Any] = field(default_factory=dict)
    curve: list[float] = field(default_factory=list)

    def __call__(self, kind: str, **values: Any) -> None:
        if kind == "note":
            self.notes[values["key"]] = values["value"]
        elif kind == "curve":
            self.curve.append(values["value"])

    def context(self, scratch: Path, seed: int = 1, **graphs: KnowledgeGraph) -> Context:
        return Context(seed, "cpu", scratch, graphs, self)


def small(**other: Any) -> KgglmConfig:
    return KgglmConfig(**(SMALL | other))


def planted(
    seed: int = 0, *, genres: int = 8, width: int = 12, users: int = 64, decoys: bool = False
) -> tuple[RecommendationTask, KnowledgeGraph]:
    """Each user likes the items of one genre, and user u has 3 to 6 of them in train and 2 in valid, with one item of chance. User 0 has
    no train item and user 1 only one.

    Item i is entity i, and relation 0 leads to its genre. Relations 1 to 6 are ``decoys``: for k = 1, 2, 3 and each of the first four
    items of genre g + k, an entity of its own joins an item of genre g (relation 2 k - 1) with it (2 k). Most paths lead to them; and
    with them relation 0 leads to many other nodes, so that its paths are the least likely ones until they are learned.
    """
    rng = np.random.default_rng(seed)
    n_items = genres * width
    items = np.arange(n_items)
    item, k, place = np.indices((n_items, 3, 4) if decoys else (0, 0, 0)).reshape(3, -1)
    wrong = (item // width + k + 1) % genres * width + place
    between = n_items + genres + np.arange(len(item))
    leaves = n_items + genres + len(item) + np.arange(1500 if decoys else 0)
    kg = KnowledgeGraph(
        "planted",
        np.concatenate([items, n_items + leaves % genres, item, wrong]),
        np.concatenate([np.zeros(n_items + len(leaves), np.int64), 1 + 2 * k, 2 + 2 * k]),
        np.concatenate([n_items + items // width, leaves, between, between]),
        pa.table({"entity": np.arange(n_items + genres + len(item) + len(leaves))}),
        pa.table({"relation": np.arange(7)}),
    )
    train: list[tuple[int, int]] = []
    valid: list[tuple[int, int]] = []
    for user in range(users):
        liked = (user % genres) * width + rng.permutation(width)
        n_train = 3 + user % 4
        if user == 1:
            train.append((user, int(liked[0])))
        elif user:
            train += [(user, int(item)) for item in np.unique([*liked[:n_train], rng.integers(n_items)])]
        valid += [(user, int(item)) for item in liked[n_train : n_train + 2]]
    spec = TaskSpec("planted", TaskKind.RECOMMENDATION, "planted", "d", "", "", "ndcg@10", ks=(10,))
    splits = [Interactions(*np.array(split).T.copy()) for split in (train, valid)]
    return RecommendationTask(spec, users, items, *splits), kg


def untrained(graph: TaskGraph, config: KgglmConfig, seed: int = 0) -> PathLM:
    shape = BodyShape(config.hidden, config.layers, config.heads, config.dropout, config.positions)
    generator = torch.Generator().manual_seed(seed)
    return PathLM(
        graph.graph.ranges,
        graph.kinds(),
        graph.graph.n_relations,
        shape,
        softmax="range",
        generator=generator,
    )


def weights(model: torch.nn.Module) -> dict[str, NDArray[np.float32]]:
    return {name: value.detach().numpy().copy() for name, value in model.named_parameters()}


def same_weights(first: dict[str, NDArray[np.float32]], second: dict[str, NDArray[np.float32]]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)
