"""The Poincaré ball against its literal formulas in float64; identities of its operations."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baselines.common.kge.geometry import (
    EDGE,
    exp0,
    mobius_add,
    project,
    reflect,
    rotate,
    squared_distance,
)
from baselines.common.kge.hyperbolic import fold_points, fold_queries

seeds = st.integers(0, 2**32 - 1)
curvatures = st.floats(0.05, 5).map(lambda c: torch.tensor([[c]], dtype=torch.float64))
relaxed = settings(deadline=None, max_examples=50)
pairs = st.integers(1, 4).map(lambda half: 2 * half)


def vectors(seed: int, count: int, dim: int, norm: float) -> list[Tensor]:
    """Random directions with lengths uniform in [0, norm], float64 ``[5, dim]`` each."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(count, 5, dim, generator=generator, dtype=torch.float64)
    length = norm * torch.rand(count, 5, 1, generator=generator, dtype=torch.float64)
    return list(draw / draw.norm(dim=-1, keepdim=True) * length)


def literal_distance(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """(2 / sqrt c) artanh(sqrt c |(-x) + y|), written out; ``[..., 1]``."""
    xy, xx, yy = (
        -(x * y).sum(-1, keepdim=True),
        x.square().sum(-1, keepdim=True),
        y.square().sum(-1, keepdim=True),
    )
    difference = ((1 + 2 * c * xy + c * yy) * -x + (1 - c * xx) * y) / (1 + 2 * c * xy + c**2 * xx * yy)
    return 2 / c.sqrt() * torch.atanh(c.sqrt() * difference.norm(dim=-1, keepdim=True))


def package_distance(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    room_x, room_y = (1 - c * point.square().sum(-1, keepdim=True) for point in (x, y))
    return squared_distance(c * (x - y).square().sum(-1, keepdim=True) / (room_x * room_y), c)


@relaxed
@given(seed=seeds, c=curvatures, dim=st.integers(1, 8))
def test_exp0_keeps_directions_and_lengths_are_tanh(seed: int, c: Tensor, dim: int) -> None:
    (tangent,) = vectors(seed, 1, dim, 3.0 / math.sqrt(c.item()))
    point = exp0(tangent, c)
    norm = tangent.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(point, tangent / norm * torch.tanh(c.sqrt() * norm) / c.sqrt())


@relaxed
@given(seed=seeds, c=curvatures, dtype=st.sampled_from([torch.float32, torch.float64]))
def test_points_stay_inside_the_ball_whatever_the_input(seed: int, c: Tensor, dtype: torch.dtype) -> None:
    x, y = (exp0(tangent.to(dtype), c.to(dtype)) for tangent in vectors(seed, 2, 4, 1e4))
    for point in (x, y, mobius_add(x, y, c.to(dtype)), project(1e3 * x, c.to(dtype))):
        assert bool((c.sqrt() * point.norm(dim=-1, keepdim=True) <= 1 - EDGE + 1e-6).all())


def test_origin_maps_to_itself_with_the_identity_as_gradient() -> None:
    c = torch.tensor([[1.3]])
    jacobian = torch.autograd.functional.jacobian(lambda x: exp0(x, c)[0], torch.zeros(3))
    torch.testing.assert_close(jacobian, torch.eye(3))
    assert torch.equal(exp0(torch.zeros(2, 3), c), torch.zeros(2, 3))


@relaxed
@given(seed=seeds, c=curvatures)
def test_projection_keeps_directions_and_inner_points(seed: int, c: Tensor) -> None:
    (point,) = vectors(seed, 1, 4, 2 / math.sqrt(c.item()))
    projected, radius = project(point, c), (1 - EDGE) / c.sqrt()
    inside = (point.norm(dim=-1, keepdim=True) <= radius).squeeze(-1)
    assert torch.equal(projected[inside], point[inside])
    expected = point / point.norm(dim=-1, keepdim=True) * radius
    torch.testing.assert_close(projected[~inside], expected[~inside])


@relaxed
@given(seed=seeds, c=curvatures, dim=st.integers(1, 8))
def test_mobius_addition_has_a_zero_inverses_and_left_cancellation(seed: int, c: Tensor, dim: int) -> None:
    x, y = vectors(seed, 2, dim, 0.7 / math.sqrt(c.item()))
    zero = torch.zeros_like(x)
    torch.testing.assert_close(mobius_add(x, zero, c), x)
    torch.testing.assert_close(mobius_add(zero, x, c), x)
    torch.testing.assert_close(mobius_add(-x, x, c), zero)
    torch.testing.assert_close(mobius_add(-x, mobius_add(x, y, c), c), y)
    torch.testing.assert_close(mobius_add(x, y, c).norm(dim=-1), mobius_add(y, x, c).norm(dim=-1))


@relaxed
@given(seed=seeds, c=curvatures, dim=st.integers(1, 8))
def test_squared_distance_and_its_gradients_are_the_literal_ones(seed: int, c: Tensor, dim: int) -> None:
    x, y = vectors(seed, 2, dim, 0.95 / math.sqrt(c.item()))
    inputs = [value.clone().requires_grad_() for value in (x, y, c)]
    ours, literal = package_distance(*inputs), literal_distance(*inputs).square()
    torch.testing.assert_close(ours, literal, rtol=1e-7, atol=1e-9)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = [torch.autograd.grad((value * weight).sum(), inputs) for value in (ours, literal)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


@relaxed
@given(seed=seeds, c=curvatures, dim=st.integers(1, 8))
def test_folded_vectors_have_the_stretch_of_all_pairs_as_inner_products(
    seed: int, c: Tensor, dim: int
) -> None:
    x, y = vectors(seed, 2, dim, 0.9 / math.sqrt(c.item()))
    left, right = fold_queries(x, c), fold_points(y[:3], c)
    assert left.shape[1] == right.shape[1] == dim + 2
    expected = torch.cat([literal_distance(x, point, c) for point in y[:3]], dim=1).square()
    # The stretch is a difference: what is lost next to a distance of zero is lost to rounding.
    torch.testing.assert_close(squared_distance(left @ right.T, c), expected, rtol=1e-7, atol=1e-9)
    own = fold_points(torch.stack([y, x], dim=1), c)
    torch.testing.assert_close(own[:3, 0], right)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coinciding_points_have_no_distance_and_no_gradient(dtype: torch.dtype) -> None:
    c = torch.tensor([[0.7]], dtype=dtype, requires_grad=True)
    x = torch.tensor([[0.3, -0.4], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    distance = package_distance(x, y, c)
    assert distance.abs().max() < 1e-11
    distance.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert torch.equal(y.grad, torch.zeros_like(y))
    assert c.grad.abs().item() < 1e-10


@relaxed
@given(seed=seeds, dim=pairs)
def test_rotations_and_reflections_keep_norms_and_reflecting_twice_does_nothing(seed: int, dim: int) -> None:
    x, y, turn = vectors(seed, 3, dim, 2.0)
    for turned, other in ((rotate(turn, x), rotate(turn, y)), (reflect(turn, x), reflect(turn, y))):
        torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
        torch.testing.assert_close((turned * other).sum(-1), (x * y).sum(-1))
    torch.testing.assert_close(reflect(turn, reflect(turn, x)), x)


@pytest.mark.parametrize("degrees", [0, 30, 90, 200])
def test_a_direction_is_an_angle_whatever_its_length(degrees: int) -> None:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn, x = torch.tensor([3 * cos, 3 * sin]), torch.tensor([0.6, -1.1])
    torch.testing.assert_close(rotate(turn, x), torch.tensor([[cos, -sin], [sin, cos]]) @ x)
    torch.testing.assert_close(reflect(turn, x), torch.tensor([[cos, sin], [sin, -cos]]) @ x)
