"""A timing round counts only while it answers what the run that it repeats has answered."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from submission_factory import write_submission

from kpi_bench import Paths, TopK, top_k_from_scores
from kpi_bench._io import sha256_file
from kpi_bench.harness import withhold
from kpi_bench.harness.evaluate import Options, Report, evaluate
from kpi_bench.harness.explanations import paths_file, write_paths
from kpi_bench.harness.original import Original
from kpi_bench.harness.predictions import MUDOK, MUDOK_MASK, OFFICIAL, write_predictions
from kpi_bench.harness.protocol import ClassificationQueries, LinkPredictionQueries, Queries
from kpi_bench.harness.records import RunKey, RunRecord, RunSite
from kpi_bench.harness.scoring import kept_files, make_scorer
from kpi_bench.harness.supervise import Limits, run_job
from kpi_bench.harness.worker import Action, Job
from kpi_bench.suites.suite import Suite
from kpi_bench.suites.task import ClassificationTask, RecommendationTask, Task

TASKS = ("shop_music", "shop_games_qa", "library_review", "library_links")
NAME = "seed0"


def _queries(task: Task, mask: tuple[str, ...] | None = None) -> Queries:
    if isinstance(task, RecommendationTask):
        return withhold.recommendation_queries(task, withhold.test_users(task), mask or task.spec.mask)
    frame = withhold.query_frame(task)
    if isinstance(task, ClassificationTask):
        return ClassificationQueries(
            frame["example"].to_numpy(), frame["entity"].to_numpy(), frame["text"].to_list()
        )
    columns = (frame[name].to_numpy() for name in ("entity", "relation", "direction"))
    return LinkPredictionQueries(*columns)


def _scores(task: Task, quality: float, noise: int = 0) -> NDArray[np.float32]:
    """Scores of the run: seeded noise, in favour of what is right on the share ``quality`` of the queries; ``noise`` is added to all."""
    rng = np.random.default_rng(3)
    n = len(_queries(task))
    if isinstance(task, RecommendationTask):
        scores = rng.random((n, task.n_items), dtype=np.float32)
        right = task.matrix("test").select(withhold.test_users(task))
        chosen = rng.random(n) < quality
        rows = right.row_ids()
        scores[rows[chosen[rows]], right.indices[chosen[rows]]] += 1.0
    elif isinstance(task, ClassificationTask):
        assert task.test is not None
        scores = rng.random((n, task.n_classes), dtype=np.float32)
        scores[np.arange(n), task.test.labels] += 2.0 * (rng.random(n) < quality)
    else:
        assert task.test is not None
        scores = rng.random((n, task.n_entities), dtype=np.float32)
        truth = {(h, r, 0): t for h, r, t in task.test.array()} | {
            (t, r, 1): h for h, r, t in task.test.array()
        }
        asked = _queries(task)
        assert isinstance(asked, LinkPredictionQueries)
        for row, key in enumerate(zip(asked.entities, asked.relations, asked.directions, strict=True)):
            scores[row, truth[key]] += float(rng.random() < quality)
    return scores + np.float32(1e-4) * np.random.default_rng(noise).random(scores.shape, dtype=np.float32)


def _answer(
    task: Task, prefix: Path, scores: NDArray[np.float32], mask: tuple[str, ...] | None = None
) -> None:
    queries = _queries(task, mask)
    answer: Any = scores
    if isinstance(task, RecommendationTask):
        best = top_k_from_scores(scores, queries.exclude, queries.k, queries.tie_order)  # type: ignore[union-attr]
        answer = TopK(best.items, best.scores)
    elif not isinstance(task, ClassificationTask):
        answer = [scores]
    write_predictions(prefix, MUDOK if mask else OFFICIAL, task, queries, answer)


def _explain(task: RecommendationTask, prefix: Path, kept: int | None = None) -> None:
    """Explanations of the lists at ``prefix`` by way of the user's first item and its genre; those of the first ``kept`` users are right."""
    lists = np.load(prefix.with_suffix(".lists.npy"))
    users, items = lists[:, 0], lists[:, 1]
    first = np.array([task.train_matrix.row(user)[0] for user in users])
    n = len(users)
    genre = 49 + first % 3
    if kept is not None:
        genre[users >= kept] = 49 + (first[users >= kept] + 1) % 3
    write_paths(
        prefix,
        Paths(
            users, items, np.stack([users, first, genre, items], axis=1), np.tile(np.array([2, 1, 0, 1], dtype=np.int8), (n, 1)),
            np.tile([-1, 0, 0], (n, 1)), np.tile([False, False, True], (n, 1)), np.zeros(n, dtype=np.float32),
        ),
    )  # fmt: skip


