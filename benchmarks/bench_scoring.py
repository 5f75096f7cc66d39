"""CPU seconds and memory of scoring predictions from their files: lists, class scores, score rows."""

import pytest

from benchmarks import scoring_contenders as contenders
from benchmarks.workloads import fb15k237_archive, recommendation_workload

pytestmark = pytest.mark.timeout(900)
NEEDS = {"ranx-parquet": "ranx", "scikit-learn": "sklearn"}


def run(measure, name, rounds=5, **sizes):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    return measure("scoring_contenders", name, contenders.CONTENDERS[name], rounds=rounds, **sizes)


@pytest.fixture(scope="module")
def ndcg():
    return contenders.plain_pandas()


@pytest.mark.benchmark(group="scoring lists")
@pytest.mark.parametrize("name", contenders.LISTS)
def test_lists(measure, ndcg, name):
    w = recommendation_workload()
    n = contenders.lists_file().stat().st_size
    found = run(
        measure, name, rounds=3, users=len(w.users), items=len(w.items), rows=100 * len(w.users), file_mb=n / 1e6
    )  # fmt: skip
    if name != "bare-parquet":
        assert found == pytest.approx(ndcg, rel=1e-9 if name.startswith("own") else 1e-5)


@pytest.mark.benchmark(group="scoring class scores")
@pytest.mark.parametrize("name", contenders.RATINGS)
def test_ratings(measure, name):
    pytest.importorskip("sklearn")
    found = run(measure, name, examples=contenders.N_EXAMPLES, classes=contenders.N_CLASSES)
    if name != "bare-labels":
        assert found == pytest.approx(contenders.scikit_learn(), rel=1e-9)


@pytest.mark.skipif(fb15k237_archive() is None, reason="no FB15k-237.tar.gz")
@pytest.mark.benchmark(group="scoring score rows")
@pytest.mark.parametrize("name", contenders.ROWS)
def test_rows(measure, name):
    _, _, index = contenders.links()
    size = contenders.rows_file().stat().st_size
    found = run(measure, name, queries=index.n_queries, entities=index.n_entities, file_mb=size / 1e6)
    if name != "bare-rows":
        assert found == pytest.approx(contenders.plain_torch_rows(), rel=1e-5)
