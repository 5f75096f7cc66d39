"""Audits of triples: relations that repeat or invert each other, leaks of link prediction, hubs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from kpi_bench.suites._finding import Finding, graded

TRIPLE = ["head", "relation", "tail"]
OVERLAP = 0.8  # share of both relations' pairs from which they count as duplicates or inverses (Akrami et al., SIGMOD 2020)
CONSTANT = 0.9  # share of a relation's triples on one tail from which it counts as near-constant
HUB = 0.01  # share of all triples from which an entity counts as a hub
MIN_TRIPLES = 10  # smaller relations are too small to say anything about
SHOWN = 3


def audit_graph(
    name: str, triples: pd.DataFrame, entities: Sequence[str], relations: Sequence[str]
) -> list[Finding]:
    """Audit the triples of a KG; ``entities`` and ``relations`` are names for the details, in id order."""
    pairs = related_relations(triples)
    findings = []
    for kind in ("duplicate", "inverse", "symmetric"):
        chosen = pairs.loc[pairs["kind"] == kind, ["first", "second"]].to_numpy()
        shown = [
            " / ".join(dict.fromkeys((relations[first], relations[second])))
            for first, second in chosen[:SHOWN]
        ]
        detail = _examples(f"with an overlap of more than {OVERLAP}", shown, len(chosen))
        label = "symmetric relations" if kind == "symmetric" else f"{kind} relation pairs"
        findings.append(
            Finding(name, label, graded("warning", len(chosen)), len(chosen), len(relations), detail)
        )
    findings.append(_near_constant(name, triples, entities, relations))
    findings += _degrees(name, triples, entities)
    return findings


def audit_triples(name: str, splits: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Audit the splits of a link-prediction task: frames with head, relation and tail ids."""
    findings = list(_shared(name, splits))
    if "train" in splits and "test" in splits:
        findings += [
            *_unseen(name, splits["train"], splits["test"]),
            *_leaked(name, splits["train"], splits["test"]),
        ]
    return findings


def related_relations(triples: pd.DataFrame) -> pd.DataFrame:
    """Pairs of relations that say the same of the same entities: columns first, second, kind, shared.

    ``duplicate``: their (head, tail) pairs overlap by more than :data:`OVERLAP` of either; ``inverse``: the pairs of one, turned round, do;
    ``symmetric``: a relation that is its own inverse. Self-loops are left out, and relations of fewer than :data:`MIN_TRIPLES` triples.
    """
    distinct = triples.loc[triples["head"] != triples["tail"], TRIPLE].drop_duplicates()
    sizes = distinct.groupby("relation").size()
    distinct = distinct[distinct["relation"].isin(sizes.index[sizes >= MIN_TRIPLES])]
    turned = distinct.rename(columns={"head": "tail", "tail": "head"})
    found = []
    for other, kind in ((distinct, "duplicate"), (turned, "inverse")):
        joined = distinct.merge(other, on=["head", "tail"], suffixes=("_first", "_second"))
        counts = joined.groupby(["relation_first", "relation_second"]).size().rename("shared").reset_index()
        counts.columns = pd.Index(["first", "second", "shared"])
        counts = (
            counts[counts["first"] < counts["second"]]
            if kind == "duplicate"
            else counts[counts["first"] <= counts["second"]]
        )
        larger = np.maximum(
            sizes.reindex(counts["first"]).to_numpy(), sizes.reindex(counts["second"]).to_numpy()
        )
        kept = counts[counts["shared"].to_numpy() > OVERLAP * larger]
        found.append(kept.assign(kind=np.where(kept["first"] == kept["second"], "symmetric", kind)))
    table = pd.concat(found, ignore_index=True)
    return table.sort_values("shared", ascending=False, kind="stable", ignore_index=True)


def _shared(name: str, splits: Mapping[str, pd.DataFrame]) -> Iterator[Finding]:
    for (earlier, first), (later, second) in combinations(splits.items(), 2):
        count = len(second[TRIPLE].drop_duplicates().merge(first[TRIPLE].drop_duplicates(), on=TRIPLE))
        detail = f"{later} triples that are also in {earlier}"
        total = len(second[TRIPLE].drop_duplicates())
        yield Finding(name, f"triple in {earlier} and {later}", graded("leak", count), count, total, detail)


