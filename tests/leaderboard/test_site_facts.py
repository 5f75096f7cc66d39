"""What the page of a submission says: every stated value in its place, and nothing a stranger wrote becomes more than text."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from result_factory import SUITE, TASKS, Maker

from kpi_bench.cli import _parser as command_line
from kpi_bench.harness.results import Result, read_result, result_path, write_result
from kpi_bench.leaderboard import load_results
from kpi_bench.leaderboard.site.facts import SubmissionFacts, across, submission_facts, web_address
from kpi_bench.leaderboard.site.reproduce import comparison, reproduction, suite_place, verification
from kpi_bench.leaderboard.tables import board

HOSTILE = "x'; rm -rf ~; $(id) `id` \"<script>alert(1)</script>\n"


def _facts(root: Path, name: str) -> SubmissionFacts:
    table = board(load_results(root), SUITE)
    return submission_facts(table, table.row(name))


def _change(root: Path, name: str, task: str, **changes: Any) -> Result:
    """Rewrite fields of a stored result; ``submission__x`` is field x of its submission."""
    path = result_path(root, SUITE, task, name)
    result = read_result(path)
    for key, value in changes.items():
        part, _, field = key.partition("__")
        value = dataclasses.replace(getattr(result, part), **{field: value}) if field else value
        result = dataclasses.replace(result, **{part: value})
    write_result(root, result)
    return result


@pytest.fixture
def root(tmp_path: Path) -> Path:
    maker = Maker(tmp_path, n_queries=60)
    maker.submission("good", 0.9, noise=1)
    maker.submission("fair", 0.6, noise=2)
    maker.submission("poor", 0.2, noise=3, tasks=TASKS[:2], tags=("floor",), seeds=(4,))
    return tmp_path


def test_every_task_shows_its_main_metric_with_both_intervals_and_seeds(root: Path) -> None:
    facts = _facts(root, "good")
    # Tasks come in the order of the board.
    assert [task.name for task in facts.tasks] == sorted(TASKS)
    stored = read_result(result_path(root, SUITE, "douban_book", "good"))
    task = next(task for task in facts.tasks if task.name == "douban_book")
    low, high = stored.main.ci95_queries or (0.0, 0.0)
    assert task.main.metric == "ndcg@20"
    assert float(task.main.mean) == pytest.approx(stored.main.mean, abs=5e-5)
    assert [float(end) for end in task.main.queries.split(" to ")] == pytest.approx([low, high], abs=5e-5)
    assert len(task.main.seeds.split(" to ")) == 2
    assert [float(value) for value in task.main.per_seed] == pytest.approx(stored.main.per_seed, abs=5e-5)
    assert task.main.chance == ".0100"
    assert task.rank == "1"
    assert task.kind == "recommendation"
    assert task.seeds == (0, 1, 2)


def test_absent_intervals_are_empty_and_one_seed_is_said(root: Path) -> None:
    facts = _facts(root, "poor")
    assert {task.main.seeds for task in facts.tasks} == {""}
    assert [flag.term for flag in facts.flags] == ["single_seed"]
    assert "one seed" in facts.flags[0].meaning
    assert facts.floor


def test_a_row_without_all_tasks_says_which(root: Path) -> None:
    facts = _facts(root, "poor")
    assert (facts.covered, facts.n_tasks) == (2, 4)
    assert set(facts.missing) == set(TASKS[2:])
    assert (facts.mean_rank, facts.borda) == ("-", "-")


def test_costs_carry_ranks_only_where_rows_may_be_compared(root: Path) -> None:
    assert {cost.rank for cost in _facts(root, "poor").costs} == {""}
    costs = {cost.label: cost for cost in _facts(root, "good").costs}
    assert costs["pretrain s"].value == "60.0"
    assert costs["pretrain s"].rank == "=1"
    assert costs["serving MB"].value == "5.00"
    # Nothing is said of a column that no result fills.
    assert "GPU s" not in costs


def test_phases_memory_sizes_variants_and_slices(root: Path) -> None:
    task = _facts(root, "good").tasks[0]
    adapt = next(phase for phase in task.phases if phase.name == "adapt")
    assert (adapt.wall, adapt.wall_by_seed) == ("10.0", ("10.0",) * 3)
    assert (adapt.cpu, adapt.gpu, adapt.gpu_by_seed) == ("20.0", "", ())
    assert task.rss == ("500",) * 3
    assert task.device == ()
    assert dict(task.sizes) == {
        "parameters": "1.23M",
        "trained in adapt": "1.00k",
        "kept to serve": "1.23M",
        "serving MB": "5.00",
    }
    assert [variant.name.term for variant in task.variants] == ["dedup"]
    assert task.variants[0].main is not None
    assert task.variants[0].main.mean == task.main.mean
    assert [(part.name, part.n_queries, part.main) for part in task.slices] == [("cold", "5", ".1000")]
    assert not task.has_curve


def test_the_first_row_is_compared_with_the_second_and_others_with_the_one_above_and_the_first(
    root: Path,
) -> None:
    assert [(r.what, r.name) for r in _facts(root, "good").rivals] == [("the row below", "fair")]
    assert [(r.what, r.name) for r in _facts(root, "fair").rivals] == [("the first row", "good")]
    assert [(r.what, r.name) for r in _facts(root, "poor").rivals] == [
        ("the row above", "fair"),
        ("the first row", "good"),
    ]


def test_a_row_alone_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    Maker(tmp_path, n_queries=20).submission("only", 0.5)
    facts = _facts(tmp_path, "only")
    assert (facts.rivals, facts.compare) == ((), "")
    assert (facts.place, facts.n_rows) == (1, 1)


@pytest.mark.parametrize(("tasks", "said"), [(TASKS, "all"), (TASKS[:1], "some"), ((), "none")])
def test_verified_is_said_of_all_some_or_no_tasks(root: Path, tasks: tuple[str, ...], said: str) -> None:
    for task in tasks:
        _change(root, "good", task, flags=("verified",))
    facts = _facts(root, "good")
    assert facts.verified == said
    assert {task.name for task in facts.tasks if task.verified} == set(tasks)


def test_contributed_texts_come_through_unchanged_and_unjudged(root: Path) -> None:
    nested = {HOSTILE: {"deep": [HOSTILE, {"k": None}]}, "empty": {}}
    for task in TASKS:
        _change(
            root,
            "good",
            task,
            submission__description=HOSTILE,
            submission__paper=f"javascript:{HOSTILE}",
            submission__source_url="https://example.org/code",
            submission__fidelity=HOSTILE,
            submission__params=nested,
            submission__tags=(HOSTILE,),
            notes={HOSTILE: (nested,)},
            environment=nested,
            flags=(HOSTILE,),
        )
    facts = _facts(root, "good")
    assert facts.description == HOSTILE
    assert facts.paper is not None
    assert facts.paper.href is None
    assert facts.source is not None
    assert facts.source.href == "https://example.org/code"
    assert (facts.fidelity.term, facts.fidelity.meaning) == (HOSTILE, "")
    assert [(flag.term, flag.meaning) for flag in facts.flags] == [(HOSTILE, "")]
    assert [entry.key for entry in facts.params] == [f"{HOSTILE}.deep", "empty"]
    assert facts.tasks[0].notes[0][0] == HOSTILE
    assert "alert(1)" in facts.tasks[0].notes[0][1][0]


def test_a_shared_setting_is_stated_once_and_another_by_task() -> None:
    entries = across(
        {
            "a": {"lr": 0.1, "nested": {"x": True}, "text": "t"},
            "b": {"lr": 0.2, "nested": {"x": True}, "text": "t"},
            "c": {"lr": 0.1, "nested": {"x": True}},
        }
    )
    found = {entry.key: [(value.text, value.tasks) for value in entry.values] for entry in entries}
    assert found == {
        "lr": [("0.1", ("a", "c")), ("0.2", ("b",))],
        "nested.x": [("true", ())],
        # One task does not have it, so it is not everybody's.
        "text": [("t", ("a", "b"))],
    }


@pytest.mark.parametrize(
    "text",
    ["https://arxiv.org/abs/2405.13085", "http://a.b/c?d=e#f", "https://[::1]/x"],
)
def test_web_addresses_are_links(text: str) -> None:
    assert web_address(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        "data:text/html,<script>",
        "file:///etc/passwd",
        "//example.org",
        "https:",
        "https://",
        "https:/example.org",
        " https://example.org",
        "https://example.org/a b",
        "https://example.org/\nx",
        "java\nscript:alert(1)",
        "https://example.org/\u202egro",
        "https://ex\u0430mple.org/",
        "https://trusted.org@evil.org/",
        "https://[bad",
        'https://a.b/"onmouseover=x',
        "arXiv 2405.13085",
    ],
)
def test_other_texts_are_no_links(text: str) -> None:
    assert web_address(text) is None


@given(st.text())
def test_a_link_is_always_http(text: str) -> None:
    assert (web_address(text) or "http://").startswith(("http://", "https://"))


def test_one_command_runs_all_tasks_of_a_row(root: Path) -> None:
    (line,) = _evaluate_lines(_facts(root, "good"))
    assert line == "kpi-bench evaluate --submission submissions/good --suite suites/kpi-test --seeds 0,1,2"


def test_a_named_config_and_tasks_run_apart_are_named(root: Path) -> None:
    results = {}
    for task in TASKS[:3]:
        result = read_result(result_path(root, SUITE, task, "good"))
        named = dataclasses.replace(result.submission, name="good@base", config="base")
        results[task] = dataclasses.replace(
            result,
            submission=named,
            seeds=(7,) if task == TASKS[0] else (0, 1, 2),
            hardware={"device": "cuda:1"},
        )
    lines = [line for step in reproduction("good@base", results, 4) for line in step.commands]
    start = "kpi-bench evaluate --submission submissions/good --config base --suite suites/kpi-test"
    assert lines == [
        f"{start} --tasks {TASKS[0]} --seeds 7 --device cuda",
        f"{start} --tasks {TASKS[1]},{TASKS[2]} --seeds 0,1,2 --device cuda",
    ]


def test_predictions_made_elsewhere_are_scored_not_run(root: Path) -> None:
    result = _change(root, "good", TASKS[0], flags=("self_reported",))
    lines = [line for step in reproduction("good", {TASKS[0]: result}, 4) for line in step.commands]
    assert lines == ["kpi-bench score FOLDER --suite suites/kpi-test --name good"]


def test_the_suite_comes_from_its_repository_where_the_result_names_one(root: Path) -> None:
    result = read_result(result_path(root, SUITE, TASKS[0], "good"))

    def place(repo: str, revision: str) -> str:
        return suite_place(
            dataclasses.replace(result, suite=dataclasses.replace(result.suite, repo=repo, revision=revision))
        )

    assert place("owner/kpi", "ab" * 20) == f"hf://owner/kpi@{'ab' * 20}"
    assert place("owner/kpi; id", "ab" * 20) == "suites/kpi-test"
    assert place("owner/kpi", "main") == "suites/kpi-test"


def test_commits_that_are_none_are_not_checked_out(root: Path) -> None:
    commit = "ab" * 20
    result = _change(root, "good", TASKS[0], kpi_bench__git=commit)
    assert f"git checkout {commit}" in _lines(reproduction("good", {TASKS[0]: result}, 4))
    result = _change(root, "good", TASKS[0], kpi_bench__git="--orphan; id")
    assert not any("git checkout" in line for line in _lines(reproduction("good", {TASKS[0]: result}, 4)))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A result for tests that change its texts."""
    return read_result(Maker(tmp_path_factory.mktemp("one"), n_queries=10).result("one", TASKS[0], 0.5))


