"""Scores in model repositories: the real client against a local Hub, without and with faults."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from _hub_fixtures import PATIENCE, TOKEN, hub_environment, no_token_is_shown  # noqa: F401
from _hub_results import edit, make_result
from _hub_server import SILENCE, Fault, Hub, serve
from _hub_store import Repo
from huggingface_hub import EvalResult, ModelCard, parse_eval_result_entries
from hypothesis import given
from hypothesis import strategies as st

from kpi_bench._io import read_json
from kpi_bench.cli import main
from kpi_bench.errors import HubError, ResultError
from kpi_bench.harness.results import read_result
from kpi_bench.hub import Published
from kpi_bench.publish import pack_results, push_model
from kpi_bench.publish.card import with_results, with_scores
from kpi_bench.publish.suite import evaluation_file
from kpi_bench.suites.suite import Suite

DATASET, MODEL = "kpi/tiny", "ann/model"
CARD, SCORES = "README.md", ".eval_results/kpi-test.yaml"
FOREIGN = """---
license: mit   # a comment
tags: [graph-ml,  "kg"]
model-index:
- name: mine
  results:
  - task: {type: other}
    dataset: {type: d, name: D, extra: kept}
    metrics: [{type: f1, value: 0.5}]
  - task: {type: graph-ml}
    dataset: {type: kpi/tiny, name: Tiny, config: amazon_music, split: test}
    metrics:
    - {type: ndcg@20, value: 0.001}
    - {type: recall@20, value: 0.25}
- name: another
  results: []
# before the last key
datasets:
  - d
---
# Words   stay

---
"""


@pytest.fixture
def hub(tiny_suite: Suite) -> Iterator[Hub]:
    """A Hub with a suite of two commits, the first of which is tagged, and an empty model."""
    with serve() as running:
        dataset = running.make(DATASET)
        manifest = (tiny_suite.folder / "suite.json").read_bytes()
        dataset.tags["v1.0"] = dataset.add({"suite.json": manifest}, "suite").sha
        dataset.add({"suite.json": b"{}"}, "a newer version", parent=dataset.tags["v1.0"])
        running.make(MODEL, "model")
        yield running


@pytest.fixture
def out(tmp_path: Path, tiny_suite: Suite) -> Path:
    """An evaluation's folder with one submission on two tasks of a suite that was not loaded from the Hub."""
    for task in ("amazon_music", "amazon_games_qa"):
        path = make_result(tmp_path / "runs", "one", task)
        edit(path, suite={**read_json(path)["suite"], "sha256": tiny_suite.manifest.digest})
    return tmp_path / "runs" / "results"


def push(hub: Hub, out: Path, *, dataset: str | None = DATASET, direct: bool = True) -> Published:
    results = pack_results([out]).results
    return push_model(
        results, MODEL, dataset=dataset, direct=direct, endpoint=hub.endpoint, patience=PATIENCE
    )


def model(hub: Hub) -> Repo:
    return hub.repos["model", MODEL]


def written(hub: Hub, path: str, revision: str = "main") -> str:
    return model(hub).at(revision).files[path].decode()


def give(hub: Hub, **files: str) -> None:
    """Put a card and a file of scores into the model."""
    named = {{"card": CARD, "scores": SCORES}[name]: text.encode() for name, text in files.items()}
    head = model(hub).at("main")
    model(hub).add({**head.files, **named}, "theirs", parent=head.sha)


def of(out: Path, task: str) -> Path:
    return out / "kpi-test" / task / "one.json"


