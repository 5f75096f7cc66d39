"""The one training loop: epochs, early stopping on valid, the best state kept in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from baselines.common.allocator import keep_freed_memory
from baselines.common.parallel import ALONE, Ranks, holds_rows
from kpi_bench import Context
from kpi_bench.errors import SubmissionError

B = TypeVar("B")


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """CPU operations of the block run on one thread: for steps so small that waking a second thread costs more than it saves
    (a lot more when other processes want the cores)."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def tensor_cores(device: torch.device) -> Iterator[None]:
    """Float32 matrix products of the block may run as TF32 on a GPU. Around training steps only: scores that are ranked keep float32."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def bfloat16_pays(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices itself: a GPU, or a CPU with AVX-512 BF16 or AMX, which is several times faster so."""
    if device.type != "cpu":
        return device.type == "cuda"
    # torch before 2.11 does not tell.
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Dropout draws from torch's global generators: seeded for the block, restored after it, so that a seed fixes a run."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Schedule:
    """At most ``epochs`` epochs; valid is scored every ``eval_every`` epochs (and after the last);
    training ends after ``patience`` scores in a row that are not better than the best. An earlier call has run the epochs before
    ``first_epoch``: they count."""

    epochs: int
    eval_every: int = 1
    patience: int = 5
    first_epoch: int = 1


@dataclass(frozen=True)
class Fit:
    """What training ended with: the epoch whose state was kept (from 1), its score on valid (NaN where there is no valid), and how
    many epochs were run."""

    best_epoch: int
    best_score: float
    epochs: int


def train(
    model: nn.Module,
    *,
    epoch: Callable[[], Iterable[B]],
    step: Callable[[B], Tensor],
    evaluate: Callable[[], float] | None,
    schedule: Schedule,
    ctx: Context,
    metric: str,
    description: str,
) -> Fit:
    """Train ``model`` in place and leave it in its best state on valid (``evaluate``: higher is better).

    ``epoch()`` yields the batches of one epoch; ``step`` learns from one and returns its loss (:func:`gradient_step` makes the usual
    one). The kept state is that of the trainable parameters and of batch norms. Without ``evaluate`` there is nothing to stop on: all
    epochs are run and the last state stays. In several processes (``ctx.world_size``) a step's loss is the rank's summand of the
    batch's, all take the same steps, and rank 0 scores (all of them a model whose rows they share out).

    Raises:
        SubmissionError: the loss of an epoch is NaN or infinite, or the valid score is NaN; or the processes' models differ at the end.
    """
    keep_freed_memory()
    ranks = Ranks.of(ctx)
    ranks.align(model)
    best = Fit(best_epoch=0, best_score=-math.inf, epochs=0)
    kept: dict[str, Tensor] = {}
    misses = done = 0
    device = torch.device(ctx.device)
    with seeded(device, ranks.seed(ctx.seed)):
        for number in ctx.progress(range(schedule.first_epoch, schedule.epochs + 1), description):
            with tensor_cores(device):
                _run_epoch(model, epoch(), step, number, description, ranks)
            done = number
            if evaluate is None or (number % schedule.eval_every and number != schedule.epochs):
                continue
            model.eval()
            # Not inference_mode: a plug may keep what it computes here for the next training step.
            with torch.no_grad():
                score = ranks.decided(evaluate() if ranks.rank == 0 or holds_rows(model) else 0.0)
            if math.isnan(score):
                raise SubmissionError(f"{description}: the valid {metric} of epoch {number} is NaN")
            ctx.log(number, score, metric)
            if score > best.best_score:
                best, misses = Fit(number, score, number), 0
                kept = _snapshot(model)
            else:
                misses += 1
                if misses >= schedule.patience:
                    break
    model.eval()
    if evaluate is not None:
        _restore(model, kept)
    ranks.check_equal(model, description)
    if evaluate is None:
        return Fit(done, math.nan, done)
    ctx.note("best_epoch", best.best_epoch)
    return Fit(best.best_epoch, best.best_score, done)


