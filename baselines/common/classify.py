"""Training the text head on a classification task, over frozen features or together with its encoder: the same for every method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.common.device import sent
from baselines.common.encoders import HashedEncoder, TextEncoder, TransformerEncoder, resolve_encoder
from baselines.common.heads import ClassificationHead, TextConfig
from baselines.common.plugs import Plug, groups_with_plug
from baselines.common.training import Schedule, gradient_step, one_thread, train
from kpi_bench import ClassificationTask, Context, Examples
from kpi_bench.errors import SubmissionError
from kpi_bench.evaluators.classification import score_classification
from kpi_bench.evaluators.metrics import metric

Rows = Tensor


class TextClassifier(nn.Module):
    """An encoder and its head. ``encoder_model`` is the transformer when it is tuned, else None (its features are inputs)."""

    def __init__(self, encoder: TextEncoder, head: ClassificationHead, *, tuned: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.encoder_model = encoder.model if tuned and isinstance(encoder, TransformerEncoder) else None

    def inputs(self, texts: Sequence[str], device: torch.device) -> _Inputs:
        """Frozen features, or token ids where the encoder is tuned, ready for :meth:`logits`."""
        if self.encoder_model is not None and isinstance(self.encoder, TransformerEncoder):
            return _Inputs(None, self.encoder.tokenize(texts))
        if isinstance(self.encoder, HashedEncoder):
            return _Inputs(self.encoder.encode(texts).to(device), None)
        return _Inputs(self.encoder.encode(texts, str(device)).to(device), None)

    def logits(self, inputs: _Inputs, entities: Tensor, rows: Rows) -> Tensor:
        """Logits ``[len(rows), n_classes]`` of the given rows."""
        if inputs.features is not None:
            return self.head(inputs.features[rows], entities[rows])
        assert inputs.tokens is not None
        assert self.encoder_model is not None
        assert isinstance(self.encoder, TransformerEncoder)
        tokens, mask = self.encoder.pad([inputs.tokens[i] for i in rows.tolist()], entities.device)
        with torch.autocast("cuda", torch.bfloat16, enabled=entities.device.type == "cuda"):
            features = self.encoder.pooled(self.encoder_model, tokens, mask)
        return self.head(features.float(), entities[sent(rows, entities.device)])


@dataclass(frozen=True, eq=False)
class _Inputs:
    features: Tensor | None
    tokens: list[list[int]] | None


@dataclass(frozen=True, eq=False)
class FittedClassifier:
    """A trained classifier and the counts behind the size columns."""

    model: TextClassifier
    device: torch.device
    batch_size: int
    total_parameters: int
    trainable_parameters: int
    valid_score: float

    def scores(self, texts: Sequence[str], entities: NDArray[np.int64]) -> NDArray[np.float64]:
        """Class probabilities, float64 ``[n, n_classes]``."""
        ids = torch.tensor(entities).to(self.device)
        with torch.inference_mode():
            return _probabilities(self.model, self.model.inputs(texts, self.device), ids, self.batch_size)


def fit_classifier(
    task: ClassificationTask, config: TextConfig, ctx: Context, plug: Plug | None = None
) -> FittedClassifier:
    """Train on the task's train split, stopping on the task's main metric on valid.

    Raises:
        SubmissionError: the encoder is not available, cannot be tuned, or training diverged.
    """
    device = torch.device(ctx.device)
    encoder = resolve_encoder(
        config.encoder, max_length=config.max_length, pooling=config.pooling, hashed_dim=config.hashed_dim
    )
    if config.tune_encoder and isinstance(encoder, HashedEncoder):
        raise SubmissionError(
            "text_tune_encoder = true needs a transformer, and none is available offline (encoder 'hashed')"
        )
    ctx.note("text_encoder", encoder.name)
    generator = torch.Generator().manual_seed(ctx.seed)
    head = ClassificationHead(encoder.dim, task.n_classes, config, plug=plug, generator=generator)
    model = TextClassifier(encoder, head, tuned=config.tune_encoder).to(device)
    with torch.no_grad():
        train_inputs = model.inputs(task.train.texts, device)
        valid_inputs = model.inputs(task.valid.texts, device)
        if train_inputs.features is not None:
            head.standardise(train_inputs.features)
    entities, labels = _on(device, task.train.entities, task.train.labels)
    (valid_entities,) = _on(device, task.valid.entities)
    trainable = [p for p in model.parameters() if p.requires_grad]
    with nullcontext() if config.tune_encoder else one_thread(device):
        fit = train(
            model,
            # Texts are looked up on the host, features on the device.
            epoch=_shuffled(
                len(labels),
                config.batch_size,
                generator,
                torch.device("cpu") if config.tune_encoder else device,
            ),
            step=gradient_step(
                lambda rows: nn.functional.cross_entropy(
                    model.logits(train_inputs, entities, rows), labels[sent(rows, device)]
                ),
                _optimizer(model, config, plug),
                # Not the plug: what it gathers over several steps would shrink the others' update when it hands it over.
                clip=groups_with_plug(model, plug)[0]["params"],
                clip_norm=1.0 if config.tune_encoder else 0.0,
                before_update=plug.before_update if plug else lambda: None,
            ),
            evaluate=lambda: _valid_score(
                task, _probabilities(model, valid_inputs, valid_entities, config.batch_size)
            ),
            schedule=Schedule(config.epochs, config.eval_every, config.patience),
            ctx=ctx,
            metric=f"valid_{task.spec.main_metric}",
            description=f"{task.spec.name}: text head",
        )
    total = encoder.n_parameters + sum(t.numel() for t in [*head.parameters(), *head.buffers()])
    if head.projection is not None:
        head.projection.settle()
    return FittedClassifier(
        model,
        device,
        config.batch_size,
        total_parameters=total,
        trainable_parameters=sum(p.numel() for p in trainable),
        valid_score=fit.best_score,
    )


def _optimizer(model: TextClassifier, config: TextConfig, plug: Plug | None) -> torch.optim.Optimizer:
    groups = groups_with_plug(model.head, plug)
    if model.encoder_model is not None:
        groups.append({"params": list(model.encoder_model.parameters()), "lr": config.encoder_lr})
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)


def _shuffled(
    n: int, batch_size: int, generator: torch.Generator, device: torch.device
) -> Callable[[], Iterator[Rows]]:
    return lambda: iter(torch.randperm(n, generator=generator).to(device).split(batch_size))


def _probabilities(
    model: TextClassifier, inputs: _Inputs, entities: Tensor, batch_size: int
) -> NDArray[np.float64]:
    home = entities.device if inputs.features is not None else torch.device("cpu")
    rows = torch.arange(len(entities), device=home).split(batch_size)
    model.eval()
    parts = [model.logits(inputs, entities, part).double().softmax(1).cpu() for part in rows]
    width = model.head.output.out_features
    return torch.cat(parts).numpy() if parts else np.zeros((0, width))


def _valid_score(task: ClassificationTask, scores: NDArray[np.float64]) -> float:
    """The main metric on valid, negated where lower is better."""
    valid: Examples = task.valid
    evaluation = score_classification(
        valid.labels,
        scores,
        labels=range(task.n_classes),
        ordinal=task.spec.ordinal,
        positive=task.spec.positive,
        examples=valid.examples,
    )
    name = task.spec.main_metric
    if name not in evaluation.values:
        raise SubmissionError(
            f"task {task.spec.name}: its valid split has no {name} (one class only?), so nothing can be selected on it"
        )
    value = evaluation.values[name]
    return value if metric(name).higher_is_better else -value


def _on(device: torch.device, *columns: NDArray[np.int64]) -> list[Tensor]:
    return [torch.tensor(column).to(device) for column in columns]