def test_a_model_without_card(hub: Hub, out: Path) -> None:
    before = set(model(hub).at("main").files)
    done = push(hub, out, direct=False)
    assert (done.pull_request, done.changed) == (1, True)
    assert set(model(hub).at("main").files) == before
    assert set(model(hub).at("refs/pr/1").files) == before | {CARD, SCORES}
    assert model(hub).pulls[1].title == "kpi-bench: one on kpi-test"
    assert "| amazon_music    | ndcg@20  |" in model(hub).pulls[1].description
    revision = hub.repos["dataset", DATASET].tags["v1.0"]
    entries = parse_eval_result_entries(yaml.safe_load(written(hub, SCORES, "refs/pr/1")))
    results = {task: read_result(of(out, task)) for task in ("amazon_games_qa", "amazon_music")}
    assert [entry.task_id for entry in entries] == list(results)
    for entry, result in zip(entries, results.values(), strict=True):
        assert (entry.dataset_id, entry.dataset_revision) == (DATASET, revision)
        assert entry.value == result.main.mean
        assert entry.date == "2026-01-01T00:00:00+00:00"
        assert (entry.verify_token, entry.source_url) == (None, None)
        assert entry.notes is not None
        assert entry.notes.startswith(
            f"{result.task.main_metric}, mean of 1 seed (0); 95 % interval over queries"
        )
        assert entry.notes.endswith("one 1, kpi-bench 0.1.0")
    card = ModelCard(written(hub, CARD, "refs/pr/1"))
    assert card.data.tags == ["kpi-bench"]
    assert card.data.model_name == "model"
    for evaluation, result in zip(card.data.eval_results, results.values(), strict=True):
        assert evaluation.metric_value == result.main.mean
        assert evaluation.metric_type == result.task.main_metric
        assert evaluation.unique_identifier[1:] == (DATASET, result.task.name, "test", revision)
        assert evaluation.verified is None


def test_entries_name_the_tasks_that_the_dataset_names(tiny_suite: Suite, hub: Hub, out: Path) -> None:
    push(hub, out)
    listed = yaml.safe_load(evaluation_file(tiny_suite.manifest))["tasks"]
    assert {"id", "config", "split"} == set(listed[0])
    (dataset, _) = (entry["dataset"] for entry in yaml.safe_load(written(hub, SCORES)))
    assert set(dataset) == {"id", "task_id", "revision"}


def test_a_card_keeps_what_others_wrote(hub: Hub, out: Path) -> None:
    give(hub, card=FOREIGN)
    push(hub, out)
    card = written(hub, CARD)
    start, end = FOREIGN.index("model-index"), FOREIGN.index("# before")
    assert card.startswith(FOREIGN[:start])
    assert card.endswith(FOREIGN[end:])
    mine, another = yaml.safe_load(card.split("---")[1])["model-index"]
    assert another == {"name": "another", "results": []}
    assert mine["results"][0]["dataset"]["extra"] == "kept"
    assert mine["results"][1]["metrics"] == [{"type": "recall@20", "value": 0.25}]
    assert [len(result["metrics"]) for result in mine["results"]] == [1, 1, 1, 1]
    assert mine["results"][3]["metrics"][0]["value"] == read_result(of(out, "amazon_music")).main.mean


def test_a_file_of_scores_keeps_what_others_wrote(hub: Hub, out: Path) -> None:
    theirs: list[dict[str, Any]] = [
        {"dataset": {"id": "cais/hle", "task_id": "amazon_music"}, "value": 1, "more": {"a": [1]}},
        {"dataset": {"id": DATASET, "task_id": "retired_task"}, "value": 0.5},
        {"dataset": {"id": DATASET, "task_id": "amazon_music"}, "value": 0.25, "verifyToken": "e.y"},
    ]
    old = {"dataset": {"id": DATASET, "task_id": "amazon_music", "revision": "f" * 40}, "value": 0.125}
    give(hub, scores=yaml.safe_dump([old, *theirs]))
    push(hub, out)
    entries = yaml.safe_load(written(hub, SCORES))
    assert entries[:3] == theirs
    assert [entry["dataset"]["task_id"] for entry in entries[3:]] == ["amazon_games_qa", "amazon_music"]


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("card", [None, FOREIGN, "No metadata.\r\n"])
def test_the_same_scores_are_not_sent_twice(hub: Hub, out: Path, direct: bool, card: str | None) -> None:
    if card:
        give(hub, card=card)
    first = push(hub, out, direct=direct)
    hub.calls.clear()
    second = push(hub, out, direct=direct)
    assert (second.revision, second.pull_request, second.changed) == (
        first.revision,
        first.pull_request,
        False,
    )
    assert not {"commit", "preupload"} & set(hub.calls)


