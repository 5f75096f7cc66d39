"""CPU seconds of an evaluation that has next to nothing to evaluate."""

import pytest

from benchmarks import harness_contenders as contenders

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.benchmark(group="harness", timer=contenders.cpu_seconds),
]


@pytest.mark.parametrize("name", contenders.CONTENDERS)
def test_harness(measure, name):
    contenders.finished()
    found = measure(
        "harness_contenders", name, contenders.CONTENDERS[name], rounds=3, suite="kpi-mini", runs=1,
        users=contenders.suite().task(contenders.task()).n_users,
    )  # fmt: skip
    if name != "bare-child":
        again = contenders.metric(contenders.run(contenders.finished()))
        assert 0 < found == again
