"""The metasd submission on the tiny suite, through the protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from baseline_factory import check_head_answers, context, link_scores, link_task

from baselines.metasd.pack import load_packed
from baselines.metasd.submission import Metasd
from kpi_bench import (
    Suite,
)
from kpi_bench.errors import SubmissionError
from kpi_bench.harness.config import read_config

FOLDER = Path(__file__).resolve().parents[3] / "submissions" / "metasd"
QUICK = {
    "rec_epochs": 2,
    "rec_dim": 8,
    "text_epochs": 2,
    "text_hashed_dim": 64,
    "kge_epochs": 3,
    "kge_dim": 8,
    "kge_batch_size": 64,
    "metasd_static_after": 1,
}


def params(config: str | None = None, **other: Any) -> dict[str, Any]:
    return {**read_config(FOLDER).resolve_params("tiny", config, {}), **QUICK, **other}


def adapted(
    suite: Suite, config: str | None = None, seed: int = 1, **other: Any
) -> tuple[Metasd, np.ndarray]:
    """A submission that has adapted to link prediction, and its scores for the test queries."""
    submission = Metasd(params(config, **other))
    return submission, link_scores(submission, suite, seed)


CONFIGS = [
    None,
    "paper-fb15k-237",
    "paper-wn18rr",
    "one-shot",
    "plain",
    "dense",
    "no-meta",
    "no-mutual",
    "static-mask",
    "train-quiz",
]


@pytest.mark.parametrize("config", CONFIGS)
def test_link_prediction_is_answered_and_fixed_by_the_seed(config: str | None, tiny_suite: Suite) -> None:
    submission, first = adapted(tiny_suite, config)
    task = link_task(tiny_suite)
    assert first.shape == (len(task.test), task.n_entities)
    assert np.isfinite(first).all()
    assert np.array_equal(first, adapted(tiny_suite, config)[1])
    assert not np.array_equal(first, adapted(tiny_suite, config, seed=2)[1])
    sizes = submission.parameters()
    share = 1.0 if config in ("plain", "dense") else 0.1
    assert sizes["kept"] == pytest.approx(share * sizes["total"], abs=1)


@pytest.mark.parametrize("half", [False, True])
def test_what_is_exported_scores_as_what_answered(half: bool, tiny_suite: Suite, tmp_path: Path) -> None:
    submission, scores = adapted(tiny_suite, metasd_half=half)
    submission.export(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kge.packed.safetensors"]
    model = load_packed(tmp_path / "kge.packed.safetensors")
    test = tiny_suite.task("library_links").test
    found = model(torch.from_numpy(test.heads), torch.from_numpy(test.relations))
    assert np.array_equal(found.detach().numpy(), scores)


def test_dense_models_are_exported_plainly(tiny_suite: Suite, tmp_path: Path) -> None:
    adapted(tiny_suite, "plain")[0].export(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kge.safetensors"]


def test_pretrained_vectors_reach_the_heads(tiny_suite: Suite, tmp_path: Path) -> None:
    graphs = {kg: tiny_suite.graph(kg) for kg in tiny_suite.graph_names()}
    pretrained = {}
    for vectors in ("student", "source"):
        folder = tmp_path / vectors
        folder.mkdir()
        trained = Metasd(params(metasd_vectors=vectors))
        trained.pretrain(graphs, context(**graphs))
        trained.save_pretrained(folder)
        submission = Metasd(params(metasd_vectors=vectors))
        submission.load_pretrained(folder)
        pretrained[vectors] = submission
    student, source = (pretrained[k].entity_vectors("shop", context()) for k in ("student", "source"))
    assert student.shape == (graphs["shop"].n_entities, 8)
    assert (student == 0).mean() > 0.7
    assert (source != 0).all()
    assert np.array_equal(student[student != 0], source[student != 0])

    check_head_answers(pretrained["student"], tiny_suite, context(**graphs))


def test_unknown_and_impossible_parameters_are_refused() -> None:
    with pytest.raises(SubmissionError, match="metasd_shares"):
        Metasd({**params(), "metasd_shares": 1})
    with pytest.raises(SubmissionError, match=r"^metasd_share = 1\.5; it must be"):
        Metasd(params(metasd_share=1.5))
    with pytest.raises(SubmissionError, match=r"^kge_regularizer.* not rote"):
        Metasd(params(kge_model="rote"))
    with pytest.raises(SubmissionError, match="kge_model = 'rote'"):
        Metasd(params(kge_model="rote", kge_regularizer="l2", kge_relation_weight=0.0))
    with pytest.raises(SubmissionError, match="kge_loss"):
        Metasd(params(kge_loss="binary"))