def test_tasks_can_be_pushed_one_by_one_and_again(hub: Hub, out: Path) -> None:
    for task in ("amazon_music", "amazon_games_qa", "amazon_music"):
        push(hub, of(out, task))
    assert len(model(hub).commits) == 1 + 2
    path = of(out, "amazon_music")
    metrics = read_json(path)["metrics"]
    metrics["ndcg@20"]["mean"] = 0.125
    edit(path, metrics=metrics)
    push(hub, out)
    values = {e["dataset"]["task_id"]: e["value"] for e in yaml.safe_load(written(hub, SCORES))}
    assert values["amazon_music"] == 0.125
    assert len(values) == 2
    evaluations = ModelCard(written(hub, CARD)).data.eval_results
    assert [e.metric_value for e in evaluations if e.dataset_config == "amazon_music"] == [0.125]


def test_a_suite_of_the_hub_names_its_dataset(hub: Hub, out: Path) -> None:
    revision = hub.repos["dataset", DATASET].tags["v1.0"]
    for path in out.rglob("*.json"):
        suite = read_json(path)["suite"]
        edit(path, suite={**suite, "repo": DATASET, "revision": revision})
    push(hub, out, dataset=None)
    (first, second) = yaml.safe_load(written(hub, SCORES))
    assert first["dataset"]["revision"] == second["dataset"]["revision"] == revision
    with pytest.raises(ResultError, match=rf"scored on {DATASET}, not on kpi/other; leave --dataset out"):
        push(hub, out, dataset="kpi/other")


def test_the_dataset_must_be_named_and_be_the_suite(hub: Hub, out: Path) -> None:
    with pytest.raises(ResultError, match=r"kpi-test did not come from the Hub.*--dataset OWNER/NAME"):
        push(hub, out, dataset=None)
    assert hub.calls == []
    hub.make("kpi/empty")
    with pytest.raises(HubError, match=r"dataset kpi/empty at \w+ holds no suite"):
        push(hub, out, dataset="kpi/empty")
    hub.make("kpi/broken").add({"suite.json": b"{}"}, "suite")
    with pytest.raises(HubError, match=r"dataset kpi/broken at \w+ holds no suite"):
        push(hub, out, dataset="kpi/broken")
    suite = {**read_json(of(out, "amazon_music"))["suite"], "sha256": "b" * 64}
    edit(of(out, "amazon_music"), suite=suite)
    with pytest.raises(
        HubError, match=r"holds a suite with digest \w{12}; the results are of kpi-test.*bbbbbb"
    ):
        push(hub, of(out, "amazon_music"))
    with pytest.raises(HubError, match=r"dataset kpi/nowhere: .*answered 40[14]"):
        push(hub, of(out, "amazon_music"), dataset="kpi/nowhere")
    assert len(model(hub).commits) == 1


def test_without_a_tag_main_is_asked(hub: Hub, out: Path, tiny_suite: Suite) -> None:
    manifest = (tiny_suite.folder / "suite.json").read_bytes()
    head = hub.make("kpi/untagged").add({"suite.json": manifest}, "suite").sha
    push(hub, out, dataset="kpi/untagged")
    assert {e["dataset"]["revision"] for e in yaml.safe_load(written(hub, SCORES))} == {head}


def test_one_submission_on_one_suite(hub: Hub, out: Path) -> None:
    make_result(out.parent, "two")
    with pytest.raises(ResultError, match=r"one submission on one suite; submissions here: one 1, two 1"):
        push(hub, out)
    results = pack_results([of(out, "amazon_music")]).results
    with pytest.raises(ResultError, match="given twice: amazon_music"):
        push_model([*results, *results], MODEL, dataset=DATASET, endpoint=hub.endpoint)
    with pytest.raises(ResultError, match="submissions here: none"):
        push_model([], MODEL, dataset=DATASET, endpoint=hub.endpoint)
    other = pack_results([make_result(out.parent, "one", "douban_book")]).results
    with pytest.raises(ResultError, match=r"suites here: kpi-test 1\.0 \(\w{12}\), kpi-test 1\.0 \(aaaa"):
        push_model([*results, *other], MODEL, dataset=DATASET, endpoint=hub.endpoint)
    assert hub.calls == []


