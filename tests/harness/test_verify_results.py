"""Verifying a result: what agrees is verified, and every kind of tampering is named with file, field and both values."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from suite_factory import tiny_suite_frames

from kpi_bench import TopK, top_k_from_scores
from kpi_bench._io import sha256_file, write_json, write_parquet
from kpi_bench._schema import decode, encode
from kpi_bench.cli import main
from kpi_bench.errors import ResultError
from kpi_bench.harness.assemble import summarise_scores
from kpi_bench.harness.contradictions import compare_scores
from kpi_bench.harness.predictions import MUDOK, MUDOK_MASK, OFFICIAL, write_predictions
from kpi_bench.harness.protocol import ClassificationQueries
from kpi_bench.harness.rescore import score_folder
from kpi_bench.harness.results import VERIFIED, Result, queries_path, read_result, result_files
from kpi_bench.harness.scoring import LinkPredictionScorer, make_scorer
from kpi_bench.harness.verify import (
    Verdict,
    Verification,
    Verifier,
    render_verifications,
)
from kpi_bench.harness.withhold import recommendation_queries, withheld_copy
from kpi_bench.harness.withhold import test_users as users_with_tests
from kpi_bench.suites.suite import Suite, open_suite
from kpi_bench.suites.task import ClassificationTask, LinkPredictionTask, RecommendationTask, Task
from kpi_bench.suites.writer import write_suite

TASKS = ("shop_music", "library_review", "library_links")


@pytest.fixture(scope="module")
def evaluated(tiny_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ``--out`` folder with results of every kind of task, two seeds each, of noise."""
    out = tmp_path_factory.mktemp("verify") / "out"
    for name in TASKS:
        for seed in (0, 3):
            write_noise(tiny_suite.task(name), predictions(out, name) / f"seed{seed}", seed)
    scored = score_folder(out / "tiny" / "noise", tiny_suite, results=out / "results")
    assert (len(scored.results), scored.refused) == (3, {})
    for rows in predictions(out, "library_links").glob("*.npy"):
        rows.unlink()
    return out


