"""Ways to answer queries from what the submissions export, read back from its file: queries a CPU second by kind of exported state.

==================  ===========================================================  ==================================================
kind                state                                                        submissions that export it
==================  ===========================================================  ==================================================
factors             two tables, inner products                                   cf, lightgcn, gccf, simgcl, dccf, lightgcl, and
                                                                                 pkgm, mudok, mulde, metasd, jplr as recommenders
neumf               two tables and a decoder                                     ncf
complex, transe,    tables of a KG embedding: rows of scores of all entities     kg-embedding, metasd (complex), mulde (roth)
roth
paths               a model of paths: what follows head and relation             jplr, kgglm as link predictors
text                hashed features of a text, then the head                     text-classifier and all plugs into it
==================  ===========================================================  ==================================================

KGGLM's search for paths is in ``bench_kgglm.py``. ``torch-topk`` masks and takes torch.topk, ``plain-complex`` is two look-ups and a product,
``pykeen-complex`` the package's ``score_t``; all with the same weights. ``*-one`` asks one query a call, as a service does that cannot
wait. Weights are random: what was learned does not change what it costs. A contender returns the mean of the answered scores.
"""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from baselines.common.classify import FittedClassifier, TextClassifier
from baselines.common.encoders import HashedEncoder
from baselines.common.heads import ClassificationHead, TextConfig
from baselines.common.kge import create_model
from baselines.common.kge.checkpoint import load_model, save_model
from baselines.common.kge.models import KgeModel
from baselines.common.kge.scoring import score_blocks
from baselines.common.paths.body import BodyShape
from baselines.common.recommenders.base import RecommenderConfig
from baselines.common.recommenders.ncf import NeuMF
from baselines.common.scorers import DecoderScorer, FactorScorer, Scorer
from baselines.jplr.model import PathModel
from benchmarks.workloads import interaction_workload, recommendation_workload, training_workload
from kpi_bench import RecommendationQueries
from kpi_bench.evaluators.ranking import tie_order

FOLDER = "KPI_BENCH_SERVING"
K = 100
USERS, NEUMF_USERS, ONE = 10_000, 40, 200
LINKS = 1_000
KGE = {"complex": 200, "transe": 200, "roth": 32}
TEXTS, HASHED = 5_000, 1024

# --- Files ------------------------------------------------------------------------------------------------------------------------------


@cache
def folder() -> Path:
    """Where the files are; processes that measure memory find by the variable what this one has written."""
    if FOLDER not in os.environ:
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="kpi-bench-serving-")
        atexit.register(shutil.rmtree, os.environ[FOLDER], ignore_errors=True)
    return Path(os.environ[FOLDER])


def exported(name: str, write: Callable[[Path], object]) -> Path:
    """The file of a state, written once."""
    path = folder() / f"{name}.safetensors"
    if not path.exists():
        write(path)
    return path


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# --- Recommendation ---------------------------------------------------------------------------------------------------------------------


def queries(first: int, n: int) -> RecommendationQueries:
    """Users ``first`` to ``first + n``, with what they have met left out."""
    w = recommendation_workload()
    users = np.arange(first, first + n)
    return RecommendationQueries(users, w.masked.select(users), K, w.order)


@cache
def factors() -> FactorScorer:
    w = recommendation_workload()
    tables = {"users": torch.from_numpy(w.users), "items": torch.from_numpy(w.items)}
    return FactorScorer(**load_file(exported("factors", lambda path: save_file(tables, path))))


@cache
def neumf() -> tuple[RecommendationQueries, Scorer]:
    """Over 20,000 items; its file holds what :meth:`DecoderScorer.tensors` names."""
    train = interaction_workload()
    model = NeuMF(
        train, RecommenderConfig(layers=2), plug=None, generator=generator(), device=torch.device("cpu")
    )
    with torch.no_grad():
        scorer = model.scorer()
        tensors = {name: tensor.clone() for name, tensor in scorer.tensors().items()}
    loaded = load_file(exported("neumf", lambda path: save_file(tensors, path)))
    decoder = scorer.decoder
    decoder.load_state_dict(
        {k.removeprefix("decoder."): v for k, v in loaded.items() if k.startswith("decoder.")}
    )
    users = np.arange(NEUMF_USERS)
    asked = RecommendationQueries(users, train.select(users), K, tie_order(train.n_columns, "benchmark"))
    return asked, DecoderScorer(loaded["users"], loaded["items"], decoder)


