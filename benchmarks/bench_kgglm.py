"""CPU seconds and memory of KGGLM: walks, training steps and decoding, beside packages and plain restatements."""

import math
import os

import numpy as np
import pytest

from benchmarks import kgglm_contenders as contenders
from benchmarks import walk_contenders
from kpi_bench.suites.recipes import build_suite

pytestmark = pytest.mark.timeout(600)
ROUNDS = {"plain-gpt2": 2, "igraph-walk": 2, "own-decode-100": 2, "recompute-20": 2, "recompute-100": 2}  # fmt: skip
"""3 where not said, each after a round that is not timed."""
NO_MEMORY = ("gemms-range", "gemms-full", "recompute-20", "recompute-100")


@pytest.fixture
def time_contender(measure, benchmark):
    """Time a contender by name, whose call does ``amount`` of what comes in lots of ``lot``; returns its value, the share
    of them that counts where ``share``."""

    def run(name, unit, amount, lot, lots, share=False, **sizes):
        module = walk_contenders if name in walk_contenders.CONTENDERS else contenders
        value = measure(
            module.__name__.removeprefix("benchmarks."),
            name,
            module.CONTENDERS[name],
            rounds=ROUNDS.get(name, 3),
            memory=name not in NO_MEMORY,
            **{unit: amount},
            **sizes,
        )
        if benchmark.stats is not None:  # nothing is measured with --benchmark-disable
            each = benchmark.stats.stats.median / (amount * value if share else amount)
            benchmark.extra_info.update({f"{unit}_per_cpu_second": 1 / each, f"{lots}_cpu_s": lot * each})
        return value

    return run


@pytest.fixture(scope="module")
def ml_100k(tmp_path_factory):
    """The suite, built once; processes that measure memory find it by the variable."""
    with pytest.MonkeyPatch.context() as patch:
        if walk_contenders.SUITE not in os.environ:
            raw = walk_contenders.ml_100k_raw()
            if raw is None:
                pytest.skip(
                    f"no ml-100k/ml-100k.inter below KPI_BENCH_DATA or ../shared/data, and {walk_contenders.SUITE} is unset"
                )
            folder = tmp_path_factory.mktemp("suites") / "ml-100k"
            build_suite("ml-100k", raw, folder)
            patch.setenv(walk_contenders.SUITE, str(folder))
        yield walk_contenders.ml_100k()


@pytest.mark.benchmark(group="walks")
@pytest.mark.parametrize("name", walk_contenders.WALKS)
def test_walks(time_contender, name):
    for package in ("dgl", "igraph"):
        if name.startswith(package):
            pytest.importorskip(package)
    walks, graph = walk_contenders.WALKS[name], walk_contenders.skewed_graph()
    walk_contenders.check_walks(walks, graph, 2 * walk_contenders.STEPS + 1)
    share = time_contender(
        name, "walks", walks.n, 1_000_000, "million_walks",
        share=True,
        nodes=graph.n_nodes, edges=graph.n_edges, steps=walk_contenders.STEPS,
    )  # fmt: skip
    assert share > 0.99


@pytest.mark.benchmark(group="walks on ml-100k")
@pytest.mark.parametrize("name", walk_contenders.ML_100K_WALKS)
def test_ml_100k_walks(ml_100k, time_contender, name):
    task, graph = ml_100k
    walks = walk_contenders.ML_100K_WALKS[name]
    walk_contenders.check_walks(walks, graph.graph, 2 * walk_contenders.HOPS + 1)
    if "user" in name:
        rows = walks.make()(20_000).astype(np.int64)
        user, own = rows[:, 0] - graph.first_user, task.train_matrix
        end = (rows[:, -1] >= 0).nonzero()[0]
        pairs = user[end] * graph.graph.n_nodes + rows[end, -1]
        assert np.isin(pairs, own.row_ids() * graph.graph.n_nodes + graph.items[own.indices]).all()
    share = time_contender(
        name, "walks", walks.n, 1_000_000, "million_walks",
        share=True,
        nodes=graph.graph.n_nodes, edges=graph.graph.n_edges, steps=walk_contenders.HOPS,
    )  # fmt: skip
    # Most entities have one edge: a quarter of the walks from them come to one where they must end.
    assert share > (0.99 if "user" in name else 0.7)


@pytest.mark.benchmark(group="KGGLM training")
@pytest.mark.parametrize("name", contenders.TRAININGS)
def test_training(ml_100k, time_contender, name):
    if name.startswith("own"):
        contenders.check_same_loss(name.removeprefix("own-"))
    value = time_contender(
        name, "paths", contenders.STEPS_TIMED * contenders.BATCH, 1_000, "thousand_paths",
        batch_size=contenders.BATCH, tokens=2 * walk_contenders.HOPS + 1,
    )  # fmt: skip
    g = ml_100k[1].graph
    assert math.isfinite(value)
    if not name.startswith("gemms"):
        assert 0 < value < math.log(g.n_nodes + g.n_relations) + 0.1  # of random guesses


@pytest.mark.benchmark(group="KGGLM decoding")
@pytest.mark.parametrize("name", contenders.DECODINGS)
def test_decoding(ml_100k, time_contender, name):
    decoding = contenders.DECODINGS[name]
    found = contenders.decode(decoding.beams, decoding.users, decoding.cached)
    contenders.check_lists(found, decoding.users)
    if not decoding.cached:
        wanted = contenders.decode(decoding.beams, decoding.users)
        np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-4, atol=1e-4)
    items = time_contender(
        name, "users", decoding.users, 1_000, "thousand_users", beams=decoding.beams, k=contenders.K
    )
    assert items > contenders.K / 2
