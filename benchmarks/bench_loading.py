"""CPU seconds and memory of reading a KG, grouping its edges, and verifying a suite."""

import shutil

import numpy as np
import pytest

from benchmarks import loading_contenders as contenders
from kpi_bench.errors import SuiteError
from kpi_bench.suites.manifest import read_manifest
from kpi_bench.suites.verify import verify_suite

pytestmark = pytest.mark.timeout(900)
NEEDS = {"pykeen-triples": "pykeen", "dgl-csr": "dgl"}


def run(measure, name, rounds=5, **sizes):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    contenders.folder()
    return measure(
        "loading_contenders", name, contenders.CONTENDERS[name], rounds=rounds,
        entities=contenders.N_ENTITIES, relations=contenders.N_RELATIONS, triples=contenders.N_TRIPLES, **sizes,
    )  # fmt: skip


@pytest.mark.benchmark(group="KG reading")
@pytest.mark.parametrize("name", contenders.READING)
def test_reading(measure, name):
    size = sum(path.stat().st_size for path in contenders.kg_files())
    found = run(measure, name, rounds=3 if name == "pykeen-triples" else 5, file_mb=size / 1e6)
    assert found == contenders.N_TRIPLES
    if name == "own-read":
        np.testing.assert_array_equal(contenders.graph().triples(), contenders.in_kg())


@pytest.mark.benchmark(group="KG edges")
@pytest.mark.parametrize("name", contenders.EDGES)
def test_edges(measure, name):
    # Both groupings read the columns and write half as wide ones.
    assert run(measure, name, bytes=2 * contenders.N_TRIPLES * (3 * 8 + 2 * 4)) == contenders.N_TRIPLES
    if name == "own-edges":
        for edges, row, other in ((contenders.graph().out_edges, 0, 2), (contenders.graph().in_edges, 2, 0)):
            rows = np.repeat(np.arange(contenders.N_ENTITIES), edges.degrees())
            found = np.stack([rows, edges.relations, edges.neighbours], axis=1)
            wanted = contenders.in_kg()[:, [row, 1, other]]
            np.testing.assert_array_equal(found, wanted[np.lexsort(wanted.T[::-1])])


@pytest.mark.benchmark(group="suite verification")
@pytest.mark.parametrize("name", contenders.CHECKING)
def test_checking(measure, tmp_path, name):
    size = sum(entry.bytes for entry in read_manifest(contenders.suite()).files.values())
    found = run(measure, name, rounds=3, file_mb=size / 1e6)
    if name != "bare-hash":
        assert found == contenders.N_TRIPLES
    if name == "own-verify":
        damaged = tmp_path / "suite"
        shutil.copytree(contenders.suite(), damaged)
        relations = damaged / "kgs" / "kg" / "relations.parquet"
        relations.write_bytes(relations.read_bytes()[:-5] + b"wrong")
        with pytest.raises(SuiteError, match=r"relations.parquet"):
            verify_suite(damaged, read_manifest(damaged))
