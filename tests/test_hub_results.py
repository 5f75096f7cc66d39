"""Push results, review, merge, pull: the real client against a local Hub, without and with faults."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from _hub_fixtures import PATIENCE, TOKEN, hub_environment, no_token_is_shown  # noqa: F401
from _hub_results import edit, make_result
from _hub_server import SILENCE, Fault, Hub, serve
from huggingface_hub import HfApi

from kpi_bench._io import sha256_file
from kpi_bench.cli import main
from kpi_bench.errors import HubError, ResultError
from kpi_bench.hub import Patience, Published
from kpi_bench.leaderboard.load import load_results
from kpi_bench.publish import Pulled, pack_results, pull_results, push_results

REPO = "kpi/results"
SIMPLE, WHOLE = "results/kpi-test/amazon_music/one.json", "results/kpi-test/amazon_music/two.json"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as running:
        running.make(REPO)
        yield running


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An evaluation's folder with two results."""
    make_result(tmp_path / "runs", "one")
    make_result(tmp_path / "runs", "two", quality=0.8)
    return tmp_path / "runs"


def push(hub: Hub, out: Path, *, predictions: bool = False, direct: bool = False) -> Published:
    parcel = pack_results([out / "results"], predictions=predictions)
    return push_results(parcel, REPO, direct=direct, endpoint=hub.endpoint, patience=PATIENCE)


def pull(hub: Hub, folder: Path, revision: str = "main", *, predictions: bool = False) -> Pulled:
    return pull_results(
        REPO, folder, revision=revision, predictions=predictions, endpoint=hub.endpoint, patience=PATIENCE
    )


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_push_review_merge_pull(hub: Hub, out: Path, tmp_path: Path) -> None:
    repo = hub.repos["dataset", REPO]
    before = repo.at("main").sha
    done = push(hub, out, predictions=True)
    assert done.pull_request == 1
    assert done.url == f"{hub.endpoint}/datasets/{REPO}/discussions/1"
    assert repo.at("main").sha == before
    assert repo.at("refs/pr/1").sha == done.revision
    api = HfApi(endpoint=hub.endpoint)
    request = api.get_discussion_details(REPO, 1, repo_type="dataset")
    assert request.title.startswith("2 results: one, two on kpi-test [")
    description = repo.pulls[1].description
    assert "| kpi-test | amazon_music | two" in description
    assert f"kpi-bench pull --repo {REPO} --revision refs/pr/N" in description
    review = pull(hub, tmp_path / "review", "refs/pr/1", predictions=True)
    assert review.revision == done.revision
    assert len(review.stored) == 2
    api.merge_pull_request(REPO, 1, repo_type="dataset")
    pulled = pull(hub, tmp_path / "pulled", predictions=True)
    assert pulled.revision == repo.at("main").sha
    assert pulled.problems == ()
    expected = snapshot(out)
    found = snapshot(tmp_path / "pulled")
    assert found.pop("PULLED.txt") == f"{REPO}@{pulled.revision}\n".encode()
    assert found == expected
    assert load_results(tmp_path / "pulled" / "results").problems == ()


def test_predictions_stay_at_home_unless_asked_for(hub: Hub, out: Path) -> None:
    push(hub, out, direct=True)
    files = hub.repos["dataset", REPO].at("main").files
    assert not any("predictions" in path for path in files)
    assert json.loads(files[SIMPLE])["predictions"]["sha256"]["seed0.parquet"]


def test_a_direct_push_is_one_commit(hub: Hub, out: Path) -> None:
    repo = hub.repos["dataset", REPO]
    before = repo.at("main").sha
    done = push(hub, out, direct=True)
    assert done.pull_request is None
    assert repo.at("main").sha == done.revision
    assert repo.at("main").parent == before
    assert set(repo.at("main").files) >= {SIMPLE, WHOLE}


