"""The generated world behind ``kpi-mini``: attributes with topics, items made of attributes, users with tastes, and texts.

Everything is derived from ``Generator(PCG64).random`` by inverse distributions and stable sorts, so that a seed gives the
same suite on every platform and numpy version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kpi_bench.suites.recipes._mini_words import N_TOPICS, Language

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Draws:
    """Uniform numbers of one seeded stream, and what is derived from them."""

    def __init__(self, *seed: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(list(seed)))

    def uniform(self, *shape: int) -> Floats:
        """Uniform in [0, 1)."""
        values: Floats = self._generator.random(shape)
        return values

    def noise(self, *shape: int) -> Floats:
        """Uniform with mean 0 and variance 1."""
        values: Floats = (self.uniform(*shape) - 0.5) * 12.0**0.5
        return values

    def below(self, n: int, size: int) -> Ints:
        """Integers 0..n-1."""
        return np.floor(self.uniform(size) * n).astype(np.int64)

    def permutation(self, n: int) -> Ints:
        """A random order of 0..n-1."""
        return np.argsort(self.uniform(n), kind="stable").astype(np.int64)

    def ranked(self, weights: Floats) -> Ints:
        """Columns of each row in the order of drawing without replacement in proportion to ``weights`` ``[rows, columns]``."""
        waiting = -np.log1p(-self.uniform(*weights.shape)) / np.maximum(weights, 1e-300)
        return np.argsort(waiting, axis=1, kind="stable").astype(np.int64)


@dataclass(frozen=True)
class AttributeKind:
    """A relation and its attribute values. An item has ``low..high`` of them with probability ``share``, else none.

    ``own`` values in each domain, ``shared`` values in all of them; ``topical`` values draw items of their topic.
    """

    name: str
    own: int
    shared: int
    low: int
    high: int
    share: float
    topical: bool = True


@dataclass(frozen=True, eq=False)
class Attributes:
    """All attribute values of a world: one row each. ``latent`` is ``[n, N_TOPICS]``; ``domain`` is -1 for shared values."""

    kind: Ints
    domain: Ints
    topic: Ints
    popularity: Floats
    latent: Floats
    names: list[str]


@dataclass(frozen=True, eq=False)
class Items:
    """Items of one domain: ``edges`` lists (kind, attribute) of each; ``latent`` ``[n, N_TOPICS]`` has mean 0 and row norm ~1."""

    edges: list[list[tuple[int, int]]]
    topic: Ints
    latent: Floats
    popularity: Floats


def zipf(n: int, exponent: float) -> Floats:
    """Weights (rank + 1) ** -exponent, summing to 1."""
    weights = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def make_attributes(
    draws: Draws, kinds: Sequence[AttributeKind], n_domains: int, words: Language
) -> Attributes:
    """Attribute values of every kind; a name is a word of its topic and an ending of its kind, unique within the kind."""
    kind: list[int] = []
    names: list[str] = []
    domain, topic, popularity = [], [], []
    for index, spec in enumerate(kinds):
        owners = np.repeat(np.arange(-1, n_domains), [spec.shared] + [spec.own] * n_domains)
        owners = owners[draws.permutation(len(owners))]
        topics = np.arange(len(owners)) % N_TOPICS
        for position, own in enumerate(topics):
            turn = position // N_TOPICS
            choices = words.topics[own] if spec.topical else (words.title_starts[own],)
            endings = words.suffixes[spec.name]
            ending = turn // len(choices)
            number = f" {ending // len(endings) + 1}" if ending >= len(endings) else ""
            names.append(f"{choices[turn % len(choices)]} {endings[ending % len(endings)]}{number}")
        kind += [index] * len(owners)
        domain.append(owners)
        topic.append(topics)
        popularity.append(zipf(len(owners), 0.7)[draws.permutation(len(owners))])
    topic_of = np.concatenate(topic)
    topical = np.array([spec.topical for spec in kinds])[kind]
    latent = np.eye(N_TOPICS)[topic_of] + 0.15 * draws.noise(len(topic_of), N_TOPICS)
    latent[~topical] = 0.0
    return Attributes(
        np.array(kind), np.concatenate(domain), topic_of, np.concatenate(popularity), latent, names
    )


def make_items(
    draws: Draws, kinds: Sequence[AttributeKind], attributes: Attributes, domain: int, n: int
) -> Items:
    """Items of one domain. Four fifths of an item's attributes are of its topic; its latent is their mean and a little noise."""
    topic = draws.below(N_TOPICS, n)
    edges: list[list[tuple[int, int]]] = [[] for _ in range(n)]
    for index, spec in enumerate(kinds):
        pool = np.flatnonzero((attributes.kind == index) & np.isin(attributes.domain, (-1, domain)))
        same = attributes.topic[pool][None, :] == topic[:, None]
        fit = (
            np.where(same, 0.8 * N_TOPICS, 0.2 * N_TOPICS / (N_TOPICS - 1))
            if spec.topical
            else np.ones_like(same, float)
        )
        order = draws.ranked(attributes.popularity[pool][None, :] * fit)
        count = spec.low + draws.below(spec.high - spec.low + 1, n)
        count[draws.uniform(n) >= spec.share] = 0
        for item in range(n):
            edges[item] += [(index, int(pool[column])) for column in order[item, : count[item]]]
    latent = np.stack([attributes.latent[[a for _, a in row]].mean(axis=0) for row in edges])
    latent -= latent.mean(axis=0)
    latent /= np.sqrt((latent**2).sum(axis=1).mean())
    latent += 0.1 * draws.noise(n, N_TOPICS)
    return Items(edges, topic, latent, zipf(n, 0.6)[draws.permutation(n)])


