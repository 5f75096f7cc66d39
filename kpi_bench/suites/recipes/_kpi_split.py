"""KPI's recommendation split: filters, numbering by first appearance, and the shuffle of seed 42.

What ``random.shuffle`` draws for a seed has been the same since Python 3.2 (it calls ``_randbelow`` once per position; 3.11 only dropped
the optional ``random`` argument). Measured: with the lengths of the published histories, :func:`split_histories` puts every
one of the 8,402 amazon_music and 649 douban_book users who bring new items where the published matrices have them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEED = 42
MIN_HISTORY = 3


@dataclass(frozen=True)
class Histories:
    """Item ids of each user in file order (repeats kept), and the key of each item; users and items in order of first appearance."""

    items: list[list[int]]
    keys: list[str]


def build_histories(
    pairs: Iterable[tuple[str, str]], *, min_item: int, min_user: int, known: Callable[[str], bool]
) -> Histories:
    """Keep items with ``min_item`` raw rows, then users with ``min_user`` kept rows, then (in the KG only) ``known`` items.

    One pass: an item is counted before users are dropped, a user before unknown items are. Users are numbered in the order of their
    first raw row; a user left without a known item keeps the number.
    """
    rows: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for user, item in pairs:
        rows.setdefault(user, []).append(item)
        counts[item] += 1
    numbers: dict[str, int] = {}
    histories = []
    for history in rows.values():
        kept = [item for item in history if counts[item] >= min_item]
        if len(kept) >= min_user:
            histories.append([numbers.setdefault(item, len(numbers)) for item in kept if known(item)])
    return Histories(histories, list(numbers))


def split_histories(histories: Iterable[list[int]]) -> dict[str, NDArray[np.int64]]:
    """Shuffle each user's rows and cut them into valid, test, train: n_valid = n_test = max(1, int(0.1 n)).

    Every split is int64 ``[n, 2]`` of distinct (user, item), sorted. As in KPI, repeated rows of a user may reach several splits, and
    a user with fewer than three rows is shuffled but in no split.
    """
    generator = random.Random(SEED)
    parts: dict[str, list[tuple[int, int]]] = {"train": [], "valid": [], "test": []}
    for user, history in enumerate(histories):
        shuffled = list(history)
        generator.shuffle(shuffled)
        if len(shuffled) < MIN_HISTORY:
            continue
        held = max(1, int(len(shuffled) * 0.1))
        for split, items in (
            ("valid", shuffled[:held]),
            ("test", shuffled[held : 2 * held]),
            ("train", shuffled[2 * held :]),
        ):
            parts[split] += [(user, item) for item in items]
    return {
        split: np.array(sorted(set(rows)), dtype=np.int64).reshape(-1, 2) for split, rows in parts.items()
    }


def without_repeats(splits: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
    """Drop from valid what is in train, and from test what is in train or valid: such rows are masked and can never be hit."""
    width = 1 + max((int(rows[:, 1].max()) for rows in splits.values() if len(rows)), default=0)
    seen = np.zeros(0, dtype=np.int64)
    cleaned = {}
    for split in ("train", "valid", "test"):
        keys = splits[split][:, 0] * width + splits[split][:, 1]
        cleaned[split] = splits[split][~np.isin(keys, seen)]
        seen = np.concatenate([seen, keys])
    return cleaned
