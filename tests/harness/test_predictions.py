"""Predictions on disk: what is written comes back, and every broken rule is named with its count."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kpi_bench.errors import PredictionError
from kpi_bench.evaluators.link_prediction import Ranks
from kpi_bench.harness.predictions import (
    MUDOK,
    OFFICIAL,
    prediction_file,
    rank_file,
    read_class_scores,
    read_ranked_lists,
    read_ranks,
    read_score_rows,
    write_predictions,
    write_ranks,
)
from kpi_bench.harness.protocol import (
    ClassificationQueries,
    LinkPredictionQueries,
    Predictions,
    RecommendationQueries,
    TopK,
)
from kpi_bench.harness.withhold import query_frame, recommendation_queries
from kpi_bench.harness.withhold import test_users as users_with_tests
from kpi_bench.suites.suite import Suite
from kpi_bench.suites.task import ClassificationTask, LinkPredictionTask, RecommendationTask, TaskKind


def music_queries(task: RecommendationTask) -> RecommendationQueries:
    return recommendation_queries(task, users_with_tests(task), task.spec.mask)


def qa_queries(task: ClassificationTask) -> ClassificationQueries:
    assert task.test is not None
    return ClassificationQueries(task.test.examples, task.test.entities, task.test.texts)


def link_queries(task: LinkPredictionTask) -> LinkPredictionQueries:
    frame = query_frame(task)
    return LinkPredictionQueries(*(frame[name].to_numpy() for name in ("entity", "relation", "direction")))


def lists(task: RecommendationTask, length: int = 4) -> TopK:
    """Allowed items of every query in id order, scores falling."""
    queries = music_queries(task)
    allowed = [
        np.setdiff1d(np.arange(task.n_items), queries.exclude.row(i))[:length] for i in range(len(queries))
    ]
    scores = np.tile(np.arange(length, 0, -1, dtype=np.float32), (len(queries), 1))
    return TopK(np.stack(allowed).astype(np.int64), scores)


def test_ranked_lists_round_trip(music: RecommendationTask, tmp_path: Path) -> None:
    queries, answer = music_queries(music), lists(music)
    path = write_predictions(tmp_path / "seed0", OFFICIAL, music, queries, answer)
    assert path == tmp_path / "seed0.parquet"
    read = read_ranked_lists(path, music, queries)
    n, k = answer.items.shape
    np.testing.assert_array_equal(read.users.reshape(n, k)[:, 0], queries.users)
    np.testing.assert_array_equal(read.items.reshape(n, k), answer.items)
    np.testing.assert_array_equal(read.scores.reshape(n, k), answer.scores)
    np.testing.assert_array_equal(read.ranks.reshape(n, k), np.tile(np.arange(1, k + 1), (n, 1)))


def test_class_scores_round_trip(qa: ClassificationTask, tmp_path: Path) -> None:
    queries = qa_queries(qa)
    scores = np.random.default_rng(0).random((len(queries), qa.n_classes))
    path = write_predictions(tmp_path / "seed0", OFFICIAL, qa, queries, scores)
    read = read_class_scores(path, qa, queries)
    np.testing.assert_array_equal(read.scores, scores)
    assert not read.missing.any()


def test_class_scores_in_another_order_and_with_gaps(qa: ClassificationTask, tmp_path: Path) -> None:
    queries = qa_queries(qa)
    scores = np.random.default_rng(0).random((len(queries), qa.n_classes))
    path = write_predictions(tmp_path / "seed0", OFFICIAL, qa, queries, scores)
    shuffled = pd.read_parquet(path).iloc[::-1].iloc[3:]
    shuffled.to_parquet(path)
    read = read_class_scores(path, qa, queries)
    assert read.missing.tolist() == [False] * (len(queries) - 3) + [True] * 3
    np.testing.assert_array_equal(read.scores[:-3], scores[:-3])


def test_score_rows_round_trip_in_blocks(links: LinkPredictionTask, tmp_path: Path) -> None:
    queries = link_queries(links)
    scores = np.random.default_rng(0).random((len(queries), links.n_entities), dtype=np.float32)
    blocks = (scores[i : i + 3].astype(np.float64) for i in range(0, len(scores), 3))
    path = write_predictions(tmp_path / "seed0", OFFICIAL, links, queries, blocks)
    assert path == tmp_path / "seed0.npy"
    np.testing.assert_array_equal(read_score_rows(path, links, len(queries)), scores)


def test_ranks_round_trip(tmp_path: Path) -> None:
    ranks = Ranks(np.array([1, 2, 7]), np.array([1, 4, 7]))
    write_ranks(rank_file(tmp_path / "seed2"), ranks)
    read = read_ranks(tmp_path / "seed2.ranks.parquet", 3)
    np.testing.assert_array_equal(read.optimistic, ranks.optimistic)
    np.testing.assert_array_equal(read.pessimistic, ranks.pessimistic)


@pytest.mark.parametrize(("low", "high"), [([1, 2], [1, 2]), ([0, 1, 1], [1, 1, 1]), ([1, 1, 3], [1, 1, 2])])
def test_ranks_that_cannot_be_are_refused(tmp_path: Path, low: list[int], high: list[int]) -> None:
    pd.DataFrame({"optimistic": low, "pessimistic": high}).to_parquet(tmp_path / "r.parquet")
    with pytest.raises(PredictionError, match="3 rows with 1 <= optimistic <= pessimistic"):
        read_ranks(tmp_path / "r.parquet", 3)


def test_files_by_kind_and_variant() -> None:
    prefix = Path("p/seed1")
    assert prediction_file(prefix, TaskKind.RECOMMENDATION) == Path("p/seed1.parquet")
    assert prediction_file(prefix, TaskKind.RECOMMENDATION, MUDOK) == Path("p/seed1.mudok.parquet")
    assert prediction_file(prefix, TaskKind.LINK_PREDICTION) == Path("p/seed1.npy")


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_valid_list_passes(
    tiny_suite: Suite, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    task = tiny_suite.task("shop_music")
    assert isinstance(task, RecommendationTask)
    queries = music_queries(task)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    longest = data.draw(st.integers(0, queries.k))
    items = np.full((len(queries), longest), -1, dtype=np.int64)
    for i in range(len(queries)):
        allowed = np.setdiff1d(np.arange(task.n_items), queries.exclude.row(i))
        chosen = rng.permutation(allowed)[: rng.integers(0, longest + 1)]
        items[i, : len(chosen)] = chosen
    levels = data.draw(st.sampled_from([1, 3, 1000]))
    scores = -np.sort(rng.integers(0, levels, items.shape), axis=1).astype(np.float32)
    path = write_predictions(
        tmp_path_factory.mktemp("valid") / "seed0", OFFICIAL, task, queries, TopK(items, scores)
    )
    read = read_ranked_lists(path, task, queries)
    assert len(read.items) == int((items >= 0).sum())
    np.testing.assert_array_equal(read.items, items[items >= 0])


class TestBrokenLists:
    """Each rule of recommendation predictions, broken on purpose in an otherwise valid file."""

    @pytest.fixture
    def frame(self, music: RecommendationTask, tmp_path: Path) -> pd.DataFrame:
        return pd.read_parquet(
            write_predictions(tmp_path / "seed0", OFFICIAL, music, music_queries(music), lists(music))
        )

    def problems(self, frame: pd.DataFrame, task: RecommendationTask, tmp_path: Path) -> str:
        frame.to_parquet(tmp_path / "broken.parquet", index=False)
        with pytest.raises(PredictionError) as caught:
            read_ranked_lists(tmp_path / "broken.parquet", task, music_queries(task))
        return str(caught.value)

    @pytest.mark.parametrize(
        ("column", "row", "value", "rule"),
        [
            ("item", 5, 30, r"item is outside 0\.\.29: 1 row\(s\), first at row 5: user 1, rank 2, item 30"),
            ("item", 5, -2, r"item is outside 0\.\.29: 1 row\(s\), first at row 5"),
            ("user", 5, 999, r"user was not asked about: 1 row\(s\), first at row 5: user 999"),
            ("score", 6, np.nan, r"score is NaN, infinite or beyond float32: 1 row\(s\), first at row 6"),
            ("score", 6, -np.inf, r"score is NaN, infinite or beyond float32: 1 row\(s\), first at row 6"),
            ("score", 6, 99.0, r"score is higher than at the rank before: 1 row\(s\), first at row 6"),
            ("rank", 7, 21, r"rank is outside 1\.\.20: 1 row\(s\), first at row 7"),
            ("rank", 7, 0, r"rank is outside 1\.\.20: 1 row\(s\), first at row 7"),
            ("rank", 7, 5, r"ranks of the user are not 1, 2, 3, \.\.\.: 1 row\(s\), first at row 7: user 1, rank 5"),
            ("rank", 7, 3, r"ranks of the user are not 1, 2, 3, \.\.\.: 1 row\(s\), first at row 7: user 1, rank 3"),
        ],
    )  # fmt: skip
    def test_a_cell(
        self,
        frame: pd.DataFrame,
        music: RecommendationTask,
        tmp_path: Path,
        column: str,
        row: int,
        value: float,
        rule: str,
    ) -> None:
        frame.loc[row, column] = value
        assert re.search(rule, self.problems(frame, music, tmp_path))

    def test_an_item_twice(self, frame: pd.DataFrame, music: RecommendationTask, tmp_path: Path) -> None:
        frame.loc[[2, 3], "item"] = frame.loc[1, "item"]
        assert (
            "item is returned twice for the user: 2 row(s), first at row 2: user 0, rank 3"
            in self.problems(frame, music, tmp_path)
        )

    def test_masked_items(self, frame: pd.DataFrame, music: RecommendationTask, tmp_path: Path) -> None:
        exclude = music_queries(music).exclude
        frame.loc[4, "item"], frame.loc[8, "item"] = exclude.row(1)[0], exclude.row(2)[-1]
        found = self.problems(frame, music, tmp_path)
        assert (
            "item is excluded for the user (it is in the masked splits): 2 row(s), first at row 4: user 1"
            in found
        )

    def test_all_at_once(self, frame: pd.DataFrame, music: RecommendationTask, tmp_path: Path) -> None:
        frame.loc[0, "score"] = np.nan
        frame.loc[5, "item"] = 77
        frame.loc[9, "user"] = 999
        found = self.problems(frame, music, tmp_path)
        assert "predictions break 4 rule(s)" in found
        for rule in ("NaN", "outside 0..29", "not asked about", "not 1, 2, 3"):
            assert rule in found

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda f: f.drop(columns="score"),
                "columns are user, rank, item; wanted are user, rank, item, score",
            ),
            (lambda f: f.assign(extra=1), "columns are user, rank, item, score, extra"),
            (lambda f: f.astype({"item": float}), "item is float64; wanted is int64 without nulls"),
            (lambda f: f.assign(user=f["user"].where(f.index > 0)), "user is float64"),
            (lambda f: f.astype({"score": str}), "wanted is a number"),
        ],
    )
    def test_columns(
        self, frame: pd.DataFrame, music: RecommendationTask, tmp_path: Path, change: object, message: str
    ) -> None:
        assert callable(change)
        assert message in self.problems(change(frame), music, tmp_path)

    def test_no_parquet(self, music: RecommendationTask, tmp_path: Path) -> None:
        (tmp_path / "text.parquet").write_text("user,rank,item,score\n")
        for name in ("text.parquet", "absent.parquet"):
            with pytest.raises(PredictionError, match="cannot be read as Parquet"):
                read_ranked_lists(tmp_path / name, music, music_queries(music))

    def test_an_empty_file_is_a_file_without_lists(
        self, frame: pd.DataFrame, music: RecommendationTask, tmp_path: Path
    ) -> None:
        frame.iloc[:0].to_parquet(tmp_path / "empty.parquet", index=False)
        read = read_ranked_lists(tmp_path / "empty.parquet", music, music_queries(music))
        assert len(read.users) == 0


def test_broken_class_scores_are_listed_together(qa: ClassificationTask, tmp_path: Path) -> None:
    queries = qa_queries(qa)
    path = write_predictions(tmp_path / "seed0", OFFICIAL, qa, queries, np.zeros((len(queries), 2)))
    frame = pd.read_parquet(path)
    frame.loc[2, "score_1"] = np.inf
    frame.loc[3, "score_0"] = np.nan
    frame.loc[4, "example"] = 100_000
    frame.loc[6, "example"] = frame.loc[5, "example"]
    frame.to_parquet(path, index=False)
    with pytest.raises(PredictionError) as caught:
        read_class_scores(path, qa, queries)
    found = str(caught.value)
    first = int(queries.examples[0])
    assert "predictions break 3 rule(s)" in found
    assert "example was not asked about: 1 row(s), first at row 4: example 100000" in found
    assert f"example occurs before: 1 row(s), first at row 6: example {first + 5}" in found
    assert f"score is NaN or infinite: 2 row(s), first at row 2: example {first + 2}" in found


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"example": [1], "score_0": [0.0]}), "wanted are example, score_0, score_1"),
        (pd.DataFrame({"example": ["a"], "score_0": [0.0], "score_1": [0.0]}), "example is"),
        (
            pd.DataFrame({"example": [1], "score_0": ["x"], "score_1": [0.0]}),
            "score_0 is .*wanted is a number",
        ),
    ],
)
def test_class_scores_of_the_wrong_form(
    qa: ClassificationTask, tmp_path: Path, frame: pd.DataFrame, message: str
) -> None:
    frame.to_parquet(tmp_path / "p.parquet", index=False)
    with pytest.raises(PredictionError, match=message):
        read_class_scores(tmp_path / "p.parquet", qa, qa_queries(qa))


def test_score_rows_of_the_wrong_form(links: LinkPredictionTask, tmp_path: Path) -> None:
    n = len(link_queries(links))
    path = tmp_path / "seed0.npy"
    for wrong in (np.zeros((n - 1, links.n_entities), np.float32), np.zeros((n, links.n_entities))):
        np.save(path, wrong)
        with pytest.raises(PredictionError, match=rf"wanted is float32 \({n}, {links.n_entities}\)"):
            read_score_rows(path, links, n)
    np.save(path, np.array([{"code": "execution"}], dtype=object), allow_pickle=True)
    with pytest.raises(PredictionError, match="cannot be read"):
        read_score_rows(path, links, n)
    path.unlink()
    with pytest.raises(PredictionError, match="cannot be read"):
        read_score_rows(path, links, n)


class TestAnswersOfTheWrongForm:
    """What ``predict`` may not return; the child reports it before anything is scored."""

    def answer_shapes(self, task: RecommendationTask) -> Iterator[tuple[Predictions, str]]:
        good = lists(task)
        long = np.zeros((len(good.items), 21))
        yield (
            good.items.astype(np.float32),
            "predict returned ndarray; a recommendation task wants kpi_bench.TopK",
        )
        yield TopK(good.items[:-1], good.scores[:-1]), "wanted is"
        yield TopK(good.items, good.scores[:, :2]), "wanted is"
        yield TopK(good.items[0], good.scores[0]), "wanted is"
        yield TopK(long.astype(np.int64), long.astype(np.float32)), "at most 20"

    def test_recommendation(self, music: RecommendationTask, tmp_path: Path) -> None:
        for answer, message in self.answer_shapes(music):
            with pytest.raises(PredictionError, match=message):
                write_predictions(tmp_path / "seed0", OFFICIAL, music, music_queries(music), answer)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("shape", [(19, 2), (20, 3), (20,), (2, 20)])
    def test_classification(self, qa: ClassificationTask, tmp_path: Path, shape: tuple[int, ...]) -> None:
        with pytest.raises(PredictionError, match=re.escape(f"shape {shape}; wanted is (20, 2)")):
            write_predictions(tmp_path / "seed0", OFFICIAL, qa, qa_queries(qa), np.zeros(shape))

    def test_link_prediction(self, links: LinkPredictionTask, tmp_path: Path) -> None:
        queries = link_queries(links)
        n, wide = len(queries), links.n_entities

        def block(rows: int, columns: int) -> NDArray[np.float32]:
            return np.zeros((rows, columns), dtype=np.float32)

        for answer, message in (
            ([block(n - 1, wide)], f"{n - 1} score rows for {n} queries"),
            ([block(n, wide), block(1, wide)], f"{n + 1} score rows for {n} queries"),
            ([block(2, wide), block(n - 2, wide - 1)], "block of shape .* at row 2"),
            (block(n, wide), "block of shape"),
            (TopK(np.zeros((1, 1), np.int64), block(1, 1)), "predict returned TopK"),
        ):
            with pytest.raises(PredictionError, match=message):
                write_predictions(tmp_path / "seed0", OFFICIAL, links, queries, answer)
        assert list(tmp_path.iterdir()) == []

    def test_queries_of_another_kind_are_a_bug(
        self, qa: ClassificationTask, music: RecommendationTask, tmp_path: Path
    ) -> None:
        with pytest.raises(TypeError, match="no queries of a classification task"):
            write_predictions(tmp_path / "seed0", OFFICIAL, qa, music_queries(music), np.zeros((20, 2)))