@pytest.mark.parametrize("direct", [False, True])
def test_the_same_content_is_not_sent_twice(hub: Hub, out: Path, direct: bool) -> None:
    first = push(hub, out, direct=direct)
    hub.calls.clear()
    second = push(hub, out, direct=direct)
    assert (second.revision, second.pull_request, second.changed) == (
        first.revision,
        first.pull_request,
        False,
    )
    assert "commit" not in hub.calls
    assert "preupload" not in hub.calls


def test_other_content_opens_another_pull_request(hub: Hub, out: Path) -> None:
    push(hub, out)
    edit(out / SIMPLE, created="2026-02-02T00:00:00+00:00")
    assert push(hub, out).pull_request == 2


def test_a_large_file_goes_up_in_parts(hub: Hub, tmp_path: Path) -> None:
    hub.part_size = 200_000
    make_result(tmp_path, "large", rows=120_000)
    push(hub, tmp_path, predictions=True, direct=True)
    path = "kpi-test/large/predictions/amazon_music/seed0.parquet"
    content = (tmp_path / path).read_bytes()
    assert len(content) > 4 * hub.part_size
    assert hub.repos["dataset", REPO].at("main").files[path] == content
    assert hub.calls.count("lfs-put") >= 5
    assert hub.calls.count("lfs-complete") == 1


CALLS = ("info", "paths-info", "discussions", "preupload", "lfs-batch", "lfs-put", "lfs-verify", "commit")
ONCE = {
    "status 503": {"status": 503},
    "status 429": {"status": 429, "headers": {"Retry-After": "2"}},
    "dropped": {"drop": True},
    "silent": {},
}


@pytest.mark.parametrize("kind", ONCE)
@pytest.mark.parametrize("call", CALLS)
def test_a_fault_that_passes_is_survived(hub: Hub, out: Path, call: str, kind: str) -> None:
    hub.faults.append(Fault(call, **ONCE[kind]))
    started = time.monotonic()
    done = push(hub, out, predictions=True)
    assert time.monotonic() - started < SILENCE / 2
    assert hub.faults[0].times == 0
    repo = hub.repos["dataset", REPO]
    assert list(repo.pulls) == [1]
    assert done.pull_request == 1
    assert len(repo.at("refs/pr/1").files) == 1 + 6


@pytest.mark.parametrize("call", CALLS)
def test_a_fault_that_stays_publishes_nothing_and_is_made_up_for(hub: Hub, out: Path, call: str) -> None:
    hub.faults.append(Fault(call, status=500, times=None))
    with pytest.raises(HubError, match=rf"dataset {REPO}: .*answered 500.*try again later"):
        push(hub, out, predictions=True, direct=False)
    repo = hub.repos["dataset", REPO]
    assert repo.pulls == {}
    assert list(repo.refs) == ["main"]
    there = set(hub.objects)
    hub.faults.clear()
    hub.paths.clear()
    assert push(hub, out, predictions=True).pull_request == 1
    assert not any(path.removeprefix("PUT /lfs/") in there for path in hub.paths)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("fault", [{"drop": True}, {}, {"status": 502}])
def test_an_answer_that_is_lost_does_not_double_the_commit(
    hub: Hub, out: Path, direct: bool, fault: dict[str, object]
) -> None:
    hub.faults.append(Fault("commit", done=True, **fault))  # type: ignore[arg-type]
    done = push(hub, out, direct=direct)
    repo = hub.repos["dataset", REPO]
    assert done.changed
    assert len(repo.commits) == 2
    assert len(repo.pulls) == (0 if direct else 1)
    assert hub.calls.count("commit") == 1
    assert done.revision in repo.commits


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "log in"), (403, "no access"), (400, "refuses"), (413, "size")]
)
@pytest.mark.parametrize("call", ["info", "preupload", "commit"])
def test_a_refusal_is_final(hub: Hub, out: Path, call: str, status: int, advice: str) -> None:
    hub.faults.append(Fault(call, status=status, times=None))
    with pytest.raises(HubError, match=f"answered {status}.*{advice}") as caught:
        push(hub, out)
    assert hub.calls.count(call) == 1
    assert TOKEN not in str(caught.value)
    assert caught.value.__cause__ is None


