"""The quiz that the virtual student is asked: facts of train in both directions."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.common.kge.facts import with_reciprocals
from kpi_bench.errors import SubmissionError


def split_quiz(
    triples: NDArray[np.int64], n_relations: int, kind: str, share: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Facts to train on and facts of the quiz, int64 ``[n, 3]``.

    "heldout": ``share`` of the triples, drawn with ``seed``, leave train with their reciprocals. "train_head": the first facts, as
    many as ``share`` of both directions; they are still trained on, so that the quiz asks what was taught (the authors' code).

    Raises:
        SubmissionError: nothing would be left to train on, or to ask.
    """
    if kind == "train_head":
        facts = with_reciprocals(triples, n_relations)
        return facts, facts[: max(1, int(len(facts) * share))]
    chosen = torch.zeros(len(triples), dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    size = max(1, round(len(triples) * share))
    chosen[torch.randperm(len(triples), generator=generator)[:size]] = True
    if bool(chosen.all()):
        raise SubmissionError(f"{len(triples)} triples are too few to hold {share:g} of them out as a quiz")
    held_out = chosen.numpy()
    return with_reciprocals(triples[~held_out], n_relations), with_reciprocals(triples[held_out], n_relations)


def quiz_parts(quiz: Tensor, size: int, count: int, generator: torch.Generator) -> list[Tensor]:
    """``count`` random mini-batches (0: all) of at most ``size`` facts of the quiz, without repetition."""
    order = torch.randperm(len(quiz), generator=generator, device=quiz.device)
    if count:
        order = order[: count * size]
    return [quiz[rows] for rows in order.split(size)]  # type: ignore[no-untyped-call]
