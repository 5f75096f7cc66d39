"""Queries a CPU second and memory of serving, from what the submissions export."""

import numpy as np
import pytest

from benchmarks import serving_contenders as contenders
from benchmarks.workloads import interaction_workload, recommendation_workload, training_workload

pytestmark = pytest.mark.timeout(900)
NEEDS = {"pykeen-complex": "pykeen", "sklearn-texts": "sklearn"}


@pytest.fixture
def serve(measure, benchmark):
    """Time a contender by name, per query; returns the mean of what it answers."""

    def run(name, **sizes):
        if name in NEEDS:
            pytest.importorskip(NEEDS[name])
        answer, n = contenders.SERVED[name]
        value = measure(
            "serving_contenders", name, answer,
            unit="query", amount=n, queries=n, **contenders.floor(name), **sizes,
        )  # fmt: skip
        if benchmark.stats is not None:
            benchmark.extra_info["queries_per_cpu_second"] = n / benchmark.stats.stats.median
        return value

    return run


def check_factors(name, found):
    n = contenders.SERVED[name][1]
    assert found == pytest.approx(contenders.torch_topk(256, n), rel=1e-5)


@pytest.mark.benchmark(group="serving lists")
@pytest.mark.parametrize("name", contenders.LISTS)
def test_lists(serve, name):
    check_factors(name, serve(name, items=len(recommendation_workload().items), k=contenders.K))


@pytest.mark.benchmark(group="serving one list")
@pytest.mark.parametrize("name", contenders.ONES)
def test_one_list(serve, name):
    check_factors(name, serve(name, items=len(recommendation_workload().items), k=contenders.K))


@pytest.mark.benchmark(group="serving lists by a decoder")
@pytest.mark.parametrize("name", contenders.DECODED)
def test_decoded_lists(serve, name):
    found = serve(name, items=interaction_workload().n_columns, k=contenders.K)
    asked, scorer = contenders.neumf()
    with contenders.torch.inference_mode():
        scores = scorer.decoder(scorer.users[: len(asked)][:, None], scorer.items).numpy()
    scores[asked.exclude.row_ids(), asked.exclude.indices] = -np.inf
    best = -np.sort(-scores, axis=1)[:, : contenders.K]
    assert found == pytest.approx(float(best.mean()), rel=1e-4)


@pytest.mark.benchmark(group="serving score rows")
@pytest.mark.parametrize("name", contenders.ROWS)
def test_rows(serve, name):
    found = serve(name, entities=training_workload().n_entities)
    if name in ("own-serve-complex", "pykeen-complex"):
        assert found == pytest.approx(contenders.plain_complex(), rel=1e-4, abs=1e-6)
    elif name in contenders.KGE or name.removeprefix("own-serve-") in contenders.KGE:
        # Single queries, each as candidates of its own, give the same scores.
        model = contenders.kge(name.removeprefix("own-serve-"))
        heads, relations = (contenders.torch.from_numpy(ids[:4]) for ids in contenders.asked_links())
        every = contenders.torch.arange(model.n_entities).expand(4, -1)
        blocks = contenders.score_blocks(model, heads.numpy(), relations.numpy())
        with contenders.torch.inference_mode():
            wanted = model(heads, relations, every).numpy()
        np.testing.assert_allclose(next(iter(blocks)), wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
    elif name == "own-serve-paths":
        heads, relations = contenders.asked_links()
        row = next(contenders.path_model().score_all(heads[5:6], relations[5:6]))
        whole = np.concatenate(list(contenders.path_model().score_all(heads[:8], relations[:8])))
        np.testing.assert_allclose(row[0], whole[5], rtol=1e-4, atol=1e-5)


@pytest.mark.benchmark(group="serving texts")
@pytest.mark.parametrize("name", contenders.ANSWERED)
def test_texts(serve, name):
    assert serve(name, classes=5) == pytest.approx(0.2, rel=1e-5)  # each row's probabilities add up to one