@dataclass(frozen=True)
class TastePlan:
    """How users of a recommendation task behave: counts, and strength of taste and of favourite attributes against popularity.

    ``fresh`` is the share of items that came out last: ``fresh_appeal`` times as popular, and met by nobody in the train split.
    """

    n_users: int
    low: int
    high: int
    taste: float
    favourite: float
    fresh: float
    fresh_appeal: float


@dataclass(frozen=True, eq=False)
class History:
    """Items of each user in random order, and a flag per item of the domain: fresh or not."""

    chosen: list[Ints]
    fresh: NDArray[np.bool_]


def make_interactions(draws: Draws, plan: TastePlan, items: Items, attributes: Attributes) -> History:
    """Who met what. A user likes two topics (one more) and three attributes; popular items win ties."""
    n_items, n_attributes = len(items.edges), len(attributes.names)
    has = np.zeros((n_items, n_attributes))
    for item, row in enumerate(items.edges):
        has[item, [attribute for _, attribute in row]] = 1.0
    preference = np.eye(N_TOPICS)[draws.below(N_TOPICS, plan.n_users)]
    preference += 0.5 * np.eye(N_TOPICS)[draws.below(N_TOPICS, plan.n_users)]
    liking = has.sum(axis=0) * (np.abs(attributes.latent).sum(axis=1) > 0)
    fit = np.maximum(preference @ attributes.latent.T, 0.02)
    favourites = np.zeros((plan.n_users, n_attributes))
    np.put_along_axis(favourites, draws.ranked(np.sqrt(liking)[None, :] * fit)[:, :3], 1.0, axis=1)
    utility = plan.taste * preference @ items.latent.T + plan.favourite * np.minimum(favourites @ has.T, 2.0)
    fresh = draws.permutation(n_items) < plan.fresh * n_items
    appeal = items.popularity * np.where(fresh, plan.fresh_appeal, 1.0)
    order = draws.ranked(np.exp(utility) * appeal[None, :])
    count = plan.low + draws.below(plan.high - plan.low + 1, plan.n_users)
    chosen = [order[user, : count[user]] for user in range(plan.n_users)]
    return History([row[draws.permutation(len(row))] for row in chosen], fresh)


@dataclass(frozen=True)
class OpinionPlan:
    """How a text task is made: rows of each class a split, words, and the weights of text, KG and chance in the label."""

    per_class: tuple[int, int, int]
    n_classes: int
    cues: tuple[str, ...]
    fillers: tuple[str, ...]
    template: str
    text_weight: float
    kg_weight: float
    noise_weight: float
    repeated: float


def make_examples(draws: Draws, plan: OpinionPlan, items: Items) -> tuple[pd.DataFrame, Ints]:
    """Rows (item, text, label) of a text task and the split (0, 1, 2) of each; classes are balanced in every split.

    A row's score is the mean grade of its cue words, the item's place along a hidden direction of latent space, and noise; labels
    are quantiles of the score. A share ``repeated`` of the rows copies an earlier row of its class, as in real dumps.
    """
    n = sum(plan.per_class) * plan.n_classes
    item = draws.ranked(np.tile(np.sqrt(items.popularity), (n, 1)))[:, 0]
    texts, grade = _texts(draws, plan, n)
    direction = np.linspace(-1.0, 1.0, N_TOPICS)[draws.permutation(N_TOPICS)]
    score = plan.text_weight * _standard(grade) + plan.kg_weight * _standard(items.latent @ direction)[item]
    score += plan.noise_weight * draws.noise(n)
    label = np.empty(n, dtype=np.int64)
    label[np.argsort(score, kind="stable")] = np.arange(n) * plan.n_classes // n
    split = np.empty(n, dtype=np.int64)
    frame = pd.DataFrame({"item": item, "text": texts, "label": label})
    for number in range(plan.n_classes):
        rows = np.flatnonzero(label == number)
        copies = np.flatnonzero(draws.uniform(len(rows)) < plan.repeated)
        sources = draws.below(len(rows), len(copies))
        frame.loc[rows[copies]] = frame.loc[rows[sources]].to_numpy()
        split[rows[draws.permutation(len(rows))]] = np.repeat([0, 1, 2], plan.per_class)
    return frame.astype({"item": "int64", "label": "int64"}), split


def _texts(draws: Draws, plan: OpinionPlan, n: int) -> tuple[list[str], Floats]:
    grades = np.linspace(-1.0, 1.0, len(plan.cues))
    mood = draws.uniform(n) * 2.0 - 1.0
    cues = draws.ranked(np.exp(-(((grades[None, :] - mood[:, None]) / 0.4) ** 2)))[:, :3]
    fillers = draws.ranked(np.ones((n, len(plan.fillers))))[:, :5]
    places = draws.ranked(np.ones((n, 8)))
    texts = []
    for row in range(n):
        words = [plan.cues[c] for c in cues[row]] + [plan.fillers[f] for f in fillers[row]]
        texts.append(plan.template.format(" ".join(words[p] for p in places[row])))
    return texts, grades[cues].mean(axis=1)


def _standard(values: Floats) -> Floats:
    return np.asarray((values - values.mean()) / values.std(), dtype=np.float64)
