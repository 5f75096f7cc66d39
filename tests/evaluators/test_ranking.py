"""Ranking kernels against a pure-Python twin, for every backend."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpi_bench._csr import Csr
from kpi_bench.errors import EvaluationError
from kpi_bench.evaluators import _keys, ranking

BACKENDS = ["numba", "torch"] if ranking.numba_available() else ["torch"]


@st.composite
def cases(draw):
    """Small integer-valued scores (many ties), positives, and masks that spare the positives."""
    n_rows, n_columns = draw(st.integers(1, 6)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([1, 3, 1000]))
    scores = rng.integers(-levels, levels, (n_rows, n_columns)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.05] = -0.0
    kind = rng.random((n_rows, n_columns))
    return scores, kind < 0.15, kind > 0.8


def csr(dense):
    return Csr.from_pairs(*np.nonzero(dense), dense.shape)


def slow_ties(scores, positives, filters):
    greater, equal = [], []
    for row, wanted, known in zip(scores.tolist(), positives, filters, strict=True):
        for p in np.flatnonzero(wanted):
            others = [s for j, s in enumerate(row) if j != p and not known[j]]
            greater.append(sum(s > row[p] for s in others))
            equal.append(sum(s == row[p] for s in others))
    return greater, equal


def slow_lists(scores, masked, order):
    return [
        sorted((j for j in range(len(row)) if not out[j]), key=lambda j, row=row: (-row[j], order[j]))
        for row, out in zip(scores.tolist(), masked, strict=True)
    ]


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_ties_equal_the_slow_twin(backend, case):
    scores, positives, masked = case
    filters = positives | masked
    expected = slow_ties(scores, positives, filters)
    blocks = [scores[:2], scores[2:]]
    counts = ranking.count_ties_from_scores(blocks, csr(positives), csr(filters), backend=backend)
    assert (counts.greater.tolist(), counts.equal.tolist()) == expected


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(case=cases(), k=st.integers(1, 60))
def test_lists_and_ranks_equal_the_slow_twin(backend, case, k):
    scores, positives, masked = case
    order = ranking.tie_order(scores.shape[1], 7)
    lists = slow_lists(scores, masked, order)
    top = ranking.top_k_from_scores(scores, csr(masked), k, order, backend=backend)
    padded = [(found + [-1] * k)[:k] for found in lists]
    assert top.items.tolist() == padded
    values = [[scores[b, i] if i >= 0 else -np.inf for i in row] for b, row in enumerate(padded)]
    np.testing.assert_array_equal(top.scores, np.array(values, np.float32).reshape(top.scores.shape))
    one_hot = np.eye(scores.shape[1], dtype=np.float32)
    factors = (scores, one_hot)
    again = ranking.top_k_from_factors(*factors, csr(masked), k, order, backend=backend)
    np.testing.assert_array_equal(again.items, top.items)
    ranks = ranking.rank_positives_from_factors(*factors, csr(positives), csr(masked), order, backend=backend)
    expected = [lists[b].index(p) + 1 for b in range(len(scores)) for p in np.flatnonzero(positives[b])]
    assert ranks.tolist() == expected
    blocks = [scores[:2], scores[2:2], scores[2:]]
    given = ranking.rank_positives_from_scores(blocks, csr(positives), csr(masked), order, backend=backend)
    assert given.tolist() == expected


def big_case(seed=0, n_users=300, n_items=6000, d=8):
    rng = np.random.default_rng(seed)
    users = rng.integers(-3, 4, (n_users, d)).astype(np.float32)
    items = rng.integers(-3, 4, (n_items, d)).astype(np.float32)
    kind = rng.random((n_users, n_items))
    return users, items, csr(kind < 0.002), csr(kind > 0.99)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sorted_items", [False, True])
def test_several_blocks_sampled_floor_and_long_ties(backend, sorted_items):
    users, items, positives, masked = big_case()
    if sorted_items:  # the sampled floor is then far too low or too high
        order = np.argsort(np.argsort(-(items @ users[0]), kind="stable"))
    else:
        order = ranking.tie_order(len(items), 1)
    scores = users @ items.T
    top = ranking.top_k_from_factors(users, items, masked, 50, order, backend=backend)
    ranks = ranking.rank_positives_from_factors(users, items, positives, masked, order, backend=backend)
    for u in range(0, len(users), 17):
        line = np.lexsort((order, -scores[u]))
        line = line[~np.isin(line, masked.row(u))]
        np.testing.assert_array_equal(top.items[u], line[:50])
        np.testing.assert_array_equal(
            line[ranks[positives.indptr[u] : positives.indptr[u + 1]] - 1], positives.row(u)
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_user_ids_pick_rows_in_order(backend):
    users, items, positives, masked = big_case(n_users=40, n_items=500)
    order, some = ranking.tie_order(500, "s"), np.array([7, 3, 39, 3])
    every = ranking.top_k_from_factors(users, items, masked, 9, order, backend=backend)
    part = ranking.top_k_from_factors(users, items, masked, 9, order, user_ids=some, backend=backend)
    np.testing.assert_array_equal(part.items, every.items[some])
    ranks = ranking.rank_positives_from_factors(users, items, positives, masked, order, backend=backend)
    picked = ranking.rank_positives_from_factors(
        users, items, positives, masked, order, user_ids=some, backend=backend
    )
    expected = [ranks[positives.indptr[u] : positives.indptr[u + 1]] for u in some]
    np.testing.assert_array_equal(picked, np.concatenate(expected))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("masked_cell", [False, True])
def test_nan_and_inf_are_refused_with_count_and_place(backend, value, masked_cell):
    rng = np.random.default_rng(3)
    scores = rng.standard_normal((5, 40)).astype(np.float32)
    scores[3, 11] = scores[4, 2] = value
    mask = np.zeros(scores.shape, bool)
    mask[0, 5] = True
    mask[3, 11] = masked_cell
    positives = np.zeros(scores.shape, bool)
    positives[:, 1] = True
    order = ranking.tie_order(40, 0)
    message = r"2 scores in rows 0\.\.4 .* row 3, column 11"
    with pytest.raises(EvaluationError, match=message):
        ranking.count_ties_from_scores([scores], csr(positives), csr(positives | mask), backend=backend)
    with pytest.raises(EvaluationError, match=message):
        ranking.top_k_from_scores(scores, csr(mask), 3, order, backend=backend)
    with pytest.raises(EvaluationError, match=message):
        ranking.rank_positives_from_scores([scores], csr(positives), csr(mask), order, backend=backend)
    if np.isnan(value):  # inf times the zeros of a one-hot table would itself be NaN everywhere
        items = np.eye(40, dtype=np.float32)[:, :40]
        with pytest.raises(EvaluationError, match="row 3"):
            ranking.rank_positives_from_factors(
                scores, items, csr(positives), csr(mask), order, backend=backend
            )


def test_largest_finite_scores_are_accepted_although_their_sum_overflows():
    scores = np.full((2, 8), np.finfo(np.float32).max, dtype=np.float32)
    for backend in BACKENDS:
        top = ranking.top_k_from_scores(scores, Csr.empty(2, 8), 8, np.arange(8), backend=backend)
        assert top.items.tolist() == [list(range(8))] * 2


def test_given_scores_are_not_changed_and_may_be_read_only():
    scores = np.random.default_rng(0).standard_normal((4, 30)).astype(np.float32)
    kept = scores.copy()
    scores.flags.writeable = False
    mask, order = csr(kept > 1), ranking.tie_order(30, 0)
    for backend in BACKENDS:
        ranking.top_k_from_scores(scores, mask, 5, order, backend=backend)
        ranking.count_ties_from_scores([scores], csr(kept < -1), mask, backend=backend)
        ranking.rank_positives_from_scores([scores], csr(kept < -1), mask, order, backend=backend)
    np.testing.assert_array_equal(scores, kept)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([np.zeros((2, 4))], "must be float32"),
        ([np.zeros((2, 5), np.float32)], r"\[rows, 4\]"),
        ([np.zeros((1, 4), np.float32)], "1 rows where 2"),
        ([np.zeros((2, 4), np.float32)] * 2, "more than the 2 rows"),
    ],
)
def test_blocks_of_wrong_shape_are_refused(blocks, message):
    with pytest.raises(EvaluationError, match=message):
        ranking.count_ties_from_scores(blocks, Csr.empty(2, 4), Csr.empty(2, 4))
    with pytest.raises(EvaluationError, match=message):
        ranking.rank_positives_from_scores(blocks, Csr.empty(2, 4), Csr.empty(2, 4), np.arange(4))


def test_wrong_arguments_are_refused():
    users, items = np.zeros((2, 3), np.float32), np.zeros((4, 3), np.float32)
    none, order = Csr.empty(2, 4), np.arange(4)
    with pytest.raises(EvaluationError, match="do not give"):
        ranking.top_k_from_factors(users, items[:3], none, 1, order)
    with pytest.raises(EvaluationError, match="float32"):
        ranking.top_k_from_factors(users.astype(float), items, none, 1, order)
    with pytest.raises(EvaluationError, match="at least 1"):
        ranking.top_k_from_factors(users, items, none, 0, order)
    with pytest.raises(EvaluationError, match="backend must be one of"):
        ranking.top_k_from_factors(users, items, none, 1, order, backend="jax")
    both = Csr.from_pairs([1], [2], (2, 4))
    with pytest.raises(EvaluationError, match=r"1 positives are excluded.*item 2 in row 1"):
        ranking.rank_positives_from_factors(users, items, both, both, order)
    with pytest.raises(EvaluationError, match=r"1 positives are excluded.*item 2 in row 1"):
        ranking.rank_positives_from_scores([users @ items.T], both, both, order)


def test_tie_order_is_a_fixed_permutation():
    order = ranking.tie_order(1000, "kpi-open")
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert ranking.tie_order(8, 0).tolist() == [0, 4, 5, 1, 6, 3, 2, 7]  # as on the day it was published
    assert not np.array_equal(order, ranking.tie_order(1000, "kpi-mini"))
    shorter = ranking.tie_order(500, "kpi-open")
    np.testing.assert_array_equal(np.argsort(shorter), [i for i in np.argsort(order) if i < 500])
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1


def test_keys_order_like_score_then_lower_column():
    scores = np.array([-np.float32(3e38), -1, -1e-40, -0.0, 0.0, 1e-40, 1, 3e38], np.float32)
    columns = np.arange(len(scores))[::-1].copy()
    keys = _keys.encode(scores, columns)
    assert (np.diff(keys) > 0).all()
    back, places = _keys.decode(keys)
    np.testing.assert_array_equal(back, scores)
    np.testing.assert_array_equal(places, columns)


def test_torch_kernels_for_devices_agree_with_the_cpu():
    """``_device_kernels`` on CPU tensors: the code that an accelerator runs."""
    from kpi_bench.evaluators import _array_kernels, _device_kernels

    users, items, positives, masked = big_case(n_users=30, n_items=700)
    scores = users @ items.T
    wanted, known = positives.indices.astype(np.int64), masked.indices.astype(np.int64)
    results = []
    for module, convert in (
        (_array_kernels, np.copy),
        (_device_kernels, lambda s: torch.from_numpy(s.copy())),
    ):
        greater, equal, ranks = (np.zeros(positives.nnz, np.int64) for _ in range(3))
        keys = np.full((30, 25), _keys.EMPTY)
        given, mask = (positives.indptr, wanted), (masked.indptr, known)
        assert module.count_block(convert(scores), 0, *given, *mask, greater, equal) == 0
        assert module.rank_block(convert(scores), 0, *given, *mask, ranks) == 0
        assert module.select_block(convert(scores), 0, *mask, keys) == 0
        results.append((greater, equal, ranks, np.sort(keys)))
    for left, right in zip(*results, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu():
    users, items, positives, masked = big_case()
    order = ranking.tie_order(len(items), 0)
    for device in ("cpu", "cuda"):
        top = ranking.top_k_from_factors(users, items, masked, 50, order, device=device, backend="torch")
        ranks = ranking.rank_positives_from_factors(
            users, items, positives, masked, order, device=device, backend="torch"
        )
        if device == "cpu":
            expected = (top.items, ranks)
    np.testing.assert_array_equal(top.items, expected[0])
    np.testing.assert_array_equal(ranks, expected[1])
