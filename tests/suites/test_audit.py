from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from raw_factory import write_raw

from kpi_bench.suites.audit import (
    Finding,
    audit_examples,
    audit_graph,
    audit_held_out,
    audit_interactions,
    audit_suite,
    audit_triples,
    findings_json,
    related_relations,
    render_findings,
)
from kpi_bench.suites.graph import KnowledgeGraph
from kpi_bench.suites.recipes import build_frames, build_suite
from kpi_bench.suites.suite import Suite, open_suite
from kpi_bench.suites.task import LinkPredictionTask, TaskKind, TaskSpec, Triples
from kpi_bench.suites.writer import write_suite


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    table = {finding.check: finding for finding in findings}
    assert len(table) == len(findings)
    return table


def pairs(*values: tuple[int, int]) -> pd.DataFrame:
    return pd.DataFrame(list(values), columns=["user", "item"])


def examples(*values: tuple[int, str, int]) -> pd.DataFrame:
    return pd.DataFrame(list(values), columns=["entity", "text", "label"])


def triples(values: list[tuple[int, int, int]]) -> pd.DataFrame:
    return pd.DataFrame(values, columns=["head", "relation", "tail"])


# --- interactions -----------------------------------------------------------------------------------------------------


def test_clean_interactions_have_only_infos() -> None:
    found = audit_interactions(
        "t", {"train": pairs((0, 0), (0, 1)), "valid": pairs((0, 2)), "test": pairs((0, 0))[:0]}, [0, 1, 2]
    )
    assert {finding.severity for finding in found} == {"info"}
    assert {finding.count for finding in found} == {0}
    assert all(finding.share == 0 for finding in found)


def test_interactions_with_every_fault() -> None:
    splits = {
        "train": pairs((0, 0), (0, 0), (1, 1)).assign(time=[1, 1, 9]),
        "valid": pairs((0, 0), (0, 2)).assign(time=[2, 2]),
        "test": pairs((0, 2), (1, 3), (2, 1), (1, 1)).assign(time=[3, 8, 3, 10]),
    }
    found = by_check(audit_interactions("t", splits, [5, 6, -1, -1]))
    facts = {check: (finding.severity, finding.count, finding.total) for check, finding in found.items()}
    assert facts == {
        "pair repeated in train": ("warning", 1, 3),
        "pair repeated in valid": ("info", 0, 2),
        "pair repeated in test": ("info", 0, 4),
        "pair in train and valid": ("leak", 1, 2),
        "pair in train and test": ("leak", 1, 4),
        "pair in valid and test": ("leak", 1, 4),
        "cold items in test": ("warning", 2, 4),
        "cold users in test": ("warning", 1, 3),
        "test before train": ("leak", 1, 4),
        "items not in the KG": ("warning", 2, 4),
        "test rows not in the KG": ("warning", 2, 4),
    }
    assert "one of 2 items" in found["cold items in test"].detail


def test_splits_may_be_absent() -> None:
    found = by_check(audit_interactions("t", {"valid": pairs((0, 1)), "test": pairs((0, 1))}))
    assert found["pair in valid and test"].count == 1
    assert "cold items in test" not in found


# --- examples ---------------------------------------------------------------------------------------------------------


def test_examples_with_every_fault() -> None:
    splits = {
        "train": examples((0, "a", 1), (0, "a", 1), (1, "b", 0), (1, "c", 0), (1, "d", 0)),
        "valid": examples((0, "e", 1), (2, "a", 0)),
        "test": examples((0, "a", 1), (3, "b", 1), (2, "e", 1), (2, "z", 0)),
    }
    found = by_check(audit_examples("t", splits))
    facts = {check: (finding.severity, finding.count, finding.total) for check, finding in found.items()}
    assert facts == {
        "text of test in train": ("leak", 2, 4),
        "text of test in train+valid": ("leak", 3, 4),
        "text of valid in train": ("leak", 1, 2),
        "text of test in valid": ("leak", 2, 4),
        "text repeated in train": ("info", 1, 5),
        "contradictory labels": ("warning", 2, 6),
        "cold entities in test": ("info", 3, 4),
        "text lookup": ("leak", 2, 4),
        "entity lookup": ("info", 2, 4),
    }
    assert "1 there with the same label, 1 about the same entity" in found["text of test in train"].detail
    assert "majority class: 1 right" in found["text lookup"].detail


def test_lookup_prefers_the_smaller_label_when_counts_are_equal() -> None:
    train = examples((0, "a", 2), (0, "a", 1), (0, "b", 2))
    found = by_check(audit_examples("t", {"train": train, "test": examples((9, "a", 1), (9, "x", 2))}))
    assert found["text lookup"].count == 2


# --- triples ----------------------------------------------------------------------------------------------------------


