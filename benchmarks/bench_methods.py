"""CPU seconds and memory of training steps of PKGM and of the text head."""

import pytest

from benchmarks import method_contenders as contenders
from benchmarks.workloads import training_workload

pytestmark = pytest.mark.timeout(600)


def run(measure, name, **sizes):
    return measure(
        "method_contenders", name, contenders.CONTENDERS[name], unit="step", amount=contenders.STEPS, **sizes
    )


def check_first_step(name, wanted):
    loss, gradients = contenders.first_loss(name)
    other, expected = contenders.first_loss(wanted)
    assert loss == pytest.approx(other, rel=1e-5)
    for key, gradient in gradients.items():
        # By norm: where |x| or the margin has its corner, rounding decides on which side a single triple is.
        assert float((gradient - expected[key]).norm()) < 1e-2 * float(expected[key].norm())
    return loss


@pytest.mark.benchmark(group="PKGM step")
@pytest.mark.parametrize("name", ["own-pkgm", "plain-pkgm"])
def test_pkgm(measure, name):
    first = check_first_step(name, "plain-pkgm")
    w, work = training_workload(), contenders.pkgm_work() if name == "own-pkgm" else {}
    later = run(
        measure, name,
        triples=contenders.PKGM.batch_size, entities=w.n_entities, relations=w.n_relations,
        dim=contenders.PKGM.dim, **work,
    )  # fmt: skip
    assert 0 < later < first + 0.5  # that it learns is for tests/


@pytest.mark.benchmark(group="text head step")
@pytest.mark.parametrize("name", ["bare-head-gemms", "own-head", "plain-head"])
def test_head(measure, name):
    later = run(
        measure, name,
        examples=contenders.HEAD.batch_size, features=contenders.FEATURES, vectors=contenders.VECTORS,
        classes=contenders.N_CLASSES,
    )  # fmt: skip
    if name != "bare-head-gemms":
        assert 0 < later < check_first_step(name, "plain-head") + 0.1
