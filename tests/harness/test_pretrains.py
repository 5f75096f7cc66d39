"""A method may decline pre-training for the kinds of task that a suite has and it answers, whichever tasks are run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from submission_factory import PRETRAINING, write_submission
from suite_factory import tiny_suite_frames

from kpi_bench.harness.evaluate import Options, Report, evaluate
from kpi_bench.harness.records import read_record
from kpi_bench.suites.suite import Suite, open_suite
from kpi_bench.suites.writer import write_suite

LINKS = "library_links"
DECLINES = (
    PRETRAINING
    + """
@classmethod
def pretrains(cls, kinds):
    return set(kinds) != {"link_prediction"}
"""
)


@pytest.fixture(scope="module")
def links_suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """A suite of the link-prediction task alone; its first two test triples ask the same (head, relation, ?)."""
    frames = tiny_suite_frames()
    (links,) = (task for task in frames.tasks if task.spec.name == LINKS)
    first, taken = links.splits["test"].iloc[0], pd.concat(links.splits.values())
    tails = taken.loc[(taken["head"] == first["head"]) & (taken["relation"] == first["relation"]), "tail"]
    second = pd.DataFrame([first]).assign(tail=min(set(taken["tail"]) - set(tails)))
    test = pd.concat([pd.DataFrame([first]), second, links.splits["test"][1:]], ignore_index=True)
    task = dataclasses.replace(links, splits={**links.splits, "test": test})
    folder = tmp_path_factory.mktemp("links") / "suite"
    write_suite(folder, dataclasses.replace(frames, tasks=(task,)))
    return open_suite(folder)


def run(
    suite: Suite,
    place: Path,
    methods: str = DECLINES,
    *,
    answers: tuple[str, ...] = ("recommendation", "classification", "link_prediction"),
) -> tuple[Report, list[str]]:
    """Evaluate on the link-prediction task; the report, and the calls that the methods noted."""
    calls = place / "calls"
    config = write_submission(place / "taught", methods, params={"calls": str(calls)}, tasks=answers)
    options = Options(out=place / "out", results=place / "results", seeds=(0,), tasks=(LINKS,))
    report = evaluate(config, suite, options)
    assert report.failures == []
    return report, calls.read_text().splitlines()


def test_a_method_that_declines_is_not_pretrained(links_suite: Suite, tmp_path: Path) -> None:
    unasked = """
    def load_pretrained(self, folder):
        raise AssertionError("there is nothing to load")
    """
    report, calls = run(links_suite, tmp_path, DECLINES + unasked.replace("\n    ", "\n"))
    assert calls == [f"adapt {LINKS} 0"]
    assert [outcome.task for outcome in report.outcomes] == [LINKS]
    assert "pretrain" not in report.results[0].timing.phases
    assert not (tmp_path / "out" / "tiny" / "taught" / "pretrained").exists()
    record = read_record(tmp_path / "out" / "tiny" / "taught" / "runs" / LINKS / "seed0")
    assert record is not None
    assert record.key.pretraining is None


def test_by_default_a_method_that_pretrains_does_so_for_any_kinds(links_suite: Suite, tmp_path: Path) -> None:
    _, calls = run(links_suite, tmp_path, PRETRAINING)
    assert calls == ["pretrain 0", f"adapt {LINKS} 0"]


def test_a_selection_of_tasks_does_not_change_the_decision(tiny_suite: Suite, tmp_path: Path) -> None:
    report, calls = run(tiny_suite, tmp_path)
    assert calls == ["pretrain 0", f"adapt {LINKS} 0"], "the suite has other kinds, which it answers"
    assert "pretrain" in report.results[0].timing.phases


def test_kinds_that_the_submission_does_not_answer_do_not_count(tiny_suite: Suite, tmp_path: Path) -> None:
    _, calls = run(tiny_suite, tmp_path, answers=("link_prediction",))
    assert calls == [f"adapt {LINKS} 0"]


def test_throughput_of_link_prediction_counts_distinct_queries(links_suite: Suite, tmp_path: Path) -> None:
    (result,) = run(links_suite, tmp_path)[0].results
    distinct = result.counts["n_distinct_queries"]
    assert 0 < distinct < result.counts["n_ranks"]
    rate = distinct / result.timing.phases["predict"].wall_s[0]
    assert result.timing.queries_per_s == pytest.approx((rate,))
