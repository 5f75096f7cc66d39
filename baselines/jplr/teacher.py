"""The teacher: one path model over the union of several KGs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from baselines.common.distill.teachers import freeze
from baselines.common.parallel import Ranks
from baselines.common.paths.body import BodyShape
from baselines.common.paths.random_numbers import stream
from baselines.common.training import Schedule
from baselines.jplr.config import JplrConfig
from baselines.jplr.model import PathModel
from baselines.jplr.paths import TriplePaths
from baselines.jplr.training import NextEntity, corpus_of, fit, scores_of, target_frequency
from baselines.jplr.union import UnionGraph
from kpi_bench import Context
from kpi_bench.errors import SubmissionError

READ = "read"
PAIRS = 512
"""Links of a step, each of which is told from the others."""


@dataclass(frozen=True, eq=False)
class Teacher:
    """A frozen model and the union graph whose ids it reads."""

    model: PathModel
    union: UnionGraph


def fit_teacher(union: UnionGraph, config: JplrConfig, ctx: Context, name: str) -> PathModel:
    """Train a teacher on all paths of the union graph; there is no task, so it has a fixed number of epochs.

    Raises:
        SubmissionError: the KGs have no triple, or training diverged.
    """
    description = f"{name}: teacher"
    device, ranks = torch.device(ctx.device), Ranks.of(ctx)
    model = new_teacher(union, config, stream("teacher", ctx.seed)).to(device)
    sample = TriplePaths(union.graph, union.triples, union.bridges, config, ctx)
    corpus = corpus_of(sample, config, ctx, description=description)
    frequency = target_frequency(corpus, union.n_entities, device)
    objective = NextEntity(frequency, config, stream("negatives", ctx.seed))
    links = torch.from_numpy(union.links).to(device)
    generator = torch.Generator(device).manual_seed(stream("links", ctx.seed))
    for key, count in (
        ("links", len(links)),
        ("entities", union.n_entities),
        ("triples", len(union.triples)),
    ):
        ctx.note(key, count)

    def loss(paths: Tensor) -> Tensor:
        part = ranks.part(len(paths))
        own = paths[part.rows]
        steps = model.queries(own)
        if part.whole:
            candidates = objective.candidates(steps.targets)
        else:
            targets = paths[:, 2::2]
            candidates = objective.candidates(targets[targets >= 0]).asked(steps.targets)
        total = objective.loss(steps, scores_of(model, steps.states, candidates.ids), candidates)
        total = part.weigh(total, objective.weight(own), objective.weight(paths))
        if config.align > 0 and len(links) > 0:
            chosen = torch.randint(len(links), (PAIRS,), generator=generator, device=device)
            chosen = torch.unique(chosen)
            aligned = alignment(model, links[chosen], config.align_temperature)
            # A few links, told from each other: all ranks compute the same.
            total = total + config.align / ranks.size * aligned
        return total

    schedule = Schedule(config.teacher_epochs)
    fit(model, loss, corpus, schedule, config, ctx, lr=config.teacher_lr, description=description)
    return freeze(model)


def alignment(model: PathModel, links: Tensor, temperature: float) -> Tensor:
    """Mean over links int64 ``[k, 2]`` of -log softmax of the pair's cosine over ``temperature`` among all second entities, and among all
    first ones: half of each (InfoNCE; our reading, since the paper's loss is not public)."""
    first, second = (functional.normalize(model.rows(ids), dim=1) for ids in links.unbind(1))
    cosines = first @ second.T / temperature
    own = torch.arange(len(links), device=links.device)
    return (functional.cross_entropy(cosines, own) + functional.cross_entropy(cosines.T, own)) / 2


def new_teacher(union: UnionGraph, config: JplrConfig, seed: int) -> PathModel:
    """An untrained teacher of the union's size."""
    shape = BodyShape(
        config.teacher_hidden,
        config.teacher_layers,
        config.teacher_heads,
        config.dropout,
        2 * config.hops + 1,
    )
    return PathModel(
        union.n_entities,
        2 * union.n_relations,
        shape,
        encoder=config.encoder,
        generator=torch.Generator().manual_seed(seed),
    )


def save_teacher(model: PathModel, union: UnionGraph, config: JplrConfig, file: Path) -> None:
    """Write the tensors of :meth:`PathModel.served`, and in the metadata what they were trained on."""
    save_file(model.served(), file, metadata={READ: _read(union, config)})


def load_teacher(union: UnionGraph, config: JplrConfig, file: Path) -> PathModel:
    """Read what :func:`save_teacher` wrote for the same union, frozen, on the CPU.

    Raises:
        SubmissionError: the file cannot be read, or holds a teacher of other triples, links or parameters.
    """
    model = new_teacher(union, config, seed=0)
    try:
        with safe_open(file, framework="pt") as stored:
            read = (stored.metadata() or {}).get(READ)
        if read != _read(union, config):
            raise SubmissionError(
                f"{file} holds a teacher that read {read}; wanted is one that read {_read(union, config)}: pre-train again"
            )
        model.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise SubmissionError(
            f"{file} holds no teacher with these parameters ({error}); pre-train again"
        ) from error
    return freeze(model)


def _read(union: UnionGraph, config: JplrConfig) -> str:
    """The KGs in their order with the numbers of entities and relations, a hash of triples and links, and how many heads read them (which
    no tensor's shape shows)."""
    sizes = [
        f"{name} ({len(union.entities_of(name))}, {len(union.relations_of(name))})" for name in union.names
    ]
    digest = hashlib.sha256(union.triples.tobytes())
    digest.update(union.links.tobytes())
    return f"{', '.join(sizes)}; facts {digest.hexdigest()[:16]}; {config.teacher_heads} heads"
