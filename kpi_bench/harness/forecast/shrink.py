"""A smaller copy of a suite: an ordinary suite in which users, items, examples, entities and triples are about the given share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from kpi_bench.errors import SuiteError
from kpi_bench.harness.forecast.sampling import (
    Mask,
    bound,
    choose_weighted,
    first_of_each,
    least,
    numbering,
    steepness_for,
    uniform,
)
from kpi_bench.harness.forecast.shrink_graph import Frames, Part, link_witnesses, read_frame, shrink_graphs
from kpi_bench.suites.manifest import Manifest
from kpi_bench.suites.suite import Suite, open_suite
from kpi_bench.suites.task import TaskKind, TaskSpec
from kpi_bench.suites.verify import verify_suite
from kpi_bench.suites.writer import SPLITS, SuiteFrames, TaskFrames, write_suite

LEAST_USERS = 16
PER_LABEL = 2


def shrink(suite: Suite, share: float, folder: Path) -> Suite:
    """Write a suite of about ``share`` of ``suite`` into ``folder``, and open it. The same share gives the same copy.

    Ids are renumbered in the old order. Every relation, label and split keeps rows; entities that tasks ask about stay in the KG. Nodes
    of high degree are preferred just as much as it takes for edges to fall by the share and not by its square.

    Raises:
        SuiteError: the suite is too small for the share: a split would be empty.
    """
    parts = [_task_part(suite.folder / "tasks" / spec.name, spec, share) for spec in suite.manifest.tasks]
    kgs, parts = shrink_graphs(suite, parts, share)
    for part in parts:
        _need_rows(part, share)
    manifest = write_suite(
        folder,
        SuiteFrames(
            name=f"{suite.name}-shrunken",
            version=f"{suite.manifest.version}-{share:.6g}",
            description=f"{share:.6g} of {suite.name} {suite.manifest.version}, for a forecast; scores on it mean nothing.",
            licence=suite.manifest.licence,
            sources=suite.manifest.sources,
            kgs=kgs,
            tasks=tuple(TaskFrames(part.spec, part.splits, part.items) for part in parts),
        ),
    )
    verify_suite(folder, manifest)
    return open_suite(folder)


def task_share(small: Manifest, whole: Manifest, task: str) -> float:
    """How large a task of a shrunken suite is, as a share: the geometric mean over its rows to learn from, its queries, and its users and items
    (recommendation) or its KG's entities (link prediction)."""
    spec, base = whole.task(task), f"tasks/{task}"
    files = [f"{base}/train.parquet", f"{base}/test.parquet"]
    shares = []
    if spec.kind is TaskKind.RECOMMENDATION:
        files.append(f"{base}/items.parquet")
        shares = [(small.task(task).n_users or 0) / (spec.n_users or 1)]
    elif spec.kind is TaskKind.LINK_PREDICTION:
        files.append(f"kgs/{spec.kg}/entities.parquet")
    shares += [small.files[file].rows / max(1, whole.files[file].rows) for file in files]
    return float(np.exp(np.mean(np.log(shares))))


def graph_share(small: Manifest, whole: Manifest) -> float:
    """How large the KGs of a shrunken suite are, as a share: the geometric mean over all entities and all triples."""

    def rows(manifest: Manifest, table: str) -> int:
        return sum(manifest.files[f"kgs/{kg.name}/{table}.parquet"].rows for kg in manifest.kgs)

    shares = [rows(small, table) / max(1, rows(whole, table)) for table in ("entities", "triples")]
    return float(np.exp(np.mean(np.log(shares))))


def _task_part(folder: Path, spec: TaskSpec, share: float) -> Part:
    splits = {split: read_frame(folder / f"{split}.parquet") for split in SPLITS}
    if spec.kind is TaskKind.RECOMMENDATION:
        return _fewer_users(spec, splits, read_frame(folder / "items.parquet"), share)
    if spec.kind is TaskKind.CLASSIFICATION:
        return _fewer_examples(spec, splits, share)
    # Its triples are thinned with the KG's, once it is known which entities stay.
    return Part(spec, splits, link_witnesses(splits), np.zeros(0, dtype=np.int64))


