"""The one door to DGL: it opens where DGL is, and says what to do where it is not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from kpi_bench._dgl import dgl_available, import_dgl
from kpi_bench.errors import KpiBenchError
from kpi_bench.suites.suite import Suite

needs_dgl = pytest.mark.skipif(
    importlib.util.find_spec("dgl") is None, reason="DGL has no build for this Python"
)


@pytest.fixture
def no_dgl_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a fresh interpreter: DGL itself cannot be imported twice, so it is hidden and put back."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "dgl"]:
        monkeypatch.delitem(sys.modules, name)


@needs_dgl
def test_import() -> None:
    dgl = import_dgl()
    assert dgl_available()
    assert import_dgl() is dgl
    graph = dgl.graph(([0, 1], [1, 2]), num_nodes=4)
    assert (graph.num_nodes(), graph.num_edges()) == (4, 2)


@needs_dgl
def test_a_stand_in_is_there_for_what_setuptools_removed() -> None:
    import_dgl()
    from setuptools.extern import packaging  # type: ignore[import-not-found,import-untyped]

    assert packaging.version.parse("1.10") > packaging.version.parse("1.9")


@needs_dgl
@pytest.mark.parametrize("inverse", [False, True])
def test_a_graph_of_the_suite_as_dgl(tiny_suite: Suite, inverse: bool) -> None:
    graph = tiny_suite.graph("library")
    view = graph.to_dgl(inverse=inverse)
    assert view.num_nodes() == graph.n_entities
    source, target = (end.numpy() for end in view.edges())
    relation = view.edata["relation"].numpy()
    n = graph.n_triples
    np.testing.assert_array_equal(np.stack([source, relation, target], axis=1)[:n], graph.triples())
    assert len(source) == (2 * n if inverse else n)
    if inverse:
        np.testing.assert_array_equal(source[n:], graph.tails)
        np.testing.assert_array_equal(target[n:], graph.heads)
        np.testing.assert_array_equal(relation[n:], graph.relations + graph.n_relations)


@pytest.mark.usefixtures("no_dgl_yet")
def test_without_dgl_the_error_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "dgl" else find(name, *rest)
    )
    assert not dgl_available()
    with pytest.raises(KpiBenchError, match=r"DGL is not installed.*Use the torch path.*pip install"):
        import_dgl()


@pytest.mark.usefixtures("no_dgl_yet")
@pytest.mark.parametrize("error", ["ImportError('libgraphbolt')", "OSError('libcudart.so.11')"])
def test_a_build_that_does_not_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: str) -> None:
    (tmp_path / "dgl.py").write_text(f"raise {error}")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(KpiBenchError, match=r"installed but does not import: lib.*Use the torch path"):
        import_dgl()