def test_what_the_server_echoes_is_redacted(hub: Hub, out: Path) -> None:
    hub.faults.append(Fault("commit", status=400, headers={"X-Error-Message": f"bad token {TOKEN}"}))
    with pytest.raises(HubError, match=r"bad token \*\*\*"):
        push(hub, out)


def test_a_long_wait_is_not_sat_out(hub: Hub, out: Path) -> None:
    hub.faults.append(Fault("info", status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(HubError, match=r"answered 429.*later"):
        push(hub, out)


def test_no_such_repository(hub: Hub, out: Path) -> None:
    del hub.repos["dataset", REPO]
    with pytest.raises(HubError, match=r"answered 404|answered 401"):
        push(hub, out)


def test_waits_grow_and_respect_what_is_asked() -> None:
    waits = [[Patience(longest=6).wait(attempt, None) for _ in range(50)] for attempt in range(5)]
    for attempt, full in enumerate((1, 2, 4, 6, 6)):
        assert full / 2 <= min(waits[attempt]) < max(waits[attempt]) <= full
    assert all(7 <= Patience().wait(3, 7.0) <= 8 for _ in range(50))


def strike_before_commit(hub: Hub, files: dict[str, bytes], *, times: int = 1) -> None:
    left = [times]

    def other(call: str) -> None:
        if call == "commit" and left[0]:
            left[0] -= 1
            repo = hub.repos["dataset", REPO]
            repo.add(
                {**repo.at("main").files, **files, "n": b"%d" % left[0]}, "other", parent=repo.at("main").sha
            )

    hub.before = other


def test_somebody_else_commits_other_files_meanwhile(hub: Hub, out: Path) -> None:
    strike_before_commit(hub, {"results/kpi-test/amazon_music/three.json": b"{}"})
    done = push(hub, out, direct=True)
    files = hub.repos["dataset", REPO].at("main").files
    assert hub.repos["dataset", REPO].at("main").sha == done.revision
    assert {SIMPLE, WHOLE, "results/kpi-test/amazon_music/three.json"} <= set(files)
    assert hub.calls.count("commit") == 2


def test_somebody_else_commits_the_same_file_meanwhile(hub: Hub, out: Path) -> None:
    strike_before_commit(hub, {SIMPLE: b"{}"})
    with pytest.raises(HubError, match=rf"{SIMPLE} changed on the Hub while"):
        push(hub, out, direct=True)
    assert hub.repos["dataset", REPO].at("main").files[SIMPLE] == b"{}"


def test_somebody_else_never_stops(hub: Hub, out: Path) -> None:
    strike_before_commit(hub, {}, times=100)
    with pytest.raises(HubError, match=r"answered 412.*changed in between"):
        push(hub, out, direct=True)


def test_what_must_not_be_published_is_refused_before_any_call(hub: Hub, out: Path) -> None:
    edit(out / SIMPLE, notes={"log": [f"wrote {out}/x"], "who": ["ann@example.org"], "key": [TOKEN]})
    path = out / "kpi-test/two/predictions/amazon_music/seed0.parquet"
    frame = pd.read_parquet(path)
    frame.attrs["source"] = "/home/ann/frame.csv"
    frame.to_parquet(path)
    with pytest.raises(ResultError) as caught:
        push(hub, out, predictions=True)
    message = str(caught.value)
    for expected in (
        "notes.log[0]: an absolute path",
        "notes.who[0]: an e-mail address",
        "notes.key[0]: a Hugging Face token",
        "seed0.parquet: its SHA-256 differs",
    ):
        assert expected in message
    assert TOKEN not in message
    assert hub.calls == []
    # The token is this test's own; what follows it looks through all files.
    edit(out / SIMPLE, notes={})


def test_metadata_of_predictions_are_searched(hub: Hub, out: Path) -> None:
    path = out / "kpi-test/two/predictions/amazon_music/seed0.parquet"
    frame = pd.read_parquet(path)
    frame.attrs["source"] = "/home/ann/frame.csv"
    frame.to_parquet(path)
    predictions = {"path": "predictions/amazon_music", "sha256": {path.name: sha256_file(path)}}
    edit(out / WHOLE, predictions=predictions)
    with pytest.raises(ResultError, match=r"seed0\.parquet: metadata\.\S+: an absolute path"):
        push(hub, out, predictions=True)
    assert push(hub, out).changed


def attach(out: Path, table: pa.Table, name: str = "seed0.parquet") -> Path:
    """Make a table the predictions of ``two``."""
    path = out / "kpi-test/two/predictions/amazon_music" / name
    pq.write_table(table, path, row_group_size=3000)
    predictions = {"path": "predictions/amazon_music", "sha256": {path.name: sha256_file(path)}}
    edit(out / WHOLE, predictions=predictions)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.list_(pa.string()),
        pa.struct([("inner", pa.list_(pa.string()))]),
        pa.map_(pa.string(), pa.int64()),
    ],
    ids=str,
)
def test_texts_in_rows_of_predictions_are_searched(hub: Hub, out: Path, kind: pa.DataType) -> None:
    def cell(text: str) -> object:
        if pa.types.is_map(kind):
            return [(text, 1)]
        if pa.types.is_struct(kind):
            return {"inner": [text]}
        return [text] if pa.types.is_list(kind) else text.encode() if pa.types.is_binary(kind) else text

    rows = ["plain"] * 10_000
    rows[9_000] = "ann@example.org"
    numbers = pa.array(range(10_000))
    attach(out, pa.table({"user": numbers, "why": pa.array([cell(row) for row in rows], kind)}))
    with pytest.raises(ResultError, match=r"seed0\.parquet: column why, row 9000: an e-mail address"):
        push(hub, out, predictions=True)
    assert hub.calls == []
    attach(out, pa.table({"user": numbers, "why": pa.array([cell("plain")] * 10_000, kind)}))
    assert push(hub, out, predictions=True).changed


