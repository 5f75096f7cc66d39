"""Trainings with shared-out entity rows that the tests run in one process and in several: ``python shard_cases.py OUT`` is one rank of the latter."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from baselines.common.config import read_config
from baselines.common.kge.knowledge import Knowledge
from baselines.common.kge.models import KgeModel
from baselines.common.kge.sharded import rank_over_shards, save_sharded
from baselines.common.kge.train import KgeConfig, train_kge
from baselines.common.parallel import Ranks
from baselines.common.shards import Shard, ShardedRows, cross_entropy
from kpi_bench import Context
from kpi_bench.errors import SubmissionError
from kpi_bench.evaluators.link_prediction import LinkPredictionIndex

N_ENTITIES, N_RELATIONS = 41, 3
BASE: dict[str, Any] = {
    "dim": 8,
    "epochs": 4,
    "batch_size": 19,
    "lr": 0.02,
    "negatives": 5,
    "eval_every": 1,
    "reg": 0.01,
}
CASES: dict[str, dict[str, Any]] = {
    "softmax": {"loss": "softmax", "bias": True},
    "grouped": {"loss": "softmax", "grouped": True, "relation_weight": 0.3, "regularizer": "n3", "model": "complex", "optimizer": "adagrad"},
    "softmax roth": {"loss": "softmax", "model": "roth", "reg": 0.0},
    "curvatures": {"loss": "softmax", "model": "refh", "relation_curvature": True, "reg": 0.0},
    "sampled": {},
    "binary": {"loss": "binary", "corrupt": "both", "model": "transe", "bias": True},
    "shared": {"loss": "binary", "shared_negatives": 6, "optimizer": "adagrad", "model": "atth"},
    "small batches": {"loss": "softmax", "batch_size": 59},  # the last of an epoch has one fact, which all ranks compute
}  # fmt: skip


def knowledge() -> Knowledge:
    """A KG whose relations move entities on, with some noise: valid triples can be learned."""
    rng = np.random.default_rng(5)
    heads, relations = rng.integers(N_ENTITIES, size=150), rng.integers(N_RELATIONS, size=150)
    tails = (heads * (relations + 1) + 3 + rng.integers(2, size=150)) % N_ENTITIES
    triples = np.unique(np.stack([heads, relations, tails], axis=1), axis=0)
    rng.shuffle(triples)
    return Knowledge(triples[20:109], N_ENTITIES, N_RELATIONS, triples[:20])


class Log:
    """What a run reports."""

    def __init__(self) -> None:
        self.curve: list[float] = []
        self.notes: dict[str, Any] = {}

    def __call__(self, kind: str, **values: Any) -> None:
        if kind == "note":
            self.notes[values["key"]] = values["value"]
        elif kind == "curve":
            self.curve.append(values["value"])


def context(log: Log, rank: int = 0, size: int = 1) -> Context:
    return Context(3, "cpu", Path("/nonexistent"), {}, log, None, rank, size)


def fit(name: str, ctx: Context, *, shard_entities: bool, **replaced: Any) -> KgeModel:
    config = read_config(KgeConfig, BASE | CASES[name] | replaced, "")
    return train_kge(knowledge(), config, ctx, description=name, shard_entities=shard_entities)


def index() -> LinkPredictionIndex:
    kg, none = knowledge(), np.empty((0, 3), np.int64)
    assert kg.valid is not None
    return LinkPredictionIndex.build(kg.triples, kg.valid, none, N_ENTITIES, N_RELATIONS, "valid")


def queries(asked: LinkPredictionIndex) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return asked.entity, asked.relation + asked.direction.astype(np.int64) * N_RELATIONS


def tied(model: KgeModel) -> KgeModel:
    """The same model with small whole numbers in its tables: full of ties, and without rounding."""
    with torch.no_grad():
        for table in model.parameters():
            table.copy_((3 * table / table.abs().mean()).round().clamp(-2, 2))
    return model


def lookups(ranks: Ranks) -> dict[str, Any]:
    """Rows and gradients of look-ups in a table of 11 rows: some ranks ask for nothing of others, for the same twice, or nothing."""
    shard = Shard(ranks, 11)
    whole = torch.arange(33.0).view(11, 3)
    table = ShardedRows.of(whole[shard.lo : shard.hi].clone(), shard)
    asked: Sequence[list[int]] = ([0, 10, 10, 3], [10, 10, 5], [], [7])
    ids = torch.tensor(asked[ranks.rank], dtype=torch.int64)
    rows = table.lookup(ids)
    (rows * (ranks.rank + 1)).sum().backward()
    assert table.grad is not None
    right = torch.equal(rows, whole[ids])
    return {"right": right, "grad": table.grad[:, 0].tolist(), "lo": shard.lo, "asked": ids.tolist()}


def entropies(ranks: Ranks) -> dict[str, Any]:
    """A cross-entropy whose targets are weighed by the ranks in turn, with scores that overflow without care."""
    shard = Shard(ranks, 7)
    scores, rows, columns = entropy_inputs()
    own = scores[:, shard.lo : shard.hi].clone().requires_grad_()
    found = cross_entropy(1 * own, rows, columns, shard)
    found[ranks.rank :: ranks.size].sum().backward()
    assert own.grad is not None
    return {"loss": found.tolist(), "grad": own.grad.tolist(), "lo": shard.lo}


def entropy_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    scores = 100 * torch.randn(4, 7, generator=generator)
    return scores, torch.tensor([0, 1, 1, 3, 3, 3]), torch.tensor([6, 0, 0, 2, 5, 3])


def refused(ranks: Ranks, ctx: Context) -> dict[str, str]:
    """What is raised: a table with fewer rows than processes, and sparse gradients."""
    told = {}
    for name, attempt in (
        ("few", lambda: Shard(ranks, ranks.size - 1)),
        ("sparse", lambda: fit("sampled", ctx, shard_entities=True, sparse_rows=True, optimizer="adagrad")),
    ):
        try:
            attempt()
        except SubmissionError as error:
            told[name] = str(error)
    return told


def main(out: Path) -> None:
    """Every case as one of the ranks; what is to be compared goes to ``out``."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    report: dict[str, Any] = {}
    for name in CASES:
        log = Log()
        ctx = context(log, rank, size)
        model = fit(name, ctx, shard_entities=True)
        ranks = Ranks.of(ctx)
        shard = Shard(ranks, N_ENTITIES)
        save_sharded(model, shard, out / f"{name}.safetensors")
        report[name] = {"curve": log.curve, "notes": log.notes, "numel": model.entities.numel()}
        # The scores of all ranks side by side are what the evaluator has to rank.
        asked = index()
        found = rank_over_shards(model, shard, asked, *queries(asked))
        assert found is not None
        report[name]["ranks"] = [found.optimistic.tolist(), found.pessimistic.tolist()]
        if size > 1 and name == "sampled":
            plain = fit(name, context(Log(), rank, size), shard_entities=False)
            if rank == 0:
                save_file(plain.state_dict(), out / "plain.safetensors")
    exact = tied(fit("sampled", context(Log(), rank, size), shard_entities=True))
    found = rank_over_shards(exact, shard, asked, *queries(asked))
    assert found is not None
    report["tied"] = [found.optimistic.tolist(), found.pessimistic.tolist()]
    save_sharded(exact, shard, out / "tied.safetensors")
    with torch.no_grad():
        exact.entities[-1 if rank == size - 1 else 0, 0] += torch.nan if rank == size - 1 else 0.0
    report["nan"] = rank_over_shards(exact, shard, asked, *queries(asked)) is None
    report |= {"lookups": lookups(ranks), "entropies": entropies(ranks), "refused": refused(ranks, ctx)}
    (out / f"rank{rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