def _record(outputs: dict[str, str], device: str, explained: bool = False) -> RunRecord:
    key = RunKey("m", "0" * 64, {}, "1" * 64, "t", 0, device)
    return RunRecord(
        key, "s", RunSite({}, {}, None), {}, (), {}, None, 1, None, 1.0, explained=explained, outputs=outputs
    )


def _original(
    suite: Suite, name: str, folder: Path, quality: float = 0.5, device: str = "cuda:0"
) -> Original:
    task, prefix = suite.task(name), folder / "run" / NAME
    _answer(task, prefix, _scores(task, quality))
    if isinstance(task, RecommendationTask):
        _answer(task, prefix, _scores(task, quality), MUDOK_MASK)
    scorer = make_scorer(task)
    scores = scorer.score(prefix)
    hashes = {path.name: sha256_file(path) for path in kept_files(task, prefix)}
    return Original(_record(hashes, device), task, scorer, scores)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_equal_answers_stand_for_the_runs(tiny_suite: Suite, tmp_path: Path, name: str, device: str) -> None:
    original = _original(tiny_suite, name, tmp_path, device=device)
    # A timing run may be made on another machine.
    for number, judge in enumerate((original, pickle.loads(pickle.dumps(original)))):
        prefix = tmp_path / f"round{number}" / NAME
        _answer(original.task, prefix, _scores(original.task, 0.5))
        assert judge.compare(prefix) == (None, True)


@pytest.mark.parametrize("name", TASKS)
def test_on_a_cpu_nothing_else_does(tiny_suite: Suite, tmp_path: Path, name: str) -> None:
    original = _original(tiny_suite, name, tmp_path, device="cpu")
    prefix = tmp_path / "round" / NAME
    _answer(original.task, prefix, _scores(original.task, 0.5, noise=1))
    fault, exact = original.compare(prefix)
    if name == "library_links":
        assert (fault, exact) == (None, True), "the ranks are compared, not the scores"
        _answer(original.task, prefix, -_scores(original.task, 0.5))
        fault, exact = original.compare(prefix)
    assert not exact
    assert str(fault).startswith(f"it answers otherwise than the run that it repeats ({NAME}.")
    assert "byte for byte" in str(fault)


@pytest.mark.parametrize("name", TASKS)
def test_on_a_gpu_answers_that_differ_by_noise_stand_for_the_runs(
    tiny_suite: Suite, tmp_path: Path, name: str
) -> None:
    original = _original(tiny_suite, name, tmp_path)
    prefix = tmp_path / "round" / NAME
    _answer(original.task, prefix, _scores(original.task, 0.5, noise=1))
    assert original.compare(prefix) == (None, name == "library_links")
    metric = original.task.spec.main_metric
    interval = original._interval(metric)
    assert interval is not None
    low, high = interval
    value = original.scores.official.values[metric]
    assert low < value < high, "the interval that they had to meet"


@pytest.mark.parametrize(
    ("name", "quality"), [*((name, 0.0) for name in TASKS), ("shop_music", 1.0), ("library_links", 1.0)]
)
def test_on_a_gpu_answers_that_are_worse_or_better_do_not(
    tiny_suite: Suite, tmp_path: Path, name: str, quality: float
) -> None:
    original = _original(tiny_suite, name, tmp_path)
    prefix = tmp_path / "round" / NAME
    _answer(original.task, prefix, _scores(original.task, quality))
    fault, _ = original.compare(prefix)
    assert fault is not None
    metric = original.task.spec.main_metric
    assert fault.startswith(f"what it answers has {metric} ")
    assert f"the run that it repeats has {original.scores.official.values[metric]:.4f}" in fault


