"""Decoding against the enumeration of all paths, and what must hold of every list."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from baselines.common.paths.body import BodyShape
from baselines.common.paths.graph import PathGraph
from baselines.kgglm import decode
from baselines.kgglm.candidates import best, draw, edges_towards
from baselines.kgglm.decode import Decoded, Decoding, PathDecoder, uniform_numbers
from baselines.kgglm.model import PathLM
from kpi_bench import Csr
from kpi_bench.errors import SubmissionError
from kpi_bench.evaluators.ranking import tie_order

EVERYTHING = 10_000


class World(NamedTuple):
    """Entities, items, users: nodes in that order; relations 0 and 1 of the KG, 2 from user to item."""

    graph: PathGraph
    items: np.ndarray
    first_user: int
    n_users: int
    model: PathLM

    def decoder(self, **settings: object) -> PathDecoder:
        config = replace(Decoding(beams=EVERYTHING), **settings)
        return PathDecoder(self.model, self.graph, self.items, self.first_user, 2, config)

    def answer(self, k: int, exclude: Csr | None = None, seed: int = 0, **settings: object) -> Decoded:
        users = np.arange(self.n_users)
        exclude = Csr.empty(self.n_users, len(self.items)) if exclude is None else exclude
        order = tie_order(len(self.items), 0)
        return self.decoder(**settings).decode(users, exclude, k, order, seed)


def world(
    seed: int,
    n_entities: int = 5,
    n_items: int = 6,
    n_users: int = 4,
    density: float = 0.25,
    softmax: str = "range",
    one_way: bool = False,
) -> World:
    """A random graph; the last user has no edge, and items' nodes are not in the order of items."""
    rng = np.random.default_rng(seed)
    n_places = n_entities + n_items
    first, relation, second = np.nonzero(rng.random((n_places, 2, n_places)) < density / 2)
    items = n_entities + rng.permutation(n_items)
    user, item = np.nonzero(rng.random((n_users - 1, n_items)) < 0.5)
    graph = PathGraph.of_edges(
        np.concatenate([first, n_places + user]),
        np.concatenate([relation, np.full(len(user), 2)]),
        np.concatenate([second, items[item]]),
        n_nodes=n_places + n_users,
        n_forward=3,
        one_way=2 if one_way else None,
    )
    kinds = np.repeat([0, 1, 2], [n_entities, n_items, n_users])
    shape = BodyShape(hidden=8, layers=2, heads=2, dropout=0.5, positions=12)
    model = PathLM(
        graph.ranges, kinds, 6, shape, softmax=softmax, generator=torch.Generator().manual_seed(seed)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)
    return World(graph, items, n_places, n_users, model)


def random_exclusions(w: World, seed: int) -> Csr:
    rng = np.random.default_rng(seed)
    rows, columns = np.nonzero(rng.random((w.n_users, len(w.items))) < 0.3)
    return Csr.from_pairs(rows, columns, (w.n_users, len(w.items)))


def all_paths(w: World, user: int, hops: int) -> list[list[int]]:
    """Every path of ``hops`` hops from a user through relation 2 to an item, no node twice."""
    graph, partial = w.graph, [[w.first_user + user]]
    for hop in range(hops):
        partial = [
            [*path, int(graph.relations[e]), int(graph.neighbours[e])]
            for path in partial
            for e in range(graph.indptr[path[-1]], graph.indptr[path[-1] + 1])
            if graph.neighbours[e] not in path[::2] and (hop or graph.relations[e] == 2)
        ]
    return [path for path in partial if path[-1] in w.items]


def check_against_enumeration(w: World, hops: int, rank_by: str, exclude: Csr, k: int) -> None:
    got = w.answer(k, exclude, hops=hops, rank_by=rank_by)
    item_of = {int(node): item for item, node in enumerate(w.items)}
    for user in range(w.n_users):
        paths = [p for p in all_paths(w, user, hops) if item_of[p[-1]] not in exclude.row(user)]
        log_probs = w.model.log_probs(torch.tensor(paths).view(-1, 2 * hops + 1)).sum(1).numpy()
        found: dict[int, list[float]] = {}
        for path, log_prob in zip(paths, log_probs, strict=True):
            found.setdefault(item_of[path[-1]], []).append(float(log_prob))
        of_item = max if rank_by == "path" else lambda values: float(np.logaddexp.reduce(values))
        expected = {item: of_item(values) for item, values in found.items()}
        listed = got.items[user] >= 0
        n = min(k, len(expected))
        assert listed.tolist() == [True] * n + [False] * (k - n)
        np.testing.assert_allclose(
            got.scores[user, :n], sorted(expected.values(), reverse=True)[:n], atol=1e-4
        )
        for place in range(n):
            item = int(got.items[user, place])
            assert got.scores[user, place] == pytest.approx(expected[item], abs=1e-4)
            assert got.log_probs[user, place] == pytest.approx(max(found[item]), abs=1e-4)
            at = paths.index(got.paths[user, place].tolist())
            assert log_probs[at] == pytest.approx(max(found[item]), abs=1e-4)


