"""The student: a smaller path model, trained again on a task's linked subgraph while it imitates the teacher."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from baselines.common.distill.losses import cosine_loss, normalised_mse
from baselines.common.kge.scoring import LinkValidation
from baselines.common.paths.body import BodyShape
from baselines.common.paths.random_numbers import stream
from baselines.common.paths.sampled import sampled_kl
from baselines.common.training import Schedule
from baselines.jplr.config import JplrConfig
from baselines.jplr.linked import LinkedGraph, linked_graph
from baselines.jplr.local import LocalGraph
from baselines.jplr.model import PathModel, steps
from baselines.jplr.paths import TriplePaths
from baselines.jplr.teacher import Teacher
from baselines.jplr.training import NextEntity, corpus_of, fit, scores_of, target_frequency
from baselines.jplr.union import UnionGraph
from kpi_bench import Context, KnowledgeGraph


@dataclass(frozen=True, eq=False)
class Student:
    """A trained model whose node i is entity ``local.entities[i]`` of the task's KG; relation r runs backwards as ``r + n_forward``.

    ``seen`` bool ``[n_local]``: entities that training paths can reach; the others' rows mean nothing.
    """

    model: PathModel
    local: LocalGraph
    n_forward: int
    seen: NDArray[np.bool_]

    def vectors(self, n_entities: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Rows of all entities of the KG, float32 ``[n_entities, hidden]``, and which of them the student knows; zeros elsewhere."""
        rows = self.model.entities.detach().float().cpu().numpy()
        return scattered(rows, self.local.entities, self.seen, n_entities)


class Imitation(nn.Module):
    """The three losses of distillation between a student and a frozen teacher that reads the same paths.

    ``feature`` and ``network`` ``[d_T, d]`` are trained with the student and dropped after it. The first ``n_relations`` of the linked graph's are those of the student's own KG.
    """

    def __init__(
        self,
        teacher: Teacher,
        linked: LinkedGraph,
        hidden: int,
        generator: torch.Generator,
        n_relations: int,
        device: torch.device,
    ) -> None:
        super().__init__()
        width = teacher.model.entities.shape[1]
        self.feature = nn.Parameter(nn.init.orthogonal_(torch.empty(width, hidden), generator=generator))
        self.network = nn.Parameter(nn.init.orthogonal_(torch.empty(width, hidden), generator=generator))
        # In a tuple: the teacher is no part of what is trained and stored.
        self._teacher = (teacher.model.to(device),)
        self._to_union = linked.to_union.to(device)
        self._n_local, self._n_relations = linked.n_local, n_relations
        self._n_forward = linked.n_relations

    @property
    def teacher(self) -> PathModel:
        return self._teacher[0]

    @torch.no_grad()
    def states(self, paths: Tensor) -> Tensor:
        """The teacher's states ``[b, t, d_T]`` of paths int64 ``[b, t]`` in the student's ids."""
        # The flash kernel, which a CPU takes where there is no dropout, is many times slower for a handful of tokens.
        with sdpa_kernel(SDPBackend.MATH) if paths.device.type == "cpu" else nullcontext():
            return self.teacher.hidden(self._to_union(paths))

    def feature_loss(self, student: PathModel, paths: Tensor) -> Tensor:
        """Mean over the distinct local entities of the paths of 1 - cos(P_f e, e of the teacher)."""
        entities = torch.unique(paths[:, 0::2])
        entities = entities[(entities >= 0) & (entities < self._n_local)]
        theirs = self.teacher.rows(self._to_union.nodes[entities])
        return cosine_loss(student.rows(entities) @ self.feature.T, theirs)

    def asked(self, paths: Tensor, places: Tensor) -> Tensor:
        """Which steps the teacher is asked about, numbers int64 ``[k]`` among those at ``places`` of paths int64 ``[b, 2 h + 1]``.

        Those that have come over the student's own relations alone: over another KG's the teacher has walked between that KG's
        entities, and not between those that are merged with them here.
        """
        own = paths[:, 1::2] % self._n_forward < self._n_relations
        return own.long().cumprod(1).flatten().index_select(0, places).nonzero()[:, 0]

    def network_loss(self, states: Tensor, theirs: Tensor) -> Tensor:
        """Mean over steps of |LN(P_n h) - LN(h of the teacher)|^2 / d_T, for states ``[m, d]`` at relations: those are what
        the teacher was trained on."""
        return normalised_mse(states @ self.network.T, theirs)

    def prediction_loss(
        self, student: PathModel, states: Tensor, theirs: Tensor, ids: Tensor, temperature: float
    ) -> Tensor:
        """T^2 KL of the teacher's and the student's softmax over nodes ``ids`` int64 ``[c]``, for states ``[m, d]`` of the same steps."""
        wanted = scores_of(self.teacher, theirs, self._to_union.nodes[ids])
        return sampled_kl(wanted, scores_of(student, states, ids), temperature=temperature)