def test_no_model_is_made(hub: Hub, out: Path) -> None:
    del hub.repos["model", MODEL]
    with pytest.raises(HubError, match=rf"model {MODEL}: no such repository.*hf repos create {MODEL}"):
        push(hub, out)
    hub.make(MODEL, "dataset")
    with pytest.raises(HubError, match=rf"{MODEL} is a dataset repository; wanted is that of a model"):
        push(hub, out)
    assert not {"commit", "create_repo"} & set(hub.calls)


@pytest.mark.parametrize("name", ["model", "a/b/c", "a b/c", "", "../..", "ann/..", "ann/x\n"])
def test_names_of_models(hub: Hub, out: Path, name: str) -> None:
    results = pack_results([out]).results
    with pytest.raises(HubError, match=r"valid name|ann/\.\.|HFValidationError"):
        push_model(results, name, dataset=DATASET, endpoint=hub.endpoint, patience=PATIENCE)


@pytest.mark.parametrize("suite", ["..", ".hidden", "a b", "x\n- y"])
def test_names_of_suites(hub: Hub, tmp_path: Path, suite: str) -> None:
    path = make_result(tmp_path, "one")
    edit(path, suite={**read_json(path)["suite"], "name": "kpi"})
    moved = tmp_path / "results" / "kpi" / "amazon_music" / "one.json"
    moved.parent.mkdir(parents=True)
    path.rename(moved)
    result = read_result(moved)
    hostile = dataclasses.replace(result, suite=dataclasses.replace(result.suite, name=suite))
    with pytest.raises(ResultError, match="cannot be that of a file"):
        push_model([hostile], MODEL, dataset=DATASET, endpoint=hub.endpoint)
    assert hub.calls == []


def test_what_is_hostile_in_a_result_stays_text(hub: Hub, out: Path) -> None:
    path = of(out, "amazon_music")
    info = {**read_json(path)["submission"], "source_url": "https://example.org/x?a=1#b"}
    edit(path, flags=["verified", 'x: "y"\n- dataset: {id: z}'], submission=info)
    push(hub, path)
    (entry,) = yaml.safe_load(written(hub, SCORES))
    assert entry["dataset"]["id"] == DATASET
    assert entry["source"] == {"url": "https://example.org/x?a=1#b", "name": "Code of one"}
    assert entry["notes"].endswith('flags: verified, x: "y" - dataset: {id: z}')
    assert "verifyToken" not in written(hub, SCORES) + written(hub, CARD)
    edit(path, submission={**info, "source_url": "javascript:alert(1)"})
    push(hub, path)
    assert "source" not in yaml.safe_load(written(hub, SCORES))[0]


def test_what_must_not_be_published_is_refused_before_any_call(hub: Hub, out: Path) -> None:
    path = of(out, "amazon_music")
    before = read_json(path)
    for change in ({"flags": [TOKEN]}, {"notes": {"by": ["ann@example.org"]}}):
        edit(path, **change)
        with pytest.raises(ResultError, match=r"token|e-mail") as caught:
            push(hub, out)
        with pytest.raises(ResultError, match=r"token|e-mail"):
            push_model([read_result(path)], MODEL, dataset=DATASET, endpoint=hub.endpoint)
        assert TOKEN not in str(caught.value)
        edit(path, **before)
    edit(path, created="yesterday")
    with pytest.raises(ResultError, match="created is 'yesterday', which is no ISO 8601 time"):
        push(hub, out)
    assert "commit" not in hub.calls


