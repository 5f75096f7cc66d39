"""Training steps of PKGM and of the text head. (KG embeddings, MetaSD, MulDE: kge_*; MuDoK, KGGLM, JPLR: files of their own.)

``own-pkgm`` is a step of :func:`baselines.pkgm.train.train_pkgm`: corruption, both modules, margin loss, gradients, Adam.
``plain-pkgm`` gathers a matrix for each triple and lets autograd do the rest. ``own-head`` is a step of the text head over frozen
features with a plug's vectors, ``plain-head`` the same without modules: rows looked up, two products, AdamW. ``bare-head-gemms`` are its
products alone, into buffers that are there. Each contender takes :data:`STEPS` steps of a training that goes on, and returns the last loss.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from itertools import cycle

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.common.allocator import keep_freed_memory
from baselines.common.heads import ClassificationHead, TextConfig
from baselines.common.kge.facts import batches
from baselines.common.plugs import FrozenVectors
from baselines.common.training import gradient_step
from baselines.pkgm.config import PkgmConfig
from baselines.pkgm.model import PkgmModel
from baselines.pkgm.train import corrupt, margin_loss
from benchmarks.workloads import training_workload

PKGM = PkgmConfig()
HEAD = TextConfig(dropout=0.0)
STEPS = 5
N_EXAMPLES, N_CLASSES, FEATURES, VECTORS = 20_000, 5, 384, 128
Loss = Callable[[Tensor], Tensor]

# --- PKGM -------------------------------------------------------------------------------------------------------------------------------


def pkgm_model() -> PkgmModel:
    w = training_workload()
    return PkgmModel(w.n_entities, w.n_relations, PKGM.dim, torch.Generator().manual_seed(0))


def corruption() -> Callable[[Tensor], Tensor]:
    """Draws the same corrupted triples for all."""
    w, generator = training_workload(), torch.Generator().manual_seed(2)
    return lambda batch: corrupt(batch, PKGM.negatives, w.n_entities, w.n_relations, generator)


def own_pkgm(model: PkgmModel) -> Loss:
    corrupted = corruption()
    return lambda batch: margin_loss(model, batch, corrupted(batch), PKGM.margin)


def plain_pkgm(model: PkgmModel) -> Loss:
    """A matrix a triple, ``[b, d, d]``."""
    corrupted = corruption()

    def distance(triples: Tensor) -> Tensor:
        h, r, t = triples.unbind(1)
        heads, relations = model.entities[h], model.relations[r]
        translated = (heads + relations - model.entities[t]).abs().sum(1)
        asked = torch.bmm(model.matrices[r], heads[:, :, None])[:, :, 0]
        return translated + (asked - relations).abs().sum(1)

    def loss(batch: Tensor) -> Tensor:
        held = distance(batch)
        others = torch.stack([distance(copy) for copy in corrupted(batch)])
        return (PKGM.margin + held - others).clamp(min=0).mean()

    return loss


def pkgm_batches() -> list[Tensor]:
    triples = torch.from_numpy(training_workload().triples)
    some = batches(triples, PKGM.batch_size, torch.Generator().manual_seed(1))
    return [next(some) for _ in range(8)]


# --- The text head ----------------------------------------------------------------------------------------------------------------------


@cache
def examples() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features ``[n, 384]``, entities ``[n]`` and labels ``[n]`` that the features tell, and the vectors of 5,000 entities ``[E, 128]``."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(N_EXAMPLES, FEATURES, generator=generator)
    entities = torch.randint(5_000, (N_EXAMPLES,), generator=generator)
    labels = (features[:, 0] * 1.5).round().clamp(-2, 2).long() + 2
    return features, entities, labels, torch.randn(5_000, VECTORS, generator=generator)


def head() -> ClassificationHead:
    features, _, _, vectors = examples()
    plug, generator = FrozenVectors(vectors.numpy()), torch.Generator().manual_seed(0)
    made = ClassificationHead(FEATURES, N_CLASSES, HEAD, plug=plug, generator=generator)
    made.standardise(features)
    return made


def own_head(model: ClassificationHead) -> Loss:
    features, entities, labels, _ = examples()
    return lambda rows: functional.cross_entropy(model(features[rows], entities[rows]), labels[rows])


def plain_head(model: ClassificationHead) -> Loss:
    """With inputs that are standardised already."""
    features, entities, labels, _ = examples()
    inputs, projection = (features - model.mean) / model.scale, model.projection
    assert projection is not None
    vectors = projection.plug().detach()

    def loss(rows: Tensor) -> Tensor:
        x = inputs[rows] + HEAD.plug_scale * functional.linear(
            vectors[entities[rows]], projection.weight, projection.bias
        )
        return functional.cross_entropy(
            functional.linear(x, model.output.weight, model.output.bias), labels[rows]
        )

    return loss


def head_batches() -> list[Tensor]:
    order = torch.randperm(N_EXAMPLES, generator=torch.Generator().manual_seed(1))
    return list(order.split(HEAD.batch_size)[:8])  # type: ignore[no-untyped-call]


@cache
def _gemm_operands() -> tuple[Tensor, ...]:
    b = HEAD.batch_size
    x, v, w, c = (
        torch.randn(shape)
        for shape in ((b, FEATURES), (b, VECTORS), (FEATURES, VECTORS), (N_CLASSES, FEATURES))
    )
    return (
        x,
        v,
        w,
        c,
        torch.empty(b, FEATURES),
        torch.empty(b, N_CLASSES),
        torch.empty_like(w),
        torch.empty_like(c),
    )


def bare_head_gemms() -> float:
    """Forward, and backward to both weights and to what is between them."""
    x, v, w, c, wide, logits, by_w, by_c = _gemm_operands()
    for _ in range(STEPS):
        torch.mm(v, w.T, out=wide)
        torch.mm(x, c.T, out=logits)
        torch.mm(logits.T, x, out=by_c)
        torch.mm(logits, c, out=wide)
        torch.mm(wide.T, v, out=by_w)
    return float("nan")


# --- All of them ------------------------------------------------------------------------------------------------------------------------


@cache
def training(name: str) -> Callable[[], float]:
    """A training that goes on from call to call."""
    keep_freed_memory()
    model: nn.Module
    if name.endswith("pkgm"):
        model = pkgm_model()
        loss, some = (own_pkgm if name == "own-pkgm" else plain_pkgm)(model), pkgm_batches()
        optimizer = torch.optim.Adam(model.parameters(), lr=PKGM.lr, fused=name == "own-pkgm" or None)
    else:
        model = head()
        loss, some = (own_head if name == "own-head" else plain_head)(model), head_batches()
        optimizer = torch.optim.AdamW(model.parameters(), lr=HEAD.lr, weight_decay=HEAD.weight_decay)
    step, todo = gradient_step(loss, optimizer), cycle(some)
    return lambda: [float(step(next(todo))) for _ in range(STEPS)][-1]


def first_loss(name: str) -> tuple[float, dict[str, Tensor]]:
    """Loss of the first batch from the initial weights, and its gradients."""
    if name.endswith("pkgm"):
        model: nn.Module = pkgm_model()
        value = (own_pkgm if name == "own-pkgm" else plain_pkgm)(model)(pkgm_batches()[0])  # type: ignore[arg-type]
    else:
        model = head()
        value = (own_head if name == "own-head" else plain_head)(model)(head_batches()[0])  # type: ignore[arg-type]
    value.backward()  # type: ignore[no-untyped-call]
    return value.item(), {key: p.grad for key, p in model.named_parameters() if p.grad is not None}


def pkgm_work() -> dict[str, int]:
    """``flops`` of a call's matrix products and ``bytes`` of Adam over all tables (reads four, writes three): neither can be avoided."""
    size = sum(4 * p.numel() for p in pkgm_model().parameters())
    rows = PKGM.batch_size * (1 + PKGM.negatives)
    return {"flops": STEPS * 6 * rows * PKGM.dim**2, "bytes": STEPS * 7 * size}


CONTENDERS: dict[str, Callable[[], float]] = {
    **{
        name: partial(lambda one: training(one)(), name)
        for name in ("own-pkgm", "plain-pkgm", "own-head", "plain-head")
    },
    "bare-head-gemms": bare_head_gemms,
}