def check_lists(w: World, got: Decoded, exclude: Csr) -> None:
    """What holds of any answer, however few beams it had."""
    listed = got.items >= 0
    assert (listed[:, :-1] >= listed[:, 1:]).all()
    assert (got.paths[~listed] == -1).all()
    assert np.isneginf(got.scores[~listed]).all()
    assert np.isneginf(got.log_probs[~listed]).all()
    scores = np.where(listed, got.scores, -1e30)
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    users, places = np.nonzero(listed)
    paths = got.paths[users, places].astype(np.int64)
    nodes = paths[:, 0::2]
    for hop in range(nodes.shape[1] - 1):
        assert w.graph.has_edges(nodes[:, hop], paths[:, 2 * hop + 1], nodes[:, hop + 1]).all()
    assert (nodes[:, 0] == w.first_user + users).all()
    assert (paths[:, 1] == 2).all()
    assert (nodes[:, -1] == w.items[got.items[users, places]]).all()
    ordered = np.sort(nodes, axis=1)
    assert (ordered[:, 1:] > ordered[:, :-1]).all()
    for user in range(w.n_users):
        mine = got.items[user][listed[user]]
        assert len(np.unique(mine)) == len(mine)
        assert not np.isin(mine, exclude.row(user)).any()
    own = w.model.log_probs(torch.from_numpy(paths)).sum(1).numpy()
    np.testing.assert_allclose(got.log_probs[users, places], own, atol=1e-4)


def same(a: Decoded, b: Decoded, users: slice | np.ndarray = slice(None)) -> None:
    np.testing.assert_array_equal(a.items[users], b.items[users])
    np.testing.assert_array_equal(a.paths[users], b.paths[users])
    np.testing.assert_allclose(a.scores[users], b.scores[users], rtol=2e-5, atol=1e-4)
    np.testing.assert_allclose(a.log_probs[users], b.log_probs[users], rtol=2e-5, atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    hops=st.sampled_from([1, 2, 3]),
    rank_by=st.sampled_from(["path", "item"]),
    softmax=st.sampled_from(["range", "type", "full"]),
    density=st.sampled_from([0.0, 0.1, 0.3]),
    one_way=st.booleans(),
    k=st.sampled_from([1, 3, 9]),
)
def test_enough_beams_find_what_enumeration_finds(
    seed: int, hops: int, rank_by: str, softmax: str, density: float, one_way: bool, k: int
) -> None:
    w = world(seed, density=density, softmax=softmax, one_way=one_way)
    check_against_enumeration(w, hops, rank_by, random_exclusions(w, seed), k)


@pytest.mark.parametrize("rank_by", ["path", "item"])
def test_five_hops_agree_with_enumeration(rank_by: str) -> None:
    w = world(3, n_entities=4, n_items=4, density=0.12)
    check_against_enumeration(w, 5, rank_by, random_exclusions(w, 3), 4)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10_000),
    hops=st.sampled_from([2, 3, 5]),
    mode=st.sampled_from(["beam", "sample"]),
    beams=st.sampled_from([1, 2, 7]),
)
def test_every_list_is_sound(seed: int, hops: int, mode: str, beams: int) -> None:
    w = world(seed, n_entities=12, n_items=9, n_users=6, density=0.15)
    exclude = random_exclusions(w, seed)
    got = w.answer(5, exclude, hops=hops, mode=mode, beams=beams, rank_by="item")
    check_lists(w, got, exclude)
    assert (got.items[-1] == -1).all()


def test_more_beams_never_find_a_worse_best_path() -> None:
    w = world(5, n_entities=20, n_items=12, density=0.2)
    few, many = (w.answer(1, beams=beams).scores[:-1, 0] for beams in (2, EVERYTHING))
    assert (many >= few - 1e-5).all()
    assert np.isfinite(many).all()


def test_beams_are_kept_by_score_after_each_token() -> None:
    w = world(11, n_entities=8, n_items=8, density=0.3)
    beams, hops = 3, 3
    got = w.answer(8, beams=beams, hops=hops)
    for user in range(w.n_users):
        # Only prefixes of a path to an item compete: dead ends cost no beam.
        paths = torch.tensor(all_paths(w, user, hops)).view(-1, 2 * hops + 1)
        log_probs = w.model.log_probs(paths).cumsum(1)
        for width in range(3, 2 * hops + 1):
            prefixes, of_path = paths[:, :width].unique(dim=0, return_inverse=True)
            scores = torch.full((len(prefixes),), -torch.inf)
            scores[of_path] = log_probs[:, width - 2]
            alive = torch.isin(of_path, scores.topk(min(beams, len(scores))).indices)
            paths, log_probs = paths[alive], log_probs[alive]
        expected = {int(node) for node in paths[:, -1]}
        assert {int(w.items[item]) for item in got.items[user] if item >= 0} == expected


