"""Link prediction by paths: train triples alone are learned from, whatever stage; answers without fine-tuning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kgglm_factory import SMALL, Reports, same_weights, small, weights
from numpy.typing import NDArray
from safetensors.numpy import load_file

from baselines.common.kge.scoring import LinkValidation
from baselines.common.paths.body import BodyShape
from baselines.common.paths.corpus import read_paths
from baselines.common.paths.graph import PathGraph
from baselines.kgglm.links import AdaptedLinks, fit_links
from baselines.kgglm.model import PathLM
from baselines.kgglm.submission import KGGLM
from kpi_bench import Context, LinkPredictionQueries, LinkPredictionTask, TaskKind, TaskSpec, Triples
from kpi_bench.harness.config import read_config

FOLDER = Path(__file__).resolve().parents[3] / "submissions" / "kgglm"
N = 12
NONE = Triples(*np.empty((3, 0), dtype=np.int64))


def chords(relation: int, length: int) -> Triples:
    """From each entity of a circle to the one ``length`` further."""
    heads = np.arange(N)
    return Triples(heads, np.full(N, relation), (heads + length) % N)


def task(valid: Triples, test: Triples | None = None) -> LinkPredictionTask:
    """Relation 0 is one step on the circle and relation 1 two steps, in train; no valid or test triple joins two neighbours there."""
    spec = TaskSpec("circle", TaskKind.LINK_PREDICTION, "kg", "d", "", "", "mrr")
    near, far = chords(0, 1), chords(1, 2)
    columns = zip(near.array().T, far.array().T, strict=True)
    return LinkPredictionTask(spec, N, 2, Triples(*map(np.concatenate, columns)), valid, test)


def both_ways(triples: Triples) -> list[tuple[int, ...]]:
    forward = triples.array()
    backward = np.stack([triples.tails, triples.relations + 2, triples.heads], axis=1)
    return sorted(map(tuple, np.concatenate([forward, backward]).tolist()))


def adapted(given: LinkPredictionTask, ctx: Context, **config: Any) -> KGGLM:
    params = {f"kgglm_{name}": value for name, value in (SMALL | config).items()}
    submission = KGGLM(read_config(FOLDER).resolve_params("tiny", None, params))
    submission.adapt(given, ctx)
    return submission


def exported(submission: KGGLM, folder: Path) -> dict[str, NDArray[np.float32]]:
    folder.mkdir()
    submission.export(folder)
    (file,) = folder.rglob("paths.safetensors")
    return load_file(file)


HELD_OUT = task(chords(0, 5), chords(1, 4))


def test_walks_take_train_edges_only(tmp_path: Path) -> None:
    adapted(HELD_OUT, Reports().context(tmp_path), pretrain_epochs=1, epochs=0, pretrain_walks=20)
    walks = read_paths(tmp_path / "paths.arrow")
    assert len(walks) == 20 * N
    hops = np.concatenate([walks[:, start : start + 3] for start in range(0, walks.shape[1] - 2, 2)])
    taken = set(map(tuple, hops[hops[:, 2] >= 0].tolist()))
    assert sorted(taken) == both_ways(HELD_OUT.train)


def test_an_epoch_is_each_train_triple_once_both_ways(tmp_path: Path) -> None:
    reports = Reports()
    adapted(HELD_OUT, reports.context(tmp_path), pretrain_epochs=0, epochs=1)
    learned = read_paths(tmp_path / "paths.arrow")
    assert sorted(map(tuple, learned.tolist())) == both_ways(HELD_OUT.train)
    assert reports.notes["circle: triples: paths an epoch"] == 4 * N


def test_valid_and_test_triples_move_no_weight(tmp_path: Path) -> None:
    """Valid is scored once, at the end, so that it has nothing to choose between."""
    splits = [(chords(0, 5), chords(1, 4)), (chords(1, 4), None), (NONE, chords(0, 5))]
    first, *others = (
        exported(
            adapted(task(*held_out), Reports().context(tmp_path), pretrain_epochs=1, epochs=2, eval_every=2),
            tmp_path / f"export{number}",
        )
        for number, held_out in enumerate(splits)
    )
    assert all(same_weights(first, other) for other in others)


def fitted(given: LinkPredictionTask, reports: Reports, scratch: Path, **config: Any) -> AdaptedLinks:
    train = given.train
    graph = PathGraph.of_edges(train.heads, train.relations, train.tails, n_nodes=N, n_forward=2)
    shape = BodyShape(hidden=32, layers=1, heads=1, dropout=0.0)
    generator = torch.Generator().manual_seed(0)
    model = PathLM(graph.ranges, np.zeros(N, np.int64), 4, shape, softmax="type", generator=generator)
    return fit_links(given, graph, model, small(**config), reports.context(scratch))


def valid_mrr(links: AdaptedLinks) -> float:
    validation = LinkValidation(HELD_OUT.train.array(), HELD_OUT.valid.array(), N, 2)
    return validation.mrr(links.blocks(*validation.queries))


def test_no_epochs_keep_the_weights_and_score_valid_once(tmp_path: Path) -> None:
    reports, other = Reports(), Reports()
    links = fitted(HELD_OUT, reports, tmp_path, epochs=0)
    unjudged = fitted(replace(HELD_OUT, valid=NONE), other, tmp_path, epochs=0)
    assert same_weights(weights(links.model), weights(unjudged.model))
    assert reports.notes == {"valid_mrr": valid_mrr(links)}
    assert other.notes == {}
    assert reports.curve == other.curve == []
    queries = LinkPredictionQueries(np.arange(N), np.ones(N, np.int64), np.arange(N) % 2)
    scores = np.concatenate(list(links.predict(queries, reports.context(tmp_path))))
    assert scores.shape == (N, N)
    assert np.isfinite(scores).all()


def test_the_best_state_on_valid_is_kept_and_noted(tmp_path: Path) -> None:
    reports = Reports()
    links = fitted(HELD_OUT, reports, tmp_path, epochs=6, eval_every=2, lr=0.02)
    assert len(reports.curve) == 3
    assert reports.notes["valid_mrr"] == max(reports.curve) == pytest.approx(valid_mrr(links))


def test_without_valid_all_epochs_are_run(tmp_path: Path) -> None:
    reports = Reports()
    links = fitted(replace(HELD_OUT, valid=NONE), reports, tmp_path, epochs=100, lr=0.01)
    assert reports.curve == []
    assert "valid_mrr" not in reports.notes
    queries = LinkPredictionQueries(HELD_OUT.train.heads, HELD_OUT.train.relations, np.zeros(2 * N, np.int64))
    scores = np.concatenate(list(links.predict(queries, reports.context(tmp_path))))
    assert (scores.argmax(1) == HELD_OUT.train.tails).mean() > 0.8
