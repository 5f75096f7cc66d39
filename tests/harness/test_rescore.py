"""Scoring a folder of predictions gives what the evaluation that made them gave."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from submission_factory import toml, write_submission

from kpi_bench.errors import PredictionError, SubmissionError
from kpi_bench.harness.evaluate import Options, Report, evaluate
from kpi_bench.harness.rescore import score_folder, seeds_of
from kpi_bench.harness.results import queries_path, read_result, result_path
from kpi_bench.suites.suite import Suite

TASKS = ("shop_music", "library_review", "library_links")


@pytest.fixture(scope="module")
def evaluated(tiny_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    place = tmp_path_factory.mktemp("rescore")
    options = Options(out=place / "out", results=place / "results", seeds=(0,), tasks=TASKS)
    report = evaluate(write_submission(place / "noise"), tiny_suite, options)
    assert report.failures == []
    return report, place


@pytest.fixture
def predictions(evaluated: tuple[Report, Path], tmp_path: Path) -> Path:
    """A copy of the predictions that may be written to."""
    shutil.copytree(evaluated[1] / "out" / "tiny" / "noise" / "predictions", tmp_path / "theirs")
    return tmp_path / "theirs"


def test_the_same_numbers_come_out(
    evaluated: tuple[Report, Path], predictions: Path, tiny_suite: Suite, tmp_path: Path
) -> None:
    report, place = evaluated
    scored = score_folder(predictions, tiny_suite, results=tmp_path / "results")
    assert scored.refused == {}
    assert [r.task.name for r in scored.results] == [r.task.name for r in report.results] == list(TASKS)
    for ours, again in zip(report.results, scored.results, strict=True):
        assert again.metrics == ours.metrics
        assert again.variants == ours.variants
        assert again.slices == ours.slices
        assert again.counts == ours.counts
        assert again.predictions.sha256 == ours.predictions.sha256
        assert again.protocol == ours.protocol
        assert again.flags == ("self_reported", "single_seed")
        assert again.submission.name == "theirs"
        path = result_path(tmp_path / "results", "tiny", ours.task.name, "theirs")
        assert read_result(path) == again
        first = result_path(place / "results", "tiny", ours.task.name, "noise")
        pd.testing.assert_frame_equal(
            pd.read_parquet(queries_path(path)), pd.read_parquet(queries_path(first))
        )


def test_link_predictions_are_kept_as_ranks(evaluated: tuple[Report, Path]) -> None:
    folder = evaluated[1] / "out" / "tiny" / "noise" / "predictions" / "library_links"
    assert [path.name for path in folder.iterdir()] == ["seed0.ranks.parquet"]


def test_costs_are_unknown(predictions: Path, tiny_suite: Suite) -> None:
    (result, *_) = score_folder(predictions, tiny_suite).results
    assert result.timing.phases == {}
    assert result.memory.peak_rss == ()
    assert result.size.parameters is None


def test_an_outer_folder_and_several_seeds(predictions: Path, tiny_suite: Suite, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    shutil.copytree(predictions / "library_review", outer / "predictions" / "library_review")
    review = outer / "predictions" / "library_review"
    shutil.copy(review / "seed0.parquet", review / "seed12.parquet")
    assert seeds_of(review) == (0, 12)
    (result,) = score_folder(outer, tiny_suite, name="named").results
    assert result.seeds == (0, 12)
    assert result.key == "tiny/library_review/named"
    assert len(set(result.main.per_seed)) == 1
    assert result.main.ci95_seeds == pytest.approx((result.main.mean, result.main.mean))


def test_the_official_predictions_are_enough(predictions: Path, tiny_suite: Suite) -> None:
    music = predictions / "shop_music"
    shutil.copy(music / "seed0.parquet", music / "seed1.parquet")
    both = {r.task.name: r for r in score_folder(predictions, tiny_suite).results}
    assert both["shop_music"].seeds == (0, 1)
    assert both["shop_music"].variants == {}
    (music / "seed0.mudok.parquet").unlink()
    scored = score_folder(predictions, tiny_suite)
    assert scored.refused == {}


def test_a_submission_of_kind_predictions(predictions: Path, tiny_suite: Suite, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(predictions, folder / "predictions")
    (folder / "submission.toml").write_text(toml("given", "", {}).replace('"code"', '"predictions"'))
    (result, *_) = score_folder(folder, tiny_suite).results
    assert (result.submission.name, result.submission.kind) == ("given", "predictions")


def test_what_cannot_be_scored_is_refused_beside_what_can(predictions: Path, tiny_suite: Suite) -> None:
    (predictions / "shop_music" / "seed0.parquet").write_text("broken")
    shutil.copytree(predictions / "library_review", predictions / "library_revue")
    scored = score_folder(predictions, tiny_suite)
    assert [r.task.name for r in scored.results] == ["library_review", "library_links"]
    assert set(scored.refused) == {"shop_music", "library_revue"}
    assert "cannot be read as Parquet" in scored.refused["shop_music"]
    assert scored.refused["library_revue"] == "suite tiny has no task of this name"


def test_nothing_to_score(tiny_suite: Suite, tmp_path: Path) -> None:
    (tmp_path / "shop_music").mkdir()
    with pytest.raises(
        PredictionError, match=r"no predictions for suite tiny; looked for shop_music/seed<k>\.parquet"
    ):
        score_folder(tmp_path, tiny_suite, name="empty")


@pytest.mark.parametrize("name", ["../../elsewhere", "a b", "."])
def test_a_name_that_is_no_file_name(predictions: Path, tiny_suite: Suite, name: str) -> None:
    with pytest.raises(SubmissionError, match=r"--name: name .* becomes a file name"):
        score_folder(predictions, tiny_suite, name=name)