def test_another_users_exclusions_do_not_matter() -> None:
    w = world(7, n_items=10, n_users=5, density=0.4)
    exclude = random_exclusions(w, 7)
    rows, columns = exclude.row_ids(), exclude.indices
    other = Csr.from_pairs(rows[rows != 1], columns[rows != 1], (5, 10))
    others = np.array([0, 2, 3, 4])
    for mode in ("beam", "sample"):
        first, second = (w.answer(6, x, mode=mode, beams=6, rank_by="item") for x in (exclude, other))
        same(first, second, others)


@pytest.mark.parametrize("mode", ["beam", "sample"])
@pytest.mark.parametrize(("cells", "cache"), [(1, 1), (40, 1 << 20), (1 << 20, 1)])
def test_blocks_do_not_matter(mode: str, cells: int, cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world(9, n_entities=10, n_items=10, n_users=7, density=0.3)
    exclude = random_exclusions(w, 9)
    whole = w.answer(6, exclude, mode=mode, beams=8, rank_by="item")
    monkeypatch.setattr(decode, "CELLS", cells)
    monkeypatch.setattr(decode, "CACHE_BYTES", cache)
    same(w.answer(6, exclude, mode=mode, beams=8, rank_by="item"), whole)


def test_a_users_list_does_not_depend_on_who_else_is_asked() -> None:
    w = world(17, n_entities=12, n_items=12, n_users=6, density=0.3)
    exclude, order = random_exclusions(w, 17), tie_order(12, 0)
    for mode in ("beam", "sample"):
        whole, decoder = w.answer(9, exclude, mode=mode, beams=4), w.decoder(mode=mode, beams=4)
        for users in ([3], [4, 0, 3], [5, 2, 2, 1]):
            asked = np.array(users)
            got = decoder.decode(asked, exclude.select(asked), 9, order, seed=0)
            for row, user in enumerate(users):
                assert got.items[row].tolist() == whole.items[user].tolist()
                assert got.paths[row].tolist() == whole.paths[user].tolist()


def test_the_numbers_of_lanes_are_uniform_and_independent() -> None:
    """Pairs of numbers of neighbouring seeds, users, lanes and steps fill the 8 x 8 table evenly."""
    base = uniform_numbers(3, torch.arange(40), 50, 5)
    assert 0 <= float(base.min()) < 1e-3
    assert 0.999 < float(base.max()) < 1
    pairs = [(base, uniform_numbers(4, torch.arange(40), 50, 5)), (base[1:], base[:-1])]
    pairs += [(base[:, 1:], base[:, :-1]), (base[:, :, 1:], base[:, :, :-1])]
    for first, second in pairs:
        cells = ((first * 8).long() * 8 + (second * 8).long()).flatten()
        assert stats.chisquare(torch.bincount(cells, minlength=64).numpy()).pvalue > 1e-4


def test_sampling_is_reproducible_and_depends_on_its_seed() -> None:
    w = world(13, n_entities=12, n_items=12, density=0.3)
    same(w.answer(9, mode="sample", beams=5, seed=1), w.answer(9, mode="sample", beams=5, seed=1))
    different = [w.answer(9, mode="sample", beams=5, seed=seed).paths for seed in (1, 2)]
    assert not np.array_equal(*different)


def test_many_lanes_find_everything() -> None:
    w = world(2, density=0.2)
    exclude = random_exclusions(w, 2)
    sampled = w.answer(6, exclude, mode="sample", beams=20_000, hops=2)
    same(sampled, w.answer(6, exclude, hops=2))


def test_lanes_follow_the_models_distribution() -> None:
    """The first item of single lanes, of one user under many seeds: chi-square against the restricted distribution."""
    w = world(0, n_entities=6, n_items=6, density=0.4)
    n = 250
    decoder, ask = w.decoder(mode="sample", beams=1, hops=2), (np.array([0]), Csr.empty(1, 6))
    drawn = [decoder.decode(*ask, 1, tie_order(6, 0), seed) for seed in range(n)]
    assert all((got.items >= 0).all() for got in drawn)
    paths = torch.tensor(all_paths(w, 0, 2))
    firsts = paths[:, 2].unique()
    steps = torch.stack([w.model.log_probs(paths[paths[:, 2] == node][:1])[0, 1] for node in firsts])
    expected = n * steps.softmax(0).numpy()
    observed = np.array([sum(int(got.paths[0, 0, 2]) == int(node) for got in drawn) for node in firsts])
    assert observed.sum() == n
    assert len(firsts) > 1
    assert ((observed - expected) ** 2 / expected).sum() < 25


def test_equal_scores_go_by_tie_order() -> None:
    w = world(4, n_entities=0, n_items=8, n_users=8, density=0.0)
    with torch.no_grad():
        w.model.nodes.zero_()
    got = w.answer(8, hops=3)
    order = tie_order(8, 0)
    assert (got.items[0] >= 0).sum() > 2
    for items in got.items:
        places = order[items[items >= 0]]
        assert (np.diff(places) > 0).all()


def test_a_beam_is_not_spent_on_a_dead_end() -> None:
    """Item 0 has ten entities of its own and one that leads on; a single beam takes the one that leads on."""
    entities = np.arange(11)
    graph = PathGraph.of_edges(
        np.concatenate([np.full(11, 11), [12, 13]]),
        np.concatenate([np.zeros(11, np.int64), [0, 2]]),
        np.concatenate([entities, [10, 11]]),
        n_nodes=14,
        n_forward=3,
    )
    generator = torch.Generator().manual_seed(0)
    kinds = np.repeat([0, 1, 2], [11, 2, 1])
    model = PathLM(graph.ranges, kinds, 6, BodyShape(hidden=8), softmax="range", generator=generator)
    decoder = PathDecoder(model, graph, np.array([11, 12]), 13, 2, Decoding(beams=1))
    got = decoder.decode(np.array([0]), Csr.empty(1, 2), 2, np.arange(2), seed=0)
    assert got.items.tolist() == [[1, -1]]
    assert got.paths[0, 0].tolist() == [13, 2, 11, 0, 10, 3, 12]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), hops=st.integers(1, 4))
