"""Training of KG embeddings, for every model, loss and optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from baselines.common.config import check_fields
from baselines.common.kge import MODELS, check_shape, create_model
from baselines.common.kge.bilinear import Bilinear
from baselines.common.kge.facts import GroupedFacts, batches, with_reciprocals
from baselines.common.kge.knowledge import Knowledge
from baselines.common.kge.losses import binary, full_softmax, relation_loss, sampled_softmax
from baselines.common.kge.models import KgeModel
from baselines.common.kge.regularizers import REGULARIZERS, penalty
from baselines.common.kge.sharded import shard_of, sharded_softmax
from baselines.common.parallel import ALONE, Part, Ranks
from baselines.common.shards import Shard
from baselines.common.training import Schedule, gradient_step, train
from kpi_bench import Context
from kpi_bench.errors import SubmissionError

LOSSES = ("sampled_softmax", "softmax", "binary")


@dataclass(frozen=True)
class KgeConfig:
    """Parameters ``kge_*`` of a submission. Messages start with a field's name (see :func:`~baselines.common.config.read_config`).

    ``loss``: "softmax" over all entities; "sampled_softmax" over ``negatives`` entities shared by the batch; "binary", yes or no for
    the fact and ``negatives`` others, drawn for each query, or ``shared_negatives`` for the whole batch that weigh as ``negatives``.
    ``corrupt`` "both" asks the others about random heads too. ``grouped`` (softmax): batches of ``batch_size`` distinct queries;
    how many facts they have depends on values, so each batch waits for the device.
    ``relation_weight`` weighs the auxiliary relation prediction (arXiv 2110.02834), ``reg`` the ``regularizer`` ("l2", "n3",
    "dura"). ``valid_triples`` limits the triples that early stopping ranks (0: all).
    """

    model: str = "distmult"
    dim: int = 64
    epochs: int = 15
    batch_size: int = 4096
    loss: str = "sampled_softmax"
    negatives: int = 256
    shared_negatives: int = 0
    corrupt: str = "tail"
    grouped: bool = False
    relation_weight: float = 0.0
    optimizer: str = "adam"
    lr: float = 5e-3
    regularizer: str = "l2"
    reg: float = 1e-3
    bias: bool = False
    init_std: float = 0.0
    relation_curvature: bool = False
    sparse_rows: bool = False
    eval_every: int = 5
    patience: int = 10
    valid_triples: int = 0

    def __post_init__(self) -> None:
        check_fields(
            self,
            choices={
                "model": tuple(MODELS),
                "loss": LOSSES,
                "corrupt": ("tail", "both"),
                "optimizer": ("adam", "adagrad"),
                "regularizer": REGULARIZERS,
            },
            at_least_one=("epochs", "batch_size", "negatives", "eval_every", "patience"),
            not_negative=("reg", "relation_weight", "init_std", "shared_negatives", "valid_triples"),
            positive=("lr",),
        )
        check_shape(self.model, self.dim, relation_curvature=self.relation_curvature)
        bilinear = issubclass(MODELS[self.model], Bilinear)
        for wrong, problem in (
            (self.grouped and self.loss != "softmax", "grouped needs loss = 'softmax': samples are drawn for single facts"),
            (self.corrupt == "both" and self.loss != "binary", "corrupt = 'both' needs loss = 'binary'"),
            (self.relation_weight and not bilinear, f"relation_weight needs distmult or complex, not {self.model}"),
            (self.reg and self.regularizer != "l2" and not bilinear, f"regularizer = {self.regularizer!r} needs distmult or complex, not {self.model}"),
            (self.sparse_rows and self.loss == "softmax", "sparse_rows: a softmax over all entities touches every row"),
            (self.sparse_rows and self.optimizer == "adam", "sparse_rows needs optimizer = 'adagrad'"),
        ):  # fmt: skip
            if wrong:
                raise SubmissionError(problem)


def create(
    config: KgeConfig, n_entities: int, n_relations: int, seed: int, shard: Shard | None = None
) -> KgeModel:
    """A fresh model of a configuration; with ``shard`` this process's rows of it."""
    return create_model(
        config.model,
        n_entities,
        n_relations,
        config.dim,
        torch.Generator().manual_seed(seed),
        bias=config.bias,
        init_std=config.init_std,
        relation_curvature=config.relation_curvature,
        sparse_rows=config.sparse_rows,
        shard=shard,
    )


def train_kge(
    kg: Knowledge,
    config: KgeConfig,
    ctx: Context,
    *,
    description: str,
    seed: int | None = None,
    shard_entities: bool = False,
) -> KgeModel:
    """Train on ``kg`` and return the best model on its valid triples, whose score is noted, or the last one where there are none.
    ``seed`` replaces that of the context. With ``shard_entities`` each process of the run holds and returns a part of the entity rows.

    Raises:
        SubmissionError: no triples, the loss is NaN or infinite, or entities cannot be shared out.
    """
    kg.require_triples(description)
    seed = ctx.seed if seed is None else seed
    device, ranks = torch.device(ctx.device), Ranks.of(ctx)
    if shard_entities and config.sparse_rows:
        raise SubmissionError("kge_sparse_rows and kge_shard_entities exclude each other")
    shard = Shard(ranks, kg.n_entities) if shard_entities else None
    model = create(config, kg.n_entities, kg.n_relations, seed, shard).to(device)
    sampler = torch.Generator(device=device).manual_seed(seed + 1)
    facts = with_reciprocals(kg.triples, kg.n_relations).to(device)
    validation = kg.validation(config.valid_triples)
    fit = train(
        model,
        epoch=epochs_of(facts, config, sampler),
        step=gradient_step(
            loss_of(model, config, sampler, ranks), optimizer_of(model.parameters(), config), ranks=ranks
        ),
        evaluate=None if validation is None else lambda: validation.score(model),
        schedule=Schedule(config.epochs, config.eval_every, config.patience),
        ctx=ctx,
        metric="valid_mrr",
        description=description,
    )
    if validation is not None:
        ctx.note("valid_mrr", fit.best_score)
    return model.eval()


