"""Audits of interactions and of text examples, on plain frames, so that raw files can be audited before they are a suite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from kpi_bench.suites._finding import Finding, Severity, graded

PAIR = ["user", "item"]
LOOKUP_MARGIN = 0.05  # a lookup table that beats the majority class by more than this is called a leak


def audit_interactions(
    name: str, splits: Mapping[str, pd.DataFrame], item_entity: ArrayLike | None = None
) -> list[Finding]:
    """Audit the splits of a recommendation task.

    ``splits`` maps a split's name, in order, to a frame with user, item and perhaps time; splits may be absent. ``item_entity`` gives each
    item's KG entity, -1 where the KG lacks it.
    """
    findings = [*_repeated_pairs(name, splits), *_shared_pairs(name, splits)]
    if "train" in splits and "test" in splits:
        findings += [
            *_unseen(name, splits["train"], splits["test"]),
            *_time_order(name, splits["train"], splits["test"]),
        ]
    if item_entity is not None:
        findings += _coverage(name, splits, np.asarray(item_entity))
    return findings


def audit_examples(name: str, splits: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Audit the splits of a classification task: frames with entity, text and label.

    Two rows repeat each other when their texts are equal character by character, whichever entity they are about: this is what the
    ``dedup`` variant drops, and what a lookup table can use. How many of them are about the same entity is in the detail.
    """
    findings = []
    for known, split in (
        (("train",), "test"),
        (("train", "valid"), "test"),
        (("train",), "valid"),
        (("valid",), "test"),
    ):
        if split in splits and all(part in splits for part in known):
            findings.append(_repeated_texts(name, known, split, splits))
    everything = pd.concat(splits.values())
    if "train" in splits:
        repeated = int(splits["train"]["text"].duplicated().sum())
        detail = "train rows whose text occurs earlier in train"
        findings.append(
            Finding(name, "text repeated in train", "info", repeated, len(splits["train"]), detail)
        )
    labels = everything.groupby("text")["label"].nunique()
    contradictory = int((labels > 1).sum())
    detail = "distinct texts, over all splits, that carry more than one label"
    findings.append(
        Finding(
            name, "contradictory labels", graded("warning", contradictory), contradictory, len(labels), detail
        )
    )
    if "train" in splits and "test" in splits:
        findings += _cold_and_lookup(name, splits["train"], splits["test"])
    return findings


def _repeated_pairs(name: str, splits: Mapping[str, pd.DataFrame]) -> Iterator[Finding]:
    for split, frame in splits.items():
        count = int(frame.duplicated(PAIR).sum())
        detail = f"{split} rows whose (user, item) pair occurs earlier in {split}"
        yield Finding(name, f"pair repeated in {split}", graded("warning", count), count, len(frame), detail)


def _shared_pairs(name: str, splits: Mapping[str, pd.DataFrame]) -> Iterator[Finding]:
    for (earlier, first), (later, second) in combinations(splits.items(), 2):
        shared = second[PAIR].drop_duplicates().merge(first[PAIR].drop_duplicates(), on=PAIR)
        detail = (
            f"(user, item) pairs of {later} that are also in {earlier}, of {shared['user'].nunique():,} users"
        )
        total = len(second.drop_duplicates(PAIR))
        yield Finding(
            name, f"pair in {earlier} and {later}", graded("leak", len(shared)), len(shared), total, detail
        )


def _unseen(name: str, train: pd.DataFrame, test: pd.DataFrame) -> Iterator[Finding]:
    cold = test[~test["item"].isin(train["item"].unique())]
    detail = f"test interactions with one of {cold['item'].nunique():,} items that no train row has"
    yield Finding(name, "cold items in test", graded("warning", len(cold)), len(cold), len(test), detail)
    users = test["user"].unique()
    unknown = int((~np.isin(users, train["user"].unique())).sum())
    detail = "test users without a train interaction"
    yield Finding(name, "cold users in test", graded("warning", unknown), unknown, len(users), detail)


def _time_order(name: str, train: pd.DataFrame, test: pd.DataFrame) -> Iterator[Finding]:
    if "time" not in train or "time" not in test:
        return
    latest = train.groupby("user")["time"].max().reindex(test["user"]).to_numpy()
    before = int((test["time"].to_numpy() < latest).sum())
    detail = "test interactions older than the same user's latest train interaction"
    yield Finding(name, "test before train", graded("leak", before), before, len(test), detail)


def _coverage(
    name: str, splits: Mapping[str, pd.DataFrame], item_entity: NDArray[np.int64]
) -> Iterator[Finding]:
    missing = np.flatnonzero(item_entity < 0)
    severity = graded("warning", len(missing))
    yield Finding(
        name, "items not in the KG", severity, len(missing), len(item_entity), "items without a KG entity"
    )
    if "test" in splits:
        rows = int(splits["test"]["item"].isin(missing).sum())
        detail = "test interactions with an item without a KG entity"
        yield Finding(
            name, "test rows not in the KG", graded("warning", rows), rows, len(splits["test"]), detail
        )


def _repeated_texts(
    name: str, known: tuple[str, ...], split: str, splits: Mapping[str, pd.DataFrame]
) -> Finding:
    source, rows = pd.concat([splits[part] for part in known]), splits[split]
    repeated = rows[rows["text"].isin(source["text"].unique())]
    same_entity = _rows_in(repeated, source, ["text", "entity"])
    same_label = _rows_in(repeated, source, ["text", "label"])
    where = " or ".join(known)
    detail = f"{split} rows whose text is in {where} word for word; {same_label:,} there with the same label, {same_entity:,} about the same entity"
    return Finding(
        name,
        f"text of {split} in {'+'.join(known)}",
        graded("leak", len(repeated)),
        len(repeated),
        len(rows),
        detail,
    )


def _rows_in(rows: pd.DataFrame, source: pd.DataFrame, columns: list[str]) -> int:
    return len(rows[columns].merge(source[columns].drop_duplicates(), on=columns))


def _cold_and_lookup(name: str, train: pd.DataFrame, test: pd.DataFrame) -> Iterator[Finding]:
    cold = test[~test["entity"].isin(train["entity"].unique())]
    entities = f"{cold['entity'].nunique():,} of {test['entity'].nunique():,}"
    detail = f"test rows about an entity that no train row is about ({entities} test entities)"
    yield Finding(name, "cold entities in test", "info", len(cold), len(test), detail)
    majority = int(train["label"].mode().iloc[0])
    floor = int((test["label"] == majority).sum())
    for column in ("text", "entity"):
        predicted = test[column].map(_most_frequent(train, column)).fillna(majority)
        correct = int((predicted == test["label"]).sum())
        gain = (correct - floor) / max(len(test), 1)
        detail = f"test rows right by the most frequent train label of the same {column} (majority class: {floor:,} right)"
        severity: Severity = "leak" if column == "text" and gain > LOOKUP_MARGIN else "info"
        yield Finding(name, f"{column} lookup", severity, correct, len(test), detail)


def _most_frequent(train: pd.DataFrame, column: str) -> pd.Series:
    """Most frequent label of each value of a column; the smallest label where several are."""
    counts = train.groupby([column, "label"]).size().rename("n").reset_index()
    ordered = counts.sort_values(["n", "label"], ascending=[False, True], kind="stable")
    return ordered.drop_duplicates(column).set_index(column)["label"]
