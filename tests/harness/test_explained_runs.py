"""Submissions that explain, end to end: results, resuming, re-scoring, and the command that prints paths."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from submission_factory import write_submission

from kpi_bench.errors import EvaluationError, PredictionError, SuiteError
from kpi_bench.harness.evaluate import Options, Report, evaluate
from kpi_bench.harness.explain import explain
from kpi_bench.harness.explanations import paths_file
from kpi_bench.harness.records import read_record
from kpi_bench.harness.rescore import score_folder, seeds_of
from kpi_bench.suites.suite import Suite
from kpi_bench.suites.task import RecommendationTask

# Every listed item by way of the user's first train item and its genre; true where the genres agree (item 29 is not in the KG).
EXPLAINS = """
def predict(self, task, queries, ctx):
    from kpi_bench import ExplainedTopK, Paths

    best = super().predict(task, queries, ctx)
    if not isinstance(task, RecommendationTask) or ctx.seed in self.params["silent"]:
        return best
    row, place = np.nonzero(best.items >= 0)
    users, items = queries.users[row], best.items[row, place]
    first = np.array([task.train_matrix.row(user)[0] for user in users])
    n, genre = len(users), 49 + first % 3
    paths = Paths(
        users=users, items=items, nodes=np.stack([users, first, genre, items], axis=1),
        kinds=np.tile(np.array([2, 1, 0, 1], dtype=np.int8), (n, 1)), relations=np.tile([-1, 0, 0], (n, 1)),
        inverse=np.tile([False, False, True], (n, 1)), log_probs=np.full(n, -1.5, dtype=np.float32),
    )
    if self.params["broken"]:
        paths.log_probs[7] = np.nan
    return ExplainedTopK(best.items, best.scores, paths)