def own_factors() -> float:
    return float(factors().top_k(queries(0, USERS)).scores.mean())


def own_factors_one() -> float:
    return float(np.mean([factors().top_k(queries(user, 1)).scores.mean() for user in range(ONE)]))


def own_neumf() -> float:
    asked, scorer = neumf()
    with torch.inference_mode():
        return float(scorer.top_k(asked).scores.mean())


def torch_topk(batch: int, n: int) -> float:
    """Products, minus infinity where a user has met an item, torch.topk."""
    scorer, means = factors(), []
    for first in range(0, n, batch):
        asked = queries(first, min(batch, n - first))
        scores = scorer.users[torch.from_numpy(asked.users)] @ scorer.items.T
        rows, columns = asked.exclude.row_ids(), asked.exclude.indices.astype(np.int64)
        scores[torch.from_numpy(rows), torch.from_numpy(columns)] = -torch.inf
        means.append(torch.topk(scores, K).values.sum())
    return float(torch.stack(means).sum()) / (n * K)


# --- Link prediction: a row of scores of all entities for each query --------------------------------------------------------------------


@cache
def asked_links() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Entities and relations of the queries, backwards ones from ``n_relations`` on."""
    w, rng = training_workload(), np.random.default_rng(0)
    return rng.integers(0, w.n_entities, LINKS), rng.integers(0, 2 * w.n_relations, LINKS)


@cache
def kge(name: str) -> KgeModel:
    w = training_workload()

    def write(path: Path) -> None:
        save_model(
            create_model(name, w.n_entities, w.n_relations, KGE[name], generator(), bias=name == "roth"), path
        )

    return load_model(exported(name, write))


@cache
def path_model() -> PathModel:
    w = training_workload()
    shape = BodyShape(hidden=64, layers=2, heads=4)
    model = PathModel(w.n_entities, 2 * w.n_relations, shape, generator=generator()).eval()
    model.load_state_dict(load_file(exported("paths", lambda path: save_file(model.served(), path))))
    return model


def mean_of(blocks: Iterable[NDArray[np.float32]]) -> float:
    """Blocks are taken one at a time, as the harness does."""
    return float(np.mean([float(block[:, ::97].mean(dtype=np.float64)) for block in blocks]))


def own_kge(name: str) -> float:
    return mean_of(score_blocks(kge(name), *asked_links()))


def own_paths() -> float:
    return mean_of(path_model().score_all(*asked_links()))


@torch.inference_mode()
def plain_complex() -> float:
    """All queries in one product."""
    tables, (heads, relations) = kge("complex"), asked_links()
    h_re, h_im = tables.entities[torch.from_numpy(heads)].chunk(2, 1)
    r_re, r_im = tables.relations[torch.from_numpy(relations)].chunk(2, 1)
    vectors = torch.cat([h_re * r_re - h_im * r_im, h_re * r_im + h_im * r_re], 1)
    return mean_of([(vectors @ tables.entities.T).numpy()])


@cache
def _pykeen_model() -> Any:
    models, triples = importlib.import_module("pykeen.models"), importlib.import_module("pykeen.triples")
    w, ours = training_workload(), kge("complex")
    sizes = {"num_entities": w.n_entities, "num_relations": 2 * w.n_relations}
    factory = triples.CoreTriplesFactory(torch.from_numpy(w.triples), **sizes)
    model = models.ComplEx(triples_factory=factory, embedding_dim=KGE["complex"] // 2, random_seed=0)
    with torch.no_grad():
        for part, table in (
            (model.entity_representations, ours.entities),
            (model.relation_representations, ours.relations),
        ):
            parameter = next(part[0].parameters())
            parameter.copy_(torch.stack(table.chunk(2, 1), dim=-1).reshape(parameter.shape))
    return model.eval()


@torch.inference_mode()
def pykeen_complex() -> float:
    """256 queries at a time."""
    pairs = torch.from_numpy(np.stack(asked_links(), axis=1))
    parts = pairs.split(256)  # type: ignore[no-untyped-call]
    blocks = [_pykeen_model().score_t(part).numpy() for part in parts]
    return mean_of([np.concatenate(blocks)])


@cache
def _gemm_operands() -> tuple[Tensor, Tensor, Tensor]:
    table = kge("complex").entities.detach()
    return torch.randn(LINKS, table.shape[1], generator=generator()), table, torch.empty(LINKS, len(table))


def bare_product() -> float:
    """The product of ComplEx's queries with its table, into a buffer that is there."""
    vectors, table, scores = _gemm_operands()
    return float(torch.mm(vectors, table.T, out=scores)[0, 0])


