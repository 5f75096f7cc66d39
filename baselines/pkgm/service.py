"""Key relations, service vectors, and the checkpoint that gives them without the KG."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from baselines.common.kge.checkpoint import reading
from baselines.pkgm.model import PkgmModel, grouped_product
from kpi_bench import KnowledgeGraph
from kpi_bench.errors import SubmissionError


@dataclass(frozen=True)
class KeyRelations:
    """``domains`` int64 ``[E]``: the domain of each entity, as a number; ``chosen`` bool ``[n_domains, R]``: its key relations."""

    domains: Tensor
    chosen: Tensor


def key_relations(kg: KnowledgeGraph, k: int) -> KeyRelations:
    """The ``k`` relations that most heads of a domain have, ties by relation id; all that its heads have where these are fewer.

    The domain of an entity stands for the item category of the paper. A domain without a head gets the key relations of the whole KG.
    """
    column = kg.entities.column("domain").combine_chunks().dictionary_encode()
    domains = column.indices.to_numpy().astype(np.int64)
    pairs = np.unique(np.stack([kg.heads, kg.relations]), axis=1)  # a head counts once a relation
    counts = np.zeros((len(column.dictionary), kg.n_relations), dtype=np.int64)
    np.add.at(counts, (domains[pairs[0]], pairs[1]), 1)
    counts = np.where(counts.any(1, keepdims=True), counts, counts.sum(0))
    first = np.argsort(-counts, axis=1, kind="stable")[:, :k]
    chosen = np.zeros(counts.shape, dtype=np.bool_)
    np.put_along_axis(chosen, first, True, axis=1)
    return KeyRelations(torch.from_numpy(domains), torch.from_numpy(chosen & (counts > 0)))


@torch.no_grad()
def service_vectors(model: PkgmModel, keys: KeyRelations) -> Tensor:
    """The mean over an entity's key relations r of [S_T | S_R] = [h + r | M_r h - r], of all entities: ``[E, 2 d]``.

    This is the paper's condensed form, for models that take one vector. The mean is drawn into r and M_r: a domain has one of each.
    """
    chosen, domains = keys.chosen.to(model.entities), keys.domains.to(model.entities.device)
    weights = chosen / chosen.sum(1, keepdim=True)
    relations = (weights @ model.relations)[domains]
    matrices = torch.einsum("gr,rij->gij", weights, model.matrices)
    heads = model.entities
    return torch.cat([heads + relations, grouped_product(matrices, domains, heads) - relations], dim=1)


def save_service(model: PkgmModel, keys: KeyRelations, path: Path) -> None:
    """Write the tables and the key relations."""
    tensors = {**model.state_dict(), "domains": keys.domains, "chosen": keys.chosen}
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)


def load_service(path: Path) -> tuple[PkgmModel, KeyRelations]:
    """Read what :func:`save_service` wrote, on the CPU.

    Raises:
        SubmissionError: as :func:`~baselines.common.kge.checkpoint.reading` says.
    """
    with reading(path):
        tensors = load_file(path)
        keys = KeyRelations(tensors.pop("domains"), tensors.pop("chosen"))
        (n_entities, dim), n_relations = tensors["entities"].shape, len(tensors["relations"])
        if len(keys.domains) != n_entities or keys.chosen.shape[1] != n_relations:
            raise SubmissionError("its key relations are those of another KG")
        model = PkgmModel(n_entities, n_relations, dim, torch.Generator())
        model.load_state_dict(tensors)
    return model, keys
