"""Packed sequences against a slow twin, list by list."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.mudok.sequences import Packed, Sequences
from kpi_bench import KnowledgeGraph
from kpi_bench.errors import SubmissionError

Triple = tuple[int, int, int]


def graph(triples: list[Triple], n_entities: int, n_relations: int, name: str = "kg") -> KnowledgeGraph:
    heads, relations, tails = np.array(triples, dtype=np.int64).reshape(-1, 3).T
    entities = pa.table({"entity": np.arange(n_entities)})
    return KnowledgeGraph(
        name, heads, relations, tails, entities, pa.table({"relation": np.arange(n_relations)})
    )


def slow_sequences(triples: list[Triple], n_entities: int, slots: int) -> list[list[tuple[int, int]]]:
    """(token, relation + 1) of each slot of each entity."""
    rows: list[list[tuple[int, int]]] = [[(e, 0)] for e in range(n_entities)]
    for h, r, t in triples:
        if len(rows[h]) < slots:
            rows[h].append((t, r + 1))
    return rows


def unpacked(packed: Packed) -> list[list[tuple[int, int]]]:
    """The sequences in the order of the request."""
    rows: list[list[tuple[int, int]]] = [[] for _ in packed.order]
    place = s = 0
    for length, count in packed.groups:
        for _ in range(count):
            part = slice(place, place + length)
            rows[packed.order[s]] = list(
                zip(packed.tokens[part].tolist(), packed.relations[part].tolist(), strict=True)
            )
            place, s = part.stop, s + 1
    assert place == len(packed.tokens) == len(packed.relations)
    return rows


graphs = st.integers(1, 9).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(
            st.tuples(st.integers(0, n - 1), st.integers(0, 3), st.integers(0, n - 1)),
            max_size=30,
            unique=True,
        ),
    )
)


@settings(max_examples=80, deadline=None)
@given(graphs, st.integers(2, 5), st.data())
def test_packing_equals_the_slow_twin(
    drawn: tuple[int, list[Triple]], slots: int, data: st.DataObject
) -> None:
    n, triples = drawn
    sequences = Sequences.of_graph(graph(triples, n, 4), slots)
    wanted = data.draw(st.lists(st.integers(0, n - 1), max_size=12))
    slow = slow_sequences(triples, n, slots)
    packed = sequences.pack(np.array(wanted, dtype=np.int64))
    assert unpacked(packed) == [slow[e] for e in wanted]
    assert [length for length, _ in packed.groups] == sorted({len(slow[e]) for e in wanted})
    lengths = [len(slow[e]) for e in wanted]
    assert packed.order.tolist() == sorted(range(len(wanted)), key=lambda i: lengths[i])
    assert sequences.lengths(np.array(wanted, dtype=np.int64)).tolist() == lengths
    assert sequences.heads.tolist() == sorted({h for h, _, _ in triples})
    assert sequences.n_entities == n


def test_attributes_keep_the_stored_order_and_the_first_stay() -> None:
    triples = [(0, 2, 9), (1, 0, 3), (0, 0, 4), (0, 1, 2), (1, 0, 2), (0, 0, 1)]
    sequences = Sequences.of_graph(graph(triples, 10, 3), slots=4)
    (row,) = unpacked(sequences.pack(np.array([0])))
    assert row == [(0, 0), (9, 3), (4, 1), (2, 2)]


def test_an_entity_without_triples_is_a_sequence_of_its_own() -> None:
    sequences = Sequences.of_graph(graph([(0, 0, 1)], 3, 1), slots=8)
    packed = sequences.pack(np.array([2, 0, 1, 2]))
    assert packed.groups == ((1, 3), (2, 1))
    assert unpacked(packed) == [[(2, 0)], [(0, 0), (1, 1)], [(1, 0)], [(2, 0)]]
    assert sequences.heads.tolist() == [0]


def test_a_graph_without_triples_packs() -> None:
    sequences = Sequences.of_graph(graph([], 4, 2), slots=8)
    assert len(sequences.heads) == 0
    assert sequences.pack(np.array([3])).tokens.tolist() == [3]
    assert sequences.pack(np.array([], dtype=np.int64)).groups == ()


@settings(max_examples=40, deadline=None)
@given(st.lists(graphs, min_size=1, max_size=4))
def test_joined_graphs_are_one_graph_with_shifted_ids(drawn: list[tuple[int, list[Triple]]]) -> None:
    parts, union, entities = [], [], 0
    for i, (n, triples) in enumerate(drawn):
        parts.append(Sequences.of_graph(graph(triples, n, 4), 4))
        union += [(h + entities, r + 4 * i, t + entities) for h, r, t in triples]
        entities += n
    joint, whole = Sequences.joined(parts), Sequences.of_graph(graph(union, entities, 4 * len(drawn)), 4)
    assert joint.n_relations == 4 * len(drawn)
    for name in ("starts", "tails", "relations"):
        a, b = getattr(joint, name), getattr(whole, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_nothing_to_join_is_refused() -> None:
    with pytest.raises(SubmissionError, match="no KG to join"):
        Sequences.joined([])


def test_more_entities_than_int32_holds_are_refused() -> None:
    part = Sequences(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32), 1)
    # 2**31 entities without memory for them.
    huge = Sequences(
        np.lib.stride_tricks.as_strided(np.zeros(1, np.int64), ((1 << 31) + 1,), (0,)),
        part.tails,
        part.relations,
        1,
    )
    with pytest.raises(SubmissionError, match="2147483648 entities"):
        Sequences.joined([part, huge])


def test_a_random_triple_comes_to_slot_one() -> None:
    triples = [(0, r, 5 + r) for r in range(4)] + [(1, 0, 5), (2, 1, 7), (2, 0, 8)]
    sequences = Sequences.of_graph(graph(triples, 10, 4), slots=8)
    items = np.array([2, 0, 1, 3])
    plain = unpacked(sequences.pack(items))
    rng, seen = np.random.default_rng(0), Counter[tuple[int, int]]()
    for _ in range(800):
        for row, old in zip(unpacked(sequences.pack(items, rng=rng)), plain, strict=True):
            assert row[0] == old[0]
            assert sorted(row) == sorted(old)
            if len(row) > 1:
                seen[row[1]] += 1
    assert set(seen) == {(5 + r, r + 1) for r in range(4)} | {(5, 1), (7, 2), (8, 1)}
    # (5, 1) is slot 1 of item 1 always, and of item 0 a quarter of the time.
    assert abs(seen[8, 1] - 400) < 80
    assert all(abs(seen[5 + r, r + 1] - 200) < 70 for r in (1, 3))
    again = [sequences.pack(items, rng=np.random.default_rng(7)).tokens for _ in range(2)]
    np.testing.assert_array_equal(*again)
