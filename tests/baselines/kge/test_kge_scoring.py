"""Scores in blocks, the valid score against the evaluators and a loop, checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kge_factory import (
    DIM,
    HYPERBOLIC,
    N_ENTITIES,
    N_RELATIONS,
    all_queries,
    random_model,
    random_triples,
)
from numpy.typing import NDArray
from safetensors.torch import save_file

from baselines.common.kge import MODELS, tables
from baselines.common.kge.checkpoint import load_model, save_model
from baselines.common.kge.knowledge import Knowledge
from baselines.common.kge.models import KgeModel
from baselines.common.kge.scoring import LinkValidation, score_blocks
from kpi_bench.errors import EvaluationError, SubmissionError
from kpi_bench.evaluators.link_prediction import LinkPredictionIndex, rank_scores, score_link_prediction

Ints = NDArray[np.int64]


def splits(seed: int = 0, n_valid: int = 12) -> tuple[Ints, Ints]:
    triples = random_triples(60, seed=seed)
    return triples[n_valid:], triples[:n_valid]


def integer_model(seed: int) -> KgeModel:
    """A DistMult whose scores are small integers: full of ties."""
    model = random_model("distmult", seed=seed)
    with torch.no_grad():
        for table in model.parameters():
            table.copy_((3 * table).round().clamp(-1, 1))
    return model


def loop_reciprocal_ranks(model: KgeModel, known: Ints, valid: Ints) -> list[float]:
    """Both directions of every valid triple, filtered by ``known`` and valid, realistic ties."""
    facts = {tuple(row) for row in np.concatenate([known, valid]).tolist()}
    ranks = []
    for h, r, t in valid.tolist():
        for entity, relation, answer, others in (
            (h, r, t, {x for a, b, x in facts if (a, b) == (h, r)}),
            (t, r + N_RELATIONS, h, {x for x, b, a in facts if (a, b) == (t, r)}),
        ):
            scores = model(torch.tensor([entity]), torch.tensor([relation]))[0].tolist()
            rivals = [s for e, s in enumerate(scores) if e == answer or e not in others]
            greater = sum(s > scores[answer] for s in rivals)
            equal = sum(s == scores[answer] for s in rivals) - 1
            ranks.append(1 / (1 + greater + equal / 2))
    return ranks


@pytest.mark.parametrize("entries", [1, 5 * N_ENTITIES, 1 << 20])
@pytest.mark.parametrize("name", ["distmult", "transe", "roth"])
def test_blocks_are_the_models_scores_in_order(
    name: str, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "CACHE_ENTRIES", entries)
    model = random_model(name, bias=True)
    heads, relations = all_queries()
    blocks = list(score_blocks(model, heads.numpy(), relations.numpy()))
    assert len(blocks) == math.ceil(len(heads) / max(1, entries // N_ENTITIES))
    assert {block.dtype for block in blocks} == {np.dtype(np.float32)}
    torch.testing.assert_close(torch.from_numpy(np.concatenate(blocks)), model(heads, relations).detach())


def test_no_queries_have_no_blocks() -> None:
    none = np.empty(0, dtype=np.int64)
    assert list(score_blocks(random_model("distmult"), none, none)) == []


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), n_valid=st.integers(1, 20))
def test_the_valid_score_is_the_evaluators_mrr_and_the_loops(seed: int, n_valid: int) -> None:
    train, valid = splits(seed, n_valid)
    model = integer_model(seed)
    score = LinkValidation(train, valid, N_ENTITIES, N_RELATIONS).score(model)
    assert score == pytest.approx(np.mean(loop_reciprocal_ranks(model, train, valid)))
    index = LinkPredictionIndex.build(train, valid, valid[:0], N_ENTITIES, N_RELATIONS, "valid")
    asked = index.relation + N_RELATIONS * index.direction.astype(np.int64)
    ranks = rank_scores(index, score_blocks(model, index.entity, asked))
    assert score == pytest.approx(score_link_prediction(ranks, index).values["mrr"])


@pytest.mark.parametrize("name", MODELS)
def test_the_valid_score_of_every_model_is_the_loops(name: str) -> None:
    train, valid = splits()
    model = random_model(name, bias=True)
    expected = np.mean(loop_reciprocal_ranks(model, train, valid))
    assert LinkValidation(train, valid, N_ENTITIES, N_RELATIONS).score(model) == pytest.approx(expected)


def test_few_valid_triples_are_ranked_with_the_others_filtered() -> None:
    # All ask the same (h, r, ?): each is an answer that the others must not be ranked below.
    valid = np.array([(0, 1, tail) for tail in range(12)], dtype=np.int64)
    train = np.array([row for row in random_triples(60).tolist() if row[:2] != [0, 1]], dtype=np.int64)
    model = random_model("complex")
    each = np.reshape(loop_reciprocal_ranks(model, train, valid), (-1, 2)).mean(1)
    ones, twos = (
        {LinkValidation(train, valid, N_ENTITIES, N_RELATIONS, max_triples=n).score(model) for _ in range(2)}
        for n in (1, 2)
    )
    assert len(ones) == len(twos) == 1, "the choice must be fixed"
    assert np.isclose(each, ones.pop()).any()
    pairs = (each[:, None] + each) / 2
    assert np.isclose(pairs[~np.eye(12, dtype=bool)], twos.pop()).any()
    for enough in (0, 12, 99):
        score = LinkValidation(train, valid, N_ENTITIES, N_RELATIONS, max_triples=enough).score(model)
        assert score == pytest.approx(each.mean())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_no_numbers_have_no_valid_score(bad: float) -> None:
    train, valid = splits()
    model = random_model("distmult")
    with torch.no_grad():
        model.entities[valid[0, 2]] = bad
    assert math.isnan(LinkValidation(train, valid, N_ENTITIES, N_RELATIONS).score(model))


def test_other_errors_of_the_evaluator_are_not_hidden() -> None:
    train, valid = splits()
    with pytest.raises(EvaluationError):
        LinkValidation(train, valid, N_ENTITIES + 1, N_RELATIONS).score(random_model("distmult"))


def test_without_valid_triples_there_is_nothing_to_ask() -> None:
    train, valid = splits()
    for none in (None, valid[:0]):
        assert Knowledge(train, N_ENTITIES, N_RELATIONS, none).validation(0) is None
    model = random_model("distmult")
    kg = Knowledge(train, N_ENTITIES, N_RELATIONS, valid)
    few = kg.validation(3)
    assert few is not None
    assert kg.validation(3) is few
    literal = LinkValidation(train, valid, N_ENTITIES, N_RELATIONS, max_triples=3)
    assert few.score(model) == literal.score(model)


# --- checkpoints -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("name", "relation_curvature"),
    [*((name, False) for name in MODELS), *((name, True) for name in HYPERBOLIC)],
)
def test_a_checkpoint_is_the_model(name: str, bias: bool, relation_curvature: bool, tmp_path: Path) -> None:
    model = random_model(name, bias=bias, relation_curvature=relation_curvature, sparse_rows=bias)
    save_model(model, tmp_path / "kge.safetensors")
    loaded = load_model(tmp_path / "kge.safetensors")
    assert type(loaded) is type(model)
    assert (loaded.n_entities, loaded.n_relations, loaded.dim) == (
        model.n_entities,
        model.n_relations,
        model.dim,
    )
    assert not loaded.training
    saved, again = dict(model.named_parameters()), dict(loaded.named_parameters())
    assert saved.keys() == again.keys()
    assert all(torch.equal(saved[key], again[key]) for key in saved)
    assert torch.equal(loaded(*all_queries()), model(*all_queries()))


def test_a_missing_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match=r"absent\.safetensors: no such checkpoint"):
        load_model(tmp_path / "absent.safetensors")
    with pytest.raises(SubmissionError, match="no such checkpoint"):
        load_model(tmp_path)


def refused(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None, folder: Path) -> None:
    path = folder / "other.safetensors"
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(SubmissionError, match=r"(?s)other\.safetensors holds no KGE model.*pre-train again"):
        load_model(path)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}], ids=repr)
def test_a_foreign_checkpoint_is_refused(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    refused({"weight": torch.zeros(2)}, metadata, tmp_path)


@pytest.mark.parametrize("shape", ["", "{", "null", "3", '"transe"', "[1]", "{}", '{"model": "bert"}'])
def test_metadata_that_are_no_sizes_are_refused(shape: str, tmp_path: Path) -> None:
    refused({"weight": torch.zeros(2)}, {"kge": shape}, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "bert"},
        {"model": None},
        {"model": ["transe"]},
        {"model": "roth", "dim": 5},
        {"dim": 0},
        {"dim": "6"},
        {"dim": 6.0},
        {"n_entities": -1},
        {"n_entities": None},
        {"n_entities": N_ENTITIES + 1},
        {"n_entities": 10**30},
        {"bias": True},
        {"relation_curvature": True},
        {"layers": 2},
    ],
    ids=str,
)
def test_sizes_that_build_no_such_model_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    shape = {"model": "transe", "n_entities": N_ENTITIES, "n_relations": N_RELATIONS, "dim": DIM}
    stored = {key: table.detach() for key, table in random_model("transe").named_parameters()}
    refused(stored, {"kge": json.dumps({**shape, **change})}, tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 0.2, 0.5, -1])
def test_a_truncated_checkpoint_is_refused(kept: float, tmp_path: Path) -> None:
    path = tmp_path / "kge.safetensors"
    save_model(random_model("roth"), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(SubmissionError, match=r"kge\.safetensors holds no KGE model.*pre-train again"):
        load_model(path)


def test_tables_that_do_not_fit_the_sizes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "kge.safetensors"
    for name in ("entities", "relations"):
        model = random_model("transe")
        setattr(model, name, torch.nn.Parameter(torch.zeros(3, 2)))
        save_model(model, path)
        with pytest.raises(SubmissionError, match=rf"(?s)tables and sizes differ.*{name}"):
            load_model(path)
