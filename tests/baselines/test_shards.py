"""Entity rows shared out over two processes with Gloo: the same training, the same ranks, the same file as in one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shard_cases
import torch
from baseline_factory import check_head_answers, link_scores, pretrain_and_load, suite_context
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from shard_cases import BASE, CASES, Log, context, entropy_inputs, fit, index, queries
from torch.nn import functional

from baselines.common.kge import MODELS, create_model, sharded_table
from baselines.common.kge.checkpoint import load_model, save_model
from baselines.common.kge.scoring import score_blocks
from baselines.common.kge.sharded_table import HostVectors, TableFile
from baselines.common.parallel import ALONE, Ranks
from baselines.common.plugs import FrozenVectors
from baselines.common.shards import Shard
from baselines.reference.kg_embedding import KgEmbedding, ShardedKgEmbedding
from kpi_bench import ClassificationTask, LinkPredictionTask, RecommendationTask
from kpi_bench.errors import SubmissionError
from kpi_bench.evaluators.link_prediction import rank_scores
from kpi_bench.suites.suite import Suite

SMALL = {
    "kge_dim": 8,
    "kge_epochs": 2,
    "kge_batch_size": 16,
    "kge_negatives": 4,
    "rec_epochs": 2,
    "rec_dim": 8,
    "text_epochs": 2,
    "text_encoder": "hashed",
}
HERE = Path(__file__).resolve().parent
RANKS = 2


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the processes have left all cases."""
    out = tmp_path_factory.mktemp("shards")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(RANKS),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])]),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, shard_cases.__file__, str(out)],
            env={**common, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(RANKS)
    ]
    errors = [rank.communicate(timeout=240)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * RANKS, "\n".join(errors)
    return out


def reports(together: Path) -> list[dict[str, Any]]:
    return [json.loads((together / f"rank{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("name", CASES)
def test_a_training_is_that_of_one_process_with_the_whole_table(name: str, together: Path) -> None:
    log = Log()
    alone = fit(name, context(log), shard_entities=False)
    found = reports(together)
    assert [report[name]["numel"] for report in found] == [20 * 8, 21 * 8]  # of 41 rows
    assert found[0][name]["curve"] == pytest.approx(log.curve, rel=1e-3)
    assert found[0][name]["notes"] == pytest.approx(log.notes, rel=1e-3)
    assert len(log.curve) == BASE["epochs"]
    both = load_file(together / f"{name}.safetensors")
    assert both.keys() == alone.state_dict().keys()
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(both[key], value, rtol=1e-3, atol=1e-4)


def test_a_training_is_that_of_two_processes_with_whole_tables(together: Path) -> None:
    whole, shared = load_file(together / "plain.safetensors"), load_file(together / "sampled.safetensors")
    for key, value in whole.items():
        torch.testing.assert_close(shared[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["softmax", "grouped", "softmax roth", "binary"])
def test_one_process_holds_the_whole_table(name: str) -> None:
    ours, theirs = (fit(name, context(Log()), shard_entities=shard, epochs=2) for shard in (True, False))
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*CASES, "tied"])
def test_ranks_over_shards_are_those_of_the_evaluator(name: str, together: Path) -> None:
    found = reports(together)
    ranks = [report[name] if name == "tied" else report[name]["ranks"] for report in found]
    assert ranks[0] == ranks[1]
    asked = index()
    expected = rank_scores(asked, score_blocks(load_model(together / f"{name}.safetensors"), *queries(asked)))
    if name == "tied":  # whole numbers, so that the order of a sum does not matter
        assert ranks[0] == [expected.optimistic.tolist(), expected.pessimistic.tolist()]
        assert expected.optimistic.tolist() != expected.pessimistic.tolist()
    else:  # another order of sums parts or joins candidates that are as good as equal
        assert np.abs(np.array(ranks[0]) - [expected.optimistic, expected.pessimistic]).max() <= 1


def test_a_score_that_is_not_finite_is_seen_by_all(together: Path) -> None:
    assert [report["nan"] for report in reports(together)] == [True] * RANKS


def test_rows_come_from_their_owners_and_gradients_go_back(together: Path) -> None:
    found = [report["lookups"] for report in reports(together)]
    assert all(one["right"] for one in found)
    expected = torch.zeros(11)
    for rank, one in enumerate(found):
        expected.index_add_(0, torch.tensor(one["asked"]), torch.full((len(one["asked"]),), rank + 1.0))
    assert [value for one in found for value in one["grad"]] == expected.tolist()


def test_the_softmax_over_shards_is_exact(together: Path) -> None:
    scores, rows, columns = entropy_inputs()
    scores.requires_grad_()
    expected = functional.cross_entropy(scores[rows], columns, reduction="none")
    expected.sum().backward()
    found = [report["entropies"] for report in reports(together)]
    for one in found:
        torch.testing.assert_close(torch.tensor(one["loss"]), expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([torch.tensor(one["grad"]) for one in found], 1), scores.grad)


def test_what_cannot_be_shared_out_is_refused(together: Path) -> None:
    told = reports(together)[0]["refused"]
    assert "a table of 1 rows cannot be split over 2 processes" in told["few"]
    assert "kge_sparse_rows and kge_shard_entities" in told["sparse"]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 400),
    dim=st.integers(1, 40),
    size=st.integers(1, 5),
    drawn=st.sampled_from([1, 256, 1 << 18]),
)
def test_initial_rows_are_those_of_the_whole_table(n: int, dim: int, size: int, drawn: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("baselines.common.shards._DRAWN", drawn)
        whole = torch.Generator().manual_seed(n)
        expected = torch.randn(n, dim, generator=whole)
        if size > n:
            return
        generators = [torch.Generator().manual_seed(n) for _ in range(size)]
        parts = [Shard(Ranks(rank, size), n).normal(dim, generators[rank]) for rank in range(size)]
    assert torch.equal(torch.cat(parts), expected)
    assert all(torch.equal(generator.get_state(), whole.get_state()) for generator in generators)
    assert max(map(len, parts)) == Shard(Ranks(0, size), n).widest


def test_alone_a_look_up_is_an_embedding() -> None:
    table, ids = torch.rand(5, 2), torch.tensor([[0, 4], [4, 1]])
    assert torch.equal(Shard(ALONE, 5).lookup(table, ids), table[ids])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bias", [False, True])
def test_scores_by_blocks_are_those_of_the_model(
    name: str, bias: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(2)
    model = create_model(name, 29, 2, 4, generator, bias=bias, init_std=0.3)
    with torch.no_grad():
        for table in (model.head_bias, model.tail_bias):
            if table is not None:
                table.normal_(generator=generator)
    save_model(model, tmp_path / "kge.safetensors")
    monkeypatch.setattr(sharded_table, "DEVICE_NUMBERS", 40)
    monkeypatch.setattr(sharded_table, "HOST_SCORES", 29 * 3)
    table = TableFile(tmp_path / "kge.safetensors", "cpu")
    heads, relations = np.arange(7), np.arange(7) % 4
    blocks = list(table.score_blocks(heads, relations))
    assert [len(block) for block in blocks] == [3, 3, 1]
    expected = model(torch.from_numpy(heads), torch.from_numpy(relations)).detach().numpy()
    np.testing.assert_allclose(np.concatenate(blocks), expected, rtol=1e-4, atol=1e-5)
    assert table.n_parameters == sum(parameter.numel() for parameter in model.parameters())


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    model = create_model("distmult", 5, 2, 4, torch.Generator(), bias=True)
    save_model(model, tmp_path / "whole")
    whole = load_file(tmp_path / "whole")
    with pytest.raises(SubmissionError, match="no such checkpoint"):
        TableFile(tmp_path / "none", "cpu")
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-4])
    save_file(whole, tmp_path / "bare")
    save_file(
        whole | {"tail_bias": torch.zeros(4, 1)},
        tmp_path / "short",
        metadata={"kge": '{"model": "distmult", "n_entities": 5, "n_relations": 2, "dim": 4, "bias": true}'},
    )
    for wrong in ("cut", "bare", "short"):
        with pytest.raises(SubmissionError, match="holds no KGE model"):
            TableFile(tmp_path / wrong, "cpu")


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 50), dim=st.integers(1, 9), block=st.integers(1, 200), seed=st.integers(0, 99))
def test_vectors_on_the_host_are_scaled_as_frozen_ones(n: int, dim: int, block: int, seed: int) -> None:
    vectors: NDArray[np.float32] = np.random.default_rng(seed).normal(3, 2, (n, dim)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharded_table, "DEVICE_NUMBERS", block)
        host = HostVectors(torch.from_numpy(vectors))
    frozen, rows = FrozenVectors(vectors), torch.tensor([0, n - 1, 0])
    if n > 1:  # of one row only rounding is left
        torch.testing.assert_close(host(), frozen(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(host(rows), frozen(rows), rtol=1e-4, atol=1e-4)


def test_vectors_on_the_host_stay_there_and_are_shipped() -> None:
    host = HostVectors(torch.rand(6, 2)).to("meta")
    assert (host.vectors.device.type, host.mean.device.type) == ("cpu", "meta")
    assert set(host.state_dict()) == {"vectors", "mean", "scale"}


def test_heads_read_the_rows_of_a_file(tiny_suite: Suite, tmp_path: Path) -> None:
    ctx = suite_context(tiny_suite, tmp_path)
    shared = pretrain_and_load(KgEmbedding, SMALL | {"kge_shard_entities": True}, ctx, tmp_path / "shared")
    plain = pretrain_and_load(KgEmbedding, SMALL, ctx, tmp_path / "plain")
    for task in map(tiny_suite.task, tiny_suite.task_names()):
        if isinstance(task, RecommendationTask):
            assert np.allclose(
                shared.item_plug(task, ctx)().numpy(), plain.item_plug(task, ctx)().numpy(), atol=1e-4
            )
        elif isinstance(task, ClassificationTask):
            assert isinstance(shared.text_plug(task, ctx), HostVectors)
            rows = torch.from_numpy(task.test.entities.copy())
            torch.testing.assert_close(
                shared.text_plug(task, ctx)(rows), plain.text_plug(task, ctx)(rows), rtol=1e-3, atol=1e-3
            )
    check_head_answers(shared, tiny_suite, ctx)
    with pytest.raises(SubmissionError, match="nothing was pre-trained"):
        KgEmbedding({"kge_shard_entities": True}).entity_vectors("shop", ctx)
    with pytest.raises(SubmissionError, match="must be true or false"):
        KgEmbedding({"kge_shard_entities": 1})


def test_links_are_answered_from_the_pre_training(tiny_suite: Suite, tmp_path: Path) -> None:
    task = tiny_suite.task("library_links")
    assert isinstance(task, LinkPredictionTask)
    ctx = suite_context(tiny_suite, tmp_path)
    submission = pretrain_and_load(ShardedKgEmbedding, SMALL, ctx, tmp_path / "state")
    scores = link_scores(submission, tiny_suite)
    model = load_model(tmp_path / "state" / f"{task.spec.kg}.safetensors")
    expected = model(torch.tensor(task.test.heads), torch.tensor(task.test.relations)).detach().numpy()
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    sizes = submission.parameters()
    assert sizes == {
        "total": sizes["kept"],
        "trainable": 0,
        "kept": sum(p.numel() for p in model.parameters()),
    }
    submission.export(tmp_path)
    assert load_file(tmp_path / "kge.safetensors").keys() == model.state_dict().keys()


@pytest.mark.slow
def test_the_memory_of_a_process_is_its_share() -> None:
    from benchmarks.shards import run

    sizes = ["--entities=200000", "--dim=128", "--batch=64", "--steps=2", "--loss=sampled_softmax", "--shard"]
    one, two = (max(found["peak_mb"] for found in run(size, sizes)) for size in (1, 2))
    table = 200_000 * 128 * 4 / 2**20
    # Parameter, gradient and two moments; code and buffers are the rest.
    assert one - two > 0.8 * 4 * table / 2
    assert two < 4.5 * table / 2 + 150