def _need_rows(part: Part, share: float) -> None:
    for split, frame in part.splits.items():
        if frame.empty:
            raise SuiteError(
                f"task {part.spec.name}: {share:.4g} of the suite leaves no {split} rows; take a larger share"
            )


def _fewer_users(spec: TaskSpec, splits: Frames, items: pd.DataFrame, share: float) -> Part:
    pairs = {split: (frame["user"].to_numpy(), frame["item"].to_numpy()) for split, frame in splits.items()}
    user, item = (np.concatenate(column) for column in zip(*pairs.values(), strict=True))
    n_users, n_items = spec.n_users or 0, len(items)
    few_users = max(round(share * n_users), min(LEAST_USERS, n_users))
    # A list of k items is asked for, and train items are masked.
    few_items = max(round(share * n_items), min(2 * spec.k, n_items))
    users_drawn, items_drawn = uniform(np.arange(n_users), salt=1), uniform(np.arange(n_items), salt=2)
    item_degrees = np.bincount(item, minlength=n_items)

    def chosen(steepness: float) -> tuple[Mask, Mask]:
        of_items = choose_weighted(items_drawn, item_degrees, steepness, few_items)
        degrees = np.bincount(user[of_items[item]], minlength=n_users)
        whole = np.ones(n_users, dtype=bool)
        for users, chosen_items in pairs.values():
            whole &= np.bincount(users[of_items[chosen_items]], minlength=n_users) > 0
        # Users who keep rows of every split come first: of users with one test item each, few would keep it.
        of_users = choose_weighted(users_drawn, degrees, steepness, few_users, first=whole)
        return of_users, of_items

    def count(steepness: float) -> int:
        of_users, of_items = chosen(steepness)
        return int(np.count_nonzero(of_users[user] & of_items[item]))

    users, kept_items = chosen(steepness_for(count, round(share * len(user))))
    few = {}
    for split, frame in splits.items():
        user, item = pairs[split]
        kept = users[user] & kept_items[item]
        few[split] = frame[kept & (uniform(user, item) < bound(kept, round(share * len(frame))))]
    # Nothing can be learned about a user without train rows.
    users = np.zeros(n_users, dtype=bool)
    users[few["train"]["user"].to_numpy()] = True
    few = {split: frame[users[frame["user"].to_numpy()]] for split, frame in few.items()}
    of_user, of_item = numbering(users), numbering(kept_items)
    for split, frame in few.items():
        few[split] = frame.assign(
            user=of_user[frame["user"].to_numpy()], item=of_item[frame["item"].to_numpy()]
        )
    kept_rows = items[kept_items].assign(item=np.arange(np.count_nonzero(kept_items)))
    needed, asked = (frame["entity"].dropna().to_numpy().astype(np.int64) for frame in (kept_rows, items))
    smaller = dataclasses.replace(spec, n_users=int(np.count_nonzero(users)))
    return Part(smaller, few, needed, asked, kept_rows)


def _fewer_examples(spec: TaskSpec, splits: Frames, share: float) -> Part:
    few = {}
    for split, frame in splits.items():
        keys = uniform(frame["example"].to_numpy())
        each = first_of_each(frame["label"].to_numpy(), keys, PER_LABEL)
        few[split] = frame[least(keys, round(share * len(frame)), always=each)]
    examples = np.sort(np.concatenate([frame["example"].to_numpy() for frame in few.values()]))
    for split, frame in few.items():
        few[split] = frame.assign(example=np.searchsorted(examples, frame["example"].to_numpy()))
    needed, asked = (
        np.concatenate([frame["entity"].to_numpy() for frame in frames.values()]) for frames in (few, splits)
    )
    return Part(spec, few, needed, asked)
