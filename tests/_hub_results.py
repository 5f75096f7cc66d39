"""Results with predictions beside, as an evaluation leaves them."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kpi_bench._io import read_json, sha256_file, write_json, write_parquet

_PLACE = Path(__file__).parent / "leaderboard" / "result_factory.py"


def _factory() -> Any:
    """The leaderboard tests' module, which is on the path of their folder alone."""
    if _PLACE.stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(_PLACE.stem, _PLACE)
        if spec is None or spec.loader is None:
            raise ImportError(str(_PLACE))
        sys.modules[_PLACE.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[_PLACE.stem])
    return sys.modules[_PLACE.stem]


def make_result(
    out: Path, name: str, task: str = "amazon_music", quality: float = 0.5, rows: int = 50
) -> Path:
    """A result under ``out/results`` with per-query scores and one file of predictions with ``rows`` random rows."""
    factory = _factory()
    path: Path = factory.Maker(out / "results", n_queries=40).result(name, task, quality)
    predictions = out / factory.SUITE / name / "predictions" / task / "seed0.parquet"
    scores = np.random.default_rng(rows).random(rows)
    write_parquet(predictions, pd.DataFrame({"user": range(rows), "score": scores}))
    edit(
        path,
        predictions={"path": f"predictions/{task}", "sha256": {predictions.name: sha256_file(predictions)}},
    )
    return path


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a result file."""
    write_json(path, {**read_json(path), **changes})


def text(path: Path) -> str:
    """A result file's content with sorted keys."""
    return json.dumps(read_json(path), sort_keys=True)
