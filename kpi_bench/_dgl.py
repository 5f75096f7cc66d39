"""The only module that imports DGL.

DGL is not maintained on the package index: it exists for Python <= 3.11, and 1.1 expects
``setuptools.extern.packaging``, which newer setuptools removed; ``packaging`` itself stands in for it.
DGL serves where it is the right tool on a CPU (message passing, walks); every caller has a torch path with the same numbers.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
from typing import Any

from kpi_bench.errors import KpiBenchError


def dgl_available() -> bool:
    """True when DGL is installed for this interpreter (it is not imported)."""
    return importlib.util.find_spec("dgl") is not None


def import_dgl() -> Any:
    """Import DGL with the torch backend.

    Raises:
        KpiBenchError: DGL is not installed, or this build of it does not import here.
    """
    if "dgl" in sys.modules:
        return sys.modules["dgl"]
    if not dgl_available():
        raise KpiBenchError(
            "DGL is not installed (it has no build for Python >= 3.12). Use the torch path, or Python 3.11 and `pip install 'dgl<2'`."
        )
    os.environ.setdefault("DGLBACKEND", "pytorch")
    _stand_in_for_setuptools_extern()
    try:
        return importlib.import_module("dgl")
    except (ImportError, OSError) as error:
        raise KpiBenchError(
            f"DGL is installed but does not import: {error}. Use the torch path instead."
        ) from error


def _stand_in_for_setuptools_extern() -> None:
    if "setuptools.extern" in sys.modules:
        return
    if importlib.util.find_spec("setuptools") and importlib.util.find_spec("setuptools.extern"):
        return
    import packaging.version

    extern = types.ModuleType("setuptools.extern")
    extern.packaging = packaging  # type: ignore[attr-defined]
    sys.modules.setdefault("setuptools.extern", extern)
    sys.modules.setdefault("setuptools.extern.packaging", packaging)
