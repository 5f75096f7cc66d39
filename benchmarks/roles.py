"""What each contender is, which of ours it stands beside, and the aims that were set before it was measured.

Names are different in all groups, but for ``bare-gemm``. One that begins with ``own`` is ours unless it is listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kpi_bench._schema import encode
from kpi_bench.bench.runs import Aim, Role

_LISTED: Mapping[Role, tuple[str, ...]] = {
    Role.OWN: (
        "top100-own-numba", "top100-own-torch", "metasd-step", "mulde-step", "refresh", "text-table",
        "prompts-refresh-1", "prompts-refresh-24", "prompts-refresh-120", "prompts-128-refresh-120",
    ),
    Role.PEER: (
        "pykeen", "recbole", "ranx", "ranx-parquet", "scikit-learn", "top100-torch-topk", "libkge", "dgl-walk", "igraph-walk",
        "dgl-weighted", "coo-coalesced", "coo-uncoalesced", "csr", "pykeen-triples", "pandas-read", "dgl-csr", "recbole-lightgcn",
        "torch-topk-512", "torch-topk-one", "pykeen-complex", "sklearn-texts",
    ),
    Role.FORM: (
        "metasd-form", "plain-torch", "sslrec-form", "plain-autograd", "bert-sdpa", "authors-form", "numpy-walk", "numpy-walk-once",
        "plain-walk", "rsn-form", "plain-gpt2", "recompute-20", "recompute-100", "full-autograd", "sampled-autograd",
        "sampled-autograd-bfloat16", "sampled-spec", "plain-torch-rows", "plain-pandas", "plain-verify", "plain-argsort", "plain-bpr",
        "plain-lightgcn", "plain-pkgm", "plain-head", "plain-complex",
    ),
    Role.LIMIT: (
        "bare-gemm", "bare-gemms", "lookup-floor", "gemms-range", "gemms-full", "gemms-float32", "gemms-bfloat16", "metasd-source-alone",
        "mulde-junior-alone", "no-prompts", "gemm", "copy", "gather", "bare-arrow", "bare-rows", "bare-parquet", "bare-labels",
        "bare-hash", "bare-head-gemms", "bare-product", "bare-child",
    ),
    Role.PART: ("index", "mulde-asking"),
}  # fmt: skip
ROLES = {name: role for role, names in _LISTED.items() for name in names}

BESIDE: Mapping[str, tuple[str, ...]] = {
    "bert-sdpa": ("own-paper",),
    "authors-form": ("own-code",),
    "gemms-range": ("own-range",),
    "gemms-full": ("own-full",),
    "gemms-float32": ("own-loss",),
    "gemms-bfloat16": ("own-loss-bfloat16",),
    "sampled-autograd": ("own-loss",),
    "sampled-spec": ("own-loss",),
    "full-autograd": ("own-loss",),
    "sampled-autograd-bfloat16": ("own-loss-bfloat16",),
    "recompute-20": ("own-decode-20",),
    "recompute-100": ("own-decode-100",),
    "plain-bpr": ("own-cf",),
    "plain-lightgcn": ("own-lightgcn",),
    "recbole-lightgcn": ("own-lightgcn",),
    "bare-product": ("own-serve-complex",),
    "plain-complex": ("own-serve-complex",),
    "pykeen-complex": ("own-serve-complex",),
    "plain-pkgm": ("own-pkgm",),
}
"""Peers, forms and limits that answer some of ours alone."""

AIMS: Mapping[str, tuple[Aim, ...]] = {
    "libkge": (Aim("own-grouped", 8.0), Aim("own-plain", 2.5)),
    "metasd-form": (Aim("own-grouped", 8.0), Aim("own-plain", 2.5)),
    "metasd-step": (Aim("metasd-source-alone", 7.0, "about"),),
    "mulde-asking": (Aim("mulde-step", 0.5, "at most"),),
    "bert-sdpa": (Aim("own-paper", 1.5),),
    "authors-form": (Aim("own-code", 12.0),),
    "prompts-refresh-24": (Aim("no-prompts", 1.5, "at most"),),
    "prompts-refresh-120": (Aim("no-prompts", 1.5, "at most"),),
    "dgl-walk": (Aim("own-walk", 8.0),),
    "plain-gpt2": (Aim("own-range", 1.5),),
}
"""By the contender that is slow; judged where both are in one group."""


def role_of(name: str) -> Role:
    """What a contender is.

    Raises:
        KeyError: it is neither listed nor ours by its name.
    """
    if name in ROLES:
        return ROLES[name]
    if name.startswith("own"):
        return Role.OWN
    raise KeyError(f"{name}: benchmarks/roles.py does not say whether it is a peer, a form or a limit")


def notes(name: str) -> dict[str, Any]:
    """What a stored benchmark says of its contender."""
    found: dict[str, Any] = {"role": role_of(name).value}
    if name in BESIDE:
        found["beside"] = list(BESIDE[name])
    if name in AIMS:
        found["aims"] = [encode(aim) for aim in AIMS[name]]
    return found
