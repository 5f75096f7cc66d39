"""Every submission on a pretended GPU, from pre-training to answers: what a training step waits for is listed here, and nothing else is.

A wait more than ``KNOWN`` names is a slower step on a GPU: make the shape known beforehand (:mod:`baselines.common.device`), or list it
here and in docs/gpu.md with its reason. One less is to be taken out of both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretend_device import pretended
from rank_cases import JPLR, KGE, KGGLM_, METHODS, MULDE, LinkedJplr
from test_encoders import save_bert

from baselines.common.classify import fit_classifier
from baselines.common.device import ahead, counts, sent
from baselines.common.heads import TextConfig
from baselines.common.recommenders.fit import BACKBONES
from baselines.common.submission import TaskSubmission
from baselines.jplr.submission import Jplr
from baselines.kgglm.submission import KGGLM
from baselines.metasd.submission import Metasd
from baselines.mulde.submission import Mulde
from baselines.reference.backbones import Backbone
from kpi_bench import (
    ClassificationQueries,
    ClassificationTask,
    Context,
    LinkPredictionQueries,
    LinkPredictionTask,
    Queries,
    RecommendationQueries,
    RecommendationTask,
    Suite,
    Task,
)
from kpi_bench.evaluators.ranking import tie_order
from kpi_bench.harness.config import read_config

SUBMISSIONS = Path(__file__).resolve().parents[2] / "submissions"
HEADS = {
    "rec_epochs": 1, "rec_dim": 8, "rec_batch_size": 64, "text_epochs": 1, "text_hashed_dim": 32, "text_batch_size": 8,
    "text_encoder": "hashed",
}  # fmt: skip
ONE_EPOCH = {"kge_epochs": 1, "kge_batch_size": 100, "teacher_epochs": 1, "teacher_batch_size": 100}
METASD = {
    **{key: value for key, value in read_config(SUBMISSIONS / "metasd").params.items() if key.split("_")[0] in ("kge", "metasd")},
    "kge_epochs": 2, "kge_dim": 8, "kge_batch_size": 64, "metasd_static_after": 1,
}  # fmt: skip

CASES: dict[str, tuple[type[TaskSubmission], dict[str, Any]]] = {
    **{name: (cls, given | {"kge_epochs": 1}) for name, (cls, given) in METHODS.items() if name.startswith("kge")},
    "kge all entities": (METHODS["kge softmax"][0], KGE | {"kge_loss": "softmax", "kge_epochs": 1, "kge_model": "complex"}),
    "kge shards": (METHODS["kge softmax"][0], KGE | {"kge_shard_entities": True, "kge_epochs": 1}),
    "pkgm": (METHODS["pkgm"][0], METHODS["pkgm"][1] | {"pkgm_epochs": 1}),
    "kgglm range": (KGGLM, KGGLM_ | {"kgglm_pretrain_epochs": 1, "kgglm_epochs": 1, "kgglm_batch_size": 120, "kgglm_pretrain_walks": 4, "kgglm_paths": 20, "kgglm_beams": 4}),
    "kgglm full": (KGGLM, KGGLM_ | {"kgglm_pretrain_epochs": 1, "kgglm_epochs": 1, "kgglm_batch_size": 120, "kgglm_pretrain_walks": 4, "kgglm_paths": 20, "kgglm_beams": 4, "kgglm_softmax": "full"}),
    "jplr": (LinkedJplr, JPLR | {"jplr_teacher_epochs": 1, "jplr_epochs": 1, "jplr_batch_size": 40}),
    "jplr lstm": (Jplr, JPLR | {"jplr_teacher_epochs": 1, "jplr_epochs": 1, "jplr_batch_size": 40, "jplr_encoder": "rsn"}),
    "mulde": (Mulde, MULDE | ONE_EPOCH),
    "mulde random": (Mulde, MULDE | ONE_EPOCH | {"mulde_asking": "random"}),
    "metasd": (Metasd, METASD),
    "mudok": METHODS["mudok"],
    "mudok code": METHODS["mudok code"],
    **{name: (Backbone, {"backbone": name}) for name in BACKBONES},
}  # fmt: skip

PATHS = {"baselines/jplr/model.py:steps: aten.nonzero"}
LINKED = {
    "baselines/jplr/student.py:Imitation.feature_loss: aten._unique2",
    "baselines/jplr/student.py:Imitation.feature_loss: aten.index with a mask",
    "baselines/jplr/student.py:Imitation.asked: aten.nonzero",
    "baselines/common/paths/sampled.py:Candidates.of: aten._unique2",
    "baselines/jplr/model.py:PathModel._split: aten.index with a mask",
}
KNOWN: dict[str, set[str]] = {
    "kge softmax": {
        "baselines/common/kge/facts.py:GroupedFacts.batches: aten.repeat_interleave",
        "baselines/common/kge/train.py:_softmax: aten.unique_consecutive",
    },
    "kge shards": {"baselines/common/kge/sharded_table.py:HostVectors.forward: copy to the host"},
    "pkgm": {"baselines/pkgm/model.py:grouped_product: tolist"},
    "simgcl": {"baselines/common/recommenders/simgcl.py:SimGCL._contrast: aten._unique2"},
    "dccf": {"baselines/common/recommenders/dccf.py:DCCF.loss: aten._unique2"},
    "lightgcl": {"baselines/common/recommenders/lightgcl.py:LightGCL.loss: aten._unique2"},
    "kgglm full": {"baselines/kgglm/model.py:PathLM._steps: aten.nonzero"},
    "kgglm range": {
        "baselines/kgglm/model.py:PathLM._steps: aten.nonzero",
        "baselines/kgglm/model.py:PathLM._columns: aten._local_scalar_dense",
        "baselines/kgglm/model.py:PathLM.by_range: tolist",
    },
    "jplr": PATHS | LINKED | {"baselines/jplr/teacher.py:fit_teacher.<locals>.loss: aten._unique2"},
    "jplr lstm": PATHS | LINKED | {"baselines/jplr/encoder.py:_normalised: aten.nonzero"},
}


SLOW = ("kgglm full", "jplr lstm", "mulde random", "mudok code", "kge binary shared")
"""A second or two each, and little of their own."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES]
)
def test_a_training_step_waits_for_nothing_else(name: str, tiny_suite: Suite, tmp_path: Path) -> None:
    cls, given = CASES[name]
    graphs = {kg: tiny_suite.graph(kg) for kg in tiny_suite.graph_names()}
    ctx = Context(3, "cuda", tmp_path, graphs, lambda kind, **values: None, tmp_path / "cache")
    tasks = [tiny_suite.task(task) for task in tiny_suite.task_names()]
    with pretended() as waits:
        submission = cls(HEADS | given)
        if cls.pretrains({task.spec.kind for task in tasks}):
            submission.pretrain(graphs, ctx)
            submission.save_pretrained(tmp_path)
            submission = cls(HEADS | given)
            submission.load_pretrained(tmp_path)
        for task in tasks:
            if isinstance(task, LinkPredictionTask) and _answers_no_links(cls):
                continue
            submission.adapt(task, ctx)
            answer = submission.predict(task, _queries(task), ctx)
            if isinstance(task, LinkPredictionTask):
                answer = np.concatenate(list(answer))
            values = answer.scores if hasattr(answer, "scores") else answer
            assert np.isfinite(np.asarray(values)).any()
    assert waits.steps > 2 * waits.epochs  # else a wait a step looks like one an epoch
    assert set(waits.per_step()) == KNOWN.get(name, set())


