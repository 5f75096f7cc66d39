"""MuDoK (arXiv 2405.13085): one encoder pre-trained over the KGs, frozen, and served to every task through prompts."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.common.config import config_keys, read_config
from baselines.common.encoders import resolve_encoder
from baselines.common.parallel import Ranks
from baselines.common.submission import TaskSubmission
from baselines.common.text_table import text_features
from baselines.common.training import prefixed
from baselines.mudok.config import RANDOM_TEXT, MudokConfig
from baselines.mudok.model import MudokModel
from baselines.mudok.prompt import PromptPlug
from baselines.mudok.sequences import Sequences
from baselines.mudok.train import pretrain_mudok
from kpi_bench import ClassificationTask, Context, KnowledgeGraph, RecommendationTask
from kpi_bench.errors import SubmissionError

_INDEX = "mudok.json"
_RANDOM_STD = 0.02


@dataclass(frozen=True)
class _Place:
    """Where a KG's model lies: its file, and where the KG's relations start among those that the model knows."""

    file: str
    first_relation: int
    n_relations: int


class MuDoK(TaskSubmission):
    """Pre-trains an encoder over items and their attributes and plugs it, behind trainable codes, into the shared heads."""

    data_parallel: ClassVar[bool] = True
    own_keys: ClassVar[frozenset[str]] = frozenset(config_keys(MudokConfig, "mudok_"))

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__(params)
        self.mudok = read_config(MudokConfig, self.params, "mudok_")
        self._models: dict[str, MudokModel] = {}
        self._places: dict[str, _Place] = {}
        self._folder: Path | None = None

    def pretrain(self, graphs: Mapping[str, KnowledgeGraph], ctx: Context) -> None:
        scopes = [[name] for name in graphs] if self.mudok.scope == "single" else [list(graphs)]
        for names in scopes:
            self._pretrain_over([graphs[name] for name in names], ctx)

    def _pretrain_over(self, kgs: Sequence[KnowledgeGraph], ctx: Context) -> None:
        """One model over some of the suite's KGs."""
        title = "+".join(kg.name for kg in kgs)
        own = prefixed(ctx, f"{title}: ")  # several models share one process: a note names its own
        sequences = Sequences.joined([Sequences.of_graph(kg, self.mudok.slots) for kg in kgs])
        text = self._text(kgs, own)
        generator = torch.Generator().manual_seed(ctx.seed)
        model = MudokModel(self.mudok, text, sequences.n_relations, generator).to(ctx.device)
        pretrain_mudok(model, sequences, self.mudok, own, description=f"{title}: MuDoK")
        file, first = f"{title}.safetensors", 0
        self._models[file] = model
        for kg in kgs:
            self._places[kg.name] = _Place(file, first, sequences.n_relations)
            first += kg.n_relations

    def save_pretrained(self, folder: Path) -> None:
        for file, model in self._models.items():
            model.save(folder / file)
        index = {name: vars(place) for name, place in self._places.items()}
        (folder / _INDEX).write_text(json.dumps(index, indent=1))

    def load_pretrained(self, folder: Path) -> None:
        self._places = _read_index(folder / _INDEX)
        self._folder = folder

    def item_plug(self, task: RecommendationTask, ctx: Context) -> PromptPlug:
        """Items have a code where training sees them; the others are what the encoder says."""
        coded = np.bincount(task.train.items, minlength=task.n_items) > 0
        return self._plug(task.spec.kg, task.item_entity, coded, ctx)

    def text_plug(self, task: ClassificationTask, ctx: Context) -> PromptPlug:
        """As :meth:`item_plug`: entities that only valid or test ask about have no code."""
        entities = np.arange(ctx.graphs[task.spec.kg].n_entities)
        return self._plug(task.spec.kg, entities, np.isin(entities, task.train.entities), ctx)

    def _plug(
        self, kg: str, entities: NDArray[np.int64], coded: NDArray[np.bool_], ctx: Context
    ) -> PromptPlug:
        model, sequences = self._encoder(ctx.graphs[kg], ctx)
        return PromptPlug(
            model,
            sequences,
            entities,
            coded & self.mudok.prompt,
            self.mudok,
            # A stream of its own: the backbone draws its embeddings from the seed itself.
            generator=torch.Generator().manual_seed(zlib.crc32(f"prompts {ctx.seed}".encode())),
            device=torch.device(ctx.device),
        )

    def _encoder(self, kg: KnowledgeGraph, ctx: Context) -> tuple[MudokModel, Sequences]:
        """The frozen model of a KG, over the KG's own entities, and their sequences."""
        if self._folder is None or kg.name not in self._places:
            raise SubmissionError(
                f"{type(self).__name__} has no encoder of KG {kg.name!r}: nothing was pre-trained"
            )
        place = self._places[kg.name]
        sequences = Sequences.of_graph(kg, self.mudok.slots)
        sequences = replace(
            sequences,
            relations=sequences.relations + np.int32(place.first_relation),
            n_relations=place.n_relations,
        )
        model = MudokModel.load(
            self._folder / place.file, self.mudok, self._text([kg], ctx), place.n_relations
        )
        return model.requires_grad_(False).to(ctx.device), sequences

    def _text(self, kgs: Sequence[KnowledgeGraph], ctx: Context) -> Tensor:
        """Frozen text features of the KGs' entities, KG after KG, float32 ``[n_entities, d]``, on the CPU."""
        config = self.mudok
        if config.text == RANDOM_TEXT:
            noise = [_noise(kg, config.text_dim, ctx.seed) for kg in kgs]
            return noise[0] if len(noise) == 1 else torch.cat(noise)
        encoder = resolve_encoder(
            config.text,
            max_length=config.text_max_length,
            pooling=config.text_pooling,
            hashed_dim=config.text_dim,
        )
        texts = [text for kg in kgs for text in entity_texts(kg, item_keys=config.item_keys)]
        # The others find them in the cache.
        with Ranks.of(ctx).first():
            features = text_features(
                texts,
                encoder,
                cache=ctx.cache,
                device=ctx.device,
                progress=lambda blocks: ctx.progress(blocks, "entity texts"),
            )
        ctx.note("entity_text", encoder.name)
        ctx.note("entity_text_seconds", features.seconds)
        ctx.note("entity_text_cached", features.cached)
        return features.vectors


