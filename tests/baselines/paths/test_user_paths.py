"""Paths from users to their items: their laws by enumeration, their ends, and the two backends against each other."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from baselines.common.paths import _walk_torch, walks
from baselines.common.paths.graph import PathGraph
from baselines.common.paths.user_paths import UserPaths
from kpi_bench import Csr
from kpi_bench.errors import SubmissionError
from kpi_bench.evaluators.ranking import numba_available

BACKENDS = [
    pytest.param("numba", marks=pytest.mark.skipif(not numba_available(), reason="numba is not installed")),
    "torch",
]
Paths = NDArray[np.int32]


class Case:
    """Entities, then items in shuffled order, then users; relation 3 is the interaction, and some interactions are not in the graph."""

    def __init__(
        self, seed: int = 0, *, entities: int = 8, items: int = 6, users: int = 5, one_way: bool = False
    ) -> None:
        rng = np.random.default_rng(seed)
        self.first_user = entities + items
        self.nodes = entities + rng.permutation(items)
        n_edges = 5 * self.first_user
        kg = np.stack(
            [rng.integers(0, limit, n_edges) for limit in (self.first_user, 3, self.first_user)], axis=1
        )
        who, what = np.nonzero(rng.random((users, items)) < 0.7)
        who, what = who[who > 0], what[who > 0]  # user 0 has none
        shown = rng.random(len(who)) < 0.8
        loves = np.stack([self.first_user + who, np.full(len(who), 3), self.nodes[what]], axis=1)[shown]
        edges = np.unique(np.concatenate([kg, loves]), axis=0)
        self.positives = Csr.from_pairs(who, what, (users, items))
        self.graph = PathGraph.of_edges(
            *edges.T.copy(), n_nodes=self.first_user + users, n_forward=4, one_way=3 if one_way else None
        )
        self.wanted = [set(self.nodes[self.positives.row(u)].tolist()) for u in range(users)]

    def sampler(self, **keywords: Any) -> UserPaths:
        return UserPaths(self.graph, self.positives, self.nodes, self.first_user, **keywords)

    def law(self, user: int, hops: int) -> dict[tuple[int, ...], float]:
        """Probability of each path under uniform walks, given that one is found."""
        law: dict[tuple[int, ...], float] = {(self.first_user + user,): 1.0}
        for step in range(hops):
            grown: dict[tuple[int, ...], float] = {}
            for path, chance in law.items():
                low, high = self.graph.indptr[path[-1] : path[-1] + 2]
                edges = [e for e in range(low, high) if self.graph.neighbours[e] not in path[0::2]]
                if step == hops - 1:
                    edges = [e for e in edges if int(self.graph.neighbours[e]) in self.wanted[user]]
                for e in edges:
                    after = (*path, int(self.graph.relations[e]), int(self.graph.neighbours[e]))
                    grown[after] = chance / len(edges)
            law = grown
        total = sum(law.values())
        return {path: chance / total for path, chance in law.items()}


def assert_sound(case: Case, paths: Paths, users: NDArray[np.int64]) -> None:
    found = paths[:, 0] >= 0
    assert (paths[~found] == -1).all()
    assert (paths[found] >= 0).all()
    for user, path in zip(users[found].tolist(), paths[found].astype(np.int64), strict=True):
        nodes = path[0::2].tolist()
        assert nodes[0] == case.first_user + user
        assert nodes[-1] in case.wanted[user]
        assert len(set(nodes)) == len(nodes)
        assert case.graph.has_edges(path[0:-1:2], path[1::2], path[2::2]).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("one_way", [False, True])
@pytest.mark.parametrize("hops", [2, 3])
def test_paths_come_with_their_exact_probabilities(hops: int, one_way: bool, backend: Any) -> None:
    case = Case(7, one_way=one_way)
    seen = 0
    for user in (2, 4):
        law = case.law(user, hops)
        paths = case.sampler(backend=backend).sample(np.full(6_000, user), hops, seed=user, tries=30)
        found = paths[paths[:, 0] >= 0]
        counts = Counter(tuple(path) for path in found.tolist())
        assert counts.keys() <= law.keys()
        often = [path for path, chance in law.items() if chance * len(found) >= 5]
        observed = np.array([counts[path] for path in often])
        chances = np.array([law[path] for path in often])
        seen += len(often)
        if len(often) > 1:
            assert stats.chisquare(observed, chances / chances.sum() * observed.sum()).pvalue > 1e-4
    assert seen > 10, "the case must hold many paths"


@pytest.mark.skipif(not numba_available(), reason="numba is not installed")
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    entities=st.integers(0, 10),
    items=st.integers(1, 8),
    users=st.integers(1, 6),
    one_way=st.booleans(),
    hops=st.integers(2, 5),
    tries=st.integers(1, 4),
    weighting=st.sampled_from(["uniform", "degree"]),
)
def test_backends_agree_bit_for_bit_and_paths_are_sound(
    seed: int, entities: int, items: int, users: int, one_way: bool, hops: int, tries: int, weighting: str
) -> None:
    case = Case(seed, entities=entities, items=items, users=users, one_way=one_way)
    who = np.random.default_rng(seed).integers(0, users, 100)
    found = [
        case.sampler(backend=backend, weighting=weighting).sample(
            who, hops, seed=seed, first=seed, tries=tries
        )
        for backend in ("numba", "torch")
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert_sound(case, found[0], who)


@pytest.mark.skipif(not numba_available(), reason="numba is not installed")
@pytest.mark.parametrize(("degree", "likes"), [(2_000, 3), (3, 2_000), (900, 1_100)])
def test_long_and_short_lists_meet_alike(degree: int, likes: int) -> None:
    """Two ways to intersect: user 0 -> item 0 -> hub, whose items and the user's positives differ in number."""
    items = 3_000
    rng = np.random.default_rng(degree)
    hub, user = items, items + 1
    reached = rng.choice(np.arange(1, items), degree, replace=False)
    liked = np.unique(np.append(rng.choice(np.arange(1, items), likes - 1, replace=False), reached[0]))
    twice = np.append(reached, reached[0])  # two relations to one of the items
    heads = np.concatenate([[user, 0], np.full(len(twice), hub)])
    relations = np.concatenate([[2, 0], np.zeros(degree, np.int64), [1]])
    tails = np.concatenate([[0, hub], twice])
    graph = PathGraph.of_edges(heads, relations, tails, n_nodes=items + 2, n_forward=3)
    positives = Csr.from_pairs(np.zeros(len(liked)), liked, (1, items))
    n = 4_000
    found = [
        UserPaths(graph, positives, np.arange(items), user, backend=backend).sample(
            np.zeros(n, np.int64), 3, seed=1
        )
        for backend in ("numba", "torch")
    ]
    np.testing.assert_array_equal(found[0], found[1])
    counts = Counter(zip(found[0][:, 5].tolist(), found[0][:, 6].tolist(), strict=True))
    both = set(reached.tolist()) & set(liked.tolist())
    expected = {(0, item) for item in both} | {(1, int(reached[0]))}
    assert counts.keys() <= expected
    assert stats.chisquare([counts[edge] for edge in sorted(expected)]).pvalue > 1e-4


