"""What several tests of JPLR share: small KGs, and unions of them that hypothesis draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from numpy.typing import NDArray

from baselines.jplr.union import UnionGraph
from kpi_bench import KnowledgeGraph

Triple = tuple[int, int, int]
Link = tuple[int, str, int]


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
