"""CPU seconds and memory of filtered link prediction on FB15k-237, beside peers in the same process."""

import pytest

from benchmarks import link_prediction_contenders as contenders
from benchmarks.workloads import fb15k237_archive, kge_workload

pytestmark = [
    pytest.mark.skipif(
        fb15k237_archive() is None,
        reason="FB15k-237.tar.gz is neither in KPI_BENCH_DATA nor in ../shared/data",
    ),
    pytest.mark.timeout(1800),
    pytest.mark.benchmark(group="link prediction"),
]
NEEDS = {"own-numba": "numba", "pykeen": "pykeen"}


@pytest.fixture(scope="module")
def expected() -> float:
    return contenders.own_torch()


@pytest.mark.parametrize("name", contenders.CONTENDERS)
def test_contender(measure, expected, name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    n_triples = contenders.PYKEEN_TRIPLES if name == "pykeen" else len(kge_workload().test)
    slow = name in ("metasd-form", "plain-torch", "pykeen")
    mrr = measure(
        "link_prediction_contenders",
        name,
        contenders.CONTENDERS[name],
        rounds=3 if slow else 5,
        unit="test_set",
        amount=n_triples / len(kge_workload().test),
        triples=n_triples,
        entities=len(kge_workload().entities),
    )
    if name == "pykeen":
        assert mrr == pytest.approx(contenders.own_on_pykeen_subset(), rel=1e-4)
    elif name != "bare-gemm":
        assert mrr == pytest.approx(expected, rel=1e-4)


def test_index(benchmark):
    """Built once a dataset; part of the own-* figures above."""
    kge_workload()
    index = benchmark.pedantic(contenders.build_index, rounds=5, warmup_rounds=1)
    benchmark.extra_info.update(contender="index", triples=len(index.triples))
    assert index.n_queries == 22_850