def test_few_of_many_findings_are_listed_and_no_name(hub: Hub, out: Path) -> None:
    attach(out, pa.table({"ann@example.org": ["/home/ann/x"] * 1000}))
    with pytest.raises(ResultError) as caught:
        push(hub, out, predictions=True)
    message = str(caught.value)
    assert message.count("a column, row ") == 5
    assert "/home/ann" not in message
    assert "ann@" not in message


def test_predictions_that_are_damaged_inside_are_refused(hub: Hub, out: Path) -> None:
    path = attach(out, pa.table({"why": [f"text {i}" for i in range(50_000)]}))
    content = bytearray(path.read_bytes())
    content[1000:3000] = bytes(2000)
    path.write_bytes(content)
    predictions = {"path": "predictions/amazon_music", "sha256": {path.name: sha256_file(path)}}
    edit(out / WHOLE, predictions=predictions)
    with pytest.raises(ResultError, match=r"seed0\.parquet: no readable Parquet file"):
        push(hub, out, predictions=True)


@pytest.mark.parametrize("name", ["../../../../etc/passwd", "..", "a/b.parquet"])
def test_predictions_outside_of_their_folder_are_refused(out: Path, name: str) -> None:
    edit(out / SIMPLE, predictions={"path": "predictions/amazon_music", "sha256": {name: "0" * 64}})
    with pytest.raises(ResultError, match=r"no plain file name|missing"):
        pack_results([out / SIMPLE], predictions=True)


def test_every_problem_is_listed(out: Path, tmp_path: Path) -> None:
    (out / SIMPLE).with_suffix(".queries.parquet").unlink()
    (out / WHOLE).write_text("{}")
    with pytest.raises(ResultError, match=r"(?s)2 problem.*one\.queries\.parquet is missing.*schema_version"):
        pack_results([out / SIMPLE, out / WHOLE])
    with pytest.raises(ResultError, match="no result file"):
        pack_results([tmp_path / "runs" / "kpi-test"])


def test_the_same_result_twice_is_refused(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "copy")
    with pytest.raises(ResultError, match=r"one is given twice"):
        pack_results([out / SIMPLE, tmp_path / "copy" / SIMPLE])