@pytest.mark.parametrize("changed", [CARD, SCORES])
@pytest.mark.parametrize("moment", ["discussions", "preupload", "commit"])
def test_somebody_else_changes_the_same_file_meanwhile(
    hub: Hub, out: Path, changed: str, moment: str
) -> None:
    give(hub, card=FOREIGN, scores="[]")

    def other(call: str) -> None:
        if call == moment and hub.before is other:
            hub.before = lambda call: None
            head = model(hub).at("main")
            model(hub).add({**head.files, changed: b"# other"}, "other", parent=head.sha)

    hub.before = other
    direct = moment != "discussions"
    if direct:
        with pytest.raises(HubError, match=rf"{changed} changed on the Hub while"):
            push(hub, out)
        assert written(hub, changed) == "# other"
    else:
        # A pull request is made from the commit that was read: merging it will say so.
        done = push(hub, out, direct=False)
        assert model(hub).pulls[1].base != model(hub).at("main").sha
        assert done.pull_request == 1


def test_a_change_between_reading_and_writing_is_not_lost(hub: Hub, out: Path) -> None:
    give(hub, card=FOREIGN)
    seen = [0]

    def other(call: str) -> None:
        seen[0] += call == "resolve"
        # The first is the dataset's manifest, headers and content; then the card's.
        if call == "resolve" and seen[0] == 4:
            head = model(hub).at("main")
            model(hub).add({**head.files, CARD: b"# New words\n"}, "other", parent=head.sha)

    hub.before = other
    with pytest.raises(HubError, match=r"README\.md changed on the Hub while"):
        push(hub, out)
    assert seen[0] >= 4
    assert written(hub, CARD) == "# New words\n"
    assert push(hub, out).changed
    assert written(hub, CARD).endswith("# New words\n")


def test_other_files_that_change_meanwhile_stay(hub: Hub, out: Path) -> None:
    def other(call: str) -> None:
        if call == "commit" and hub.before is other:
            hub.before = lambda call: None
            head = model(hub).at("main")
            model(hub).add({**head.files, "config.json": b"{}"}, "other", parent=head.sha)

    hub.before = other
    push(hub, out)
    assert {CARD, SCORES, "config.json"} <= set(model(hub).at("main").files)


CALLS = ("info", "refs", "tree", "resolve", "paths-info", "discussions", "preupload", "commit")
ONCE: dict[str, dict[str, Any]] = {
    "status 503": {"status": 503},
    "status 429": {"status": 429, "headers": {"Retry-After": "2"}},
    "dropped": {"drop": True},
    "silent": {},
}


# The client has a time limit of its own for downloads, of ten seconds, which no test waits for.
@pytest.mark.parametrize(
    ("call", "kind"), [(c, k) for c in CALLS for k in ONCE if (c, k) != ("resolve", "silent")]
)
def test_a_fault_that_passes_is_survived(hub: Hub, out: Path, call: str, kind: str) -> None:
    give(hub, card=FOREIGN)
    hub.faults.append(Fault(call, **ONCE[kind]))
    started = time.monotonic()
    assert push(hub, out, direct=False).pull_request == 1
    assert time.monotonic() - started < SILENCE / 2
    assert hub.faults[0].times == 0
    assert list(model(hub).pulls) == [1]


@pytest.mark.parametrize("call", CALLS)
def test_a_fault_that_stays_publishes_nothing(hub: Hub, out: Path, call: str) -> None:
    give(hub, card=FOREIGN)
    hub.faults.append(Fault(call, status=500, times=None))
    with pytest.raises(HubError, match="answered 500"):
        push(hub, out, direct=False)
    assert model(hub).pulls == {}
    hub.faults.clear()
    assert push(hub, out, direct=False).pull_request == 1


@pytest.mark.parametrize("direct", [False, True])
def test_an_answer_that_is_lost_does_not_double_the_commit(hub: Hub, out: Path, direct: bool) -> None:
    hub.faults.append(Fault("commit", done=True, drop=True))
    assert push(hub, out, direct=direct).changed
    assert hub.calls.count("commit") == 1
    assert len(model(hub).commits) == 2


@pytest.mark.parametrize(("status", "advice"), [(401, "log in"), (403, "no access"), (400, "refuses")])
def test_a_refusal_is_final(hub: Hub, out: Path, status: int, advice: str) -> None:
    hub.faults.append(Fault("commit", status=status, times=None))
    with pytest.raises(HubError, match=f"answered {status}.*{advice}"):
        push(hub, out)
    assert hub.calls.count("commit") == 1


