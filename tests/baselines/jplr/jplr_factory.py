"""What several tests of JPLR share: small KGs, unions of them that hypothesis draws, a world of two linked KGs, and what training reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from baseline_factory import pretrain_and_load
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from baselines.common.distill.teachers import freeze
from baselines.jplr.config import JplrConfig
from baselines.jplr.local import LocalGraph
from baselines.jplr.paths import TriplePaths
from baselines.jplr.student import Teacher
from baselines.jplr.submission import Jplr
from baselines.jplr.teacher import new_teacher
from baselines.jplr.union import UnionGraph, given_links
from kpi_bench import Context, KnowledgeGraph, LinkPredictionTask, TaskKind, TaskSpec, Triples
from kpi_bench.harness.config import read_config

Triple = tuple[int, int, int]
Link = tuple[int, str, int]
SMALL: dict[str, Any] = {
    "teacher_hidden": 8,
    "teacher_layers": 1,
    "teacher_heads": 1,
    "teacher_epochs": 2,
    "hidden": 4,
    "layers": 1,
    "heads": 1,
    "epochs": 2,
    "negatives": 8,
    "batch_size": 32,
    "precision": "float32",
    "holdout": 0.0,
}


def small(**other: Any) -> JplrConfig:
    return JplrConfig(**(SMALL | other))


@dataclass
class Reports:
    """Notes by key, and points (metric, value) of the learning curves."""

    notes: dict[str, Any] = field(default_factory=dict)
    curve: list[tuple[str, float]] = field(default_factory=list)

    def __call__(self, kind: str, **values: Any) -> None:
        if kind == "note":
            self.notes[values["key"]] = values["value"]
        elif kind == "curve":
            self.curve.append((values["metric"], values["value"]))

    def context(self, scratch: Path, seed: int = 1, **graphs: KnowledgeGraph) -> Context:
        return Context(seed, "cpu", scratch, graphs, self)


class Drawn:
    """The paths that training draws, whoever trains."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.blocks: list[NDArray[np.int32]] = []
        draw = TriplePaths.__call__

        def kept(sample: TriplePaths, epoch: int) -> Iterator[NDArray[np.int32]]:
            for block in draw(sample, epoch):
                self.blocks.append(block.copy())
                yield block

        monkeypatch.setattr(TriplePaths, "__call__", kept)

    def hops(self, n_forward: int) -> set[tuple[int, ...]]:
        """Distinct hops of all paths since the last call, as forward triples (head, relation, tail)."""
        paths = np.concatenate(self.blocks)
        self.blocks.clear()
        hops = np.concatenate([paths[:, i : i + 3] for i in range(0, paths.shape[1] - 2, 2)])
        hops = hops[hops[:, 2] >= 0]
        back = hops[:, 1] >= n_forward
        hops[back] = hops[back][:, ::-1] - np.array([0, n_forward, 0])
        return set(map(tuple, hops.tolist()))


@dataclass(frozen=True)
class Town:
    """Person i (entities 0..people-1 of both KGs, which are linked) is of group i mod ``groups``.

    KG "club" states the group: (i, 0, people + group). KG "town" states the place (i, 0, people + group), but of half of the people; the
    others' places are valid and test of its task, and nothing but the club tells them: (i, 1, people + groups), the town, is one for all.
    """

    people: int = 72
    groups: int = 6

    def graphs(self, *, linked: bool = True) -> dict[str, KnowledgeGraph]:
        people, nodes = range(self.people), self.people + self.groups
        citizens = [(i, 1, nodes) for i in people]
        places = [self._place(i) for i in people if not self._held_out(i)]
        links = [(i, "club", i) for i in people] if linked else None
        club = [(i, 0, self.people + i % self.groups) for i in people]
        return {
            "town": knowledge_graph("town", nodes + 1, 2, [*places, *citizens], links=links),
            "club": knowledge_graph("club", nodes, 1, club),
        }

    def task(self) -> LinkPredictionTask:
        kg = self.graphs()["town"]
        held_out = [self._place(i) for i in range(self.people) if self._held_out(i)]
        train = Triples(kg.heads, kg.relations, kg.tails)
        valid, test = (
            Triples(*table(rows, 3).T) for rows in (held_out[::4], held_out[1::4] + held_out[2::4])
        )
        spec = TaskSpec("places", TaskKind.LINK_PREDICTION, "town", "d", "", "", "mrr")
        return LinkPredictionTask(spec, kg.n_entities, kg.n_relations, train, valid, test)

    def mrr(self, scores: NDArray[np.float32], heads: NDArray[np.int64]) -> float:
        """Of the own place among all places, from scores of all entities ``[n, n_entities]`` for questions (head, 0, ?)."""
        of_places = torch.from_numpy(scores[:, self.people : self.people + self.groups])
        own = of_places.gather(1, torch.from_numpy(heads % self.groups)[:, None])
        return float((1 / (of_places >= own).sum(1)).double().mean())

    def _place(self, i: int) -> Triple:
        return i, 0, self.people + i % self.groups

    def _held_out(self, i: int) -> bool:
        return i // self.groups % 2 == 1


