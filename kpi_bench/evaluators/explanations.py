"""Explanations of recommendations: paths from the user to the item, and how many of them are true.

A path's nodes are places: an item and the KG entity that it stands for are one. A hop is true when it is a triple of the KG or an
interaction of the train split, walked either way; a path is valid when it starts at its user, ends at its item, every hop is true and
no place comes twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kpi_bench._csr import Csr
from kpi_bench._sorted import positions
from kpi_bench.errors import EvaluationError
from kpi_bench.evaluators.evaluation import Evaluation
from kpi_bench.evaluators.ranking import TopK
from kpi_bench.evaluators.recommendation import BEYOND_ACCURACY_K, KS
from kpi_bench.suites.graph import KnowledgeGraph

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

ENTITY, ITEM, USER = 0, 1, 2
INTERACTION = -1
TRIPLE_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class Paths:
    """One path for each of n (user, item) pairs, each pair once: why the item is recommended to the user.

    ``users`` and ``items`` int64 ``[n]``. ``nodes`` int64 ``[n, h + 1]`` are ids of what ``kinds`` int8 ``[n, h + 1]`` says: 0 entity of
    the task's KG, 1 item, 2 user; both are -1 behind the end of a path of fewer than h hops. ``relations`` int64 ``[n, h]`` are ids of the
    KG, or -1 for an interaction; ``inverse`` bool ``[n, h]`` marks hops from tail to head, or from item to user. ``log_probs`` float32
    ``[n]`` are the submission's own and are shown, not scored.
    """

    users: Ints
    items: Ints
    nodes: Ints
    kinds: NDArray[np.int8]
    relations: Ints
    inverse: Bools
    log_probs: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.users)

    def lengths(self) -> Ints:
        """Number of nodes of each path, int64 ``[n]``."""
        lengths: Ints = np.count_nonzero(self.kinds >= 0, axis=1).astype(np.int64)
        return lengths

    def take(self, rows: ArrayLike) -> Paths:
        """The paths of the given rows (ids or a mask), in their order."""
        index = np.asarray(rows)
        return Paths(
            self.users[index],
            self.items[index],
            self.nodes[index],
            self.kinds[index],
            self.relations[index],
            self.inverse[index],
            self.log_probs[index],
        )


@dataclass(frozen=True)
class ExplainedTopK(TopK):
    """Ranked items of each user with ``paths`` that explain some or all of them."""

    paths: Paths


def valid_paths(paths: Paths, *, train: Csr, graph: KnowledgeGraph, item_entity: Ints) -> Bools:
    """Which paths are valid, bool ``[n]``. ``train`` is users x items; ``item_entity`` int64 ``[n_items]`` is -1 for items that the KG lacks.

    Ids must be in range. Memory is O(paths + interactions + entities): triples are looked at in blocks.
    """
    n_entities, n_items = graph.n_entities, train.n_columns
    first_user = n_entities + n_items
    place_of_item = np.where(item_entity >= 0, item_entity, n_entities + np.arange(n_items))
    places = paths.nodes.astype(np.int64)
    is_item, is_user = paths.kinds == ITEM, paths.kinds == USER
    places[is_item] = place_of_item[places[is_item]]
    places[is_user] += first_user
    rows = np.arange(len(paths))
    last = places[rows, paths.lengths() - 1]
    valid: Bools = (places[:, 0] == first_user + paths.users) & (last == place_of_item[paths.items])
    row, hop = np.nonzero(paths.kinds[:, 1:] >= 0)
    left, right = places[row, hop], places[row, hop + 1]
    relations, inverse = paths.relations[row, hop], paths.inverse[row, hop]
    heads, tails = np.where(inverse, right, left), np.where(inverse, left, right)
    true = np.zeros(len(row), dtype=bool)
    interacted = relations == INTERACTION
    walked = np.flatnonzero(interacted & (heads >= first_user))
    n_places = first_user + train.n_rows
    known = np.sort(train.row_ids() * n_places + place_of_item[train.indices])
    true[walked] = positions(known, (heads[walked] - first_user) * n_places + tails[walked]) >= 0
    linked = np.flatnonzero(~interacted & (heads < n_entities) & (tails < n_entities))
    true[linked] = _are_triples(graph, heads[linked], relations[linked], tails[linked])
    valid[row[~true]] = False
    places[paths.kinds < 0] = -1
    in_order = np.sort(places, axis=1)
    valid &= ~((in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0)).any(axis=1)
    return valid


def _are_triples(graph: KnowledgeGraph, heads: Ints, relations: Ints, tails: Ints) -> Bools:
    n_entities, n_relations = graph.n_entities, graph.n_relations
    if n_entities**2 * n_relations > np.iinfo(np.int64).max:
        raise EvaluationError(
            f"KG {graph.name}: {n_entities} entities and {n_relations} relations are too many to look up triples by one int64 key"
        )
    asked, which = np.unique((heads * n_relations + relations) * n_entities + tails, return_inverse=True)
    # Most triples have no end on any path: two bits a triple spare their search.
    as_head, as_tail = np.zeros(n_entities, dtype=bool), np.zeros(n_entities, dtype=bool)
    as_head[heads], as_tail[tails] = True, True
    found: Bools = np.zeros(len(asked), dtype=bool)
    for start in range(0, graph.n_triples, TRIPLE_BLOCK):
        block = slice(start, start + TRIPLE_BLOCK)
        near = as_head[graph.heads[block]] & as_tail[graph.tails[block]]
        head, relation, tail = (
            ids[block][near].astype(np.int64) for ids in (graph.heads, graph.relations, graph.tails)
        )
        at = positions(asked, (head * n_relations + relation) * n_entities + tail)
        found[at[at >= 0]] = True
    return found[which]


def score_explanations(
    paths: Paths,
    users: Ints,
    items: Ints,
    ranks: Ints,
    *,
    query_users: Ints,
    train: Csr,
    graph: KnowledgeGraph,
    item_entity: Ints,
    ks: Sequence[int] = KS,
) -> Evaluation:
    """Score ``paths`` against ranked lists in long format, as ``recommendation.in_order`` gives them (int64 ``[m]`` each).

    ``path_validity``: valid paths over all paths (left out when there is none). For the top 20, where 20 is one of ``ks``, per query user:
    ``explained@20``, items with a valid path over items listed (0 without a list), and ``path_types@20``, the number of distinct patterns
    of (relation, direction) of these paths. Rows of users not asked for are ignored.
    Raises EvaluationError when a (user, item) pair has two paths.
    """
    n_items = train.n_columns
    pairs = paths.users * n_items + paths.items
    ordered = np.sort(pairs)
    repeated = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(repeated):
        user, item = divmod(int(ordered[repeated[0]]), n_items)
        raise EvaluationError(
            f"{len(repeated)} paths are of a pair that has one already; the first is of user {user}, item {item}"
        )
    valid = valid_paths(paths, train=train, graph=graph, item_entity=item_entity)
    queries = np.unique(np.asarray(query_users, dtype=np.int64))
    values, per_query = {}, {}
    if len(paths):
        values["path_validity"] = float(valid.mean())
    k = BEYOND_ACCURACY_K
    if k in ks:
        row = positions(queries, users)
        top = (row >= 0) & (ranks <= k)
        listed = np.bincount(row[top], minlength=len(queries))
        shown = valid & (positions(np.sort(users[top] * n_items + items[top]), pairs) >= 0)
        of_user = positions(queries, paths.users[shown])
        explained = np.bincount(of_user, minlength=len(queries))
        patterns = _patterns(paths.take(shown))
        distinct = np.unique(of_user * (patterns.max(initial=0) + 1) + patterns)
        types = np.bincount(distinct // (patterns.max(initial=0) + 1), minlength=len(queries))
        per_query[f"explained@{k}"] = explained / np.maximum(listed, 1)
        per_query[f"path_types@{k}"] = types.astype(np.float64)
        values |= {name: float(scores.mean()) for name, scores in per_query.items() if len(scores)}
    counts = {"n_explanations": len(paths), "n_invalid_explanations": int(np.count_nonzero(~valid))}
    return Evaluation(values, per_query, queries, counts, {}, {})


def _patterns(paths: Paths) -> Ints:
    """A number for each distinct sequence of (relation, direction), int64 ``[n]``, dense from 0."""
    steps = np.where(paths.kinds[:, 1:] >= 0, 2 * (paths.relations + 2) + paths.inverse, 0)
    pattern = np.zeros(len(paths), dtype=np.int64)
    # Dense after every hop, so that no path is too long for one integer.
    for step in steps.T:
        pattern = np.unique(pattern * (steps.max(initial=0) + 1) + step, return_inverse=True)[1]
    return pattern