def write_noise(task: Task, prefix: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(task, RecommendationTask):
        for variant, mask in ((OFFICIAL, task.spec.mask), (MUDOK, MUDOK_MASK)):
            queries = recommendation_queries(task, users_with_tests(task), mask)
            scores = rng.random((len(queries), task.n_items), dtype=np.float32)
            best = top_k_from_scores(scores, queries.exclude, queries.k, queries.tie_order)
            write_predictions(prefix, variant, task, queries, TopK(best.items, best.scores))
    elif isinstance(task, ClassificationTask):
        assert task.test is not None
        asked = ClassificationQueries(task.test.examples, task.test.entities, task.test.texts)
        write_predictions(prefix, OFFICIAL, task, asked, rng.random((len(asked), task.n_classes)))
    else:
        assert isinstance(task, LinkPredictionTask)
        shape = (LinkPredictionScorer(task).index.n_queries, task.n_entities)
        np.save(prefix.with_name(f"{prefix.name}.npy"), rng.random(shape, dtype=np.float32))


@pytest.fixture
def out(evaluated: Path, tmp_path: Path) -> Path:
    """A copy that may be written to."""
    for part in ("results", "tiny/noise/predictions"):
        shutil.copytree(evaluated / part, tmp_path / "out" / part)
    return tmp_path / "out"


def place(out: Path, task: str) -> Path:
    return out / "results" / "tiny" / task / "noise.json"


def predictions(out: Path, task: str) -> Path:
    return out / "tiny" / "noise" / "predictions" / task


def edit(path: Path, *keys: str | int, value: Any) -> Any:
    """Set a value in a JSON file; returns what was there."""
    raw = json.loads(path.read_text())
    inner = raw
    for key in keys[:-1]:
        inner = inner[key]
    before = inner.get(keys[-1]) if isinstance(inner, dict) else inner[keys[-1]]
    inner[keys[-1]] = value
    write_json(path, raw)
    return before


def only_reason(verification: Verification) -> tuple[str, str, str, str]:
    (reason,) = verification.reasons
    return str(reason.file), reason.field, reason.recorded, reason.found


@pytest.mark.parametrize("task", TASKS)
def test_what_nobody_touched_is_verified(out: Path, tiny_suite: Suite, task: str) -> None:
    path = place(out, task)
    before = path.read_bytes()
    verification = Verifier(tiny_suite).verify(path)
    assert (verification.verdict, verification.reasons) == (Verdict.VERIFIED, ())
    assert verification.n_values > 50
    assert verification.unrecorded == ()
    assert path.read_bytes() == before


def test_the_flag_is_all_that_is_written(out: Path, tiny_suite: Suite) -> None:
    path = place(out, "shop_music")
    before, files = path.read_text(), sorted(path.parent.iterdir())
    assert Verifier(tiny_suite, write=True).verify(path).flag == "set"
    assert json.loads(path.read_text()) == {**json.loads(before), "flags": ["self_reported", VERIFIED]}
    assert path.read_text() == before.replace('"self_reported"\n', '"self_reported",\n    "verified"\n')
    assert sorted(path.parent.iterdir()) == files
    assert read_result(path).flags == ("self_reported", VERIFIED)
    again, written = Verifier(tiny_suite, write=True).verify(path), path.read_bytes()
    assert (again.verdict, again.flag) == (Verdict.VERIFIED, "")
    assert path.read_bytes() == written


def scored_leaves(raw: Any, where: str = "") -> Iterator[tuple[str, list[str | int]]]:
    """Every number in the part of a result that follows from the predictions: written apart from the code under test."""
    if isinstance(raw, dict | list):
        for key, value in raw.items() if isinstance(raw, dict) else enumerate(raw):
            inner = f"{where}[{key}]" if isinstance(raw, list) else f"{where}.{key}" if where else str(key)
            for field, keys in scored_leaves(value, inner):
                yield field, [key, *keys]
    elif isinstance(raw, float | int) and not isinstance(raw, bool):
        yield where, []


@pytest.mark.parametrize("task", TASKS)
def test_every_scored_number_is_compared(evaluated: Path, tiny_suite: Suite, task: str) -> None:
    path = place(evaluated, task)
    raw = json.loads(path.read_text())
    scorer = make_scorer(tiny_suite.task(task), rows="ignore")
    runs = [scorer.score(predictions(evaluated, task) / f"seed{seed}") for seed in (0, 3)]
    scored, _ = summarise_scores(tiny_suite, tiny_suite.task(task), scorer.protocol, (0, 3), runs)
    parts = ("task", "metrics", "variants", "slices", "counts", "floors")
    leaves = [(field, keys) for field, keys in scored_leaves(raw) if keys[0] in parts]
    assert len(leaves) > 50
    for field, keys in leaves[:: 1 + len(leaves) // 50]:
        for change in (1e-6, 1e-13):
            changed = copy.deepcopy(raw)
            inner = changed
            for key in keys[:-1]:
                inner = inner[key]
            old = inner[keys[-1]]
            inner[keys[-1]] = old + 1 if isinstance(old, int) else old + change * max(1.0, abs(old))
            result = decode(Result, changed, "changed", ResultError)
            _, reasons, _ = compare_scores(path, result, scored)
            if isinstance(old, int) or change == 1e-6:
                assert [reason.field for reason in reasons] == [field]
                assert float(reasons[0].recorded) == pytest.approx(inner[keys[-1]], rel=1e-15)
                assert float(reasons[0].found) == pytest.approx(old, rel=1e-12)
            else:
                assert reasons == []


def test_a_tampered_value_takes_the_flag_away(out: Path, tiny_suite: Suite) -> None:
    path = place(out, "shop_music")
    Verifier(tiny_suite, write=True).verify(path)
    before = edit(path, "metrics", "ndcg@20", "per_seed", 1, value=0.75)
    edit(path, "metrics", "recall@5", "n_queries", value=7)
    for write, flag in ((False, ""), (True, "taken away")):
        verification = Verifier(tiny_suite, write=write).verify(path)
        assert (verification.verdict, verification.flag) == (Verdict.CONTRADICTED, flag)
        # The main metric comes first.
        assert [reason.field for reason in verification.reasons] == [
            "metrics.ndcg@20.per_seed[1]",
            "metrics.recall@5.n_queries",
        ]
        assert str(verification.reasons[0]) == (
            f"{path}: metrics.ndcg@20.per_seed[1]: recorded 0.75, found {before}"
        )
    assert VERIFIED not in read_result(path).flags


def test_a_flattering_main_metric(out: Path, tiny_suite: Suite) -> None:
    path = place(out, "shop_music")
    edit(path, "task", "main_metric", value="hit@5")
    verification = Verifier(tiny_suite).verify(path)
    assert verification.verdict is Verdict.CONTRADICTED
    assert ("task.main_metric", "hit@5") in [(r.field, r.recorded) for r in verification.reasons]


def test_names_that_the_scorer_does_not_know(out: Path, tiny_suite: Suite) -> None:
    path = place(out, "library_review")
    summary = json.loads(path.read_text())["metrics"]["accuracy"]
    edit(path, "metrics", "super_f1", value=summary)
    edit(path, "slices", "lucky", value={"accuracy": 1.0})
    verification = Verifier(tiny_suite).verify(path)
    assert [(r.field, r.recorded, r.found) for r in verification.reasons] == [
        ("metrics.super_f1", str(summary["mean"]), "nothing: the scorer gives no such value"),
        ("slices.lucky.accuracy", "1.0", "nothing: the scorer gives no such value"),
    ]


def test_what_an_older_scorer_did_not_know_is_listed(out: Path, tiny_suite: Suite) -> None:
    path = place(out, "shop_music")
    raw = json.loads(path.read_text())
    del raw["metrics"]["novelty@20"], raw["counts"]["n_short"]
    write_json(path, raw)
    verification = Verifier(tiny_suite).verify(path)
    assert verification.verdict is Verdict.VERIFIED
    assert verification.unrecorded == ("counts.n_short", "metrics.novelty@20")
    assert "not recorded, so not compared: counts.n_short, metrics.novelty@20" in render_verifications(
        [verification]
    )


@pytest.mark.parametrize(("part", "name"), [("variants", "mudok"), ("slices", "activity_low")])
def test_a_part_that_is_left_out_is_none_of_age(out: Path, tiny_suite: Suite, part: str, name: str) -> None:
    path = place(out, "shop_music")
    raw = json.loads(path.read_text())
    del raw[part][name]
    write_json(path, raw)
    verification = Verifier(tiny_suite).verify(path)
    assert verification.verdict is Verdict.CONTRADICTED
    assert only_reason(verification)[1:3] == (f"{part}.{name}", "absent")


def test_a_tampered_prediction_file(out: Path, tiny_suite: Suite) -> None:
    path, file = place(out, "shop_music"), predictions(out, "shop_music") / "seed3.parquet"
    stated = sha256_file(file)
    frame = pd.read_parquet(file)
    frame["item"] = frame["item"].to_numpy()[::-1]
    write_parquet(file, frame)
    verification = Verifier(tiny_suite, write=True).verify(path)
    assert verification.verdict is Verdict.NOT_VERIFIED
    assert only_reason(verification) == (str(file), "sha256", stated, sha256_file(file))
    # With its hash rewritten, the numbers give it away.
    edit(path, "predictions", "sha256", file.name, value=sha256_file(file))
    assert Verifier(tiny_suite).verify(path).verdict is Verdict.CONTRADICTED


def test_predictions_that_break_a_rule(out: Path, tiny_suite: Suite) -> None:
    path, file = place(out, "library_review"), predictions(out, "library_review") / "seed0.parquet"
    frame = pd.read_parquet(file)
    frame.loc[2, "score_0"] = np.nan
    write_parquet(file, frame)
    edit(path, "predictions", "sha256", file.name, value=sha256_file(file))
    verification = Verifier(tiny_suite).verify(path)
    assert verification.verdict is Verdict.CONTRADICTED
    assert "score is NaN" in only_reason(verification)[3]


def test_missing_foreign_and_unrecorded_files(out: Path, tiny_suite: Suite) -> None:
    path, folder = place(out, "shop_music"), predictions(out, "shop_music")
    Verifier(tiny_suite, write=True).verify(path)
    (folder / "seed0.parquet").rename(folder / "seed0.paths.parquet")
    stated = json.loads(path.read_text())["predictions"]["sha256"]
    edit(path, "predictions", "sha256", value={**stated, "../../secret.parquet": "0" * 64})
    verification = Verifier(tiny_suite, write=True).verify(path)
    assert verification.verdict is Verdict.NOT_VERIFIED
    assert {(r.file.name, r.field, r.found) for r in verification.reasons} == {
        ("noise.json", "predictions.sha256.../../secret.parquet", "no file of a seed of this task"),
        ("seed0.parquet", "sha256", "no file"),
        (
            "noise.json",
            "predictions.sha256.seed0.paths.parquet",
            f"the file {folder / 'seed0.paths.parquet'}",
        ),
    }
    # Predictions that are not at hand contradict nothing.
    assert VERIFIED in read_result(path).flags


def test_a_seed_without_a_recorded_hash(out: Path, tiny_suite: Suite) -> None:
    path = place(out, "library_review")
    edit(path, "predictions", "sha256", value={})
    verification = Verifier(tiny_suite).verify(path)
    assert [(r.field, r.recorded) for r in verification.reasons] == [
        ("predictions.sha256.seed0.parquet", "absent"),
        ("predictions.sha256.seed3.parquet", "absent"),
    ]


def test_another_suite(out: Path, tmp_path: Path, tiny_suite: Suite) -> None:
    frames = tiny_suite_frames()
    write_suite(tmp_path / "other", frames)
    manifest = json.loads((tmp_path / "other" / "suite.json").read_text())
    write_json(tmp_path / "other" / "suite.json", {**manifest, "version": "9.9.9"})
    other = open_suite(tmp_path / "other")
    verification = Verifier(other).verify(place(out, "shop_music"))
    assert verification.verdict is Verdict.NOT_VERIFIED
    assert [reason.field for reason in verification.reasons] == ["suite.version", "suite.sha256"]
    assert verification.reasons[1].recorded == tiny_suite.manifest.digest
    assert verification.reasons[1].found.startswith(other.manifest.digest)


def test_a_suite_from_the_hub_is_the_same_suite(out: Path, tiny_suite: Suite) -> None:
    path = place(out, "library_review")
    edit(path, "suite", "repo", value="owner/tiny")
    edit(path, "suite", "revision", value="a" * 40)
    assert Verifier(tiny_suite).verify(path).verdict is Verdict.VERIFIED


def test_link_prediction_starts_from_ranks_and_leaves_them_alone(out: Path, tiny_suite: Suite) -> None:
    folder = predictions(out, "library_links")
    kept = folder / "seed0.ranks.parquet"
    before = kept.read_bytes()
    (folder / "seed0.npy").write_bytes(b"no scores")
    verification = Verifier(tiny_suite, write=True).verify(place(out, "library_links"))
    assert verification.verdict is Verdict.VERIFIED
    assert kept.read_bytes() == before
    assert (folder / "seed0.npy").is_file()
    assert "Link prediction starts from the kept ranks" in render_verifications([verification])
    music = Verifier(tiny_suite).verify(place(out, "shop_music"))
    assert "Link prediction" not in render_verifications([music])


def test_per_query_scores_are_made_again(out: Path, tiny_suite: Suite) -> None:
    path = place(out, "library_review")
    before = queries_path(path).read_bytes()
    queries_path(path).unlink()
    verification = Verifier(tiny_suite).verify(path)
    assert only_reason(verification)[3] == "no file; --write makes it again"
    assert not queries_path(path).exists()
    assert Verifier(tiny_suite, write=True).verify(path).verdict is Verdict.VERIFIED
    assert queries_path(path).read_bytes() == before
    assert [file.name for file in sorted(path.parent.iterdir())] == ["noise.json", "noise.queries.parquet"]


def test_per_query_scores_that_cannot_be_made_again(out: Path, tiny_suite: Suite) -> None:
    path = place(out, "library_review")
    queries_path(path).unlink()
    edit(path, "queries_sha256", value="0" * 64)
    verification = Verifier(tiny_suite, write=True).verify(path)
    assert verification.verdict is Verdict.CONTRADICTED
    assert only_reason(verification)[3].startswith("no file; made again it is")
    assert not queries_path(path).exists()


def test_tampered_per_query_scores(out: Path, tiny_suite: Suite) -> None:
    path = place(out, "shop_music")
    frame = pd.read_parquet(queries_path(path))
    ours = frame["main_seed3"].to_numpy().copy()
    frame["main_seed3"] = ours[::-1].copy()
    write_parquet(queries_path(path), frame)
    stated = edit(path, "created", value="2026-01-01T00:00:00+00:00") and read_result(path).queries_sha256
    assert only_reason(Verifier(tiny_suite).verify(path)) == (
        str(queries_path(path)),
        "sha256",
        stated,
        sha256_file(queries_path(path)),
    )
    edit(path, "queries_sha256", value=sha256_file(queries_path(path)))
    row = int(np.argmax(ours != ours[::-1]))
    file, field, recorded, found = only_reason(Verifier(tiny_suite).verify(path))
    assert (file, field) == (str(queries_path(path)), f"main_seed3[{row}]")
    assert float(recorded.split()[0]) == pytest.approx(ours[::-1][row])
    assert float(found) == pytest.approx(ours[row])


@pytest.mark.parametrize("content", ["columns", "rows", "text", "bytes"])
def test_per_query_files_of_another_form(out: Path, tiny_suite: Suite, content: str) -> None:
    path = place(out, "library_review")
    file = queries_path(path)
    frame = pd.read_parquet(file)
    if content == "bytes":
        file.write_bytes(b"PAR1 no more")
    else:
        changed = {
            "columns": frame.drop(columns="label"),
            "rows": frame.iloc[:-1],
            "text": frame.assign(label="yes"),
        }
        write_parquet(file, changed[content])
    edit(path, "queries_sha256", value=sha256_file(file))
    verification = Verifier(tiny_suite).verify(path)
    assert verification.verdict is Verdict.CONTRADICTED
    assert only_reason(verification)[:2] == (str(file), "label" if content == "text" else "content")


def test_predictions_elsewhere(out: Path, tiny_suite: Suite, tmp_path: Path) -> None:
    moved = tmp_path / "theirs"
    shutil.move(out / "tiny" / "noise" / "predictions", moved / "predictions")
    path = place(out, "shop_music")
    verification = Verifier(tiny_suite).verify(path)
    assert verification.verdict is Verdict.NOT_VERIFIED
    assert "name where they lie with --predictions" in only_reason(verification)[3]
    shutil.copytree(moved / "predictions", tmp_path / "again" / "tiny" / "noise" / "predictions")
    for folder in (moved, moved / "predictions", tmp_path / "again"):
        assert Verifier(tiny_suite, folder).verify(path).verdict is Verdict.VERIFIED
    assert Verifier(tiny_suite, tmp_path / "nowhere").verify(path).verdict is Verdict.NOT_VERIFIED


def test_a_result_does_not_choose_the_folder(out: Path, tiny_suite: Suite) -> None:
    path = place(out, "shop_music")
    edit(path, "predictions", "path", value="../../../../etc")
    assert only_reason(Verifier(tiny_suite).verify(path))[1:] == (
        "predictions.path",
        "../../../../etc",
        "a result's is predictions/shop_music",
    )


@pytest.mark.parametrize(
    "text", ["{", "[" * 100_000, '{"schema_version": 1, "seeds": [0], "metrics": 3}', "NaN"]
)
def test_files_that_are_no_results(out: Path, tiny_suite: Suite, text: str) -> None:
    path = place(out, "shop_music")
    path.write_text(text)
    verification = Verifier(tiny_suite, write=True).verify(path)
    assert verification.verdict is Verdict.NOT_VERIFIED
    assert verification.result is None
    assert str(path) in render_verifications([verification])
    assert path.read_text() == text


def test_a_number_beyond_a_float(out: Path) -> None:
    path = place(out, "shop_music")
    path.write_text(path.read_text().replace('"mean": ', '"mean": 1' + "0" * 400 + "}", 1))
    with pytest.raises(ResultError):
        read_result(path)
    edit_text = encode(read_result(place(out, "library_review")))
    edit_text["metrics"]["accuracy"]["mean"] = 10**400
    place(out, "library_review").write_text(json.dumps(edit_text))
    with pytest.raises(ResultError, match="beyond floating point"):
        read_result(place(out, "library_review"))


def test_withheld_labels_verify_nothing(out: Path, tiny_suite: Suite, tmp_path: Path) -> None:
    blind = open_suite(withheld_copy(tiny_suite, tmp_path / "withheld"))
    verification = Verifier(blind, write=True).verify(place(out, "library_review"))
    assert verification.verdict is Verdict.NOT_VERIFIED


def test_many_reasons_are_counted(out: Path, tiny_suite: Suite) -> None:
    path = place(out, "shop_music")
    raw = json.loads(path.read_text())
    for summary in raw["metrics"].values():
        summary["n_queries"] += 1
        summary["n_excluded"] += 1
    write_json(path, raw)
    verification = Verifier(tiny_suite).verify(path)
    many = 2 * len(raw["metrics"])
    assert len(verification.reasons) == many > 20
    assert f"and {many - 20} more" in render_verifications([verification])


def test_files_and_folders_of_results(out: Path) -> None:
    every = result_files([out / "results"])
    assert [path.parent.name for path in every] == sorted(TASKS)
    assert result_files([place(out, "shop_music"), out / "results"])[0] == place(out, "shop_music")
    assert len(result_files([place(out, "shop_music"), out / "results"])) == 3


def test_the_command(out: Path, tiny_suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["verify", str(out / "results"), "--suite", str(tiny_suite.folder)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.count(" verified ") == 3
    assert "nobody can score it again: run_id, created, kpi_bench, submission, timing, memory" in printed
    assert main([*arguments, "--write"]) == 0
    assert all(VERIFIED in read_result(place(out, task)).flags for task in TASKS)
    edit(place(out, "shop_music"), "metrics", "ndcg@20", "mean", value=0.9)
    assert main(arguments) == 1
    assert "metrics.ndcg@20.mean: recorded 0.9, found" in capsys.readouterr().out
    assert main(["verify", str(out / "tiny" / "noise"), "--suite", str(tiny_suite.folder)]) == 2