def test_no_edge_of_a_path_to_an_item_is_left_out(seed: int, hops: int) -> None:
    w = world(seed, density=0.15)
    kept = edges_towards(w.graph, np.isin(np.arange(w.graph.n_nodes), w.items), hops)
    edges = {
        (hop, head, int(r), int(t))
        for hop, mask in enumerate(kept)
        for head in range(w.graph.n_nodes)
        for r, t, keep in zip(
            *(
                x[w.graph.indptr[head] : w.graph.indptr[head + 1]]
                for x in (w.graph.relations, w.graph.neighbours, mask)
            ),
            strict=True,
        )
        if keep
    }
    for user in range(w.n_users):
        for path in all_paths(w, user, hops):
            assert all((hop, *path[2 * hop : 2 * hop + 3]) in edges for hop in range(hops))


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([-torch.inf, -2.0, -1.0, 0.0, 3.5]), max_size=7), max_size=6),
    st.integers(1, 5),
)
def test_best_of_ragged_rows(rows: list[list[float]], k: int) -> None:
    ends = torch.tensor([0, *np.cumsum([len(row) for row in rows])], dtype=torch.int64)
    got = best(torch.tensor([x for row in rows for x in row]), ends, k).tolist()
    expected = []
    for start, row in zip(ends.tolist(), rows, strict=False):
        finite = [i for i in range(len(row)) if row[i] > -torch.inf]
        expected += sorted(start + i for i in sorted(finite, key=lambda i: (-row[i], i))[:k])
    assert got == expected


def test_draws_stay_in_their_row_and_off_impossible_candidates() -> None:
    none = -torch.inf
    scores = torch.tensor([none, 0.0, none, none, none, -80.0, none])
    ends = torch.tensor([0, 3, 3, 5, 7])
    for uniform in (0.0, 0.5, 1 - 2**-53):
        got = draw(scores, ends, torch.arange(4), torch.full((4,), uniform, dtype=torch.float64))
        assert got.tolist() == [1, -1, -1, 5]


def test_dropout_is_off_and_the_mode_is_restored() -> None:
    w = world(1, density=0.4)
    w.model.train()
    same(w.answer(5), w.answer(5))
    assert w.model.training


def test_unfit_inputs_are_refused() -> None:
    w = world(1)
    with pytest.raises(SubmissionError, match="hops >= 1"):
        Decoding(hops=0)
    with pytest.raises(SubmissionError, match="decoding mode"):
        Decoding(mode="greedy")
    with pytest.raises(SubmissionError, match="rank_by"):
        Decoding(rank_by="mean")
    with pytest.raises(SubmissionError, match="positions"):
        w.decoder(hops=7)
    with pytest.raises(SubmissionError, match="another graph"):
        world(2)._replace(model=w.model).decoder()
    with pytest.raises(SubmissionError, match="same node"):
        w._replace(items=np.full(6, 5)).decoder()