@pytest.mark.parametrize(
    "card",
    [
        "---\n- a list\n---\n",
        "---\na: [\n---\n",
        "---\nmodel-index: {}\nmodel-index: 3\n---\n",
        "---\nmodel-index:\n- results: []\n---\n",
        "---\nmodel-index:\n- {name: x, results: [{task: a, dataset: b, metrics: c}]}\n---\n",
        "---\nmodel-index:\n- {name: x, results: [{task: {type: a}, dataset: {type: a, name: b}, metrics: [], source: c}]}\n---\n",
        "---\n1: x\nignore_metadata_errors: true\n---\n",
        "---\ndate: 2026-99-99\n---\n",
        f"---\na: {'[' * 5000}\n---\n",
        "---\n{license: mit}\n---\n",
        "---\nmodel-index: &a\n- {name: x, results: []}\nother: *a\n---\n",
        "---\nmodel-index: !!python/object/apply:os.system [exit]\n---\n",
    ],
)
def test_a_card_that_cannot_be_merged_is_left_alone(hub: Hub, out: Path, card: str) -> None:
    give(hub, card=card)
    with pytest.raises(
        HubError, match=rf"model {MODEL}: the metadata of its card .*cannot be (read|changed)"
    ):
        push(hub, out)
    assert written(hub, CARD) == card
    assert "commit" not in hub.calls


@pytest.mark.parametrize("scores", ["{}: {", "a: 1", "- 1", "- dataset: x", "just words", "[" * 5000])
def test_a_file_of_scores_that_cannot_be_merged_is_left_alone(hub: Hub, out: Path, scores: str) -> None:
    give(hub, scores=scores)
    with pytest.raises(HubError, match="its file of evaluation results is no list of entries"):
        push(hub, out)
    assert written(hub, SCORES) == scores


@pytest.mark.parametrize("path", [CARD, SCORES])
def test_a_file_that_is_no_text(hub: Hub, out: Path, path: str) -> None:
    model(hub).add({path: b"\xff\xfe\x00"}, "theirs", parent=model(hub).at("main").sha)
    with pytest.raises(HubError, match=rf"model {MODEL}: .*{path}.* is no UTF-8 text"):
        push(hub, out)


def result(**changes: Any) -> EvalResult:
    wanted: dict[str, Any] = {
        "task_type": "graph-ml",
        "dataset_type": DATASET,
        "dataset_name": "tiny",
        "dataset_config": "music",
        "dataset_split": "test",
        "metric_type": "ndcg@20",
        "metric_value": 0.5,
    }
    return EvalResult(**{**wanted, **changes})


@pytest.mark.parametrize(
    "card",
    [
        "",
        "# Words",
        "---\n---\n# Words",
        "---\nlicense: mit\n---",
        "---\r\nlicense: mit # why\r\n---\r\n# Words\r\n\r\nmore",
        "\ufeff---\nlicense: mit\n---\n# Words\n",
        "---\n# only a comment\n---\n# Words\n",
        "---\n  license: mit\n  model-index: []\n  tags: [a]\n---\n# Words",
        "---\nmodel-index:\n- name: x\n  results: []   # c\n\n# comment\n---\n# Words",
        "---\nbase: &b [1]\nmodel-index: null\nuse: *b\nnan: .nan\n---\n# Words",
        "---\nmodel-index:\n- name: |\n    two\n    # lines\n  results: []\ntags: [a]\n---\n",
    ],
)
def test_cards_of_all_layouts(card: str) -> None:
    changed = with_results(card, "model", [result()])
    parsed = ModelCard(changed.removeprefix("\ufeff"))
    assert [e.metric_value for e in parsed.data.eval_results] == [0.5]
    assert with_results(changed, "model", [result()]) == changed
    assert changed.startswith("\ufeff") == card.startswith("\ufeff")
    assert ("\r\n" in card) <= ("\n" not in changed.replace("\r\n", ""))
    before = ModelCard(card.removeprefix("\ufeff"))
    assert parsed.text == before.text
    names = {"eval_results", "model_name"}
    plain = [{k: repr(v) for k, v in vars(c.data).items() if k not in names} for c in (before, parsed)]
    assert plain[0] == plain[1]
    newer = with_results(changed, "model", [result(metric_value=0.75, dataset_revision="f" * 40)])
    assert [e.metric_value for e in ModelCard(newer.removeprefix("\ufeff")).data.eval_results] == [0.75]