def test_related_relations_are_found_as_they_were_planted() -> None:
    base = [(i, i + 20) for i in range(20)]
    rows = [(h, 0, t) for h, t in base]
    rows += [(h, 1, t) for h, t in base[:18]]  # a duplicate: 18 of 20
    rows += [(t, 2, h) for h, t in base]  # the inverse of 0, and of 1
    rows += [(i, 3, (i + 5) % 10) for i in range(10)]  # symmetric
    rows += [(h, 4, t) for h, t in base[:12]]  # 12 of 20: too few
    rows += [(i, 5, i) for i in range(15)]  # self-loops say nothing
    rows += [(h, 6, t) for h, t in base[:9]]  # too small
    found = related_relations(triples(rows))
    assert {(row.first, row.second, row.kind) for row in found.itertuples()} == {
        (0, 1, "duplicate"),
        (0, 2, "inverse"),
        (1, 2, "inverse"),
        (3, 3, "symmetric"),
    }


def test_related_relations_equal_brute_force() -> None:
    rng = np.random.default_rng(0)
    rows = triples([tuple(row) for row in rng.integers(0, (5, 4, 5), (160, 3)).tolist()])
    sets = {r: {(h, t) for h, s, t in rows.to_numpy() if s == r and h != t} for r in range(4)}
    expected = set()
    for first in range(4):
        for second in range(first, 4):
            larger = 0.8 * max(len(sets[first]), len(sets[second]))
            if first < second and len(sets[first] & sets[second]) > larger:
                expected.add((first, second, "duplicate"))
            if len(sets[first] & {(t, h) for h, t in sets[second]}) > larger:
                expected.add((first, second, "symmetric" if first == second else "inverse"))
    found = related_relations(rows)
    assert {(row.first, row.second, row.kind) for row in found.itertuples()} == expected
    assert expected


def test_link_prediction_leaks() -> None:
    base = [(i, i + 20) for i in range(20)]
    train = (
        [(h, 0, t) for h, t in base[:19]] + [(t, 1, h) for h, t in base] + [(h, 2, t) for h, t in base[1:]]
    )
    test = [(19, 0, 39), (0, 2, 20), (50, 0, 20), (0, 3, 20)]
    splits = {"train": triples(train), "valid": triples(train[:2]), "test": triples(test)}
    found = by_check(audit_triples("t", splits))
    counts = {check: finding.count for check, finding in found.items()}
    assert counts == {
        "triple in train and valid": 2,
        "triple in train and test": 0,
        "triple in valid and test": 0,
        "unseen entities in test": 1,
        "unseen relations in test": 1,
        "test leaked by duplicate": 2,
        "test leaked by inverse": 2,
        "test leaked by symmetric": 0,
        "test leaked by any of these": 2,
        "test pair linked in train": 3,
    }
    assert found["test leaked by any of these"].severity == "leak"


def test_graph_findings_name_hubs_and_constant_relations() -> None:
    rows = triples([(i, 0, 30) for i in range(20)] + [(i, 1, i + 1) for i in range(19)])
    names = [f"e{i}" for i in range(33)]
    found = by_check(audit_graph("KG g", rows, names, ["has_kind", "next"]))
    assert found["near-constant relations"].count == 1
    assert "has_kind -> e30" in found["near-constant relations"].detail
    assert found["hub entities"].detail.startswith("in more than 1% of all triples: e30 (51.3%); e1 (7.7%)")
    assert found["isolated entities"].count == 33 - 21
    assert found["symmetric relations"].severity == "info"


# --- suites -----------------------------------------------------------------------------------------------------------


def test_tiny_suite(tiny_suite: Suite) -> None:
    findings = audit_suite(tiny_suite)
    table = {(finding.subject, finding.check): finding for finding in findings}
    assert len(table) == len(findings)
    assert {subject for subject, _ in table} == {"KG shop", "KG library", *tiny_suite.task_names()}
    assert table["shop_games_qa", "text of test in train"].count == 2
    assert table["shop_games_qa", "cold entities in test"].count == 2
    assert table["library_review", "text of test in train"].count == 2
    assert table["shop_music", "items not in the KG"].count == 1
    assert table["shop_music", "pair in train and test"].count == 0
    assert table["library_links", "triple in train and test"].count == 0


def test_suite_with_links_is_audited_over_them(tmp_path: Path) -> None:
    frames = build_frames("fb15k-237-db15k", write_raw(tmp_path / "raw"))
    target, source = frames.kgs
    telling = pd.concat([source.triples, triples([(2, 0, 0)])])
    told = replace(frames, kgs=(target, replace(source, triples=telling)))
    for name, suite, expected in (("clean", frames, [0, 0]), ("told", told, [1, 1])):
        write_suite(tmp_path / name, suite)
        findings = audit_suite(open_suite(tmp_path / name))
        assert [f.count for f in findings if f.check.endswith("pairs joined in a linked KG")] == expected


