"""What is publicly known of the KPI data: counts and hashes that a rebuilt suite must meet.

Counts and hashes were measured on the files that the authors published (zjukg/MuDoK 240dd8e). ``binding`` checks must hold; the others state
what is inferred or was remembered by a reader, and are only reported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kpi_bench.errors import RecipeError

Splits = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Check:
    """One fingerprint, what it should be and what was found. ``binding`` ones stop the build when they fail."""

    fingerprint: str
    expected: str
    found: str
    ok: bool
    binding: bool = True

    @property
    def verdict(self) -> str:
        return "ok" if self.ok else "FAILED" if self.binding else "differs (not binding)"


@dataclass(frozen=True)
class KgFingerprint:
    """A KG: entities; items of each domain where inferred; first entity id of a domain by position where inferred."""

    entities: int
    first_row: Mapping[int, int]
    domain_items: Mapping[int, int]
    first_entity: Mapping[int, int]


@dataclass(frozen=True)
class RankingFingerprint:
    """A recommendation task: counts, SHA-256 of each published matrix and of ``kg_row`` per item.

    Matrices are hashed as little-endian int64 rows (user, item), distinct and sorted. ``leaks`` are pairs in both valid and test.
    """

    users: int
    items: int
    sizes: Mapping[str, int]
    matrices: Mapping[str, str]
    kg_rows: str
    cold_test: tuple[int, int] | None = None
    leaks: int | None = None
    train_about: int | None = None


@dataclass(frozen=True)
class TextFingerprint:
    """A text task: rows of each class in train, valid and test; items of the whole task where the rule fixes them."""

    per_class: tuple[int, int, int]
    items: int | None = None


@dataclass(frozen=True)
class Fingerprints:
    """All fingerprints of a benchmark built as KPI is."""

    kgs: Mapping[str, KgFingerprint]
    rankings: Mapping[str, RankingFingerprint]
    texts: Mapping[str, TextFingerprint]


KPI = Fingerprints(
    kgs={
        "amazon": KgFingerprint(
            entities=543_331,
            first_row={1: 208_321},
            domain_items={0: 208_321, 1: 279_899, 2: 50_953},
            first_entity={2: 492_342},
        ),
        "douban": KgFingerprint(entities=283_756, first_row={}, domain_items={}, first_entity={}),
    },
    rankings={
        "amazon_music": RankingFingerprint(
            users=27_452,
            items=20_677,
            sizes={"train": 105_755, "valid": 30_002, "test": 30_002},
            matrices={
                "train": "f0e0a3bc979166f5475ec39a467d2322509b7846a48c6ac8277a06cbf013f421",
                "valid": "02d24dab9ae0340f07399031ff2f92333078b4d15318924b89efa3171d80f4a5",
                "test": "26cc2c696197589937aec12cb2befa3c2f6fa390c480f4e331d2d41ea230786f",
            },
            kg_rows="1901bda70f66d9553fd1be8a73ea54ff0839e637db206b0d0bab420ad6df3799",
            cold_test=(1_818, 1_475),
            leaks=0,
        ),
        "douban_book": RankingFingerprint(
            users=1_715,
            items=8_592,
            sizes={"train": 84_385, "valid": 9_891, "test": 9_891},
            matrices={
                "train": "c7c9a0f9a89fb7874aec9c1b0a0353109616dcc1628c281b7289933ab91ae358",
                "valid": "5efc8e5f7814443b9961d7757a1db937051e2e59eedfbbad109a8665fd17cc2c",
                "test": "1432c16e87feb218de4495ec55efc04a90964fbef84a31f5baa1baa69a57092c",
            },
            kg_rows="af8fd7bd2f45e455c9b025733c514ee9f8e4375442140535d5de1fc65ee4b685",
            cold_test=(0, 0),
            leaks=0,
        ),
        # The published train matrix of douban_movie was not at hand when these were measured.
        "douban_movie": RankingFingerprint(
            users=2_633,
            items=20_963,
            sizes={"valid": 123_001, "test": 122_942},
            matrices={
                "valid": "500859bd803d0480694eea5a7434fc295f7a0c0443304d7ae85951182c96ceb0",
                "test": "df614a1e7bf84e48feb7f5950188792b9329208d06bfd2cc8738dc6e6b2d5834",
            },
            kg_rows="bec97dc0809fb4f1f8a96007ef5d501c97e0574d46db705c0e4fd6195dcde2cb",
            leaks=1_680,
            train_about=984_000,
        ),
    },
    texts={
        "amazon_games_qa": TextFingerprint(per_class=(2_344, 292, 292), items=1_093),
        "amazon_movie_review": TextFingerprint(per_class=(8_000, 1_000, 1_000)),
        "douban_music_review": TextFingerprint(per_class=(1_920, 240, 240)),
    },
)


def integers_hash(values: NDArray[np.int64]) -> str:
    """SHA-256 of integers as little-endian int64."""
    return hashlib.sha256(np.ascontiguousarray(values).astype("<i8").tobytes()).hexdigest()


def check_ranking(
    name: str, known: RankingFingerprint, users: int, rows: NDArray[np.int64], splits: Splits
) -> list[Check]:
    """Compare a rebuilt recommendation task (``rows``: kg_row per item, ``splits`` with their repeats across splits) with what is known."""
    checks = [_equal(f"{name}: users", known.users, users), _equal(f"{name}: items", known.items, len(rows))]
    checks += [
        _equal(f"{name}: {split} pairs", size, len(splits[split])) for split, size in known.sizes.items()
    ]
    checks += [
        _equal(f"{name}: SHA-256 of the published {split} matrix", digest, integers_hash(splits[split]))
        for split, digest in known.matrices.items()
    ]
    checks.append(_equal(f"{name}: SHA-256 of kg_row per item", known.kg_rows, integers_hash(rows)))
    if known.leaks is not None:
        shared = set(map(tuple, splits["valid"].tolist())) & set(map(tuple, splits["test"].tolist()))
        checks.append(_equal(f"{name}: pairs in both valid and test", known.leaks, len(shared)))
    if known.cold_test is not None:
        cold = splits["test"][~np.isin(splits["test"][:, 1], splits["train"][:, 1]), 1]
        checks.append(
            _equal(
                f"{name}: cold test pairs, cold test items",
                known.cold_test,
                (len(cold), len(set(cold.tolist()))),
            )
        )
    if known.train_about is not None:
        near = abs(len(splits["train"]) - known.train_about) < 0.05 * known.train_about
        expected = f"about {known.train_about:,} (inferred)"
        checks.append(
            Check(f"{name}: train pairs", expected, f"{len(splits['train']):,}", near, binding=False)
        )
    return checks


def check_graph(
    name: str, known: KgFingerprint, entities: int, domains: list[tuple[int, int]]
) -> list[Check]:
    """Compare a rebuilt KG with what is known. ``domains``: first entity id and number of items of each domain, in file order."""
    checks = [_equal(f"{name}: entities", known.entities, entities)]
    rows = np.cumsum([0] + [count for _, count in domains])
    checks += [
        _equal(f"{name}: first kg_row of domain {d}", row, int(rows[d])) for d, row in known.first_row.items()
    ]
    checks += [
        _equal(f"{name}: items of domain {d} (inferred)", count, domains[d][1], binding=False)
        for d, count in known.domain_items.items()
    ]
    checks += [
        _equal(f"{name}: first entity id of domain {d} (inferred)", entity, domains[d][0], binding=False)
        for d, entity in known.first_entity.items()
    ]
    return checks


def require_all(checks: Iterable[Check]) -> None:
    """Raise unless every binding check holds.

    Raises:
        RecipeError: with the whole table.
    """
    table = list(checks)
    failed = [check for check in table if check.binding and not check.ok]
    if failed:
        raise RecipeError(
            f"{len(failed)} of {len(table)} fingerprints of KPI are not met: the raw files are not those of the benchmark, or a rule that "
            f"was inferred is wrong.\n{as_table(table)}"
        )


def as_table(checks: Iterable[Check]) -> str:
    """The checks as a Markdown table."""
    rows = [
        f"| {check.fingerprint} | {check.expected} | {check.found} | {check.verdict} |" for check in checks
    ]
    return "\n".join(["| fingerprint | expected | found | |", "|---|---|---|---|", *rows])


def _equal(fingerprint: str, expected: object, found: object, *, binding: bool = True) -> Check:
    return Check(fingerprint, str(expected), str(found), expected == found, binding)
