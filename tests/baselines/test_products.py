from __future__ import annotations

import pytest
import torch

from baselines.common.products import product


@pytest.mark.parametrize(
    ("m", "k", "n"), [(1, 1, 1), (7, 64, 301), (128, 3, 5), (0, 4, 3), (3, 4, 0), (3, 0, 4)]
)
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
def test_a_product_is_the_one_of_float64(m: int, k: int, n: int, turned: tuple[bool, bool]) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(m, k, generator=generator), torch.randn(k, n, generator=generator)
    # The same values, columns side by side in memory.
    a, b = (x.T.contiguous().T if turn else x for x, turn in zip((a, b), turned, strict=True))
    found = product(a, b)
    assert found.shape == (m, n)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), a.double() @ b.double(), rtol=1e-5, atol=1e-5)


def test_the_same_product_twice() -> None:
    a, b = torch.randn(33, 64), torch.randn(64, 1000)
    assert torch.equal(product(a, b), product(a, b))


def test_other_kinds_are_left_to_torch() -> None:
    a, b = torch.randn(3, 4, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    assert torch.equal(product(a, b), a @ b)