def test_what_the_hub_verified_is_not_replaced() -> None:
    card = with_results("", "model", [result(verify_token="e.y", verified=True)])
    values = [
        e.metric_value
        for e in ModelCard(with_results(card, "model", [result(metric_value=0.75)])).data.eval_results
    ]
    assert values == [0.5, 0.75]


NEWLINE = "\n"
_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
_VALUE = st.one_of(_TEXT, st.integers(), st.booleans(), st.none(), st.floats(), st.dates())


@given(
    st.dictionaries(
        st.sampled_from(["license", "tag", "widget", "x-y", "日本"]),
        st.one_of(_VALUE, st.lists(_VALUE, max_size=3)),
    ),
    _TEXT,
    st.integers(0, 5),
    st.booleans(),
)
def test_other_metadata_and_text_are_never_touched(
    data: dict[str, Any], words: str, place: int, flow: bool
) -> None:
    lines = [yaml.safe_dump({k: v}, allow_unicode=True, default_flow_style=False) for k, v in data.items()]
    theirs = {
        "name": "m",
        "results": [{"task": {"type": "a"}, "dataset": {"type": "d", "name": "D"}, "metrics": []}],
    }
    place = min(place, len(lines))
    listed = yaml.safe_dump([theirs], default_flow_style=flow, width=10**6)
    lines.insert(place, f"model-index:{' ' if flow else NEWLINE}{listed}")
    changed = with_results(f"---\n{''.join(lines)}---\n{words}", "model", [result()])
    before, after = "".join(lines[:place]), "".join(lines[place + 1 :])
    assert changed.startswith(f"---\n{before}model-index:\n")
    assert changed.endswith(f"\n{after}---\n{words}")
    assert ModelCard(changed).data.model_name == "m"


@given(st.lists(st.sampled_from(["a", "b", "c"]), unique=True, min_size=1), st.permutations(["a", "b", "c"]))
def test_scores_come_together_in_any_order(first: list[str], order: list[str]) -> None:
    def entry(task: str, value: int) -> dict[str, Any]:
        return {"dataset": {"id": DATASET, "task_id": task}, "value": value}

    content = with_scores("", [entry(task, 1) for task in first])
    content = with_scores(content, [entry(task, 2) for task in order])
    found = {e["dataset"]["task_id"]: e["value"] for e in yaml.safe_load(content)}
    assert found == {"a": 2, "b": 2, "c": 2}
    assert with_scores(content, [entry("b", 2)]) == content


def test_an_older_client_is_told_what_it_lacks(hub: Hub, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    lazily = huggingface_hub.__getattr__

    def without(name: str) -> Any:
        if name == "EvalResultEntry":
            raise AttributeError(name)
        return lazily(name)

    vars(huggingface_hub).pop("EvalResultEntry", None)
    monkeypatch.setattr(huggingface_hub, "__getattr__", without)
    with pytest.raises(HubError, match=r"need huggingface-hub 1\.4 or newer: pip install"):
        push(hub, out)


def test_command(hub: Hub, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["push-model", str(out), "--repo", MODEL, "--endpoint", hub.endpoint]
    assert main(command) == 2
    assert "--dataset OWNER/NAME" in capfd.readouterr().err
    assert main([*command, "--dataset", DATASET]) == 0
    assert "2 score(s) of one in pull request 1: " in capfd.readouterr().out
    assert main([*command, "--dataset", DATASET]) == 0
    assert "already in pull request 1, nothing was sent" in capfd.readouterr().out
    assert main([*command, "--dataset", DATASET, "--direct"]) == 0
    assert "2 score(s) of one on main: " in capfd.readouterr().out
