"""Explanations on disk: what is written comes back, broken files are named, scores follow the file."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kpi_bench import ExplainedTopK, KnowledgeGraph, Paths, TopK, top_k_from_scores
from kpi_bench.errors import EvaluationError, PredictionError
from kpi_bench.harness.explanations import MAX_HOPS, PATHS, paths_file, read_paths, write_paths
from kpi_bench.harness.predictions import OFFICIAL, RankedLists, read_ranked_lists, write_predictions
from kpi_bench.harness.protocol import RecommendationQueries
from kpi_bench.harness.scoring import kept_files, make_scorer
from kpi_bench.harness.withhold import recommendation_queries
from kpi_bench.harness.withhold import test_users as users_with_tests
from kpi_bench.suites.suite import Suite
from kpi_bench.suites.task import RecommendationTask


@pytest.fixture
def queries(music: RecommendationTask) -> RecommendationQueries:
    return recommendation_queries(music, users_with_tests(music), music.spec.mask)


@pytest.fixture
def shop(tiny_suite: Suite) -> KnowledgeGraph:
    return tiny_suite.graph("shop")


@pytest.fixture
def best(music: RecommendationTask, queries: RecommendationQueries) -> TopK:
    scores = np.random.default_rng(5).random((len(queries), music.n_items), dtype=np.float32)
    return top_k_from_scores(scores, queries.exclude, 6, queries.tie_order)


def paths_to(music: RecommendationTask, queries: RecommendationQueries, best: TopK) -> Paths:
    """Two hops from user to entity for even rows, three with an item between for odd rows."""
    users, items = np.repeat(queries.users, best.items.shape[1]), best.items.ravel()
    first = np.array([music.train_matrix.row(user)[0] for user in users])
    n, longer = len(users), np.arange(len(users)) % 2 == 1
    nodes = np.stack([users, first, np.where(longer, 49 + first % 3, 5), np.where(longer, items, -1)], axis=1)
    kinds = np.stack([np.full(n, 2), np.full(n, 1), np.zeros(n), np.where(longer, 1, -1)], axis=1)
    relations, inverse = np.tile([-1, 0, 0], (n, 1)), np.tile([False, False, True], (n, 1)) & longer[:, None]
    relations[~longer, 2] = -1
    return Paths(
        users, items, nodes, kinds.astype(np.int8), relations, inverse, np.linspace(-3, -1, n, dtype=np.float32)
    )  # fmt: skip


@pytest.fixture
def paths(music: RecommendationTask, queries: RecommendationQueries, best: TopK) -> Paths:
    return paths_to(music, queries, best)


@pytest.fixture
def prefix(
    music: RecommendationTask, queries: RecommendationQueries, best: TopK, paths: Paths, tmp_path: Path
) -> Path:
    """Predictions with explanations beside them."""
    write_predictions(
        tmp_path / "seed0", OFFICIAL, music, queries, ExplainedTopK(best.items, best.scores, paths)
    )
    write_paths(tmp_path / "seed0", paths)
    return tmp_path / "seed0"


@pytest.fixture
def lists(prefix: Path, music: RecommendationTask, queries: RecommendationQueries) -> RankedLists:
    return read_ranked_lists(prefix.with_name("seed0.parquet"), music, queries)


def assert_equal(read: Paths, written: Paths) -> None:
    for field in dataclasses.fields(Paths):
        np.testing.assert_array_equal(getattr(read, field.name), getattr(written, field.name), field.name)
        assert getattr(read, field.name).dtype == getattr(written, field.name).dtype, field.name


def test_round_trip(
    prefix: Path,
    paths: Paths,
    music: RecommendationTask,
    queries: RecommendationQueries,
    lists: RankedLists,
    shop: KnowledgeGraph,
) -> None:
    path = paths_file(prefix)
    assert path.name == "seed0.paths.parquet"
    assert pq.read_schema(path).equals(PATHS)
    assert_equal(read_paths(path, music, queries, lists, shop), paths)
    few = paths.take(paths.users < 0)
    write_paths(prefix, few)
    assert len(read_paths(path, music, queries, lists, shop)) == 0
    wide = dataclasses.replace(
        paths, users=paths.users.astype(np.int32), log_probs=paths.log_probs.astype(float)
    )
    write_paths(prefix, wide)
    assert_equal(read_paths(path, music, queries, lists, shop), paths)


def test_files_of_other_writers(
    prefix: Path,
    paths: Paths,
    music: RecommendationTask,
    queries: RecommendationQueries,
    lists: RankedLists,
    shop: KnowledgeGraph,
) -> None:
    frame = pq.read_table(paths_file(prefix)).to_pandas()
    frame["kinds"] = [kinds.astype(np.int64) for kinds in frame["kinds"]]
    frame.iloc[::-1].to_parquet(paths_file(prefix), row_group_size=10)
    read = read_paths(paths_file(prefix), music, queries, lists, shop)
    assert_equal(read.take(np.arange(len(read))[::-1]), paths)


class TestBrokenFiles:
    """Each rule broken on purpose in an otherwise valid file; rows 0 (two hops) and 1 (three hops) are of user 0."""

    @pytest.fixture
    def frame(self, prefix: Path) -> pd.DataFrame:
        return pq.read_table(paths_file(prefix)).to_pandas()

    @pytest.fixture
    def problems(
        self,
        music: RecommendationTask,
        queries: RecommendationQueries,
        lists: RankedLists,
        shop: KnowledgeGraph,
        tmp_path: Path,
    ):
        def found(frame: pd.DataFrame, **types: pa.DataType) -> str:
            broken = {name: pa.array(frame[name].tolist(), types.get(name)) for name in frame.columns}
            pq.write_table(pa.table(broken), tmp_path / "broken.parquet")
            with pytest.raises(PredictionError) as caught:
                read_paths(tmp_path / "broken.parquet", music, queries, lists, shop)
            return str(caught.value)

        return found

    @pytest.mark.parametrize(
        ("column", "value", "rule"),
        [
            ("user", 999, "user was not asked about"),
            ("user", -1, "user was not asked about"),
            ("user", 2**62, "user was not asked about"),
            ("item", 30, r"item is outside 0\.\.29"),
            ("item", -1, r"item is outside 0\.\.29"),
            ("log_prob", float("nan"), "log_prob is NaN, infinite or beyond float32"),
            ("log_prob", 1e300, "log_prob is NaN, infinite or beyond float32"),
            ("nodes", [0, 1, 61, 2], r"node is outside its kind's ids \(entities 0\.\.60, items 0\.\.29, users 0\.\.39\)"),
            ("nodes", [40, 1, 50, 2], "node is outside its kind's ids"),
            ("nodes", [0, -1, 50, 2], "node is outside its kind's ids"),
            ("kinds", [2, 1, 3, 1], r"kind is outside 0\.\.2"),
            ("kinds", [2, 1, -1, 1], r"kind is outside 0\.\.2"),
            ("kinds", [2, 1, 256, 1], r"kind is outside 0\.\.2"),
            ("relations", [-1, 4, 0], r"relation is outside -1\.\.3"),
            ("relations", [-2, 0, 0], r"relation is outside -1\.\.3"),
            ("relations", [-1, 0], "lists do not fit"),
            ("inverse", [False, False, True, True], "lists do not fit"),
            ("kinds", [2, 1, 0], "lists do not fit"),
            ("nodes", [0], "path has no hop"),
            ("nodes", [], "path has no hop"),
            ("nodes", [0] * (MAX_HOPS + 2), "path has more than 16 hops"),
        ],
    )  # fmt: skip
    def test_a_cell(self, frame: pd.DataFrame, problems, column: str, value: object, rule: str) -> None:
        frame = frame.astype({"log_prob": float})
        frame.at[1, column] = value
        types = {"log_prob": pa.float64(), "kinds": pa.list_(pa.int64())}
        user, item = frame.at[1, "user"], frame.at[1, "item"]
        text = problems(frame, **types)
        assert re.search(rf"{rule}.*: 1 row\(s\), first at row 1: user {user}, item {item}", text), text

    def test_an_item_that_is_not_recommended(self, frame: pd.DataFrame, problems, lists: RankedLists) -> None:
        listed = lists.items[lists.users == 0]
        frame.loc[[0, 1], "item"] = np.setdiff1d(np.arange(30), listed)[:2]
        assert "item is not recommended to the user: 2 row(s), first at row 0: user 0" in problems(frame)

    def test_a_pair_twice(self, frame: pd.DataFrame, problems) -> None:
        frame.loc[3, "item"] = frame.loc[1, "item"]
        assert "the item is explained to the user before: 1 row(s), first at row 3: user 0" in problems(frame)

    def test_all_at_once(self, frame: pd.DataFrame, problems) -> None:
        frame.at[0, "user"], frame.at[2, "log_prob"], frame.at[4, "relations"] = 999, float("inf"), [77, 0]
        text = problems(frame)
        assert "broken.parquet: explanations break 3 rule(s)" in text
        assert all(rule in text for rule in ("not asked", "infinite", "relation is outside"))

    def test_no_hop_at_all(self, frame: pd.DataFrame, problems) -> None:
        for name, value in (("nodes", [0]), ("kinds", [2]), ("relations", []), ("inverse", [])):
            frame[name] = [value] * len(frame)
        types = {"relations": pa.list_(pa.int64()), "inverse": pa.list_(pa.bool_())}
        assert f"path has no hop: {len(frame)} row(s), first at row 0" in problems(frame, **types)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda f: f.drop(columns="inverse"),
                "wanted are user, item, nodes, kinds, relations, inverse, log_prob",
            ),
            (lambda f: f.assign(more=1), "log_prob, more; wanted are"),
            (lambda f: f.astype({"user": float}), "user is double; wanted is int64 without nulls"),
            (lambda f: f.assign(nodes=1), "nodes is int64; wanted is list"),
            (
                lambda f: f.assign(nodes=[[0.5, 1.0]] * len(f)),
                "nodes is list<element: double>; wanted is list",
            ),
            (lambda f: f.assign(nodes=[[0, None]] * len(f)), "without nulls"),
            (lambda f: f.assign(relations=[None, *f["relations"][1:]]), "without nulls"),
            (lambda f: f.assign(inverse=[[0, 1]] * len(f)), "inverse is list<element: int64>; wanted is list"),
            (lambda f: f.assign(log_prob="x"), "wanted is float without nulls"),
        ],
    )  # fmt: skip
    def test_columns(self, frame: pd.DataFrame, problems, change, message: str) -> None:
        assert message in problems(change(frame))

    def test_numbers_beyond_int64(self, frame: pd.DataFrame, problems) -> None:
        frame.at[1, "nodes"] = [2**63, 1, 2, 3]
        assert "nodes holds what is no list" in problems(frame, nodes=pa.list_(pa.uint64()))

    def test_no_parquet(
        self,
        tmp_path: Path,
        music: RecommendationTask,
        queries: RecommendationQueries,
        lists: RankedLists,
        shop: KnowledgeGraph,
    ) -> None:
        (tmp_path / "text.parquet").write_text("user,item\n")
        with pytest.raises(PredictionError, match="cannot be read as Parquet"):
            read_paths(tmp_path / "text.parquet", music, queries, lists, shop)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes": np.zeros((3, 1), int), "kinds": np.zeros((3, 1), int), "relations": np.zeros((3, 0), int), "inverse": np.zeros((3, 0), bool)}, "h at least 1"),
        ({"nodes": np.zeros(3, int)}, "wanted is n for users, items"),
        ({"users": np.zeros((3, 1), int)}, "wanted is n for users, items"),
        ({"users": np.int64(3)}, "wanted is n for users, items"),
        ({"nodes": np.int64(3)}, "wanted is n for users, items"),
        ({"items": np.zeros(2, int)}, r"items \(2,\)"),
        ({"relations": np.zeros((3, 3), int)}, r"relations \(3, 3\)"),
        ({"inverse": np.zeros((3, 2), int)}, "Paths.inverse is int64; wanted is a type of bool"),
        ({"nodes": np.zeros((3, 3))}, "Paths.nodes is float64; wanted is a type of integer"),
        ({"log_probs": np.zeros(3, int)}, "Paths.log_probs is int64; wanted is a type of floating"),
        ({"kinds": np.array([[2, 1, 0], [2, 258, 1], [2, 3, -2]])}, r"kind is outside -1\.\.2: 2 path\(s\), first at row 1: user 0, item 1"),
        ({"kinds": np.array([[2, 1, 0], [2, -1, -1], [2, -1, 1]])}, r"a node follows the padding \(kind -1\): 1 path\(s\), first at row 2: user 0, item 2"),
    ],
)  # fmt: skip
def test_paths_of_the_wrong_form(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    good = Paths(
        users=np.zeros(3, int), items=np.arange(3), nodes=np.zeros((3, 3), int), kinds=np.tile(np.int8([2, 1, 0]), (3, 1)),
        relations=np.zeros((3, 2), int), inverse=np.zeros((3, 2), bool), log_probs=np.zeros(3, np.float32),
    )  # fmt: skip
    write_paths(tmp_path / "good", good)
    with pytest.raises(PredictionError, match=message):
        write_paths(tmp_path / "seed0", dataclasses.replace(good, **changes))
    with pytest.raises(PredictionError, match=r"wanted is kpi_bench\.Paths"):
        write_paths(tmp_path / "seed0", None)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["good.paths.parquet"]


def test_scores_with_and_without_the_file(prefix: Path, music: RecommendationTask, tiny_suite: Suite) -> None:
    asked: list[str] = []

    def graph(name: str) -> KnowledgeGraph:
        asked.append(name)
        return tiny_suite.graph(name)

    assert kept_files(music, prefix)[-1] == paths_file(prefix)
    explained = make_scorer(music, graph).score(prefix).official
    assert asked == ["shop"]
    with pytest.raises(EvaluationError, match="cannot be scored without the KG"):
        make_scorer(music).score(prefix)
    paths_file(prefix).unlink()
    plain = make_scorer(music, graph).score(prefix).official
    assert asked == ["shop"]
    assert paths_file(prefix) not in kept_files(music, prefix)
    added = {"path_validity", "explained@20", "path_types@20"}
    assert set(explained.values) - set(plain.values) == added
    assert {name: explained.values[name] for name in plain.values} == plain.values
    assert set(explained.per_query) - set(plain.per_query) == added - {"path_validity"}
    assert "novelty@20" in plain.per_query
    assert explained.counts["n_explanations"] == 6 * plain.counts["n_queries"]