class Retraining(nn.Module):
    """A student and, with a teacher, the imitation of it: what is trained together."""

    def __init__(
        self, student: PathModel, imitation: Imitation | None, objective: NextEntity, config: JplrConfig
    ) -> None:
        super().__init__()
        self.student, self.imitation = student, imitation
        self._objective, self._config = objective, config

    def loss(self, paths: Tensor) -> Tensor:
        """The task's loss and the weighted losses of distillation of paths int64 ``[b, 2 h + 1]``."""
        config, read = self._config, paths[:, :-1]
        states = self.student.hidden(read)
        taken = steps(states, paths)
        candidates = self._objective.candidates(taken.targets)
        scores = scores_of(self.student, taken.states, candidates.ids)
        total = self._objective.loss(taken, scores, candidates)
        imitation = self.imitation
        if imitation is None:
            return total
        if config.feature > 0:
            total = total + config.feature * imitation.feature_loss(self.student, read)
        if config.network > 0 or config.prediction > 0:
            asked = imitation.asked(paths, taken.places)
            theirs = steps(imitation.states(read), paths).states.index_select(0, asked)
            own = taken.states.index_select(0, asked)
            if config.network > 0:
                total = total + config.network * imitation.network_loss(own, theirs)
            if config.prediction > 0:
                total = total + config.prediction * imitation.prediction_loss(
                    self.student, own, theirs, candidates.ids, config.temperature
                )
        return total


def fit_student(
    local: LocalGraph,
    kg: KnowledgeGraph,
    teacher: Teacher | None,
    config: JplrConfig,
    ctx: Context,
    name: str,
) -> Student:
    """Train a student for a task's part of ``kg``; without a teacher, from scratch and on that part alone.

    Raises:
        SubmissionError: there is no triple to learn from, or training diverged.
    """
    description, device = f"{name}: student", torch.device(ctx.device)
    linked = _linked(local, kg, teacher, config, ctx.seed)
    model = _new_student(linked, teacher, config, ctx.seed).to(device)
    sample = TriplePaths(linked.graph, linked.triples, linked.bridges, config, ctx)
    corpus = corpus_of(sample, config, ctx, description=description)
    frequency = target_frequency(corpus, linked.n_nodes, device)
    objective = NextEntity(frequency, config, stream("student's negatives", ctx.seed))
    imitation = None
    if teacher is not None and max(config.feature, config.network, config.prediction) > 0:
        generator = torch.Generator().manual_seed(stream("imitation", ctx.seed))
        imitation = Imitation(teacher, linked, config.hidden, generator, kg.n_relations, device)
    whole = Retraining(model, imitation, objective, config).to(device)
    validation = None
    if len(local.valid):
        validation = LinkValidation(
            local.places(local.train),
            local.places(local.valid),
            linked.n_local,
            linked.n_relations,
            max_triples=config.valid_triples,
        )
    done = fit(
        whole,
        whole.loss,
        corpus,
        Schedule(config.epochs, config.eval_every, config.patience),
        config,
        ctx,
        lr=config.lr,
        description=description,
        evaluate=None if validation is None else lambda: validation.mrr(model.score_all(*validation.queries)),
    )
    for key, value in (
        ("entities", linked.n_local),
        ("source_only_entities", linked.n_nodes - linked.n_local),
        ("triples", linked.n_own),
        ("source_triples", len(linked.triples) - linked.n_own),
        ("epochs", done.epochs),
        ("trained_parameters", sum(parameter.numel() for parameter in whole.parameters())),
    ):
        ctx.note(key, value)
    seen = np.zeros(linked.n_local, dtype=np.bool_)
    ends = linked.triples[:, ::2]
    seen[ends[ends < linked.n_local]] = True
    return Student(model, local, linked.n_relations, seen)


def scattered(
    rows: NDArray[np.float32], entities: NDArray[np.int64], known: NDArray[np.bool_], n_entities: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Rows ``[n, d]`` of ``entities`` int64 ``[n]`` in a table of all entities, where they are ``known`` bool ``[n]``; zeros elsewhere."""
    table = np.zeros((n_entities, rows.shape[1]), dtype=np.float32)
    table[entities[known]] = rows[known]
    mask = np.zeros(n_entities, dtype=np.bool_)
    mask[entities[known]] = True
    return table, mask


def _linked(
    local: LocalGraph, kg: KnowledgeGraph, teacher: Teacher | None, config: JplrConfig, seed: int
) -> LinkedGraph:
    union = (
        UnionGraph.of({kg.name: kg}, np.zeros((0, 2), dtype=np.int64)) if teacher is None else teacher.union
    )
    return linked_graph(
        union,
        kg.name,
        local.entities,
        local.train,
        withheld=local.valid,
        hops=0 if teacher is None else config.link_hops,
        per_entity=config.link_triples,
        seed=seed,
    )


def _new_student(linked: LinkedGraph, teacher: Teacher | None, config: JplrConfig, seed: int) -> PathModel:
    borrowed = None
    if teacher is not None and linked.n_nodes > linked.n_local:
        borrowed = (
            teacher.model.rows(torch.from_numpy(linked.origin[linked.n_local :]).to(teacher.model.device))
            .detach()
            .cpu()
        )
    shape = BodyShape(config.hidden, config.layers, config.heads, config.dropout, 2 * config.hops + 1)
    return PathModel(
        linked.n_local,
        2 * linked.n_relations,
        shape,
        encoder=config.encoder,
        generator=torch.Generator().manual_seed(stream("student", seed)),
        borrowed=borrowed,
    )