@given(text=st.text(min_size=1))
def test_no_text_adds_words_to_a_command(one: Result, text: str) -> None:
    """Whatever a contributor writes is one word of the shell's, or part of one."""
    result = one
    hostile = dataclasses.replace(
        result,
        submission=dataclasses.replace(result.submission, config=text, kind="code"),
        suite=dataclasses.replace(result.suite, name=text, repo=text, revision=text),
        kpi_bench=dataclasses.replace(result.kpi_bench, git=text),
    )
    (line,) = [
        line
        for line in _lines(reproduction(text, {text: hostile}, 4))
        if line.startswith("kpi-bench evaluate")
    ]
    options = [
        f"submissions/{text}",
        "--config",
        text,
        "--suite",
        f"suites/{text}",
        "--tasks",
        text,
        "--seeds",
        "0",
    ]
    assert shlex.split(line) == ["kpi-bench", "evaluate", "--submission", *options]
    (line,) = _lines(verification(text, {text: hostile}))
    assert shlex.split(line)[:3] == ["kpi-bench", "verify", f"leaderboard/results/{text}/*/{text}.json"]
    assert shlex.split(comparison(text, "b", text))[-1] == "b"


def test_a_device_of_no_known_kind_is_left_out(root: Path) -> None:
    result = _change(root, "good", TASKS[0], hardware={"device": HOSTILE})
    assert "--device" not in _lines(reproduction("good", {TASKS[0]: result}, 4))[-1]


def _evaluate_lines(facts: SubmissionFacts) -> list[str]:
    return [line for line in _lines(facts.reproduce) if "evaluate" in line]


def _lines(steps: Any) -> list[str]:
    return [line for step in steps for line in step.commands]


@pytest.mark.parametrize("name", ["good", "poor", "good@base"])
def test_the_command_line_understands_every_command(root: Path, name: str) -> None:
    facts = _facts(root, name.partition("@")[0])
    results = {
        task.name: read_result(result_path(root, SUITE, task.name, facts.name)) for task in facts.tasks
    }
    if "@" in name:
        for task, result in results.items():
            named = dataclasses.replace(result.submission, name=name, config="base")
            results[task] = dataclasses.replace(result, submission=named, hardware={"device": "cpu"})
    lines = _lines([*reproduction(name, results, 4), *verification(name, results)])
    lines += [comparison(name, "other", SUITE), comparison("-x", "other", SUITE)]
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "kpi-bench"
        options = command_line().parse_args(words[1:])
        if words[1] == "evaluate":
            assert options.seeds == facts.tasks[0].seeds
            assert options.config == ("base" if "@" in name else None)
            assert options.submission == [Path(f"submissions/{facts.name}")]