def _unseen(name: str, train: pd.DataFrame, test: pd.DataFrame) -> Iterator[Finding]:
    known = np.union1d(train["head"], train["tail"])
    unseen = int((~(test["head"].isin(known) & test["tail"].isin(known))).sum())
    detail = "test triples with an entity that no train triple has"
    yield Finding(name, "unseen entities in test", graded("warning", unseen), unseen, len(test), detail)
    unseen = int((~test["relation"].isin(train["relation"].unique())).sum())
    detail = "test triples with a relation that no train triple has"
    yield Finding(name, "unseen relations in test", graded("warning", unseen), unseen, len(test), detail)


def _leaked(name: str, train: pd.DataFrame, test: pd.DataFrame) -> Iterator[Finding]:
    related = related_relations(train)
    swapped = related.rename(columns={"first": "second", "second": "first"})
    both = pd.concat([related, swapped]).drop_duplicates(["first", "second", "kind"])
    leaked = pd.Series(False, index=test.index)
    for kind, article, turn in (
        ("duplicate", "a", False),
        ("inverse", "an", True),
        ("symmetric", "the same", True),
    ):
        pairs = both.loc[both["kind"] == kind, ["first", "second"]]
        wanted = test.assign(row=test.index).merge(pairs, left_on="relation", right_on="first")
        head, tail = ("tail", "head") if turn else ("head", "tail")
        wanted = wanted[["row", head, "second", tail]].set_axis(["row", *TRIPLE], axis=1)
        rows = wanted.merge(train[TRIPLE].drop_duplicates(), on=TRIPLE)["row"].unique()
        leaked.loc[rows] = True
        detail = f"test triples stated in train by {article} {kind} relation"
        yield Finding(name, f"test leaked by {kind}", graded("leak", len(rows)), len(rows), len(test), detail)
    count = int(leaked.sum())
    yield Finding(
        name,
        "test leaked by any of these",
        graded("leak", count),
        count,
        len(test),
        "test triples counted once",
    )
    ends = ["head", "tail"]
    links = train[ends].drop_duplicates()
    near = pd.concat([links, links.rename(columns={"head": "tail", "tail": "head"})]).drop_duplicates()
    linked = len(test[ends].merge(near, on=ends))
    detail = "test triples whose two entities are linked in train by any relation, in either direction"
    yield Finding(name, "test pair linked in train", "info", linked, len(test), detail)


def _near_constant(
    name: str, triples: pd.DataFrame, entities: Sequence[str], relations: Sequence[str]
) -> Finding:
    counts = triples.groupby(["relation", "tail"]).size().rename("n").reset_index()
    top = (
        counts.sort_values("n", ascending=False, kind="stable")
        .drop_duplicates("relation")
        .set_index("relation")
    )
    sizes = triples.groupby("relation").size().reindex(top.index)
    chosen = top[(sizes >= MIN_TRIPLES) & (top["n"] > CONSTANT * sizes)]
    first = chosen.reset_index()[["relation", "tail"]].to_numpy()[:SHOWN]
    shown = [f"{relations[relation]} -> {entities[tail]}" for relation, tail in first]
    detail = _examples(f"with more than {CONSTANT:.0%} of their triples on one tail", shown, len(chosen))
    return Finding(
        name, "near-constant relations", graded("warning", len(chosen)), len(chosen), len(relations), detail
    )


def _degrees(name: str, triples: pd.DataFrame, entities: Sequence[str]) -> Iterator[Finding]:
    ends = np.concatenate([triples["head"], triples["tail"]]).astype(np.int64)
    degrees = np.bincount(ends, minlength=len(entities))
    order = np.argsort(-degrees, kind="stable")
    hubs = order[degrees[order] > HUB * len(triples)]
    shown = [f"{entities[e]} ({degrees[e] / len(triples):.1%})" for e in hubs[:SHOWN]]
    detail = _examples(f"in more than {HUB:.0%} of all triples", shown, len(hubs))
    yield Finding(name, "hub entities", "info", len(hubs), len(entities), detail)
    isolated = int((degrees == 0).sum())
    yield Finding(
        name,
        "isolated entities",
        graded("warning", isolated),
        isolated,
        len(entities),
        "entities without a triple",
    )


def _examples(what: str, shown: Sequence[str], count: int) -> str:
    if not shown:
        return what
    more = f", and {count - len(shown)} more" if count > len(shown) else ""
    return f"{what}: {'; '.join(shown)}{more}"