def epochs_of(facts: Tensor, config: KgeConfig, sampler: torch.Generator) -> Callable[[], Iterable[Tensor]]:
    """What gives the batches of an epoch."""
    if config.grouped:
        grouped = GroupedFacts(facts)
        return lambda: grouped.batches(config.batch_size, sampler)
    return lambda: batches(facts, config.batch_size, sampler)


def optimizer_of(parameters: Iterable[Tensor], config: KgeConfig) -> torch.optim.Optimizer:
    """Adam or Adagrad; with sparse rows, Adagrad touches only the rows of a batch."""
    chosen = list(parameters)
    if config.optimizer == "adagrad":
        return adagrad(chosen, config.lr, sparse=config.sparse_rows)
    return torch.optim.Adam(chosen, lr=config.lr, fused=True)


def adagrad(parameters: Iterable[Tensor], lr: float, *, sparse: bool = False) -> torch.optim.Adagrad:
    """Adagrad, fused where every torch that we allow has it: for dense gradients on a CPU."""
    chosen = list(parameters)
    on_cpu = all(parameter.device.type == "cpu" for parameter in chosen)
    return torch.optim.Adagrad(chosen, lr=lr, fused=True if on_cpu and not sparse else None)


def loss_of(
    model: KgeModel, config: KgeConfig, sampler: torch.Generator, ranks: Ranks = ALONE
) -> Callable[[Tensor], Tensor]:
    """The loss of a batch of facts int64 ``[b, 3]``: main loss, relation prediction, regulariser; of several ranks, this one's summand."""
    shard = shard_of(model)
    main = {"softmax": _softmax, "sampled_softmax": _sampled_softmax, "binary": _binary}[config.loss]

    def loss(batch: Tensor) -> Tensor:
        part = ranks.part(len(batch))
        facts = batch[part.rows]
        if shard is not None and config.loss == "softmax":
            value = sharded_softmax(model, shard, batch, part, grouped=config.grouped)
        else:
            value = main(model, facts, part, config, sampler)
        ends = None
        if config.relation_weight and isinstance(model, Bilinear):
            heads, relations, tails = facts.unbind(1)
            ends = model.rows_of(heads, tails)
            value = value + config.relation_weight * relation_loss(model, *ends, model.relations, relations)
        if config.reg:
            value = value + config.reg * penalty(config.regularizer, model, facts, ends)
        return part.weigh(value)

    return loss


def _softmax(
    model: KgeModel, facts: Tensor, part: Part, config: KgeConfig, sampler: torch.Generator
) -> Tensor:
    heads, relations, tails = facts.unbind(1)
    rows = torch.arange(len(facts), device=facts.device)
    if config.grouped:
        key = heads * (2 * model.n_relations) + relations
        distinct, rows = torch.unique_consecutive(key, return_inverse=True)
        heads, relations = distinct // (2 * model.n_relations), distinct % (2 * model.n_relations)
    if not isinstance(model, Bilinear):
        log_softmax = functional.log_softmax(model(heads, relations), dim=1)
        return -log_softmax[rows, tails].mean()
    queries, table = model.query(heads, relations).vectors, model.entities
    if model.tail_bias is not None:  # one more coordinate: the matrix product adds it for free
        queries = torch.cat([queries, queries.new_ones(len(queries), 1)], dim=1)
        table = torch.cat([table, model.tail_bias], dim=1)
    return full_softmax(queries, table, rows, tails)


def _sampled_softmax(
    model: KgeModel, facts: Tensor, part: Part, config: KgeConfig, sampler: torch.Generator
) -> Tensor:
    heads, relations, tails = facts.unbind(1)
    drawn = _draw(model, (config.negatives,), sampler)
    head_rows, tail_rows, drawn_rows = model.rows_of(heads, tails, drawn)
    query = model.query(heads, relations, head_rows)
    own = model.scores(query, model.candidates(tails[:, None], tail_rows[:, None])).squeeze(1)
    others = model.scores(query, model.candidates(drawn, drawn_rows))
    return sampled_softmax(own, others, tails[:, None] == drawn, model.n_entities)


def _binary(
    model: KgeModel, facts: Tensor, part: Part, config: KgeConfig, sampler: torch.Generator
) -> Tensor:
    heads, relations, tails = facts.unbind(1)
    query = model.query(heads, relations)
    own = model.scores(query, model.candidates(tails[:, None])).squeeze(1)
    if config.corrupt == "both":
        query = model.query(_draw(model, (part.n,), sampler)[part.rows], relations)
    if config.shared_negatives:
        drawn = _draw(model, (config.shared_negatives,), sampler)
    else:
        drawn = _draw(model, (part.n, config.negatives), sampler)[part.rows]
    others = model.scores(query, model.candidates(drawn))
    return binary(own, others, config.negatives)


def _draw(model: KgeModel, shape: tuple[int, ...], sampler: torch.Generator) -> Tensor:
    """Uniform entity ids, the same on all ranks: those of whole batches. True answers among them are not filtered."""
    return torch.randint(model.n_entities, shape, generator=sampler, device=sampler.device)
