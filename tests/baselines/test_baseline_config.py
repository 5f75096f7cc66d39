"""What ``check_fields`` refuses, and in which words."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

import pytest

from baselines.common.config import check_fields
from kpi_bench.errors import SubmissionError


@dataclass(frozen=True)
class Shape:
    kind: str = "a"
    layers: int = 1
    decay: float = 0.0
    lr: float = 0.1
    dropout: float = 0.5
    width: int = 12
    heads: int = 3

    def __post_init__(self) -> None:
        check_fields(
            self,
            choices={"kind": ("a", "b")},
            at_least_one=("layers",),
            not_negative=("decay",),
            positive=("lr",),
            shares={"dropout": 0.9},
            multiples={"width": "heads"},
        )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("kind", "c", "kind = 'c'; use one of a, b"),
        ("layers", 0, "layers = 0; it must be at least 1"),
        ("decay", -0.1, "decay = -0.1; it must not be negative"),
        ("lr", 0.0, "lr = 0.0; it must be positive"),
        ("dropout", 0.91, "dropout = 0.91; it must be between 0 and 0.9"),
        ("dropout", -0.1, "dropout = -0.1; it must be between 0 and 0.9"),
        ("width", 13, "width = 13; it must be a multiple of heads = 3"),
        ("decay", nan, "decay = nan; it must not be negative"),
        ("lr", nan, "lr = nan; it must be positive"),
        ("dropout", nan, "dropout = nan; it must be between 0 and 0.9"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_rule(name: str, value: object, message: str) -> None:
    with pytest.raises(SubmissionError) as caught:
        Shape(**{name: value})
    assert str(caught.value) == message


def test_bounds_themselves_are_allowed() -> None:
    Shape(kind="b", layers=1, decay=0.0, lr=1e-9, dropout=0.9, width=3, heads=3)
    Shape(dropout=0.0)
