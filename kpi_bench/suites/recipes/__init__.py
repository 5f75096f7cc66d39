"""Suite builders, one module each, behind ``kpi-bench data build RECIPE --raw DIR --out DIR``.

A recipe module has ``build(raw)``: it reads raw files under ``raw`` (None for generated suites) and returns the whole suite in memory.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from kpi_bench.errors import RecipeError
from kpi_bench.suites.manifest import Manifest
from kpi_bench.suites.writer import SuiteFrames, write_suite

RECIPES = {
    "kpi-mini": "kpi_mini",
    "kpi-public": "kpi_public",
    "kpi-open": "kpi_open",
    "kpi": "kpi",
    "fb15k-237": "fb15k_237",
    "wn18rr": "wn18rr",
    "db15k": "db15k",
    "fb15k-237-db15k": "fb15k_237_db15k",
    "codex-s": "codex_s",
    "ml-100k": "ml_100k",
}


def build_frames(recipe: str, raw: Path | None) -> SuiteFrames:
    """Run a recipe and return the suite in memory.

    Raises:
        RecipeError: no such recipe, or its raw files are missing or wrong.
    """
    if recipe not in RECIPES:
        raise RecipeError(f"no recipe {recipe!r}; there are {', '.join(RECIPES)}")
    module = importlib.import_module(f"{__name__}.{RECIPES[recipe]}")
    frames: SuiteFrames = module.build(raw)
    return frames


def build_suite(recipe: str, raw: Path | None, out: Path) -> Manifest:
    """Run a recipe and write the suite into ``out``, which must not hold another suite's files.

    Raises:
        RecipeError: as :func:`build_frames`; or ``out`` holds something that is not this suite.
    """
    if out.exists() and any(out.iterdir()):
        raise RecipeError(f"{out} is not empty; name a new folder, or remove it first")
    return write_suite(out, build_frames(recipe, raw))


def require(path: Path) -> Path:
    """The path itself when it exists.

    Raises:
        RecipeError: it does not, with the advice where to point ``--raw``.
    """
    if not path.exists():
        raise RecipeError(f"{path} is missing; --raw must name the folder that holds it (see docs/data.md)")
    return path