@pytest.mark.parametrize("name", TASKS)
def test_a_perfect_run_wants_perfect_rounds(tiny_suite: Suite, tmp_path: Path, name: str) -> None:
    """Where every query scores alike the bootstrap leaves no room."""
    original = _original(tiny_suite, name, tmp_path, quality=1.0)
    prefix = tmp_path / "round" / NAME
    _answer(original.task, prefix, _scores(original.task, 1.0, noise=1))
    assert original.compare(prefix)[0] is None
    if original._interval(original.task.spec.main_metric) == (1.0, 1.0):
        scores = _scores(original.task, 1.0)
        scores[0] = np.roll(scores[0], 1)
        _answer(original.task, prefix, scores)
        assert "95 % interval 1.0000 to 1.0000" in str(original.compare(prefix)[0])


def test_without_scores_by_query_the_metric_must_be_equal(tiny_suite: Suite, tmp_path: Path) -> None:
    original = _original(tiny_suite, "shop_games_qa", tmp_path)
    metric = original.task.spec.main_metric
    official = dataclasses.replace(original.scores.official, per_query={})
    original = dataclasses.replace(original, scores=dataclasses.replace(original.scores, official=official))
    prefix = tmp_path / "round" / NAME
    _answer(original.task, prefix, _scores(original.task, 0.5, noise=1))
    assert original.compare(prefix) == (None, False)
    _answer(original.task, prefix, _scores(original.task, 0.9))
    assert f"must have the same: {metric} has no scores by query" in str(original.compare(prefix)[0])


@pytest.mark.parametrize("name", TASKS)
def test_nothing_or_nonsense_is_refused(tiny_suite: Suite, tmp_path: Path, name: str) -> None:
    original = _original(tiny_suite, name, tmp_path)
    prefix = tmp_path / "round" / NAME
    assert str(original.compare(prefix)[0]).startswith("what it answers cannot be scored")
    scores = _scores(original.task, 0.5)
    scores[0, 0] = np.nan
    if not isinstance(original.task, RecommendationTask):
        _answer(original.task, prefix, scores)
        assert "cannot be scored" in str(original.compare(prefix)[0])


def _explained(suite: Suite, tmp_path: Path) -> tuple[Original, Callable[[int | None], Path]]:
    task = suite.task("shop_music")
    assert isinstance(task, RecommendationTask)
    scores = _scores(task, 0.5)
    queries = _queries(task)
    best = top_k_from_scores(scores, queries.exclude, queries.k, queries.tie_order)  # type: ignore[union-attr]
    row, place = np.nonzero(best.items >= 0)
    lists = np.stack([withhold.test_users(task)[row], best.items[row, place]], axis=1)

    def make(kept: int | None, name: str = "round") -> Path:
        prefix = tmp_path / name / NAME
        _answer(task, prefix, scores)
        np.save(prefix.with_suffix(".lists.npy"), lists)
        _explain(task, prefix, kept)
        return prefix

    own = make(None, "run")
    scorer = make_scorer(task, {task.spec.kg: suite.graph(task.spec.kg)}.__getitem__)
    hashes = {path.name: sha256_file(path) for path in kept_files(task, own) if path.is_file()}
    record = _record(hashes, "cuda:0", explained=True)
    return Original(record, task, scorer, scorer.score(own)), make


def test_a_run_that_explains_wants_rounds_that_explain(tiny_suite: Suite, tmp_path: Path) -> None:
    original, make = _explained(tiny_suite, tmp_path)
    assert pickle.loads(pickle.dumps(original)).compare(make(None)) == (None, True)
    prefix = make(3)
    assert "what it answers has explained@20 " in str(original.compare(prefix)[0])
    prefix.with_name(f"{NAME}.paths.parquet").unlink()
    fault = "it does not explain its answers, the run that it repeats does"
    assert original.compare(prefix) == (fault, False)
    other = dataclasses.replace(original, record=_record({}, "cuda:0", explained=True))
    assert other.compare(make(None)) == (None, False), "judged by its worth alone"


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_round_does_not_explain_what_the_run_did_not(
    tiny_suite: Suite, tmp_path: Path, device: str
) -> None:
    original = _original(tiny_suite, "shop_music", tmp_path, device=device)
    prefix = tmp_path / "round" / NAME
    _answer(original.task, prefix, _scores(original.task, 0.5))
    paths_file(prefix).write_bytes(b"x")
    fault, _ = original.compare(prefix)
    wanted = "it explains its answers, the run" if device == "cuda:0" else f"({NAME}.paths.parquet)"
    assert wanted in str(fault)


