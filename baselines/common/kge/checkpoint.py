"""A KGE model as one safetensors file: its tables, and in the metadata what is needed to build it again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from baselines.common.kge import create_model
from baselines.common.kge.hyperbolic import Hyperbolic
from baselines.common.kge.models import KgeModel
from kpi_bench.errors import SubmissionError


def save_model(model: KgeModel, path: Path) -> None:
    """Write tables and sizes."""
    tensors = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    save_file(tensors, path, metadata=metadata(model))


def metadata(model: KgeModel) -> dict[str, str]:
    """What a file says beside the tables: what :func:`create_model` wants."""
    shape = {
        "model": type(model).__name__.lower(),
        "n_entities": model.n_entities,
        "n_relations": model.n_relations,
        "dim": model.dim,
        "bias": model.head_bias is not None,
        "relation_curvature": isinstance(model, Hyperbolic) and len(model.curvatures) > 1,
    }
    return {"kge": json.dumps(shape)}


def load_model(path: Path) -> KgeModel:
    """Read what :func:`save_model` wrote, on the CPU.

    Raises:
        SubmissionError: as :func:`reading` says.
    """
    with reading(path):
        with safe_open(path, framework="pt") as file:
            shape = json.loads((file.metadata() or {})["kge"])
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        model = create_model(shape.pop("model"), generator=torch.Generator(), **shape)
        model.load_state_dict(tensors)
    return model.eval()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Around the reading of a checkpoint: whatever is wrong with the file is one kind of error that names it.

    Raises:
        SubmissionError: the file is missing, is no such checkpoint, or its tables do not fit its sizes.
    """
    if not path.is_file():
        raise SubmissionError(f"{path}: no such checkpoint; pre-train again")
    try:
        yield
    except (
        SubmissionError,
        SafetensorError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise SubmissionError(
            f"{path} holds no KGE model, or one whose tables and sizes differ ({error}); pre-train again"
        ) from error