def test_bad_results_are_left_out_and_reported(hub: Hub, out: Path, tmp_path: Path) -> None:
    push(hub, out, predictions=True, direct=True)
    repo = hub.repos["dataset", REPO]
    files = dict(repo.at("main").files)
    bad = json.loads(files[SIMPLE])
    renamed = {**bad, "submission": {**bad["submission"], "name": "renamed"}}
    repo.add(
        {
            **files,
            "results/kpi-test/amazon_music/unknown_key.json": json.dumps({**bad, "extra": 1}).encode(),
            "results/kpi-test/amazon_music/no_json.json": b"{",
            "results/kpi-test/amazon_music/misnamed.json": json.dumps(renamed).encode(),
            "results/kpi-test/amazon_music/one.queries.parquet": b"other",
            "results/kpi-test/amazon_music/deep.json": b"[" * 100_000,
            "results/stray.json": b"{}",
            "script.py": b"raise SystemExit",
        },
        "bad",
        parent=repo.at("main").sha,
    )
    pulled = pull(hub, tmp_path / "pulled")
    assert [entry.result.submission.name for entry in pulled.stored] == ["two"]
    assert sorted(p.name for p in (tmp_path / "pulled" / "results").rglob("*") if p.is_file()) == [
        "two.json",
        "two.queries.parquet",
    ]
    for name in ("unknown_key", "no_json", "misnamed", "one.queries", "deep", "stray"):
        assert sum(name in problem for problem in pulled.problems) == 1
    assert not any(str(tmp_path) in problem for problem in pulled.problems)
    assert not any("script.py" in path for path in hub.paths)


def test_attached_predictions_that_are_others_are_reported(hub: Hub, out: Path, tmp_path: Path) -> None:
    push(hub, out, predictions=True, direct=True)
    repo = hub.repos["dataset", REPO]
    path = "kpi-test/one/predictions/amazon_music/seed0.parquet"
    repo.add({**repo.at("main").files, path: b"other"}, "swap", parent=repo.at("main").sha)
    pulled = pull(hub, tmp_path / "pulled", predictions=True)
    assert [entry.result.submission.name for entry in pulled.stored] == ["two"]
    assert "seed0.parquet is not the file whose SHA-256" in pulled.problems[0]
    assert len(pull(hub, tmp_path / "results-only").stored) == 2


def test_predictions_that_lead_out_of_the_folder_are_left_out(hub: Hub, out: Path, tmp_path: Path) -> None:
    push(hub, out, predictions=True, direct=True)
    repo = hub.repos["dataset", REPO]
    files = dict(repo.at("main").files)
    result = json.loads(files[SIMPLE])
    # From the folder of task to that of another submission: the file is there, and its hash is right.
    name = "../../../two/predictions/amazon_music/seed0.parquet"
    result["predictions"]["sha256"] = {name: hashlib.sha256(files[f"kpi-test{name[8:]}"]).hexdigest()}
    repo.add({**files, SIMPLE: json.dumps(result).encode()}, "climb", parent=repo.at("main").sha)
    pulled = pull(hub, tmp_path / "pulled", predictions=True)
    assert [entry.result.submission.name for entry in pulled.stored] == ["two"]
    assert "no plain file name" in pulled.problems[0]


def test_a_pull_replaces_an_earlier_one_and_nothing_else(hub: Hub, out: Path, tmp_path: Path) -> None:
    push(hub, out, direct=True)
    folder = tmp_path / "pulled"
    first = pull(hub, folder)
    repo = hub.repos["dataset", REPO]
    files = {path: content for path, content in repo.at("main").files.items() if "one" not in path}
    repo.add(files, "remove", parent=repo.at("main").sha)
    assert len(pull(hub, folder).stored) == 1
    assert len(pull(hub, folder, first.revision).stored) == 2
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(ResultError, match="holds something else"):
        pull(hub, other)
    assert snapshot(other) == {"thesis.txt": b"mine"}
    hub.faults.append(Fault("info", status=500, times=None))
    before = snapshot(folder)
    with pytest.raises(HubError):
        pull(hub, folder)
    assert snapshot(folder) == before
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


