"""Pre-trainings that the tests run in one process and in several: ``python rank_cases.py SUITE OUT`` is one rank of the latter."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from baselines.common.parallel import Ranks
from baselines.common.submission import TaskSubmission
from baselines.common.training import Fit, Schedule, gradient_step, train
from baselines.jplr.submission import Jplr
from baselines.jplr.union import UnionGraph
from baselines.kgglm.submission import KGGLM
from baselines.mudok.submission import MuDoK
from baselines.mulde.submission import Mulde
from baselines.pkgm.submission import PKGM
from baselines.reference.kg_embedding import KgEmbedding
from kpi_bench import Context, KnowledgeGraph
from kpi_bench.errors import SubmissionError
from kpi_bench.suites.suite import Suite, open_suite


class LinkedJplr(Jplr):
    """The first entities of the first two KGs are linked."""

    def _union(self, name: str, graphs: Mapping[str, KnowledgeGraph], seed: int) -> UnionGraph:
        first = np.arange(4)
        links = np.stack([first, first + next(iter(graphs.values())).n_entities], axis=1)
        return UnionGraph.of({kg: graphs[kg] for kg in graphs}, links)


KGE = {"kge_dim": 8, "kge_epochs": 3, "kge_batch_size": 7, "kge_negatives": 5, "kge_lr": 0.01}
KGGLM_ = {
    "kgglm_hidden": 8, "kgglm_layers": 1, "kgglm_heads": 1, "kgglm_pretrain_epochs": 2, "kgglm_pretrain_walks": 2,
    "kgglm_batch_size": 11, "kgglm_dropout": 0.0,
}  # fmt: skip
JPLR = {
    "jplr_teacher_hidden": 8, "jplr_teacher_layers": 1, "jplr_teacher_heads": 1, "jplr_teacher_epochs": 2, "jplr_negatives": 8,
    "jplr_batch_size": 13, "jplr_precision": "float32", "jplr_dropout": 0.0, "jplr_later_weight": 0.3,
}  # fmt: skip
MUDOK = {
    "mudok_slots": 4, "mudok_hidden": 16, "mudok_layers": 2, "mudok_heads": 2, "mudok_ffn": 24, "mudok_epochs": 2, "mudok_batch_size": 7,
    "mudok_lr": 0.002, "mudok_text": "hashed", "mudok_text_dim": 16, "mudok_dropout": 0.0, "mudok_knowledge_weight": 0.5,
}  # fmt: skip

MULDE = {
    **{f"{prefix}_{key}": value for prefix in ("kge", "teacher") for key, value in (("epochs", 2), ("batch_size", 7), ("lr", 0.01), ("dim", 8))},
    "mulde_teachers": "disth,transh", "mulde_top_k": 4, "mulde_pool": 6, "mulde_max_candidates": 5, "kge_model": "roth",
}  # fmt: skip

METHODS: dict[str, tuple[type[TaskSubmission], dict[str, Any]]] = {
    "kge sampled": (KgEmbedding, KGE),
    "kge binary": (KgEmbedding, KGE | {"kge_loss": "binary", "kge_corrupt": "both", "kge_optimizer": "adagrad"}),
    "kge binary shared": (KgEmbedding, KGE | {"kge_loss": "binary", "kge_shared_negatives": 6, "kge_model": "transe"}),
    "kge softmax": (
        KgEmbedding,
        KGE | {"kge_loss": "softmax", "kge_grouped": True, "kge_relation_weight": 0.3, "kge_regularizer": "n3"},
    ),
    "pkgm": (PKGM, {"pkgm_dim": 8, "pkgm_epochs": 3, "pkgm_batch_size": 8, "pkgm_negatives": 2}),
    "kgglm range": (KGGLM, KGGLM_),
    "kgglm full": (KGGLM, KGGLM_ | {"kgglm_softmax": "full"}),
    "jplr": (LinkedJplr, JPLR),
    "mulde": (Mulde, MULDE),
    "mulde random": (Mulde, MULDE | {"mulde_asking": "random"}),
    "mudok": (MuDoK, MUDOK | {"mudok_mask_false_negatives": True}),
    "mudok code": (MuDoK, MUDOK | {"mudok_variant": "code", "mudok_scope": "joint"}),
}  # fmt: skip
DROPOUT: dict[str, tuple[type[TaskSubmission], dict[str, Any]]] = {
    "kgglm dropout": (KGGLM, KGGLM_ | {"kgglm_dropout": 0.3})
}


class Line(nn.Module):
    """A line through points, a scale that only rows of large x move, and a parameter that nothing moves."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 0.5))
        self.scale = nn.Parameter(torch.ones(()))
        self.idle = nn.Parameter(torch.ones(2))

    def errors(self, points: Tensor) -> Tensor:
        x, y = points[:, :3], points[:, 3]
        found = x @ self.weight
        large = x[:, 0] > 0.8
        if bool(large.any()):
            found = torch.where(large, found * self.scale, found)
        return (found - y).square()