def test_a_tuned_encoder_waits_only_where_its_library_does(tiny_suite: Suite, tmp_path: Path) -> None:
    task = next(t for t in map(tiny_suite.task, tiny_suite.task_names()) if isinstance(t, ClassificationTask))
    save_bert(tmp_path, words=sorted({word for text in task.train.texts for word in text.lower().split()}))
    config = TextConfig(encoder=str(tmp_path), tune_encoder=True, epochs=1, batch_size=8, pooling="mean")
    with pretended() as waits:
        fitted = fit_classifier(task, config, Context(3, "cuda", tmp_path, {}))
        scores = fitted.scores(task.test.texts, task.test.entities)
    assert np.allclose(scores.sum(1), 1)
    assert waits.steps > 2 * waits.epochs
    # Its look whether a batch has any pad, once a batch.
    assert set(waits.per_step()) == {
        "baselines/common/transformer_encoder.py:TransformerEncoder.pooled: aten._local_scalar_dense"
    }


def _answers_no_links(cls: type[TaskSubmission]) -> bool:
    return cls.adapt_link_prediction is TaskSubmission.adapt_link_prediction


def _queries(task: Task) -> Queries:
    if isinstance(task, RecommendationTask):
        users = np.unique(task.test.users)
        known = task.matrix("train", "valid").select(users)
        return RecommendationQueries(users, known, 5, tie_order(task.n_items, 0))
    if isinstance(task, ClassificationTask):
        return ClassificationQueries(task.test.examples, task.test.entities, task.test.texts)
    return LinkPredictionQueries(task.test.heads, task.test.relations, np.zeros(len(task.test), np.int64))


def test_the_pretended_device_sees_what_a_gpu_would_wait_for() -> None:
    device = torch.device("cuda")
    with pretended() as waits:
        there = torch.arange(6.0, device=device)
        assert there.device == device
        assert (there + 1).device == device
        assert torch.zeros(2).device.type == "cpu"
        with pytest.raises(RuntimeError, match="on cuda and on cpu"):
            there + torch.zeros(6)
        with pytest.raises(TypeError, match="cuda"):
            there.numpy()
        parameter = torch.nn.Linear(6, 1).to(device)
        parameter(there).sum().backward()
        assert parameter.weight.grad is not None
        assert parameter.weight.grad.device == device
        # Recorded are the waits of our packages' code alone.
        assert counts(torch.zeros(3, dtype=torch.int64, device=device), 2).cpu().tolist() == [3, 0]
        assert not waits.all
        moved = sent(np.arange(3), device)
        assert moved.device == device
        assert not waits.all
        assert sent(there, torch.device("cpu")).device.type == "cpu"
        assert [str(place) for place in waits.all] == ["baselines/common/device.py:sent: copy to the host"]


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_batches_made_ahead_keep_their_order_and_errors(kind: str) -> None:
    device, made = torch.device(kind), []

    def batches(last: int) -> Any:
        for i in range(5):
            if i == last:
                raise ValueError("no batch")
            made.append(i)
            yield i

    assert list(ahead(batches(9), device)) == [0, 1, 2, 3, 4]
    assert list(ahead([], device)) == []
    with pytest.raises(ValueError, match="no batch"):
        list(ahead(batches(2), device))
    made.clear()
    stopped = ahead(batches(9), device)
    assert next(stopped) == 0
    stopped.close()
    assert made == ([0] if kind == "cpu" else [0, 1])


@pytest.mark.parametrize("ids", [[], [0], [3, 1, 3, 3]])
def test_counts_are_those_of_bincount(ids: list[int]) -> None:
    given = torch.tensor(ids, dtype=torch.int64)
    assert torch.equal(counts(given, 5), torch.bincount(given, minlength=5))