"""
PARAMS = {"silent": [], "broken": False}
TASK = "shop_music"


@pytest.fixture(scope="module")
def evaluated(tiny_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Options, Path]:
    """A submission that explains; seed 1 does not."""
    place = tmp_path_factory.mktemp("explained")
    config = write_submission(place / "explains", EXPLAINS, params={**PARAMS, "silent": [1]})
    options = Options(
        out=place / "out", results=place / "results", seeds=(0, 1), tasks=(TASK, "library_review")
    )
    report = evaluate(config, tiny_suite, options)
    assert report.failures == []
    alone = dataclasses.replace(options, seeds=(0,), tasks=(TASK,))
    return evaluate(config, tiny_suite, alone), alone, place


def run_folder(place: Path) -> Path:
    return place / "out" / "tiny" / "explains"


def test_an_evaluation(
    evaluated: tuple[Report, Options, Path], tiny_suite: Suite, music: RecommendationTask
) -> None:
    report, _, place = evaluated
    (result,) = report.results
    assert [outcome.skipped for outcome in report.outcomes] == [True]
    files = {"seed0.parquet", "seed0.mudok.parquet", "seed0.paths.parquet"}
    assert set(result.predictions.sha256) == files
    folder = run_folder(place) / "predictions" / TASK
    assert {path.name for path in folder.iterdir()} == files | {"seed1.parquet", "seed1.mudok.parquet"}
    frame = pd.read_parquet(folder / "seed0.parquet")
    first = {user: int(music.train_matrix.row(user)[0]) for user in frame["user"]}
    true = [item != 29 and item % 3 == first[user] % 3 for user, item in zip(frame["user"], frame["item"], strict=True)]  # fmt: skip
    assert 0 < np.mean(true) < 1
    by_user = pd.Series(true).groupby(frame["user"])
    assert result.metrics["path_validity"].mean == pytest.approx(np.mean(true))
    assert result.metrics["explained@20"].mean == pytest.approx(by_user.mean().mean())
    counts = by_user.sum()
    assert result.metrics["path_types@20"].mean == pytest.approx((counts > 0).mean())
    assert result.metrics["explained@20"].ci95_queries is not None
    assert "explained@20" not in result.variants["mudok"].metrics
    assert result.counts["n_invalid_explanations"] == len(true) - sum(true)
    assert read_record(run_folder(place) / "runs" / TASK / "seed0").explained  # type: ignore[union-attr]


def test_seeds_of_which_one_explains(evaluated: tuple[Report, Options, Path], tiny_suite: Suite) -> None:
    _, options, place = evaluated
    config = write_submission(place / "explains", EXPLAINS, params={**PARAMS, "silent": [1]})
    report = evaluate(config, tiny_suite, dataclasses.replace(options, seeds=(0, 1)))
    assert all(outcome.skipped for outcome in report.outcomes)
    assert "explained@20" not in report.results[0].metrics
    assert len(report.results[0].metrics["novelty@20"].per_seed) == 2


@pytest.mark.parametrize("seed", [0, 1], ids=["lost", "foreign"])
def test_a_lost_or_foreign_file_is_a_new_run(
    evaluated: tuple[Report, Options, Path], tiny_suite: Suite, tmp_path: Path, seed: int
) -> None:
    _, options, place = evaluated
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    config = write_submission(tmp_path / "explains", EXPLAINS, params={**PARAMS, "silent": [1]})
    folder = run_folder(tmp_path) / "predictions" / TASK
    if seed:
        shutil.copy(folder / "seed0.paths.parquet", folder / "seed1.paths.parquet")
    else:
        (folder / "seed0.paths.parquet").unlink()
    moved = dataclasses.replace(options, out=tmp_path / "out", results=tmp_path / "results", seeds=(seed,))
    report = evaluate(config, tiny_suite, moved)
    assert [(o.skipped, o.error) for o in report.outcomes] == [(False, None)]
    assert (folder / f"seed{seed}.paths.parquet").is_file() == (seed == 0)
    assert ("explained@20" in report.results[0].metrics) == (seed == 0)


def test_rescoring(
    evaluated: tuple[Report, Options, Path], tiny_suite: Suite, tmp_path: Path
) -> None:  # fmt: skip
    report, _, place = evaluated
    theirs = tmp_path / "theirs"
    shutil.copytree(run_folder(place) / "predictions", theirs)
    for path in (theirs / TASK).glob("seed1*"):
        path.unlink()
    shutil.rmtree(theirs / "library_review")
    assert seeds_of(theirs / TASK) == (0,)
    (again,) = score_folder(theirs, tiny_suite).results
    assert again.metrics == report.results[0].metrics
    assert again.counts == report.results[0].counts
    assert again.predictions.sha256 == report.results[0].predictions.sha256
    (theirs / TASK / "seed0.paths.parquet").write_text("broken")
    assert "cannot be read as Parquet" in score_folder(theirs, tiny_suite).refused[TASK]
    (theirs / TASK / "seed0.paths.parquet").unlink()
    (without,) = score_folder(theirs, tiny_suite).results
    assert "explained@20" not in without.metrics
    for name, summary in without.metrics.items():
        explained = report.results[0].metrics[name]
        assert summary.per_seed == explained.per_seed
        assert summary.ci95_queries == pytest.approx(explained.ci95_queries, abs=1e-12), name


def test_broken_explanations_fail_their_run(tiny_suite: Suite, tmp_path: Path) -> None:
    config = write_submission(tmp_path / "explains", EXPLAINS, params={**PARAMS, "broken": True})
    options = Options(out=tmp_path / "out", results=tmp_path / "results", seeds=(0,), tasks=(TASK,))
    (failure,) = evaluate(config, tiny_suite, options).failures
    assert "log_prob is NaN, infinite or beyond float32: 1 row(s), first at row 7" in str(failure.error)


def test_explain(
    evaluated: tuple[Report, Options, Path], tiny_suite: Suite, music: RecommendationTask
) -> None:
    run = run_folder(evaluated[2])
    frame = pd.read_parquet(run / "predictions" / TASK / "seed0.parquet")
    first = int(music.train_matrix.row(0)[0])
    start = f"user 0 -[interacted with]-> Album {first} -[has genre]-> Genre {first % 3} <-[has genre]- "
    title, _, _, *lines = explain(run, tiny_suite, TASK, 0, k=25).splitlines()
    items = frame[frame["user"] == 0]["item"].tolist()
    assert title == f"user 0 of shop_music: {len(items)} items, {len(items)} explained"
    assert len(lines) == len(items)
    for rank, (line, item) in enumerate(zip(lines, items, strict=True), 1):
        name = f"Album {item}" if item != 29 else "item 29"
        true = item != 29 and item % 3 == first % 3
        assert re.fullmatch(rf"\s*{rank}\s+{name}\s+0\.\d{{4}}\s+.*", line)
        assert line.rstrip().endswith(f"{start}{name}" + ("" if true else " (not a path of the KG and the train split)"))  # fmt: skip
    assert len(explain(run / "predictions", tiny_suite, TASK, 0, k=3).splitlines()) == 6


def test_explain_a_user_without_a_list(
    evaluated: tuple[Report, Options, Path], tiny_suite: Suite, tmp_path: Path
) -> None:
    prefix = run_folder(evaluated[2]) / "predictions" / TASK / "seed0"
    for path in (prefix.with_name("seed0.parquet"), paths_file(prefix)):
        table = pq.read_table(path)
        kept = table.filter(pc.not_equal(table["user"], 3))
        (tmp_path / TASK).mkdir(exist_ok=True)
        pq.write_table(kept, tmp_path / TASK / path.name)
    assert explain(tmp_path, tiny_suite, TASK, 3) == "user 3 of shop_music: 0 items, 0 explained"
    assert len(explain(tmp_path, tiny_suite, TASK, 2, k=5).splitlines()) == 3 + 5


@pytest.mark.parametrize(
    ("task", "user", "seed", "error", "message"),
    [
        ("shop_musik", 0, 0, SuiteError, "shop_musik"),
        ("library_review", 0, 0, EvaluationError, r"is a classification task; paths explain recommendations \(shop_music\)"),
        (TASK, 40, 0, PredictionError, r"user 40 of shop_music was not asked about; the \d+ users with test items are, such as 0"),
        (TASK, 0, 1, PredictionError, "explains nothing of shop_music with seed 1: its predict returned no ExplainedTopK"),
        (TASK, 0, 7, PredictionError, r"has no predictions of shop_music with seed 7 .*seed7\.parquet does not exist"),
    ],
)  # fmt: skip
def test_what_cannot_be_explained(
    evaluated: tuple[Report, Options, Path],
    tiny_suite: Suite,
    task: str,
    user: int,
    seed: int,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        explain(run_folder(evaluated[2]), tiny_suite, task, user, seed=seed)
