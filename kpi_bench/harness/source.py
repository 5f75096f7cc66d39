"""Hash of the code that a submission is: its folder and every module of its own package that its entry reaches."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from kpi_bench.harness.config import SubmissionConfig

IGNORED = {"__pycache__", "runs"}
"""Folders that hold no code: `kpi-bench evaluate --submission .` writes to runs/ beside the code."""
SHARED = "baselines"
"""Package whose heads and training loop submissions elsewhere may build on: a change there changes them."""
NOT_CODE = {".toml", ".md"}


def source_sha256(config: SubmissionConfig) -> str:
    """SHA-256 over the submission's folder and the import closure of its entry (:func:`import_closure`).

    Parameters do not count: they are recorded beside. Modules are found by reading imports, nothing is executed.
    """
    digest = hashlib.sha256()
    for path in sorted(config.folder.rglob("*")):
        inner = path.relative_to(config.folder)
        hidden = any(part in IGNORED or part.startswith(".") for part in inner.parts)
        if path.is_file() and path.suffix not in NOT_CODE and not hidden:
            _add(digest, inner.as_posix(), path)
    module = config.submission.entry.partition(":")[0]
    # Ready-made predictions have no entry.
    closure = import_closure(module, (str(config.folder), *sys.path)) if module else {}
    for name, path in sorted(closure.items()):
        _add(digest, name, path)
    return digest.hexdigest()


def import_closure(module: str, search: Sequence[str] | None = None) -> dict[str, Path]:
    """Source files by module name: ``module`` and what it imports, directly or not, from its own top-level package
    or from ``baselines``.

    ``search`` are the folders to look for the package in (default ``sys.path``).
    """
    folders = list(sys.path if search is None else search)
    packages = {module.partition(".")[0], SHARED}
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = None if name in found else _source_of(name, folders)
        if path is None:
            continue
        found[name] = path
        parents = [name.rpartition(".")[0]] if "." in name else []
        waiting += [
            other for other in (*_imports(path, name), *parents) if other.partition(".")[0] in packages
        ]
    return found


def _source_of(module: str, folders: list[str]) -> Path | None:
    """File of a module, found step by step: ``importlib.util.find_spec`` of a submodule would execute the packages above it."""
    package, *inner = module.split(".")
    # The second look finds editable installs, which are known to import hooks alone.
    spec = PathFinder.find_spec(package, folders) or importlib.util.find_spec(package)
    for part in inner:
        if spec is None or spec.submodule_search_locations is None:
            return None
        package = f"{package}.{part}"
        spec = PathFinder.find_spec(package, list(spec.submodule_search_locations))
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _imports(path: Path, module: str) -> list[str]:
    is_package = path.name == "__init__.py"
    names: list[str] = []
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        # Whoever imports the module will say what is wrong with it.
        return names
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                keep = len(parts) - node.level + (1 if is_package else 0)
                base = ".".join([*parts[:keep], *([base] if base else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


def _add(digest: hashlib._Hash, name: str, path: Path) -> None:
    digest.update(f"{name}\0".encode())
    digest.update(hashlib.sha256(path.read_bytes()).digest())
