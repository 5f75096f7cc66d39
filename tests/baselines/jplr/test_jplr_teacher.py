"""The teacher: what it reads, what aligns it, its seed, and its file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jplr_factory import Drawn, Reports, Town, knowledge_graph, rows_of, small, table
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from baselines.common.distill.teachers import fingerprint
from baselines.common.paths.random_numbers import stream
from baselines.jplr import teacher as module
from baselines.jplr.config import JplrConfig
from baselines.jplr.model import PathModel
from baselines.jplr.teacher import alignment, fit_teacher, load_teacher, new_teacher, save_teacher
from baselines.jplr.union import UnionGraph, given_links
from kpi_bench.errors import SubmissionError


def pair(n: int = 12, links: int = 12) -> UnionGraph:
    """Two rings of n entities over one relation each, linked one to one."""
    ring = [(i, 0, (i + 1) % n) for i in range(n)]
    graphs = {name: knowledge_graph(name, n, 1, ring) for name in ("a", "b")}
    return UnionGraph.of(graphs, table([(i, n + i) for i in range(links)], 2))


def fitted(
    union: UnionGraph, tmp_path: Path, seed: int = 1, reports: Reports | None = None, **settings: Any
) -> PathModel:
    ctx = (reports or Reports()).context(tmp_path, seed)
    return fit_teacher(union, small(**settings), ctx, "joint")


def test_sizes_are_the_unions_and_the_configs(tmp_path: Path) -> None:
    reports = Reports()
    union = pair()
    model = fitted(union, tmp_path, reports=reports, teacher_hidden=16, teacher_layers=2, teacher_heads=2)
    assert model.entities.shape == (24, 16)
    assert model.relations.shape == (4, 16)
    assert model.borrowed is None
    expected = {
        "links": 12,
        "entities": 24,
        "triples": 24,
        "paths an epoch": 48,
        "bfloat16": False,
        "steps an epoch": 2,
    }
    assert reports.notes == expected
    assert reports.curve == []  # no task, nothing to stop on


def test_a_teacher_is_frozen_and_its_seed_fixes_it(tmp_path: Path) -> None:
    union = pair()
    first = fitted(union, tmp_path, 3)
    torch.manual_seed(99)
    assert fingerprint(first) == fingerprint(fitted(union, tmp_path, 3))
    assert fingerprint(first) != fingerprint(fitted(union, tmp_path, 4))
    assert not any(parameter.requires_grad for parameter in first.parameters())
    assert not any(part.training for part in first.modules())


def test_every_part_of_it_is_trained(tmp_path: Path) -> None:
    union, config = pair(), small()
    before = new_teacher(union, config, stream("teacher", 1)).state_dict()
    after = fitted(union, tmp_path).state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_epochs_and_the_teachers_own_rate_are_the_configs(tmp_path: Path) -> None:
    union, config = pair(), small(teacher_lr=1e-9, decay=0.0, lr=0.5)
    before = new_teacher(union, config, stream("teacher", 1)).entities
    still = fit_teacher(union, config, Reports().context(tmp_path), "joint").entities
    torch.testing.assert_close(still, before.detach(), atol=1e-6, rtol=0)
    short, long = (fitted(union, tmp_path, teacher_epochs=epochs) for epochs in (1, 3))
    assert fingerprint(short) != fingerprint(long)


def test_it_reads_all_triples_first_and_swapped_ones_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    union, drawn = pair(), Drawn(monkeypatch)
    fitted(union, tmp_path, teacher_epochs=4)
    firsts = {tuple(row) for block in drawn.blocks for row in block[:, :3].tolist() if row[1] < 2}
    assert firsts == set(rows_of(union.triples))
    hops = drawn.hops(union.n_relations)
    assert hops <= set(rows_of(np.concatenate([union.triples, union.swapped])))
    assert len(hops & set(rows_of(union.swapped))) > 20
    alone = pair(links=0)
    fitted(alone, tmp_path)
    assert drawn.hops(2) == set(rows_of(alone.triples))


def test_no_held_out_triple_is_in_its_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    town, drawn = Town(24, 3), Drawn(monkeypatch)
    graphs, task = town.graphs(), town.task()
    union = UnionGraph.of(graphs, given_links(graphs))
    fitted(union, tmp_path, teacher_epochs=4)
    hops = drawn.hops(union.n_relations)
    held_out = set(rows_of(task.valid.array())) | set(rows_of(task.test.array()))
    assert len(held_out) == 9
    assert not hops & held_out
    # Nor the same in terms of the linked KG: its entities with the town's relation.
    first = union.first_entity["club"]
    assert not hops & {(h + first, r, t) for h, r, t in held_out}


def test_alignment_is_a_softmax_of_cosines_both_ways() -> None:
    model = new_teacher(pair(4, 3), small(), 0)
    with torch.no_grad():
        model.entities.normal_(generator=torch.Generator().manual_seed(2))
    links = torch.tensor([[0, 5], [2, 4], [3, 7]])
    rows = model.entities.tolist()

    def cosine(a: int, b: int) -> float:
        x, y = rows[a], rows[b]
        dot = sum(p * q for p, q in zip(x, y, strict=True))
        return dot / math.sqrt(sum(p * p for p in x) * sum(q * q for q in y))

    for temperature in (0.1, 2.0):
        wanted = 0.0
        for a, b in links.tolist():
            own = cosine(a, b) / temperature
            for others in (
                [cosine(a, y) / temperature for _, y in links.tolist()],
                [cosine(x, b) / temperature for x, _ in links.tolist()],
            ):
                wanted += (math.log(sum(map(math.exp, others))) - own) / 6
        assert alignment(model, links, temperature).item() == pytest.approx(wanted, rel=1e-5)
    assert alignment(model, links[:1], 0.1).item() == pytest.approx(0, abs=1e-6)


def closeness(model: PathModel, union: UnionGraph) -> float:
    """How much nearer linked entities are than others, in cosines."""
    unit = torch.nn.functional.normalize(model.entities, dim=1)
    n = union.first_entity["b"]
    cosines = unit[:n] @ unit[n:].T
    return float(cosines.diag().mean() - cosines.mean())


def test_alignment_brings_linked_entities_together(tmp_path: Path) -> None:
    union, settings = pair(), {"teacher_epochs": 8, "teacher_lr": 0.03, "batch_size": 8}
    strong, none = (fitted(union, tmp_path, align=weight, **settings) for weight in (5.0, 0.0))
    assert closeness(strong, union) > 0.5
    assert closeness(strong, union) > closeness(none, union) + 0.2
    apart = pair(links=0)
    assert abs(closeness(fitted(apart, tmp_path, align=5.0, **settings), apart)) < 0.3


def test_a_step_aligns_distinct_links_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAIRS", 5)
    seen: list[Tensor] = []

    def kept(model: PathModel, links: Tensor, temperature: float) -> Tensor:
        seen.append(links)
        assert temperature == 0.25
        return alignment(model, links, temperature)

    monkeypatch.setattr(module, "alignment", kept)
    union = pair()
    fitted(union, tmp_path, teacher_epochs=10, batch_size=8, align_temperature=0.25)
    assert len(seen) == 60
    assert all(len({*map(tuple, links.tolist())}) == len(links) <= 5 for links in seen)
    assert {tuple(row) for links in seen for row in links.tolist()} == set(rows_of(union.links))
    seen.clear()
    fitted(union, tmp_path, align=0.0)
    assert seen == []


@pytest.mark.parametrize("encoder", ["transformer", "rsn", "rnn"])
def test_it_learns_which_entity_follows(encoder: str, tmp_path: Path) -> None:
    union = pair()
    model = fitted(
        union,
        tmp_path,
        encoder=encoder,
        teacher_hidden=16,
        teacher_epochs=100,
        teacher_lr=0.02,
        negatives=40,
        dropout=0.0,
        decay=0.0,
    )
    before = fingerprint(model)
    entities = np.arange(24)
    ahead, back = (
        np.concatenate(list(model.score_all(entities, entities // 12 + up))) for up in (0, union.n_relations)
    )
    follows, precedes = entities // 12 * 12 + (entities + 1) % 12, entities // 12 * 12 + (entities - 1) % 12
    # The partner of a link follows as well (swapped triples): among a KG's own entities the answer is one.
    own = entities[:, None] // 12 == entities // 12
    assert (np.where(own, ahead, -np.inf).argmax(1) == follows).mean() > 0.8
    assert (np.where(own, back, -np.inf).argmax(1) == precedes).mean() > 0.8
    assert fingerprint(model) == before


@pytest.mark.parametrize("encoder", ["transformer", "rsn", "rnn"])
def test_a_stored_teacher_comes_back_whole(encoder: str, tmp_path: Path) -> None:
    union, config = pair(), small(encoder=encoder)
    model = fitted(union, tmp_path, encoder=encoder)
    save_teacher(model, union, config, tmp_path / "joint.safetensors")
    loaded = load_teacher(union, config, tmp_path / "joint.safetensors")
    assert fingerprint(loaded) == fingerprint(model)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    paths = torch.tensor([[0, 0, 1, 3, 14]])
    assert torch.equal(loaded.hidden(paths), model.hidden(paths))


def refused(union: UnionGraph, config: JplrConfig, file: Path) -> None:
    with pytest.raises(
        SubmissionError,
        match=r"(?s)holds (no teacher with these|a teacher that read .*wanted is one that read a).*pre-train again",
    ):
        load_teacher(union, config, file)


def test_what_is_no_teacher_of_these_kgs_is_refused(tmp_path: Path) -> None:
    union, file = pair(), tmp_path / "joint.safetensors"
    refused(union, small(), file)
    file.mkdir()
    refused(union, small(), file)
    file.rmdir()
    file.write_bytes(b"no tensors")
    refused(union, small(), file)
    file.write_bytes(b"")
    refused(union, small(), file)
    model = new_teacher(union, small(), 0)
    save_teacher(model, union, small(), file)
    stored = model.served()
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    load_teacher(union, small(), file)
    (tmp_path / "cut").write_bytes(file.read_bytes()[:-8])
    refused(union, small(), tmp_path / "cut")
    for other in (
        {"teacher_hidden": 16},
        {"teacher_layers": 2},
        {"teacher_heads": 2},
        {"encoder": "rsn"},
        {"hops": 3},
    ):
        refused(union, small(**other), file)
    refused(pair(13), small(), file)
    for wrong in ({n: v for n, v in stored.items() if n != "bias"}, {**stored, "more": torch.zeros(1)}):
        save_file(wrong, file, metadata)
        refused(union, small(), file)
    save_file(stored, file)  # not known to be of these KGs
    refused(union, small(), file)


def test_a_teacher_of_kgs_in_another_order_or_of_other_names_is_refused(tmp_path: Path) -> None:
    """Each of the same size, so that all tensors would fit."""
    graphs = {name: knowledge_graph(name, 3, 1, [(0, 0, 1)]) for name in ("a", "b", "c")}
    first, turned, other = (
        UnionGraph.of({name: graphs[name] for name in names}, table([], 2)) for names in ("ab", "ba", "ac")
    )
    file = tmp_path / "joint.safetensors"
    save_teacher(new_teacher(first, small(), 0), first, small(), file)
    load_teacher(first, small(), file)
    for union in (turned, other):
        with pytest.raises(
            SubmissionError, match=r"that read a \(3, 1\), b \(3, 1\); .* wanted is one that read"
        ):
            load_teacher(union, small(), file)