@pytest.mark.skipif(not numba_available(), reason="numba is not installed")
def test_behind_a_hub_users_find_their_own_items() -> None:
    """A genre of 400,000 items and a user of 3: the edges are searched, since going through them would take a while."""
    items = 400_000
    hub, user = items, items + 1
    liked = np.array([5, 70_000, 399_999])
    graph = PathGraph.of_edges(
        np.concatenate([np.full(3, user), np.full(items, hub)]),
        np.concatenate([np.full(3, 1), np.zeros(items, np.int64)]),
        np.concatenate([liked, np.arange(items)]),
        n_nodes=items + 2,
        n_forward=2,
        one_way=1,
    )
    paths = UserPaths(
        graph, Csr.from_pairs(np.zeros(3), liked, (1, items)), np.arange(items), user, backend="numba"
    )
    users = np.zeros(20_000, np.int64)
    found = paths.sample(users, 3, seed=0)
    assert (found[:, 6] != found[:, 2]).all()
    assert set(found[:, 6].tolist()) == set(liked.tolist())


@pytest.mark.parametrize("backend", BACKENDS)
def test_users_without_a_path_get_none(backend: Any) -> None:
    """User 0 has no positives, user 1 one that its only path starts with, user 2 no edge; user 3 has a way."""
    edges = np.array([(4, 1, 0), (5, 1, 0), (7, 1, 0), (0, 0, 3), (3, 0, 1)]).T
    graph = PathGraph.of_edges(*edges.copy(), n_nodes=8, n_forward=2, one_way=1)
    positives = Csr.from_pairs([1, 2, 3, 3], [0, 0, 0, 1], (4, 3))
    sampler = UserPaths(graph, positives, np.arange(3), 4, backend=backend)
    found = sampler.sample(np.array([0, 1, 2, 3]), 3, seed=0)
    assert (found[:3] == -1).all()
    assert found[3].tolist() == [7, 1, 0, 0, 3, 0, 1]
    assert sampler.sample(np.zeros(0, np.int64), 3, seed=0).shape == (0, 7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pieces_and_workers_do_not_change_paths(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(3, entities=30, items=20, users=15)
    users = np.random.default_rng(0).integers(0, 15, 600)
    whole = case.sampler(backend=backend).sample(users, 3, seed=4, first=10)
    assert (whole[:, 0] >= 0).any()
    monkeypatch.setattr(walks, "PIECE", 41)
    monkeypatch.setattr(_walk_torch, "CELLS", 20)
    sampler = case.sampler(backend=backend, workers=3)
    np.testing.assert_array_equal(sampler.sample(users, 3, seed=4, first=10), whole)
    cuts = [0, 1, 300, 600]
    parts = [sampler.sample(users[a:b], 3, seed=4, first=10 + a) for a, b in pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    more = sampler.sample(users, 3, seed=4, first=10, tries=17)
    np.testing.assert_array_equal(more[whole[:, 0] >= 0], whole[whole[:, 0] >= 0])


def test_what_cannot_be_drawn_is_refused() -> None:
    case = Case()
    sampler = case.sampler()
    with pytest.raises(SubmissionError, match="at least 2 hops; got 1"):
        sampler.sample(np.array([1]), 1, seed=0)
    with pytest.raises(SubmissionError, match="at least one try"):
        sampler.sample(np.array([1]), 2, seed=0, tries=0)
    for user in (-1, 5):
        with pytest.raises(SubmissionError, match=r"user must be in 0\.\.4"):
            sampler.sample(np.array([user]), 2, seed=0)
    with pytest.raises(SubmissionError, match="do not fit a graph"):
        UserPaths(case.graph, case.positives, case.nodes, case.first_user + 1)
    with pytest.raises(SubmissionError, match="need as many nodes; got 5"):
        UserPaths(case.graph, case.positives, case.nodes[:5], case.first_user)
    with pytest.raises(SubmissionError, match="item's node must be in"):
        UserPaths(case.graph, case.positives, case.nodes + 100, case.first_user)
