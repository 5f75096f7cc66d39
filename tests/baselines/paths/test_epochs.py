"""Epochs of sampled paths: each path once, in an order of the seed, new ones where asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from baseline_factory import context
from path_factory import Numbered, sorted_rows
from torch import Tensor

from baselines.common.paths.epochs import Corpus


def epochs_of(
    sample: Numbered, scratch: Path, n: int, seed: int = 1, *, batch_size: int = 64, resample: bool = True
) -> list[list[Tensor]]:
    corpus = Corpus(
        sample, context(seed, scratch), batch_size=batch_size, resample=resample, description="numbered"
    )
    epochs = [list(corpus.epoch()) for _ in range(n)]
    assert all(len(epoch) == len(corpus) for epoch in epochs)
    return epochs


@pytest.mark.parametrize("resample", [True, False])
def test_new_paths_in_each_epoch_only_where_asked_for(resample: bool, tmp_path: Path) -> None:
    sample = Numbered(50)
    epochs = epochs_of(sample, tmp_path, 3, batch_size=8, resample=resample)
    wanted = [0, 1, 2] if resample else [0, 0, 0]
    assert [sorted_rows(epoch) for epoch in epochs] == [sample.rows(number).tolist() for number in wanted]
    assert sample.asked == sorted(set(wanted))


def test_an_epoch_is_a_permutation_and_the_next_another(tmp_path: Path) -> None:
    sample = Numbered(1000)
    epochs = epochs_of(sample, tmp_path, 3, batch_size=64, resample=False)
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [64] * 15 + [40]
        assert sorted_rows(epoch) == sample.rows(0).tolist()
        # A batch is a choice among all paths, and no run of neighbours.
        assert all(np.ptp(batch[:, 1].numpy()) > 500 for batch in epoch)
    firsts = [set(epoch[0][:, 1].tolist()) for epoch in epochs]
    assert max(len(firsts[i] & firsts[j]) for i, j in ((0, 1), (0, 2), (1, 2))) < 32


def test_the_order_of_paths_follows_the_seed(tmp_path: Path) -> None:
    first, again, other = (
        torch.cat(epochs_of(Numbered(100), tmp_path, 1, seed)[0]).tolist() for seed in (1, 1, 2)
    )
    assert first == again != other