def table(rows: Sequence[tuple[int, ...]], width: int) -> NDArray[np.int64]:
    return np.array(rows, dtype=np.int64).reshape(-1, width)


def knowledge_graph(
    name: str,
    n_entities: int,
    n_relations: int,
    triples: Sequence[Triple],
    *,
    links: Sequence[Link] | None = None,
    names: Sequence[str | None] | None = None,
) -> KnowledgeGraph:
    entities = {
        "entity": pa.array(range(n_entities)),
        "key": [f"{name}:{i}" for i in range(n_entities)],
        "name": pa.array(names or [None] * n_entities, pa.string()),
        "text": pa.nulls(n_entities, pa.string()),
        "domain": ["domain"] * n_entities,
        "kind": ["kind"] * n_entities,
    }
    keys = [f"r{i}" for i in range(n_relations)]
    relations = pa.table({"relation": pa.array(range(n_relations)), "key": keys, "name": keys})
    stated = None
    if links is not None:
        schema = pa.schema(
            [
                ("entity", pa.int64()),
                ("other_kg", pa.string()),
                ("other_entity", pa.int64()),
                ("rule", pa.string()),
            ]
        )
        rows = [(*link, "made") for link in links]
        stated = pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)
    heads, between, tails = table(triples, 3).T
    return KnowledgeGraph(name, heads, between, tails, pa.table(entities), relations, stated)


def rows_of(array: NDArray[np.int64]) -> list[tuple[int, ...]]:
    return [tuple(row) for row in array.tolist()]


@st.composite
def unions(draw: st.DrawFn, *, most_kgs: int = 3) -> UnionGraph:
    """Up to three KGs with loops, parallel relations and links of any multiplicity."""
    graphs = {}
    for i in range(draw(st.integers(1, most_kgs))):
        n_entities, n_relations = draw(st.integers(1, 6)), draw(st.integers(1, 3))
        node, relation = st.integers(0, n_entities - 1), st.integers(0, n_relations - 1)
        triples = draw(st.lists(st.tuples(node, relation, node), unique=True, max_size=14))
        graphs[f"kg{i}"] = knowledge_graph(f"kg{i}", n_entities, n_relations, triples)
    kg_of = [i for i, kg in enumerate(graphs.values()) for _ in range(kg.n_entities)]
    pairs = [(a, b) for a in range(len(kg_of)) for b in range(len(kg_of)) if kg_of[a] != kg_of[b]]
    links = draw(st.lists(st.sampled_from(pairs), max_size=8)) if pairs else []
    return UnionGraph.of(graphs, table(links, 2))


TOWN = Town(24, 3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def joint(seed: int = 0, *, linked: bool = True, **settings: Any) -> Teacher:
    """An untrained teacher of town and club, all its numbers of size one."""
    graphs = TOWN.graphs(linked=linked)
    union = UnionGraph.of(graphs, given_links(graphs))
    model = new_teacher(union, small(**settings), seed)
    shake(model, seed)
    return Teacher(freeze(model), union)


def shake(model: nn.Module, seed: int) -> None:
    drawn = generator(seed + 100)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=drawn))


def part() -> LocalGraph:
    return LocalGraph.of_links(TOWN.task())


FOLDER = Path(__file__).resolve().parents[3] / "submissions" / "jplr"
QUICK = {
    "rec_epochs": 2,
    "rec_dim": 8,
    "text_epochs": 2,
    "text_hashed_dim": 64,
    **{f"jplr_{name}": value for name, value in SMALL.items()},
}
HEADS = ("shop_music", "shop_games_qa", "library_review")


def params(config: str | None = None, **other: Any) -> dict[str, Any]:
    settings = {f"jplr_{name}": value for name, value in other.items()}
    named = read_config(FOLDER).configs[config] if config else {}
    return {**read_config(FOLDER).resolve_params("tiny", None, {}), **QUICK, **named, **settings}


def pretrained(ctx: Context, folder: Path, config: str | None = None, **other: Any) -> Jplr:
    return pretrain_and_load(Jplr, params(config, **other), ctx, folder)


def exported(submission: Jplr, folder: Path) -> dict[str, torch.Tensor]:
    folder.mkdir()
    submission.export(folder)
    return {
        f"{file.stem}.{name}": value
        for file in folder.glob("*.safetensors")
        for name, value in load_file(file).items()
    }
