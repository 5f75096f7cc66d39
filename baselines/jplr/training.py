"""What teacher and student have in common: the loss of the entities along paths, and how a model is trained on it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from baselines.common.allocator import keep_few_products
from baselines.common.parallel import Ranks
from baselines.common.paths.epochs import Corpus
from baselines.common.paths.sampled import Candidates, Scores, sampled_softmax
from baselines.common.training import Fit, Schedule, annealed_step, bfloat16_pays, train
from baselines.jplr.config import JplrConfig
from baselines.jplr.model import PathModel, Steps
from baselines.jplr.paths import TriplePaths
from kpi_bench import Context


class NextEntity:
    """Cross-entropy of the entity behind each relation of a path, among the targets of the batch and random entities.

    ``frequency`` float32 ``[n_nodes]`` is the distribution of targets.
    """

    def __init__(self, frequency: Tensor, config: JplrConfig, seed: int) -> None:
        self._frequency, self._config = frequency, config
        self._generator = torch.Generator(frequency.device).manual_seed(seed)

    def candidates(self, targets: Tensor) -> Candidates:
        """The candidates of a batch with targets int64 ``[m]``."""
        uniform = torch.randint(
            len(self._frequency),
            (self._config.negatives,),
            generator=self._generator,
            device=self._frequency.device,
        )
        return Candidates.of(targets, uniform, self._frequency)

    def loss(self, steps: Steps, scores: Scores, candidates: Candidates) -> Tensor:
        """Mean over the steps, in which those of later hops weigh less."""
        return sampled_softmax(scores, candidates, self._weights(steps.hops))

    def weight(self, paths: Tensor) -> Tensor:
        """What the steps of paths int64 ``[b, 2 h + 1]`` weigh together, a scalar."""
        hops = torch.arange(paths.shape[1] // 2, device=paths.device)
        return (self._weights(hops) * (paths[:, 2::2] >= 0)).sum()

    def _weights(self, hops: Tensor) -> Tensor:
        return torch.where(hops == 0, 1.0, self._config.later_weight)


def scores_of(model: PathModel, states: Tensor, ids: Tensor) -> Scores:
    """The model's scores of nodes ``ids`` int64 ``[c]`` behind states ``[m, d]``."""
    return Scores(states, *model.candidates(ids))


def corpus_of(sample: TriplePaths, config: JplrConfig, ctx: Context, *, description: str) -> Corpus:
    """The paths of a training run, drawn anew for each epoch."""
    corpus = Corpus(sample, ctx, batch_size=config.batch_size, resample=True, description=description)
    ctx.note("paths an epoch", len(corpus.paths))
    return corpus


def target_frequency(corpus: Corpus, n_nodes: int, device: torch.device) -> Tensor:
    """Share of each node among the targets of the first epoch, float32 ``[n_nodes]``."""
    targets = torch.from_numpy(corpus.paths[:, 2::2].copy()).flatten()
    counts = torch.bincount(targets[targets >= 0].long(), minlength=n_nodes)
    return (counts / counts.sum()).float().to(device)


def fit(
    model: nn.Module,
    loss: Callable[[Tensor], Tensor],
    corpus: Corpus,
    schedule: Schedule,
    config: JplrConfig,
    ctx: Context,
    *,
    lr: float,
    description: str,
    evaluate: Callable[[], float] | None = None,
) -> Fit:
    """Train ``model`` in place; with ``evaluate`` (on valid, higher is better) it is left in its best state.

    Raises:
        SubmissionError: training diverged.
    """
    device = torch.device(ctx.device)
    narrow = config.precision == "bfloat16" or (config.precision == "auto" and bfloat16_pays(device))
    if narrow:
        keep_few_products()
    ctx.note("bfloat16", narrow)
    ctx.note("steps an epoch", len(corpus))

    def narrowed(paths: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=narrow):
            return loss(paths)

    step = annealed_step(
        model,
        narrowed,
        steps=len(corpus) * schedule.epochs,
        lr=lr,
        decay=config.decay,
        warmup=config.warmup,
        ranks=Ranks.of(ctx),
    )
    return train(
        model,
        epoch=corpus.epoch,
        step=step,
        evaluate=evaluate,
        schedule=schedule,
        ctx=ctx,
        metric="valid_mrr",
        description=description,
    )