# The client has a time limit of its own for downloads, of ten seconds, which no test waits for.
@pytest.mark.parametrize(
    ("call", "kind"),
    [(c, k) for c in ("info", "tree", "resolve") for k in ONCE if (c, k) != ("resolve", "silent")],
)
def test_a_pull_survives_faults(hub: Hub, out: Path, tmp_path: Path, call: str, kind: str) -> None:
    push(hub, out, direct=True)
    hub.faults.append(Fault(call, **ONCE[kind]))
    started = time.monotonic()
    assert len(pull(hub, tmp_path / "pulled").stored) == 2
    assert time.monotonic() - started < SILENCE / 2
    assert hub.faults[0].times == 0


def test_offline_pull_is_served_from_the_cache(hub: Hub, out: Path, tmp_path: Path) -> None:
    push(hub, out, direct=True)
    revision = pull(hub, tmp_path / "online").revision
    hub.calls.clear()
    offline = pull_results(REPO, tmp_path / "offline", revision=revision, offline=True)
    assert len(offline.stored) == 2
    assert snapshot(tmp_path / "offline") == snapshot(tmp_path / "online")
    with pytest.raises(HubError, match="full hash of an earlier pull"):
        pull_results(REPO, tmp_path / "branch", offline=True)
    with pytest.raises(HubError, match=r"not \(completely\) in the local Hub cache"):
        pull_results(REPO, tmp_path / "unknown", revision="f" * 40, offline=True)
    assert hub.calls == []


def test_pushing_needs_the_network(hub: Hub, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="network is off"):
        push(hub, out)
    assert hub.calls == []


@pytest.mark.parametrize("name", ["results", "a/b/c", "a b/c", ""])
def test_names_of_repositories(out: Path, name: str) -> None:
    with pytest.raises(HubError, match="no valid name"):
        push_results(pack_results([out / SIMPLE]), name, endpoint="http://127.0.0.1:9")


def test_no_connection(out: Path) -> None:
    with pytest.raises(HubError, match=r"could not be reached \(Connect"):
        push_results(pack_results([out / SIMPLE]), REPO, endpoint="http://127.0.0.1:9")


def test_commands(hub: Hub, out: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    where = ["--repo", REPO, "--endpoint", hub.endpoint]
    assert main(["push", str(out / "results"), *where, "--message", "Ours"]) == 0
    assert "2 result(s), 4 file(s) in pull request 1: " in capfd.readouterr().out
    assert main(["push", str(out / "results"), *where, "--message", "Ours"]) == 0
    assert "already in pull request 1, nothing was sent" in capfd.readouterr().out
    pulled = ["pull", *where, "--out", str(tmp_path / "pulled")]
    assert main([*pulled, "--revision", "refs/pr/1"]) == 0
    assert f"2 result(s) of {REPO}" in capfd.readouterr().out
    repo = hub.repos["dataset", REPO]
    repo.add({**repo.at("refs/pr/1").files, SIMPLE: b"{}"}, "bad")
    assert main(pulled) == 1
    assert "left out results/kpi-test/amazon_music/one.json: schema_version" in capfd.readouterr().err
    assert main(["push", str(out / "results"), *where, "--message", "by ann@example.org"]) == 2
    assert "--message holds an e-mail address" in capfd.readouterr().err


def test_verbose_commands_show_no_token(hub: Hub, out: Path, tmp_path: Path) -> None:
    hub.faults.append(Fault("preupload", status=503))
    command = [sys.executable, "-m", "kpi_bench", "--verbose", "push", str(out / "results"), "--repo", REPO]
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
    run = subprocess.run(
        command,
        env={**environment, "HF_HUB_DISABLE_XET": "1", "HF_HUB_VERBOSITY": "debug"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert "HTTP Request" in run.stderr
    assert TOKEN not in run.stdout + run.stderr
    assert hub.authorizations <= {f"Bearer {TOKEN}", None}