def entity_texts(kg: KnowledgeGraph, *, item_keys: bool) -> list[str]:
    """Text of each entity. Without ``item_keys`` an item (a head that is no tail) that has neither name nor text is called by its kind
    alone: its key would set it apart from all others and say nothing about it."""
    texts = kg.entity_text()
    if item_keys:
        return texts
    nameless = (kg.entities.column(column).is_null().to_numpy() for column in ("name", "text"))
    bare = np.logical_and(*nameless)
    bare[kg.tails] = False
    bare[np.setdiff1d(np.arange(kg.n_entities), kg.heads)] = False
    domains, kinds = (kg.entities.column(column).to_pylist() for column in ("domain", "kind"))
    for entity in np.flatnonzero(bare).tolist():
        texts[entity] = f"{domains[entity]} {kinds[entity]}"
    return texts


def _noise(kg: KnowledgeGraph, dim: int, seed: int) -> Tensor:
    """What the published code trains on: its model re-initialises the text table after loading it (specs, trap 14)."""
    generator = torch.Generator().manual_seed(seed + zlib.crc32(kg.name.encode()))
    return torch.empty(kg.n_entities, dim).normal_(std=_RANDOM_STD, generator=generator)


def _read_index(path: Path) -> dict[str, _Place]:
    try:
        return {name: _Place(**place) for name, place in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SubmissionError(
            f"{path} does not say where MuDoK's models lie ({error}); pre-train again"
        ) from error