def gradient_step(
    loss: Callable[[B], Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    clip: Iterable[Tensor] = (),
    clip_norm: float = 0.0,
    before_update: Callable[[], None] = lambda: None,
    ranks: Ranks = ALONE,
) -> Callable[[B], Tensor]:
    """The usual step: the gradient of ``loss``, added up over ``ranks``, ``before_update()``, the gradient's norm over the parameters
    ``clip`` cut at ``clip_norm`` (0: not cut), one update by the optimizer."""
    clipped = list(clip)
    updated = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def step(batch: B) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss(batch)
        value.backward()  # type: ignore[no-untyped-call]
        ranks.add_gradients(updated)
        before_update()
        if clip_norm > 0:
            nn.utils.clip_grad_norm_(clipped, clip_norm)
        optimizer.step()
        return value.detach()

    return step


def annealed_step(
    model: nn.Module,
    loss: Callable[[B], Tensor],
    *,
    steps: int,
    lr: float,
    decay: float,
    warmup: float,
    ranks: Ranks = ALONE,
) -> Callable[[B], Tensor]:
    """A step of AdamW on a model's parameters whose learning rate rises over a share ``warmup`` of all ``steps`` and falls to zero over
    the others; gradients are cut at a norm of 1.

    A weight that no gradient moves has shrunk to exp(-``decay``) of itself after all steps, however many there are.
    """
    rising = max(1, int(warmup * steps))

    def rate(step: int) -> float:
        return min((step + 1) / rising, max(steps - step, 1) / max(steps - rising, 1))

    # At most a tenth a step: in a stage of a few steps the whole of it would turn weights around.
    weight_decay = min(decay / sum(map(rate, range(steps))), 0.1) / lr
    optimizer = torch.optim.AdamW(decayed(model, weight_decay), lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    update = gradient_step(loss, optimizer, clip=model.parameters(), clip_norm=1.0, ranks=ranks)

    def step(batch: B) -> Tensor:
        value = update(batch)
        schedule.step()
        return value

    return step


def decayed(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters as groups of an optimizer: tables and matrices are decayed, biases and norms are not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    wide = [parameter for parameter in parameters if parameter.ndim > 1]
    flat = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [{"params": wide, "weight_decay": weight_decay}, {"params": flat, "weight_decay": 0.0}]


def prefixed(ctx: Context, prefix: str) -> Context:
    """The same context, whose curves and notes carry a prefix: for one of several models of a run."""

    def report(kind: str, **values: Any) -> None:
        for name in ("metric", "key"):
            if name in values:
                values[name] = f"{prefix}{values[name]}"
        ctx.report(kind, **values)

    return replace(ctx, report=report)


def _run_epoch(
    model: nn.Module,
    batches: Iterable[B],
    step: Callable[[B], Tensor],
    number: int,
    description: str,
    ranks: Ranks,
) -> None:
    model.train()
    total: Tensor | None = None
    for batch in batches:
        # Summed on the device and read once an epoch: reading each step would stall a GPU.
        value = step(batch)
        total = value if total is None else total + value
    if total is None:
        raise SubmissionError(f"{description}: an epoch has no training batch; the train split is empty")
    total = ranks.add(total)
    if not bool(torch.isfinite(total)):
        raise SubmissionError(
            f"{description}: the loss of epoch {number} is {total.item()}; lower the learning rate or check the vectors plugged in"
        )


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in _moving(model)}


def _restore(model: nn.Module, kept: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in _moving(model):
            if name in kept:
                value.copy_(kept[name])


def _moving(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What training changes: trainable parameters, and the running statistics of batch norms. Other buffers may be large tables."""
    yield from (named for named in model.named_parameters() if named[1].requires_grad)
    for prefix, module in model.named_modules():
        if isinstance(module, nn.BatchNorm1d):
            yield from module.named_buffers(prefix)
