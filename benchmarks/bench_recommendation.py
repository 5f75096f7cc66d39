"""CPU seconds and memory of full-ranking recommendation, beside peers in the same process."""

import pytest

from benchmarks import recommendation_contenders as contenders
from benchmarks.workloads import recommendation_workload

pytestmark = pytest.mark.timeout(1800)
NEEDS = {"own-numba": "numba", "top100-own-numba": "numba", "recbole": "recbole", "ranx": "ranx"}
LISTS = [name for name in contenders.CONTENDERS if name.startswith("top100")]
METRICS = [name for name in contenders.CONTENDERS if name not in LISTS]


@pytest.fixture(scope="module")
def expected() -> float:
    return contenders.own_torch()


@pytest.mark.benchmark(group="recommendation metrics")
@pytest.mark.parametrize("name", METRICS)
def test_metrics(measure, expected, name):
    ndcg = run(measure, name, rounds=3 if name in ("ranx", "sslrec-form") else 5)
    if name != "bare-gemm":
        assert ndcg == pytest.approx(expected, rel=1e-5)


@pytest.mark.benchmark(group="masked top-100")
@pytest.mark.parametrize("name", LISTS)
def test_lists(measure, name):
    assert run(measure, name) == pytest.approx(contenders.top_100_torch(), rel=1e-5)


def run(measure, name, rounds=5):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    w = recommendation_workload()
    return measure(
        "recommendation_contenders", name, contenders.CONTENDERS[name],
        rounds=rounds, users=len(w.users), items=len(w.items),
    )  # fmt: skip