# The parameter says what the rounds do that the run does not. The arguments of a process tell which of the two it is in.
CHEAT = """
def timed(self):
    return json.loads(Path(sys.argv[1]).read_text())["action"] == "time"

def adapt(self, task, ctx):
    with open(self.params["told"], "a") as stream:
        left = [path.name for path in Path(sys.argv[1]).parent.rglob("*") if path.suffix in (".npy", ".parquet")]
        print(json.dumps([self.timed(), str(ctx.scratch), left]), file=stream)
    if not self.timed():
        time.sleep(0.1)

def predict(self, task, queries, ctx):
    cheat = self.params["cheat"] if self.timed() else ""
    if cheat == "none":
        return None
    answer = super().predict(task, queries, ctx)
    if cheat == "short":
        return (block for block, _ in zip(answer, range(2)))
    if cheat == "other":
        return np.asarray(answer)[:, ::-1]
    return answer
"""


def _evaluate(suite: Suite, place: Path, task: str, cheat: str, **options: Any) -> Report:
    config = write_submission(
        place / "sly", CHEAT, params={"cheat": cheat, "told": str(place / "told.jsonl")}
    )
    wanted = Options(place / "out", place / "results", (0,), (task,), rounds=1, **options)
    return evaluate(config, suite, wanted)


def test_rounds_that_answer_nothing_leave_the_result_without_rounds(
    tiny_suite: Suite, tmp_path: Path
) -> None:
    report = _evaluate(tiny_suite, tmp_path, "shop_games_qa", "none")
    assert [outcome.error is None for outcome in report.outcomes] == [True, False]
    error = str(report.failures[0].error)
    assert "the time after predict of timing round 0 failed: predict returned scores of shape ()" in error
    (result,) = report.results
    assert result.timing.rounds is None
    assert result.timing.phases["adapt"].wall_s[0] >= 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "cheat", "error"),
    [
        ("library_links", "none", "predict of timing round 0 failed: TypeError"),
        ("library_links", "short", "predict of timing round 0 failed: predict gave 2 score rows for"),
        ("shop_music", "none", "predict of timing round 0 failed: predict returned NoneType"),
        (
            "shop_games_qa",
            "other",
            "timing round 0 does not count: it answers otherwise than the run that it repeats (seed0.parquet)",
        ),
    ],
)
def test_rounds_that_answer_otherwise_do_not_count(
    tiny_suite: Suite, tmp_path: Path, task: str, cheat: str, error: str
) -> None:
    report = _evaluate(tiny_suite, tmp_path, task, cheat)
    assert error in str(report.failures[0].error)
    assert report.results[0].timing.rounds is None
    (folder,) = (tmp_path / "out").glob("*/sly/timing/*/seed0")
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {"run.json", "run.log", "job.json"}


@pytest.mark.slow
def test_time_to_look_at_answers_is_not_the_childs(tiny_suite: Suite, tmp_path: Path) -> None:
    import time

    config = write_submission(tmp_path / "plain")
    copy = withhold.withheld_copy(tiny_suite, tmp_path)
    job = Job(
        Action.TIME, str(config.folder), {}, str(copy), (), "library_links", 0, "cpu", str(tmp_path / "scratch"),
        str(tmp_path), None, str(tmp_path / "answers" / NAME), str(tmp_path), rounds=1,
    )  # fmt: skip
    looked: list[bool] = []

    def check() -> None:
        looked.append((tmp_path / "answers" / f"{NAME}.npy").is_file())
        time.sleep(6.0)

    record = run_job(job, tmp_path / "folder", limits=Limits(seconds=10.0), check=check)
    assert record.error is None
    assert looked == [True, True]
    assert record.wall_s > 12.0
