"""CPU seconds and memory of JPLR: biased walks, the loss of the next entity, steps of teacher and student, union and linked subgraph."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from baselines.common.distill.losses import soft_kl
from baselines.common.paths.sampled import Candidates, sampled_softmax
from baselines.jplr.linked import LinkedGraph
from baselines.jplr.teacher import PAIRS
from baselines.jplr.training import NextEntity
from baselines.jplr.union import UnionGraph
from benchmarks.biased_walk_contenders import CONFIG, HOPS, WALKS, Walks, kg_graph
from benchmarks.jplr_contenders import (
    BATCH,
    CONTENDERS,
    GEMMS,
    GRAPHS,
    LOSSES,
    STUDENTS,
    SUITE,
    TEACHERS,
    Problem,
    frequency,
    frozen_teacher,
    gradients,
    graphs,
    linked,
    local,
    retraining,
    sampled_autograd,
    student_batches,
    suite_folder,
    suite_union,
    teacher_batches,
    teacher_loss,
    union,
)
from benchmarks.workloads import training_workload

pytestmark = pytest.mark.timeout(600)
ROUNDS = {"plain-walk": 3, "rsn-form": 3, "full-autograd": 3, "own-union": 5, "own-linked-graph": 5}
"""15 where not said, each after a round that is not timed."""
NO_MEMORY = ("gemms-float32", "gemms-bfloat16")


@pytest.fixture
def time_contender(measure, benchmark):
    """Time a contender by name, whose call does ``amount`` of what ``unit`` names in lots; returns its value."""

    def run(name, unit, amount=1.0, **sizes):
        rounds = ROUNDS.get(name, 15)
        value = measure(
            "jplr_contenders",
            name,
            CONTENDERS[name],
            rounds=rounds,
            memory=name not in NO_MEMORY,
            **sizes,
        )
        if benchmark.stats is not None:  # nothing is measured with --benchmark-disable
            benchmark.extra_info[f"{unit}_cpu_s"] = benchmark.stats.stats.median / amount
        return value

    return run


@pytest.mark.benchmark(group="JPLR walks")
@pytest.mark.parametrize("name", WALKS)
def test_walks(time_contender, name):
    if name == "own-extend":
        pytest.importorskip("numba")
    walks, graph = WALKS[name], kg_graph()
    check_walks(walks)
    if name in ("own-extend", "own-epoch"):
        wanted = WALKS["own-extend-torch"]
        np.testing.assert_array_equal(walks.make()(walks.given()), wanted.make()(wanted.given()))
    n = len(walks.given())
    share = time_contender(
        name, "million_walks", n / 1e6,
        walks=n, hops=HOPS, nodes=graph.n_nodes, edges=graph.n_edges,
        source=training_workload().source,
    )  # fmt: skip
    assert share > 0.9


@pytest.mark.benchmark(group="JPLR next entity")
@pytest.mark.parametrize("name", [*LOSSES, *GEMMS])
def test_loss(time_contender, name):
    if name in LOSSES:
        check_loss(name)
    problem = Problem.random()
    value = time_contender(
        name, "step",
        paths=BATCH, steps=len(problem.targets), entities=len(problem.table),
        negatives=CONFIG.negatives, hidden=problem.states.shape[1],
    )  # fmt: skip
    assert math.isfinite(value)


@pytest.mark.benchmark(group="JPLR teacher")
@pytest.mark.parametrize("name", TEACHERS)
def test_teacher(time_contender, name):
    check_teacher(TEACHERS[name])
    both = union()
    value = time_contender(
        name, "step",
        paths=BATCH, entities=both.n_entities, links=len(both.links),
        negatives=CONFIG.negatives, hidden=CONFIG.teacher_hidden,
    )  # fmt: skip
    # Of random guesses, for next entities and for pairs.
    assert 0 < value < math.log(both.n_entities) + math.log(PAIRS) + 0.1


@pytest.mark.benchmark(group="JPLR student")
@pytest.mark.parametrize("name", STUDENTS)
def test_student(time_contender, name):
    hops, losses = STUDENTS[name]
    check_student(hops, losses)
    graph = linked(hops)
    value = time_contender(
        name, "step",
        paths=BATCH, entities=graph.n_local, source_only=graph.n_nodes - graph.n_local,
        negatives=CONFIG.negatives, hidden=CONFIG.hidden,
        teacher_hidden=CONFIG.teacher_hidden,
    )  # fmt: skip
    assert 0 < value < math.log(graph.n_nodes) + len(losses) + 1


@pytest.mark.benchmark(group="JPLR graphs")
@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(time_contender, name):
    if not (suite_folder() / "suite.json").is_file():
        pytest.skip(f"no suite fb15k-237-db15k in {suite_folder()}; {SUITE} may name one")
    built = GRAPHS[name]()
    (check_union if name == "own-union" else check_linked)(built)
    edges = time_contender(name, "build", triples=len(built.triples), nodes=built.graph.n_nodes)
    assert edges == built.graph.n_edges == 2 * (len(built.triples) + len(getattr(built, "swapped", ())))


# --- Whether results are right ---------------------------------------------------------------------------------------------------------


def check_walks(walks: Walks, n: int = 3_000) -> None:
    """Some of the paths begin as given, run over edges, revisit no node and end early only where they must (but for those that are not
    ``biased``), and as many of them take edges that their first node lacks as the weights say, within 4.5 standard deviations.

    Raises:
        AssertionError: they do not.
    """
    g, given = kg_graph(), walks.given()
    rows = walks.make()(given)
    assert rows.shape == (len(given), 2 * HOPS + 1)
    assert (rows[:, :3] == given).all()
    chosen = rows[np.random.default_rng(2).choice(len(rows), n, replace=False)].astype(np.int64)
    going = chosen[:, -1] >= 0
    assert (going == (chosen[:, -2] >= 0)).all()
    assert g.has_edges(*chosen[going, 2:].T).all()
    expected = np.zeros(n)
    for i, (head, _, node, *_) in enumerate(chosen):
        edges = slice(g.indptr[node], g.indptr[node + 1])
        nodes, relations = g.neighbours[edges].astype(np.int64), g.relations[edges].astype(np.int64)
        lacks = ~g.has_edges(np.full(len(nodes), head), relations, nodes)
        weights = np.ones(len(nodes))
        if walks.biased:
            weights = np.where(lacks, CONFIG.depth, 1 - CONFIG.depth) * (nodes != head) * (nodes != node)
        assert going[i] == (weights.sum() > 0)
        expected[i] = (weights * lacks).sum() / weights.sum() if going[i] else 0.0
    found = going & ~g.has_edges(chosen[:, 0], chosen[:, 3], chosen[:, 4])
    if walks.biased:
        assert (chosen[going, 4] != chosen[going, 0]).all()
        assert (chosen[going, 4] != chosen[going, 2]).all()
    gap = abs(float((found - expected).sum()))
    assert gap < 4.5 * float(np.sqrt((expected * (1 - expected)).sum())), gap


def check_loss(name: str) -> None:
    """Value and gradients are those of cross-entropy over the same candidates in float64; ``sampled-spec`` is asked where no candidate
    comes twice, and there it differs from ours by m for m - 1 in log Q alone. Ours is the full softmax where all entities are candidates.

    Raises:
        AssertionError: they are not.
    """
    p = Problem.random()
    uniform, wanted = p.uniform(torch.Generator().manual_seed(1)), sampled_autograd
    if name == "full-autograd":
        wanted = all_candidates
    if name == "sampled-spec":
        kept = torch.from_numpy(np.unique(p.targets.numpy(), return_index=True)[1])
        some = (x.detach()[kept] for x in (p.states, p.targets, p.weights))
        states, targets, weights = some
        p = replace(p, states=states.requires_grad_(), targets=targets, weights=weights)
        uniform = torch.unique(uniform[~torch.isin(uniform, targets)])
    exact = replace(
        p,
        **{key: getattr(p, key).detach().double().requires_grad_() for key in ("states", "table", "bias")},
        weights=p.weights.double(),
        frequency=p.frequency.double()
        * (len(p.targets) / (len(p.targets) - 1) if name == "sampled-spec" else 1),
    )
    value, found = gradients(LOSSES[name], p, uniform)
    right, expected = gradients(wanted, exact, uniform)
    tolerance = 3e-2 if "bfloat16" in name else 1e-4
    assert abs(value - right) < tolerance * right
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).norm()) < tolerance * float(theirs.norm())


def all_candidates(p: Problem, _: Tensor) -> Tensor:
    """Ours with all entities as candidates, which is the full softmax."""
    everything = torch.arange(len(p.table))
    candidates = Candidates(everything, p.targets, torch.zeros(len(p.table), dtype=p.table.dtype))
    return sampled_softmax(p.scores(everything), candidates, p.weights)


def check_teacher(narrow: bool) -> None:
    """Without dropout the loss and its gradient of the entity table are those of the loss written out over its logits, in float32.

    Raises:
        AssertionError: they are not.
    """
    (model, loss), (plain, _) = teacher_loss(), teacher_loss()
    model.eval()
    plain.eval()
    paths = teacher_batches()[0][:256]
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        found = loss(paths)
    objective = NextEntity(frequency(union().triples, union().n_entities), CONFIG, seed=0)
    taken = plain.queries(paths)
    candidates = objective.candidates(taken.targets)
    rows, bias = plain.candidates(candidates.ids)
    losses = functional.cross_entropy(
        taken.states @ rows.T + bias + candidates.offsets, candidates.columns, reduction="none"
    )
    weights = torch.where(taken.hops == 0, 1.0, CONFIG.later_weight)
    links = torch.from_numpy(union().links)
    chosen = torch.unique(torch.randint(len(links), (PAIRS,), generator=torch.Generator().manual_seed(0)))
    first, second = (functional.normalize(plain.entities[ids], dim=1) for ids in links[chosen].unbind(1))
    cosines = (first @ second.T / CONFIG.align_temperature).exp()
    pairs = cosines.diagonal()
    align = -((pairs / cosines.sum(0)).log() + (pairs / cosines.sum(1)).log()).mean() / 2
    wanted = (losses * weights).sum() / weights.sum() + CONFIG.align * align
    found.backward()  # type: ignore[no-untyped-call]
    wanted.backward()  # type: ignore[no-untyped-call]
    tolerance = 3e-2 if narrow else 1e-4
    assert abs(float((found - wanted).detach())) < tolerance * float(wanted.detach())
    assert model.entities.grad is not None
    assert plain.entities.grad is not None
    gap = float((model.entities.grad - plain.entities.grad).norm())
    assert gap < tolerance * float(plain.entities.grad.norm())


def check_student(hops: int, losses: tuple[str, ...]) -> None:
    """Without dropout and in float32 the loss is cross-entropy over logits that are written out, and the distillation losses beside it.

    Raises:
        AssertionError: it is not.
    """
    whole, paths = retraining(hops, losses).eval(), student_batches(hops)[0]
    with torch.no_grad():
        found = float(whole.loss(paths))
        graph, student, imitation = linked(hops), whole.student, whole.imitation
        objective = NextEntity(frequency(graph.triples, graph.n_nodes), CONFIG, seed=0)
        taken = student.queries(paths)
        candidates = objective.candidates(taken.targets)
        rows, bias = student.candidates(candidates.ids)
        logits = taken.states @ rows.T + bias
        ranked = functional.cross_entropy(logits + candidates.offsets, candidates.columns, reduction="none")
        weights = torch.where(taken.hops == 0, 1.0, CONFIG.later_weight)
        wanted = (ranked * weights).sum() / weights.sum()
        if imitation is not None:
            model, mapped = frozen_teacher().model, graph.to_union(paths)
            asked = imitation.asked(paths, taken.places)
            assert 0 < len(asked) < len(taken.places)
            theirs, own = model.queries(mapped).states[asked], taken.states[asked]
            if "feature" in losses:
                ids = torch.unique(paths[:, 0 : 2 * HOPS : 2])
                ids = ids[(ids >= 0) & (ids < graph.n_local)]
                both = student.rows(ids) @ imitation.feature.T, model.rows(graph.to_union.nodes[ids])
                wanted += 1 - functional.cosine_similarity(*both).mean()
            if "network" in losses:
                norms = ((x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
                         for x in (own @ imitation.network.T, theirs))  # fmt: skip
                wanted += (next(norms) - next(norms)).square().mean()
            if "prediction" in losses:
                rows, bias = model.candidates(graph.to_union.nodes[candidates.ids])
                wanted += soft_kl(theirs @ rows.T + bias, logits[asked], temperature=CONFIG.temperature)
    assert abs(found - float(wanted)) < 1e-4 * found, (found, float(wanted))


def partners() -> dict[int, list[int]]:
    """The union ids that each linked entity is linked to."""
    found: dict[int, list[int]] = {}
    for one, other in suite_union().links.tolist():
        found.setdefault(one, []).append(other)
        found.setdefault(other, []).append(one)
    return found


def check_union(built: UnionGraph) -> None:
    """Triples are the KGs', swapped ones are those that a loop over triples and links gives, and the graph has both, both ways.

    Raises:
        AssertionError: they are not.
    """
    assert len(built.triples) == sum(kg.n_triples for kg in graphs().values())
    linked_to = partners()
    wanted = set()
    for head, relation, tail in built.triples.tolist():
        wanted |= {(other, relation, tail) for other in linked_to.get(head, ())}
        wanted |= {(head, relation, other) for other in linked_to.get(tail, ())}
    assert set(map(tuple, built.swapped.tolist())) == wanted
    assert built.graph.n_edges == 2 * (len(built.triples) + len(wanted))


def check_linked(built: LinkedGraph) -> None:
    """Own triples come first; each that was brought is one of the union once its ends are merged, no own or withheld one, touches a local
    entity, and there are at most ``link_triples`` a local entity.

    Raises:
        AssertionError: they are not.
    """
    own, whole = local(), suite_union()
    first = whole.first_entity[own.kg]
    home = range(first, first + len(own.entities))
    assert (built.triples[: built.n_own] == own.train).all()
    into = {}
    for entity, others in partners().items():
        mine = [other for other in others if other in home]
        if mine:
            into[entity] = min(mine)
    pool = {(into.get(h, h), r, into.get(t, t)) for h, r, t in whole.triples.tolist()}
    brought = built.triples[built.n_own :]
    in_union = np.stack(
        [built.origin[brought[:, 0]], built.relation_origin[brought[:, 1]], built.origin[brought[:, 2]]],
        axis=1,
    )
    found = set(map(tuple, in_union.tolist()))
    shift = np.array([first, whole.first_relation[own.kg], first])
    barred = set(map(tuple, (np.concatenate([own.train, own.valid]) + shift).tolist()))
    assert len(found) == len(brought) > 0
    assert found <= pool - barred
    assert all(head in home or tail in home for head, _, tail in found)
    assert len(found) <= CONFIG.link_triples * len(own.entities)
