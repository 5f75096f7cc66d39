"""Parameters ``pkgm_*`` of the submission."""

from __future__ import annotations

from dataclasses import dataclass

from baselines.common.config import check_fields


@dataclass(frozen=True)
class PkgmConfig:
    """``negatives`` corrupted triples a triple; ``margin`` is in units of the L1 score; ``key_relations`` is the k of the service
    vectors."""

    dim: int = 64
    epochs: int = 60
    batch_size: int = 4096
    negatives: int = 1
    margin: float = 8.0
    lr: float = 5e-3
    key_relations: int = 10

    def __post_init__(self) -> None:
        check_fields(
            self,
            at_least_one=("dim", "epochs", "batch_size", "negatives", "key_relations"),
            positive=("margin", "lr"),
        )