# --- Texts ------------------------------------------------------------------------------------------------------------------------------


@cache
def texts() -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(f"word{w}" for w in rng.zipf(1.3, 20).clip(max=50_000)) for _ in range(TEXTS)]


@cache
def classifier() -> FittedClassifier:
    encoder = HashedEncoder(HASHED)
    head = ClassificationHead(HASHED, 5, TextConfig(hidden=128), plug=None, generator=generator()).eval()
    model = TextClassifier(encoder, head, tuned=False).eval()
    state = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    model.load_state_dict(load_file(exported("text", lambda path: save_file(state, path))))
    return FittedClassifier(model, torch.device("cpu"), 256, 0, 0, 0.0)


def own_texts() -> float:
    return float(classifier().scores(texts(), np.zeros(TEXTS, dtype=np.int64)).mean())


@cache
def _vectorizer() -> Any:
    features = importlib.import_module("sklearn.feature_extraction.text")
    return features.HashingVectorizer(
        n_features=HASHED, ngram_range=(1, 2), token_pattern=r"[0-9a-z]+", norm="l2"
    )


def sklearn_texts() -> float:
    """scikit-learn's hashed words and pairs, then the same head: other hashes, so other scores."""
    features = torch.from_numpy(_vectorizer().transform(texts()).toarray()).float()
    with torch.inference_mode():
        logits = classifier().model.head(features, torch.zeros(TEXTS, dtype=torch.int64))
    return float(logits.softmax(1).mean())


# --- All of them ------------------------------------------------------------------------------------------------------------------------

LISTS: dict[str, tuple[Callable[[], float], int]] = {
    "own-serve-factors": (own_factors, USERS),
    "torch-topk-512": (partial(torch_topk, 512, USERS), USERS),
}
ONES: dict[str, tuple[Callable[[], float], int]] = {
    "own-serve-factors-one": (own_factors_one, ONE),
    "torch-topk-one": (partial(torch_topk, 1, ONE), ONE),
}
DECODED: dict[str, tuple[Callable[[], float], int]] = {"own-serve-neumf": (own_neumf, NEUMF_USERS)}
ROWS: dict[str, tuple[Callable[[], float], int]] = {
    "bare-product": (bare_product, LINKS),
    **{f"own-serve-{name}": (partial(own_kge, name), LINKS) for name in KGE},
    "own-serve-paths": (own_paths, LINKS),
    "plain-complex": (plain_complex, LINKS),
    "pykeen-complex": (pykeen_complex, LINKS),
}
ANSWERED: dict[str, tuple[Callable[[], float], int]] = {
    "own-serve-texts": (own_texts, TEXTS),
    "sklearn-texts": (sklearn_texts, TEXTS),
}
SERVED = {**LISTS, **ONES, **DECODED, **ROWS, **ANSWERED}
"""What answers, and how many queries a call."""
CONTENDERS: dict[str, Callable[[], float]] = {name: answer for name, (answer, _) in SERVED.items()}


def floor(name: str) -> dict[str, int]:
    """FLOPs of a call's products with its tables, which cannot be avoided while all candidates are scored."""
    w, r = training_workload(), recommendation_workload()
    if name in ("own-serve-factors", "own-serve-factors-one"):
        return {"flops": 2 * SERVED[name][1] * r.items.size}
    if name == "own-serve-neumf":  # GMF half, one hidden layer, the head
        return {"flops": 2 * NEUMF_USERS * interaction_workload().n_columns * (64 + 64 * 64 + 64)}
    if name in ("own-serve-transe", "own-serve-roth"):
        return {"flops": 2 * LINKS * w.n_entities * KGE[name.removeprefix("own-serve-")]}
    return {"flops": 2 * LINKS * w.n_entities * 64} if name == "own-serve-paths" else {}