def test_findings_are_a_table_and_json(tiny_suite: Suite) -> None:
    findings = audit_suite(tiny_suite)
    rows = findings_json(findings)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert list(rows[0]) == ["subject", "check", "severity", "count", "total", "detail", "share"]
    lines = render_findings(findings).splitlines()
    assert len(lines) == len(rows) + 4
    assert any("text of test in train " in line and " 2 " in line and "10.0%" in line for line in lines)
    assert lines[-1].startswith("leak ")
    assert sum(int(part.split()[1]) for part in lines[-1].split(", ")) == len(rows)


# --- the real files ---------------------------------------------------------------------------------------------------


def published(raw_data: Path, folder: str, table: str) -> dict[str, pd.DataFrame]:
    frame = pd.read_parquet(raw_data / "mudok-parquet" / folder / f"{table}.parquet")
    return {
        split: frame[frame["split"] == split]
        for split in ("train", "valid", "test")
        if (frame["split"] == split).any()
    }


def test_published_questions_repeat_229_of_584_test_rows(raw_data: Path) -> None:
    found = by_check(audit_examples("amazon_qa", published(raw_data, "amazon_qa", "examples")))
    leak = found["text of test in train"]
    assert (leak.severity, leak.count, leak.total) == ("leak", 229, 584)
    assert "228 there with the same label, 229 about the same entity" in leak.detail
    assert found["text of test in train+valid"].count == 251
    assert found["text of valid in train"].count == 221
    assert found["text repeated in train"].count == 1_041
    assert found["contradictory labels"].count == 8
    assert found["text lookup"].share == pytest.approx(0.712, abs=5e-4)
    assert found["text lookup"].severity == "leak"


def test_published_reviews_repeat_35_of_1200_test_rows(raw_data: Path) -> None:
    found = by_check(audit_examples("douban_review", published(raw_data, "douban_review", "examples")))
    leak = found["text of test in train"]
    assert (leak.severity, leak.count, leak.total) == ("leak", 35, 1_200)
    assert "0 about the same entity" in leak.detail
    assert found["contradictory labels"].count == 34
    assert "736 of 1,127 test entities" in found["cold entities in test"].detail


def test_published_films_share_1680_pairs_between_valid_and_test(raw_data: Path) -> None:
    found = by_check(audit_interactions("douban_movie", published(raw_data, "douban_movie", "interactions")))
    leak = found["pair in valid and test"]
    assert (leak.severity, leak.count, leak.total) == ("leak", 1_680, 122_942)
    assert "of 181 users" in leak.detail


def test_published_music_has_1818_cold_test_interactions(raw_data: Path) -> None:
    found = by_check(audit_interactions("amazon_music", published(raw_data, "amazon_music", "interactions")))
    assert found["cold items in test"].count == 1_818
    assert "1,475 items" in found["cold items in test"].detail
    assert found["pair in train and test"].count == 0


def test_real_suites_report_their_leaks_by_themselves(raw_data: Path, tmp_path: Path) -> None:
    for recipe in ("kpi-public", "wn18rr", "db15k"):
        build_suite(recipe, raw_data, tmp_path / recipe)
    table = {
        (finding.subject, finding.check): finding.count
        for recipe in ("kpi-public", "wn18rr", "db15k")
        for finding in audit_suite(open_suite(tmp_path / recipe))
    }
    assert table["amazon_games_qa", "text of test in train"] == 229
    assert table["douban_music_review", "text of test in train"] == 35
    assert table["douban_book", "items not in the KG"] == 8_592
    assert table["wn18rr", "unseen entities in test"] == 210
    assert table["wn18rr", "test leaked by symmetric"] == 1_052
    assert table["db15k", "triple in train and valid"] == 6_584


def test_triples_to_be_predicted_must_not_be_in_the_kg() -> None:
    task, graph = _completion(test=[(0, 0, 1), (1, 0, 2)]), _graph([(0, 0, 1), (2, 0, 3)])
    found = {f.check: (f.count, f.total, f.severity) for f in audit_held_out(task, graph)}
    assert found == {"valid triples in the KG": (0, 1, "info"), "test triples in the KG": (1, 2, "leak")}


def _triples(rows: list[tuple[int, int, int]]) -> Triples:
    return Triples(*np.array(rows, dtype=np.int64).T)


def _completion(test: list[tuple[int, int, int]]) -> LinkPredictionTask:
    spec = TaskSpec("links", TaskKind.LINK_PREDICTION, "kg", "d", "", "", "mrr")
    return LinkPredictionTask(spec, 4, 1, _triples([(0, 0, 3)]), _triples([(3, 0, 0)]), _triples(test))


def _graph(rows: list[tuple[int, int, int]]) -> KnowledgeGraph:
    entities = pa.table(
        {
            "entity": range(4),
            "key": list("abcd"),
            "name": [None] * 4,
            "text": [None] * 4,
            "domain": ["d"] * 4,
            "kind": ["k"] * 4,
        }
    )
    relations = pa.table({"relation": [0], "key": ["r"], "name": ["r"]})
    return KnowledgeGraph("kg", *np.array(rows, dtype=np.int64).T, entities, relations)
