"""The mulde submission on the tiny suite, through the protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from baseline_factory import context, link_scores, link_task

from kpi_bench import (
    Context,
    RecommendationQueries,
    RecommendationTask,
    Suite,
    TopK,
)
from kpi_bench.errors import SubmissionError
from kpi_bench.evaluators.ranking import tie_order
from kpi_bench.harness.config import load_class, read_config

FOLDER = Path(__file__).resolve().parents[3] / "submissions" / "mulde"
QUICK = {
    "rec_epochs": 2,
    "rec_dim": 8,
    "kge_epochs": 2,
    "kge_dim": 4,
    "teacher_epochs": 2,
    "teacher_dim": 8,
    "kge_negatives": 8,
    "kge_shared_negatives": 8,
    "teacher_negatives": 8,
    "teacher_shared_negatives": 8,
    "mulde_top_k": 5,
}


def params(config: str | None = None) -> dict[str, Any]:
    return {**read_config(FOLDER).resolve_params("tiny", config, {}), **QUICK}


def links(suite: Suite, config: str | None = None, seed: int = 1) -> np.ndarray:
    return link_scores(load_class(read_config(FOLDER))(params(config)), suite, seed)


@pytest.mark.parametrize("config", [None, "paper-fb15k-237", "junior-alone", "random-asking"])
def test_link_prediction_is_answered_and_fixed_by_the_seed(config: str | None, tiny_suite: Suite) -> None:
    task = link_task(tiny_suite)
    first = links(tiny_suite, config)
    assert first.shape == (len(task.test), task.n_entities)
    assert np.isfinite(first).all()
    assert np.array_equal(first, links(tiny_suite, config))
    assert not np.array_equal(first, links(tiny_suite, config, seed=2))


def test_pretrained_vectors_reach_recommendation(tiny_suite: Suite, tmp_path: Path) -> None:
    graphs = {kg: tiny_suite.graph(kg) for kg in tiny_suite.graph_names()}
    cls = load_class(read_config(FOLDER))
    notes: dict[str, Any] = {}

    def report(kind: str, **values: Any) -> None:
        if kind == "note":
            notes[values["key"]] = values["value"]

    trained = cls(params())
    trained.pretrain(graphs, Context(1, "cpu", Path("/nonexistent"), graphs, report))
    trained.save_pretrained(tmp_path)
    # A note of each KG, no valid to score a teacher on.
    assert sum(key.endswith("teachers_unchanged") for key in notes) == len(graphs)
    assert not any(key.endswith("valid_mrr") for key in notes)
    submission = cls(params())
    submission.load_pretrained(tmp_path)
    task = tiny_suite.task("shop_music")
    assert isinstance(task, RecommendationTask)
    submission.adapt(task, context(**graphs))
    users = np.unique(task.test.users)
    queries = RecommendationQueries(
        users, task.matrix("train", "valid").select(users), 5, tie_order(task.n_items, 0)
    )
    answer = submission.predict(task, queries, context(**graphs))
    assert isinstance(answer, TopK)
    assert answer.items.shape == (len(users), 5)
    assert submission.entity_vectors("shop", context()).shape == (graphs["shop"].n_entities, 4)


def test_unknown_parameters_are_refused() -> None:
    cls = load_class(read_config(FOLDER))
    for typo in ("mulde_topk", "teacher_model", "teacher_dims"):
        with pytest.raises(SubmissionError, match=typo):
            cls({**params(), typo: 1})


def test_settings_of_teachers_are_checked_against_their_models() -> None:
    cls = load_class(read_config(FOLDER))
    curved = {**params(), "teacher_relation_curvature": True}
    assert cls({**curved, "mulde_teachers": "roth, atth"}).teacher.relation_curvature
    with pytest.raises(SubmissionError, match="transe has no curvature"):
        cls({**curved, "mulde_teachers": "roth, transe"})


@pytest.mark.parametrize("prefix", ["kge_", "teacher_"])
def test_sparse_rows_and_refused_values_are_named_as_the_parameter(prefix: str) -> None:
    cls = load_class(read_config(FOLDER))
    sparse = {f"{prefix}sparse_rows": True, f"{prefix}optimizer": "adagrad"}
    with pytest.raises(SubmissionError, match=f"{prefix}sparse_rows = true"):
        cls({**params(), **sparse})
    for name, value in ((f"{prefix}lr", 0.0), (f"{prefix}dim", 5), ("mulde_top_k", 0)):
        with pytest.raises(SubmissionError, match=f"^{name} = {value}; it must"):
            cls({**params(), name: value})