def fit_line(ctx: Context, seen: dict[str, int] | None = None) -> tuple[Line, Fit]:
    """A few epochs with weight decay; a batch of one row is there, and too high a rate makes early stopping end the training."""
    ranks, model = Ranks.of(ctx), Line()
    if ctx.rank:
        model.weight.data.add_(1.0)  # another start, which is not kept
    points = torch.rand(25, 4, generator=torch.Generator().manual_seed(0))
    sampler = torch.Generator().manual_seed(ctx.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.25, weight_decay=0.1)

    def epoch() -> Iterator[Tensor]:
        return iter(points[torch.randperm(25, generator=sampler)].split(6))

    def loss(batch: Tensor) -> Tensor:
        part = ranks.part(len(batch))
        return part.weigh(model.errors(batch[part.rows]).mean())

    def evaluate() -> float:
        if seen is not None:
            seen["evaluated"] = seen.get("evaluated", 0) + 1
        return -float(model.errors(points).mean())

    step = gradient_step(loss, optimizer, clip=model.parameters(), clip_norm=0.5, ranks=ranks)
    fit = train(
        model,
        epoch=epoch,
        step=step,
        evaluate=evaluate,
        schedule=Schedule(40, patience=3),
        ctx=ctx,
        metric="loss",
        description="line",
    )
    return model, fit


def diverge(ctx: Context) -> None:
    """A training whose ranks do not exchange gradients."""
    model = Line()
    points = torch.rand(8, 4, generator=torch.Generator().manual_seed(ctx.rank))
    train(
        model,
        epoch=lambda: [points],
        step=gradient_step(
            lambda rows: model.errors(rows).mean(), torch.optim.SGD(model.parameters(), lr=0.1)
        ),
        evaluate=None,
        schedule=Schedule(1),
        ctx=ctx,
        metric="",
        description="apart",
    )


def sparse(ctx: Context) -> None:
    """A training with sparse gradients."""
    settings = KGE | {"kge_sparse_rows": True, "kge_optimizer": "adagrad"}
    KgEmbedding(settings).pretrain(ctx.graphs, ctx)


def pretrain(suite: Suite, name: str, ctx: Context, out: Path) -> None:
    """Run a case and save what it leaves in ``out/<name>`` as rank 0."""
    cls, settings = (METHODS | DROPOUT)[name]
    submission = cls(settings)
    submission.pretrain(ctx.graphs, ctx)
    if ctx.rank == 0:
        (out / name).mkdir()
        submission.save_pretrained(out / name)


class Log:
    """What a run reports."""

    def __init__(self) -> None:
        self.notes: dict[str, Any] = {}
        self.curve: list[tuple[int, float]] = []

    def __call__(self, kind: str, **values: Any) -> None:
        if kind == "note":
            self.notes[values["key"]] = values["value"]
        elif kind == "curve":
            self.curve.append((values["step"], values["value"]))


def context(suite: Suite, scratch: Path, log: Log, rank: int = 0, size: int = 1) -> Context:
    graphs = {name: suite.graph(name) for name in suite.graph_names()}
    scratch.mkdir(parents=True, exist_ok=True)
    return Context(3, "cpu", scratch, graphs, log, scratch / "cache", rank, size)


def main(suite: Suite, out: Path) -> None:
    """Every case as one of the ranks; what is to be compared goes to ``out``."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    log, seen = Log(), {"evaluated": 0}
    ctx = context(suite, out / "scratch", log, rank, size)
    model, fit = fit_line(ctx, seen)
    report: dict[str, Any] = {"curve": log.curve, "fit": list(vars(fit).values()), **seen}
    save_file(model.state_dict(), out / f"line{rank}.safetensors")
    for name in (*METHODS, *DROPOUT):
        log.notes.clear()
        pretrain(suite, name, ctx, out)
        report[name] = dict(log.notes)
    for attempt in (diverge, sparse):
        try:
            attempt(ctx)
        except SubmissionError as error:
            report[attempt.__name__] = str(error)
    (out / f"rank{rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(open_suite(Path(sys.argv[1])), Path(sys.argv[2]))
