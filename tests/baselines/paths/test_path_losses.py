"""Cross-entropy in closed form over groups of candidates, against autograd of the plain form."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baselines.common.paths.losses import normalisers, softmax_sum


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_softmax_sum_over_any_groups(data: st.DataObject) -> None:
    n, d = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, dtype=torch.float64, generator=generator).requires_grad_()

    table = draw(n, d)
    extra = draw(2, d) if data.draw(st.booleans()) else None
    groups, columns = [], []
    for _ in range(data.draw(st.integers(0, 4))):
        members = data.draw(st.none() | st.lists(st.integers(0, n - 1), min_size=1, unique=True))
        width = (n if members is None else len(members)) + (0 if extra is None else 2)
        targets = data.draw(st.lists(st.integers(0, width - 1), max_size=4))
        groups.append((len(targets), None if members is None else torch.tensor(members)))
        columns += targets
    queries = draw(len(columns), d)
    inputs = [x for x in (queries, table, extra) if x is not None]

    rows = [members for count, members in groups for _ in range(count)]
    plain, sums = queries.sum() * 0, []
    for query, members, column in zip(queries, rows, columns, strict=True):
        candidates = table if members is None else table[members]
        scores = (candidates if extra is None else torch.cat([candidates, extra])) @ query
        plain = plain - scores.log_softmax(0)[column]
        sums.append(scores.logsumexp(0))
    targets = torch.tensor(columns, dtype=torch.int64)
    value = softmax_sum(queries, table, groups, targets, extra)
    torch.testing.assert_close(value, plain)
    weight = 1.7
    expected = torch.autograd.grad(weight * plain, inputs, allow_unused=True, materialize_grads=True)
    for own, other in zip(torch.autograd.grad(weight * value, inputs), expected, strict=True):
        torch.testing.assert_close(own, other)
    expected_sums = torch.stack(sums) if sums else queries.new_zeros(0)
    torch.testing.assert_close(normalisers(queries, table, groups, extra), expected_sums.detach())


def test_extreme_scores_stay_finite() -> None:
    table = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    queries = torch.tensor([[2.0], [2.0]], requires_grad=True)
    value = softmax_sum(queries, table, [(2, None)], torch.tensor([0, 1]))
    value.backward()
    assert math.isfinite(value.item())
    torch.testing.assert_close(table.grad, torch.tensor([[2.0], [-2.0]]))
    torch.testing.assert_close(queries.grad, torch.tensor([[0.0], [600.0]]))
