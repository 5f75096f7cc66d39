"""What pre-training on a KG leaves behind, and how a task's model starts from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from baselines.kgglm.model import PathLM
from kpi_bench.errors import SubmissionError
from kpi_bench.evaluators.explanations import ENTITY, ITEM


@dataclass(frozen=True, eq=False)
class Pretrained:
    """The tensors of a :class:`PathLM` over all entities of a KG and its relations, forward and backward."""

    tensors: Mapping[str, Tensor]

    @classmethod
    def of_model(cls, model: PathLM) -> Pretrained:
        return cls({name: value.detach().cpu().contiguous() for name, value in model.named_parameters()})

    @classmethod
    def load(cls, file: Path) -> Pretrained:
        """Read what :meth:`save` wrote.

        Raises:
            SubmissionError: there is no such file, or it holds no path model.
        """
        try:
            tensors = load_file(file)
        except (OSError, SafetensorError) as error:
            raise SubmissionError(f"{file} cannot be read ({error}); pre-train again") from error
        if not {"nodes", "relations", "types"} <= tensors.keys():
            raise SubmissionError(f"{file} holds no model of paths; pre-train again")
        return cls(tensors)

    def save(self, file: Path) -> None:
        save_file(dict(self.tensors), file)

    def entity_vectors(self) -> NDArray[np.float32]:
        """Rows of all entities, float32 ``[n_entities, hidden]``."""
        rows: NDArray[np.float32] = self.tensors["nodes"].numpy()
        return rows

    def start(self, model: PathLM, entities: NDArray[np.int64]) -> None:
        """Copy into ``model``, whose first nodes are ``entities`` and whose relations are the KG's, then those of the task, then all of
        them backwards. Other nodes and the task's relations stay as they are.

        Raises:
            SubmissionError: the two models differ in shape.
        """
        forward = len(self.tensors["relations"]) // 2
        backward = len(model.relations) // 2
        body = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in self.tensors.items():
                if name in ("nodes", "relations", "types"):
                    continue
                if name not in body or body[name].shape != value.shape:
                    raise SubmissionError(
                        f"the pre-trained model has another shape ({name}); pre-train again with these parameters"
                    )
                body[name].copy_(value)
            model.nodes[: len(entities)] = self.tensors["nodes"][torch.from_numpy(entities)]
            model.relations[:forward] = self.tensors["relations"][:forward]
            model.relations[backward : backward + forward] = self.tensors["relations"][forward:]
            model.types.copy_(self.tensors["types"])
            # On the KG alone an item is an entity like others.
            model.types[ITEM] = self.tensors["types"][ENTITY]
