from __future__ import annotations

import hashlib
from pathlib import Path
from random import Random

import pandas as pd
import pytest
from huggingface_hub.utils import validate_repo_id
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_factory import write_raw

from kpi_bench import align_by_name
from kpi_bench.errors import RecipeError
from kpi_bench.suites.official import official_digest
from kpi_bench.suites.recipes import RECIPES, build_frames, build_suite
from kpi_bench.suites.recipes._common import build_kg, entity_rows, leave_one_out, relation_rows, time_split
from kpi_bench.suites.recipes.ml_100k import random_split
from kpi_bench.suites.suite import Suite, open_suite
from kpi_bench.suites.task import KgSpec, LinkPredictionTask, RecommendationTask
from kpi_bench.suites.verify import verify_suite
from kpi_bench.suites.writer import SuiteFrames, TaskFrames

IN_SHARED_DATA = ("kpi-open", "kpi-public", "fb15k-237", "wn18rr", "db15k", "fb15k-237-db15k", "ml-100k")
FROM_RAW = (*IN_SHARED_DATA, "codex-s")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_raw(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def small_open(raw: Path) -> SuiteFrames:
    return build_frames("kpi-open", raw)


def task(frames: SuiteFrames, name: str) -> TaskFrames:
    return next(task for task in frames.tasks if task.spec.name == name)


def rows(frame: pd.DataFrame) -> list[tuple[object, ...]]:
    return list(frame.itertuples(index=False, name=None))


def named_triples(frames: SuiteFrames, kg: str) -> set[tuple[str, str, str]]:
    graph = next(graph for graph in frames.kgs if graph.spec.name == kg)
    keys, relations = graph.entities["key"].tolist(), graph.relations["key"].tolist()
    return {(keys[head], relations[relation], keys[tail]) for head, relation, tail in rows(graph.triples)}


# --- shared helpers ---------------------------------------------------------------------------------------------------


def test_time_split_takes_the_last_tenth_and_breaks_ties_by_item() -> None:
    frame = pd.DataFrame(
        {
            "user": [0] * 25 + [1] * 3 + [2] * 2,
            "item": [*range(25), 9, 8, 7, 1, 2],
            "time": [*range(25), 5, 5, 5, 1, 2],
        }
    )
    splits = time_split(frame.sample(frac=1, random_state=0))
    assert rows(splits["test"][["user", "item"]]) == [(0, 23), (0, 24), (1, 9)]
    assert rows(splits["valid"][["user", "item"]]) == [(0, 21), (0, 22), (1, 8)]
    assert len(splits["train"]) == 22
    assert 2 not in splits["train"]["user"].tolist()


@pytest.mark.parametrize(
    ("n", "held_out"), [(3, 1), (9, 1), (10, 1), (19, 1), (20, 2), (29, 2), (30, 3), (100, 10)]
)
def test_time_split_sizes(n: int, held_out: int) -> None:
    splits = time_split(pd.DataFrame({"user": [0] * n, "item": range(n), "time": range(n)}))
    assert (len(splits["valid"]), len(splits["test"])) == (held_out, held_out)


def test_leave_one_out_keeps_the_given_order() -> None:
    splits = leave_one_out(pd.DataFrame({"user": [0, 1, 0, 1, 0, 1, 0], "item": [9, 1, 8, 2, 7, 3, 6]}))
    assert rows(splits["test"]) == [(1, 3), (0, 6)]
    assert rows(splits["valid"]) == [(1, 2), (0, 7)]
    assert rows(splits["train"]) == [(0, 9), (1, 1), (0, 8)]
    with pytest.raises(RecipeError, match="1 users have fewer"):
        leave_one_out(pd.DataFrame({"user": [0, 0], "item": [1, 2]}))


def test_build_kg_refuses_unknown_and_repeated_keys() -> None:
    spec, relations = KgSpec("g", ""), relation_rows({"r": "r"})
    triples = pd.DataFrame([("a", "r", "z")], columns=["head", "relation", "tail"])
    with pytest.raises(RecipeError, match="tail 'z' is not in the KG's tables"):
        build_kg(spec, entity_rows(["a"], domain="d", kind="k"), relations, triples)
    with pytest.raises(RecipeError, match="entity key 'a' occurs twice"):
        build_kg(spec, entity_rows(["a", "a"], domain="d", kind="k"), relations, triples)


# --- small raw files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", FROM_RAW)
def test_small_builds_pass_verification_and_are_deterministic(recipe: str, raw: Path, tmp_path: Path) -> None:
    manifest = build_suite(recipe, raw, tmp_path / "a")
    verify_suite(tmp_path / "a", manifest)
    assert manifest.name == recipe
    assert build_suite(recipe, raw, tmp_path / "b") == manifest


@pytest.mark.parametrize("recipe", FROM_RAW)
def test_missing_raw_files_are_named(recipe: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--raw"):
        build_frames(recipe, None)
    with pytest.raises(RecipeError, match=r"is missing; --raw must name the folder"):
        build_frames(recipe, tmp_path)
    with pytest.raises(RecipeError, match="is no folder"):
        build_frames(recipe, tmp_path / "absent")


def test_no_suite_is_built_over_other_files(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine", encoding="utf-8")
    with pytest.raises(RecipeError, match="is not empty"):
        build_suite("wn18rr", raw, tmp_path)
    with pytest.raises(RecipeError, match="no recipe 'nothing'; there are kpi-mini"):
        build_frames("nothing", raw)


def test_amazon_kg_joins_four_domains(small_open: SuiteFrames) -> None:
    triples = named_triples(small_open, "amazon")
    assert ("electronics:item:0", "has_category", "electronics:category:1") in triples
    assert ("electronics:item:2", "has_view", "electronics:view:1") in triples
    assert ("beauty:item:2", "has_attribute", "beauty:attribute:1") in triples
    assert ("sports:item:3", "has_attribute", "sports:attribute:2") in triples
    assert ("games:item:B01", "has_brand", "games:attribute:3") in triples
    assert len(triples) == 5 + 3 + 3 + 7 + 3 + 3
    amazon = small_open.kgs[0]
    assert set(amazon.entities["domain"]) == set(amazon.spec.domains)


def test_electronics_split(small_open: SuiteFrames) -> None:
    electronics = task(small_open, "amazon_electronics")
    assert rows(electronics.splits["train"]) == [(0, 0, 10), (0, 1, 20), (0, 2, 30), (1, 0, 7)]
    assert rows(electronics.splits["valid"]) == [(0, 3, 40), (1, 2, 7)]
    assert rows(electronics.splits["test"]) == [(0, 4, 50), (1, 3, 7)]
    assert any(
        "1 repeated (user, item) pairs; 1 users with fewer than 3" in note for note in electronics.spec.notes
    )


def test_leave_one_out_items_point_at_their_own_entities(small_open: SuiteFrames) -> None:
    beauty = task(small_open, "amazon_beauty")
    keys = small_open.kgs[0].entities["key"]
    entity = beauty.items["entity"]
    named = [(user, keys[entity[item]]) for user, item in rows(beauty.splits["test"])]
    assert named == [(0, "beauty:item:5"), (1, "beauty:item:6")]
    assert len(beauty.splits["train"]) == 4
    assert "time" not in beauty.splits["train"]


def test_movielens_kg_leaves_out_user_behaviour_and_repeats(small_open: SuiteFrames) -> None:
    assert named_triples(small_open, "movielens") == {
        ("Alpha_(film)", "directed_by", "Nina"),
        ("Gamma", "in_category", "Category:Films"),
    }
    movielens = small_open.kgs[2]
    assert movielens.relations["key"].tolist() == ["directed_by", "in_category"]
    assert movielens.entities["name"].tolist() == ["Alpha (film)", "Gamma", "Nina", "Films"]
    assert movielens.entities["kind"].tolist() == ["item", "item", "thing", "category"]
    assert movielens.entities["text"].tolist()[:2] == ["Alpha (1990), Drama", '"Gamma" (1992), War']


def test_movielens_task_drops_repeats_within_and_across_splits(small_open: SuiteFrames) -> None:
    films = task(small_open, "movielens_1m")
    assert rows(films.splits["train"]) == [(0, 0, 5), (1, 2, 5)]
    assert rows(films.splits["valid"]) == [(0, 1, 6), (1, 0, 9)]
    assert films.items["entity"].tolist() == [0, pd.NA, 1]
    assert any(note.startswith("2 repeated") for note in films.spec.notes)
    assert any(note.startswith("1 of 3 films have no triple") for note in films.spec.notes)


def test_public_suite_is_as_published(raw: Path) -> None:
    public = build_frames("kpi-public", raw)
    assert [task.spec.name for task in public.tasks] == [
        "amazon_music",
        "douban_book",
        "amazon_games_qa",
        "douban_music_review",
    ]
    music = task(public, "amazon_music")
    assert music.items["entity"].isna().all()
    assert rows(music.splits["test"]) == [(0, 1), (1, 3)]
    douban = public.kgs[1]
    assert len(douban.triples) == 3
    assert any("1 of 4 published triples repeat another" in note for note in public.card_notes)
    assert douban.entities["key"].tolist()[:3] == ["music:item:8", "music:item:9", "music:attribute:3"]
    assert douban.entities["name"].tolist() == [None, None, "pop", None, "(no label)"]
    review = task(public, "douban_music_review")
    assert rows(review.splits["test"]) == [(3, 0, "a", 0)]
    assert (review.spec.labels, review.spec.ordinal, review.spec.positive) == (
        ("1", "2", "3", "4", "5"),
        True,
        None,
    )
    assert task(public, "amazon_games_qa").spec.positive == 1


def test_link_prediction_suites_have_train_only_kgs_and_text(raw: Path) -> None:
    freebase, wordnet, dbpedia = (build_frames(name, raw) for name in ("fb15k-237", "wn18rr", "db15k"))
    assert rows(freebase.kgs[0].triples) == [(1, 1, 0)]
    assert freebase.kgs[0].entities["name"].tolist() == [None, "Anna", None]
    assert any("1 of 2 test triples are also in train" in note for note in freebase.tasks[0].spec.notes)
    assert wordnet.kgs[0].entities["key"].tolist() == ["02", "01", "03", "04"]
    assert wordnet.kgs[0].entities["name"].tolist() == ["go", "dry run", "fast", None]
    assert wordnet.kgs[0].entities["kind"].tolist() == ["verb", "noun", "adjective", "synset"]
    assert wordnet.kgs[0].entities["text"].tolist()[1] == 'say "x"'
    assert dbpedia.kgs[0].entities["name"].tolist() == ["New York", "Café", "x"]
    assert dbpedia.kgs[0].relations["name"].tolist() == ["seeAlso", "country"]
    assert rows(dbpedia.tasks[0].splits["valid"]) == [(2, 0, 0), (0, 1, 1)]
    assert dbpedia.tasks[0].spec.notes == (
        "1 of the 3 published valid rows repeat an earlier row and were dropped.",
        "1 of 2 valid triples are also in train, as published.",
        "1 of 1 test triples are also in valid, as published.",
    )


def test_linked_suite_leaves_out_what_tells_held_out_pairs(raw: Path) -> None:
    frames, freebase = build_frames("fb15k-237-db15k", raw), build_frames("fb15k-237", raw)
    target, source = frames.kgs
    assert (target.spec.name, source.spec.name) == ("fb15k-237", "db15k")
    assert rows(target.triples) == rows(freebase.kgs[0].triples)
    assert target.links is None
    # Of (New York, country, Café), (Café, seeAlso, x), (x, seeAlso, New York) the last joins /m/a and /m/c with /m/b.
    assert rows(source.triples) == [(0, 1, 1), (1, 0, 2)]
    assert rows(source.links) == [
        (0, "fb15k-237", 0, "sameAs"),
        (2, "fb15k-237", 2, "sameAs"),
        (2, "fb15k-237", 1, "sameAs"),
    ]
    (links,) = frames.tasks
    assert all(rows(links.splits[split]) == rows(freebase.tasks[0].splits[split]) for split in links.splits)
    assert links.spec.notes[-1] == (
        "1 of the 3 triples of DB15K are left out of KG db15k: over the links they joined the two ends of 1 valid and 1 test triples, "
        "in either direction."
    )


def test_linked_suite_refuses_links_to_entities_it_lacks(tmp_path: Path) -> None:
    again = write_raw(tmp_path)
    table = pd.read_parquet(again / "multisource/links.parquet")
    table.replace({"<x>": "<z>"}).to_parquet(again / "multisource/links.parquet")
    with pytest.raises(RecipeError, match=r"links to KG fb15k-237: key 'z' is no entity's \(2 of 3 rows"):
        build_frames("fb15k-237-db15k", again)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_are_names_that_a_hub_repository_may_have(recipe: str) -> None:
    validate_repo_id(f"owner/{recipe}")


def test_codex_ids_follow_sorted_keys_and_kinds_are_types(raw: Path) -> None:
    codex = build_frames("codex-s", raw)
    (kg,), (links,) = codex.kgs, codex.tasks
    assert kg.entities["key"].tolist() == ["Q100", "Q30", "Q9"]
    assert kg.entities["kind"].tolist() == ["entity", "country", "human"]
    assert kg.entities["name"].isna().all()
    assert kg.relations["key"].tolist() == ["P106", "P27"]
    assert kg.relations["name"].tolist() == ["occupation", "country of citizenship"]
    assert rows(kg.triples) == rows(links.splits["train"]) == [(2, 1, 0), (0, 0, 2)]
    assert rows(links.splits["valid"]) == [(1, 1, 0)]
    assert rows(links.splits["test"]) == [(2, 0, 1)]
    assert links.spec.notes == ()


def test_ml_100k_keeps_linked_films_and_every_rating(raw: Path) -> None:
    frames = build_frames("ml-100k", raw)
    (kg,), (films,) = frames.kgs, frames.tasks
    assert kg.entities["key"].tolist() == ["g.1", "m.a", "m.b", "m.z"]
    assert kg.entities["kind"].tolist() == ["entity", "item", "item", "item"]
    assert kg.entities["name"].tolist() == [None, "Kids", 'Say "x"', "Alpha"]
    assert kg.entities["text"].tolist() == [None, "War, V", "Drama War, 1990", "Drama, 1991"]
    assert kg.relations["name"].tolist() == ["film film actor", "film film genre"]
    assert rows(kg.triples) == [(3, 0, 0), (2, 1, 0), (1, 0, 0)]
    assert kg.entities["key"][films.items["entity"]].tolist() == ["m.z", "m.b", "m.a"]  # films 2, 9 and 10
    assert films.spec.n_users == 2
    assert [len(films.splits[split]) for split in ("train", "valid", "test")] == [2, 2, 2]
    everything = pd.concat(films.splits.values())
    assert sorted(rows(everything)) == [(0, 0, 5), (0, 1, 6), (0, 2, 5), (1, 0, 8), (1, 1, 7), (1, 2, 9)]
    assert films.spec.notes[0].startswith("6 of 7 ratings: those of the 3 films with an entity")


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(st.integers(1, 4), st.sets(st.integers(1, 60), min_size=3), min_size=1),
    st.randoms(use_true_random=False),
)
def test_random_split_agrees_with_sorting_hashes(owned: dict[int, set[int]], random: Random) -> None:
    order = [(user, item) for user, items in owned.items() for item in sorted(items)]
    random.shuffle(order)
    frame = pd.DataFrame(order, columns=["user", "item"]).assign(time=0)
    splits = random_split(frame, seed="s")
    for user, items in owned.items():
        digests = {hashlib.sha256(f"s {user} {item}".encode()).digest(): item for item in items}
        mine = [digests[digest] for digest in sorted(digests, reverse=True)]
        n = max(1, len(mine) // 10)
        expected = {"test": mine[:n], "valid": mine[n : 2 * n], "train": mine[2 * n :]}
        for split, kept in expected.items():
            part = splits[split]
            assert part.loc[part["user"] == user, "item"].tolist() == sorted(kept)


def test_openke_count_is_checked(raw: Path, tmp_path: Path) -> None:
    again = write_raw(tmp_path)
    (again / "mkg/DB15K/test2id.txt").write_text("2\n2 0 0\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"test2id\.txt: 1 rows, its first line says 2"):
        build_frames("db15k", again)


# --- the real files ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(raw_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Suite]:
    base = tmp_path_factory.mktemp("real")
    for recipe in IN_SHARED_DATA:
        build_suite(recipe, raw_data, base / recipe)
    return {recipe: open_suite(base / recipe) for recipe in IN_SHARED_DATA}


TASK_ROWS = {
    "kpi-open": {
        "amazon_electronics": (161_511, 17_140, 17_140),
        "amazon_beauty": (198_502 - 2 * 22_363, 22_363, 22_363),
        "amazon_sports": (296_337 - 2 * 35_598, 35_598, 35_598),
        "amazon_games_qa": (4_688, 584, 584),
        "douban_music_review": (9_600, 1_200, 1_200),
        "movielens_1m": (556_989, 190_063, 185_241),
    },
    "kpi-public": {
        "amazon_music": (105_755, 30_002, 30_002),
        "douban_book": (84_385, 9_891, 9_891),
        "amazon_games_qa": (4_688, 584, 584),
        "douban_music_review": (9_600, 1_200, 1_200),
    },
    "fb15k-237": {"fb15k-237": (272_115, 17_535, 20_466)},
    "wn18rr": {"wn18rr": (86_835, 3_034, 3_134)},
    "db15k": {"db15k": (79_222, 9_904 - 2_423, 9_902)},
    "fb15k-237-db15k": {"fb15k-237": (272_115, 17_535, 20_466)},
    "ml-100k": {"movielens_100k": (78_836, 9_359, 9_359)},
}
GRAPHS = {
    "kpi-open": {
        "amazon": (41_619, 5, 170_953),
        "douban": (14_444, 9, 37_932),
        "movielens": (13_754, 11, 205_521 - 12_432),
    },
    "kpi-public": {"amazon": (1_281, 3, 5_526), "douban": (14_444, 9, 37_932)},
    "fb15k-237": {"fb15k-237": (14_541, 237, 272_115)},
    "wn18rr": {"wn18rr": (40_943, 11, 86_835)},
    "db15k": {"db15k": (12_842, 279, 79_222)},
    "fb15k-237-db15k": {"fb15k-237": (14_541, 237, 272_115), "db15k": (12_842, 279, 89_197 - 5_842)},
    "ml-100k": {"movielens": (34_628, 24, 91_631)},
}


@pytest.mark.parametrize("recipe", IN_SHARED_DATA)
def test_real_builds_have_the_counts_of_the_data_readme(recipe: str, real: dict[str, Suite]) -> None:
    suite = real[recipe]
    verify_suite(suite.folder, suite.manifest)
    assert suite.manifest.digest == official_digest(suite.manifest)
    files = suite.manifest.files
    sizes = {
        name: tuple(files[f"tasks/{name}/{split}.parquet"].rows for split in ("train", "valid", "test"))
        for name in suite.task_names()
    }
    assert sizes == TASK_ROWS[recipe]
    tables = ("entities", "relations", "triples")
    graphs = {
        name: tuple(files[f"kgs/{name}/{table}.parquet"].rows for table in tables)
        for name in suite.graph_names()
    }
    assert graphs == GRAPHS[recipe]


@pytest.mark.parametrize("recipe", IN_SHARED_DATA)
def test_real_builds_are_deterministic(
    recipe: str, real: dict[str, Suite], raw_data: Path, tmp_path: Path
) -> None:
    assert build_suite(recipe, raw_data, tmp_path / "again").digest == real[recipe].manifest.digest


def test_real_users_items_and_coverage(real: dict[str, Suite]) -> None:
    found = {}
    for recipe in ("kpi-open", "kpi-public", "ml-100k"):
        for name in real[recipe].task_names():
            task = real[recipe].task(name)
            if isinstance(task, RecommendationTask):
                found[name] = (task.n_users, task.n_items, int((task.item_entity < 0).sum()))
    assert found == {
        "amazon_electronics": (6_170, 2_753, 0),
        "amazon_beauty": (22_363, 12_101, 0),
        "amazon_sports": (35_598, 18_357, 0),
        "movielens_1m": (6_040, 2_983, 6),
        "amazon_music": (27_452, 20_677, 20_677),
        "douban_book": (1_715, 8_592, 8_592),
        "movielens_100k": (943, 1_598, 0),
    }


def test_real_links_and_what_they_must_not_tell(real: dict[str, Suite]) -> None:
    suite = real["fb15k-237-db15k"]
    target, source = suite.graph("fb15k-237"), suite.graph("db15k")
    assert source.links is not None
    assert set(source.links.column("rule").to_pylist()) == {"mmkb DB15K_SameAsLink"}
    ends = [source.links.column(column).to_numpy() for column in ("entity", "other_entity")]
    assert (source.links.num_rows, len(set(ends[0])), len(set(ends[1]))) == (12_658, 12_654, 12_658)
    alone = real["fb15k-237"].manifest.files
    shared = {path: entry.content for path, entry in alone.items()}
    assert {path: entry.content for path, entry in suite.manifest.files.items() if path in shared} == shared
    # A plain set of what DB15K says of Freebase entities holds no pair that the task asks for.
    named: dict[int, list[int]] = {}
    for entity, other in zip(*ends, strict=True):
        named.setdefault(entity, []).append(other)
    said = {
        (x, y)
        for head, tail in zip(source.heads.tolist(), source.tails.tolist(), strict=True)
        for x in named.get(head, ())
        for y in named.get(tail, ())
    }
    task = suite.task("fb15k-237")
    assert isinstance(task, LinkPredictionTask)
    assert task.test is not None
    for split in (task.valid, task.test):
        asked = set(zip(split.heads.tolist(), split.tails.tolist(), strict=True))
        assert not asked & said
        assert not {(tail, head) for head, tail in asked} & said
    notes = suite.manifest.task("fb15k-237").notes
    assert any("5,842 of the 89,197" in note and "2,364 valid and 2,748 test" in note for note in notes)
    # What names alone find of the published links.
    by_name = align_by_name(target, source)
    published = set(zip(ends[1].tolist(), ends[0].tolist(), strict=True))
    found = list(zip(by_name["entity"], by_name["other_entity"], strict=True))
    assert (len(found), sum(pair in published for pair in found)) == (10_777, 10_774)


def test_real_relations_never_hold_user_behaviour(real: dict[str, Suite]) -> None:
    keys = real["kpi-open"].graph("movielens").relation_table.column("key").to_pylist()
    assert len(keys) == 11
    assert "watched" not in keys


def test_specs_follow_the_evaluation_rules(real: dict[str, Suite]) -> None:
    for recipe in ("kpi-open", "kpi-public", "ml-100k"):
        for spec in real[recipe].manifest.tasks:
            chosen = {field: getattr(spec, field) for field in ("main_metric", "ks", "variants")}
            if spec.kind == "recommendation":
                assert chosen == {
                    "main_metric": "ndcg@20",
                    "ks": (5, 10, 20, 50, 100),
                    "variants": ("mudok",),
                }
                assert spec.mask == ("train", "valid")
            else:
                metric = "accuracy" if spec.name == "amazon_games_qa" else "macro_f1"
                assert chosen == {"main_metric": metric, "ks": (), "variants": ("dedup", "cold")}
    spec = real["wn18rr"].manifest.task("wn18rr")
    assert spec.main_metric == "mrr"
    assert spec.ks == ()
