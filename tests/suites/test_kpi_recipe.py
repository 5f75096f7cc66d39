"""The recipe of the full benchmark, on small dumps in the raw formats and on the published matrices."""

from __future__ import annotations

import dataclasses
import gzip
import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kpi_bench.errors import RecipeError
from kpi_bench.suites.recipes import kpi
from kpi_bench.suites.recipes._kpi_fingerprints import (
    KPI,
    Fingerprints,
    KgFingerprint,
    RankingFingerprint,
    TextFingerprint,
    check_ranking,
    integers_hash,
)
from kpi_bench.suites.recipes._kpi_raw import douban_reviews, lines, locate, ratings, records
from kpi_bench.suites.recipes._kpi_split import build_histories, split_histories, without_repeats
from kpi_bench.suites.recipes._kpi_text import Reservoir, TextRow
from kpi_bench.suites.suite import open_suite
from kpi_bench.suites.verify import verify_suite
from kpi_bench.suites.writer import SuiteFrames, write_suite

PRODUCTS = {"Movies_and_TV": 40, "Digital_Music": 60, "Video_Games": 30}
PER_CLASS = (8, 1, 1)


def product(kind: str, number: int) -> dict[str, object]:
    record: dict[str, object] = {"asin": f"{kind[0]}{number:04d}", "title": f'It\'s "{kind}" {number}'}
    if number % 3:
        record["description"] = f"Description of {number} " + "x" * 100
    if number % 5:
        record["salesRank"] = {kind: number}
    if number % 4 == 0:
        record["brand"] = f"Brand {number % 7}"
    record["categories"] = [[kind, f"Genre {number % 6}"], [kind, "Sale", f"Genre {number % 5}"]]
    return record


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small dumps: Python literals in two product files and JSON in one; gzip and plain."""
    folder = tmp_path_factory.mktemp("raw")
    chance = random.Random(7)
    for kind, count in PRODUCTS.items():
        write = json.dumps if kind == "Digital_Music" else repr
        text = "\n".join(write(product(kind, number)) for number in range(count)) + "\n"
        (folder / f"meta_{kind}.json.gz").write_bytes(gzip.compress(text.encode()))
    users = [f"A{chance.randrange(45):03d}" for _ in range(500)]
    pairs = dict.fromkeys((user, f"D{int(60 * chance.random() ** 2):04d}") for user in users)
    (folder / "ratings_Digital_Music.csv").write_text("".join(f"{u},{i},5.0,1000\n" for u, i in pairs))
    questions = [
        {
            "questionType": "yes/no" if number % 6 else "open-ended",
            "asin": f"V{chance.randrange(30):04d}",
            "question": f"Does it do {number}?",
            "answerType": "YN?"[number % 3],
            "answer": "...",
        }
        for number in range(90)
    ]
    (folder / "qa_Video_Games.json").write_text("".join(f"{row!r}\n" for row in questions))
    reviews = [
        {"asin": f"M{chance.randrange(42):04d}", "reviewText": f"Text {n}", "overall": float(n % 5 + 1)}
        for n in range(200)
    ]
    (folder / "reviews_Movies_and_TV.json.gz").write_bytes(
        gzip.compress("".join(json.dumps(r) + "\n" for r in reviews).encode())
    )
    for domain in ("book", "movie", "music"):
        header = ["user_id", f"{domain}_id", "rating", "labels", "comment", "time", "ID", "extra"]
        rows = [header]
        for number in range(400):
            tags = "|".join(f"标签{chance.randrange(25)}" for _ in range(number % 4))
            item = int(30 * chance.random() ** 2)
            rows.append(
                [
                    str(chance.randrange(30)),
                    str(item),
                    str(number % 5 + 1),
                    tags,
                    f"评论{number}",
                    "2015",
                    str(number),
                    "x",
                ]
            )
        text = "\n".join("\t".join(f'"{field}"' for field in row) for row in rows)
        # An item that only a line without labels names is in no triple; a line of one field is noise.
        text += '\nnoise\n"1"\t"99"\n'
        (folder / f"{domain}reviews_cleaned.txt").write_text(text, encoding="utf-8")
    return folder


@dataclasses.dataclass(frozen=True)
class Twin:
    """The same benchmark by the plainest possible code: ids, kg rows, triple strings in file order, splits."""

    ids: dict[str, int]
    rows: dict[str, int]
    triples: list[tuple[str, int, str]]


def twin_graph(triples: list[tuple[str, int, str]]) -> Twin:
    ids: dict[str, int] = {}
    rows: dict[str, int] = {}
    for head, _, tail in triples:
        ids.setdefault(head, len(ids))
        rows.setdefault(head, len(rows))
        ids.setdefault(tail, len(ids))
    return Twin(ids, rows, triples)


def twin_amazon() -> Twin:
    triples = []
    for kind, count in PRODUCTS.items():
        for number in range(count):
            record = product(kind, number)
            asin = str(record["asin"])
            if "salesRank" in record:
                triples.append((asin, 0, kind))
            if "brand" in record:
                triples.append((asin, 2, str(record["brand"])))
            seen: list[str] = []
            for path in record["categories"]:  # type: ignore[attr-defined]
                for name in path:
                    if name not in seen:
                        seen.append(name)
                        triples.append((asin, 1, name))
    return twin_graph(triples)


def twin_douban(raw: Path) -> Twin:
    triples = []
    for domain in ("book", "movie", "music"):
        for line in (raw / f"{domain}reviews_cleaned.txt").read_text(encoding="utf-8").split("\n")[1:]:
            fields = line.split("\t")
            if len(fields) == 8:
                triples += [(domain + fields[1], 0, tag) for tag in fields[3].strip('"').split("|")]
    return twin_graph(triples)


def twin_ranking(
    pairs: list[tuple[str, str]], min_user: int, known: dict[str, int] | None
) -> tuple[list[str], dict[str, set[tuple[int, int]]], int]:
    """Items by id, splits, number of users: KPI's rules, step by step."""
    by_user: dict[str, list[str]] = {}
    by_item: dict[str, list[str]] = {}
    for user, item in pairs:
        by_user.setdefault(user, []).append(item)
        by_item.setdefault(item, []).append(user)
    items: list[str] = []
    splits: dict[str, set[tuple[int, int]]] = {"train": set(), "valid": set(), "test": set()}
    histories = []
    for kept in ([item for item in history if len(by_item[item]) >= 5] for history in by_user.values()):
        if len(kept) >= min_user:
            histories.append([item for item in kept if known is None or item in known])
            items += [item for item in dict.fromkeys(histories[-1]) if item not in items]
    random.seed(42)
    for user, history in enumerate(histories):
        random.shuffle(history)
        if len(history) >= 3:
            n = max(1, int(len(history) * 0.1))
            for split, part in (
                ("valid", history[:n]),
                ("test", history[n : 2 * n]),
                ("train", history[2 * n :]),
            ):
                splits[split] |= {(user, items.index(item)) for item in part}
    return items, splits, len(histories)


def music_pairs(raw: Path) -> list[tuple[str, str]]:
    rows = [line.split(",")[:2] for line in (raw / "ratings_Digital_Music.csv").read_text().splitlines()]
    return [(user, item) for user, item in rows]


def douban_pairs(raw: Path, domain: str) -> list[tuple[str, str]]:
    rows = [
        line.split("\t")
        for line in (raw / f"{domain}reviews_cleaned.txt").read_text(encoding="utf-8").split("\n")[1:]
    ]
    return [(row[0].strip('"'), domain + row[1]) for row in rows if len(row) >= 2]


def sorted_pairs(rows: set[tuple[int, int]]) -> np.ndarray:
    return np.array(sorted(rows), dtype=np.int64).reshape(-1, 2)


@pytest.fixture(scope="module")
def known(raw: Path) -> Fingerprints:
    """Fingerprints of the small dumps, from the twin."""
    amazon, douban = twin_amazon(), twin_douban(raw)
    rankings = {}
    for name, pairs, min_user, graph in (
        ("amazon_music", music_pairs(raw), 3, amazon),
        ("douban_book", douban_pairs(raw, "book"), 5, douban),
        ("douban_movie", douban_pairs(raw, "movie"), 5, douban),
    ):
        items, splits, users = twin_ranking(pairs, min_user, None if graph is amazon else graph.ids)
        rankings[name] = RankingFingerprint(
            users=users,
            items=len(items),
            sizes={split: len(rows) for split, rows in splits.items()},
            matrices={split: integers_hash(sorted_pairs(rows)) for split, rows in splits.items()},
            kg_rows=integers_hash(np.array([graph.rows[item] for item in items])),
            leaks=len(splits["valid"] & splits["test"]),
        )
    texts = {
        "amazon_movie_review": TextFingerprint(PER_CLASS),
        "douban_music_review": TextFingerprint(PER_CLASS),
    }
    texts["amazon_games_qa"] = TextFingerprint((13, 1, 1))
    return Fingerprints(
        kgs={
            "amazon": KgFingerprint(
                len(amazon.ids), {1: 40}, {0: 40, 1: 60, 2: 30}, {2: amazon.ids["V0000"]}
            ),
            "douban": KgFingerprint(len(douban.ids), {}, {}, {}),
        },
        rankings=rankings,
        texts=texts,
    )


@pytest.fixture(scope="module")
def frames(raw: Path, known: Fingerprints) -> SuiteFrames:
    return kpi.build_checked(raw, known)


def test_the_suite_is_valid_and_has_the_six_tasks(frames: SuiteFrames, tmp_path: Path) -> None:
    manifest = write_suite(tmp_path / "kpi", frames)
    verify_suite(tmp_path / "kpi", manifest)
    assert open_suite(tmp_path / "kpi").task_names() == [
        "amazon_music",
        "douban_book",
        "douban_movie",
        "amazon_games_qa",
        "amazon_movie_review",
        "douban_music_review",
    ]
    card = (tmp_path / "kpi/README.md").read_text(encoding="utf-8")
    for part in (
        "Cannot be met",
        "has_tag",
        "| amazon: entities |",
        "were not at hand",
        "not given",
        "not seeded",
    ):
        assert part in card


def test_numbering_and_triples_equal_the_twin(frames: SuiteFrames, raw: Path) -> None:
    for kg, twin in zip(frames.kgs, (twin_amazon(), twin_douban(raw)), strict=True):
        assert kg.entities["key"].tolist() == list(twin.ids)
        expected = list(dict.fromkeys((twin.ids[h], r, twin.ids[t]) for h, r, t in twin.triples))
        assert list(kg.triples.itertuples(index=False, name=None)) == expected


def test_entities_carry_titles_domains_and_kinds(frames: SuiteFrames) -> None:
    amazon, douban = (kg.entities.set_index("key") for kg in frames.kgs)
    assert amazon.loc["M0001", "name"] == 'It\'s "Movies_and_TV" 1'
    assert amazon.loc["M0001", "text"].startswith("Description of 1 ")
    assert amazon.loc["M0000", "text"] is None or pd.isna(amazon.loc["M0000", "text"])
    assert (amazon.loc["M0001", "domain"], amazon.loc["M0001", "kind"]) == ("movies", "item")
    assert (amazon.loc["Sale", "domain"], amazon.loc["Sale", "kind"]) == ("shared", "category")
    assert (amazon.loc["Video_Games", "domain"], amazon.loc["Video_Games", "kind"]) == ("games", "category")
    assert douban.loc["", "name"] == "(no label)"
    assert 'book"99"' not in douban.index


def test_repeated_pairs_leave_later_splits(frames: SuiteFrames, known: Fingerprints) -> None:
    movie = frames.tasks[2]
    assert known.rankings["douban_movie"].leaks
    pairs = {split: set(rows.itertuples(index=False, name=None)) for split, rows in movie.splits.items()}
    assert not pairs["train"] & (pairs["valid"] | pairs["test"])
    assert not pairs["valid"] & pairs["test"]
    assert len(pairs["train"]) == known.rankings["douban_movie"].sizes["train"]
    assert "dropped because an earlier split has them" in movie.spec.notes[0]


def test_questions_follow_the_rule(frames: SuiteFrames) -> None:
    task = frames.tasks[3]
    rows = pd.concat(task.splits.values())
    assert sorted(rows["example"]) == list(range(len(rows)))
    asked = rows["text"].str.extract(r"do (\d+)\?")[0].astype(int)
    assert ((asked % 3 == 0) == (rows["label"] == 1)).all()
    assert (asked % 6 != 0).all()
    yes = [number for number in range(90) if number % 6 and number % 3 == 0]
    no = [number for number in range(90) if number % 6 and number % 3 != 0]
    count = min(len(yes), len(no))
    assert sorted(asked[rows["label"] == 1]) == yes[:count]
    assert sorted(asked[rows["label"] == 0]) == no[:count]


def test_reviews_are_balanced_and_in_the_graph(frames: SuiteFrames) -> None:
    for task in frames.tasks[4:]:
        for split, size in zip(("train", "valid", "test"), PER_CLASS, strict=True):
            assert task.splits[split]["label"].value_counts().to_dict() == dict.fromkeys(range(5), size)
    films = pd.concat(frames.tasks[4].splits.values())
    number = films["text"].str.extract(r"^Review: Text (\d+), Product: M")[0].astype(int)
    assert (number % 5 == films["label"]).all()
    assert set(frames.kgs[0].entities["kind"].loc[films["entity"]]) == {"item"}
    music = pd.concat(frames.tasks[5].splits.values())
    number = music["text"].str.extract(r"^Item: .*\| Review: 评论(\d+)$")[0].astype(int)
    assert (number % 5 == music["label"]).all()


def test_the_build_repeats_itself(frames: SuiteFrames, raw: Path, known: Fingerprints) -> None:
    again = kpi.build_checked(raw, known)
    for one, other in zip(frames.tasks, again.tasks, strict=True):
        for split in one.splits:
            pd.testing.assert_frame_equal(one.splits[split], other.splits[split])


@pytest.mark.parametrize("wrong", ["entities", "matrix", "kg_rows", "per_class"])
def test_a_missed_fingerprint_stops_the_build_with_the_table(
    raw: Path, known: Fingerprints, wrong: str
) -> None:
    kgs, rankings, texts = dict(known.kgs), dict(known.rankings), dict(known.texts)
    if wrong == "entities":
        kgs["douban"] = dataclasses.replace(kgs["douban"], entities=1)
    elif wrong == "matrix":
        rankings["amazon_music"] = dataclasses.replace(rankings["amazon_music"], matrices={"test": "0" * 64})
    elif wrong == "kg_rows":
        rankings["douban_movie"] = dataclasses.replace(rankings["douban_movie"], kg_rows="0" * 64)
    else:
        texts["amazon_games_qa"] = TextFingerprint((14, 1, 1))
    with pytest.raises(RecipeError, match=r"fingerprints of KPI are not met") as caught:
        kpi.build_checked(raw, Fingerprints(kgs, rankings, texts))
    message = str(caught.value)
    assert "FAILED" in message
    assert "| amazon_music: users |" in message


def test_inferred_facts_are_reported_but_do_not_stop_the_build(raw: Path, known: Fingerprints) -> None:
    kgs = dict(known.kgs)
    kgs["amazon"] = dataclasses.replace(kgs["amazon"], domain_items={0: 1})
    frames = kpi.build_checked(raw, dataclasses.replace(known, kgs=kgs))
    assert "differs (not binding)" in frames.card_notes[-1]


def test_small_dumps_are_not_kpi(raw: Path) -> None:
    with pytest.raises(RecipeError, match=r"543331 \| "):
        kpi.build_checked(
            raw, dataclasses.replace(KPI, texts={name: TextFingerprint(PER_CLASS) for name in KPI.texts})
        )


@pytest.fixture
def published(raw: Path, known: Fingerprints, frames: SuiteFrames, tmp_path: Path) -> Path:
    """The small dumps with a ``mudok-parquet`` beside them, made by the twin and cut at three triples an item."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for path in raw.iterdir():
        (folder / path.name).symlink_to(path)
    for name, graph, task, prefix in (
        ("amazon_qa", twin_amazon(), frames.tasks[3], "V"),
        ("douban_review", twin_douban(raw), frames.tasks[5], "music"),
    ):
        base = folder / "mudok-parquet" / name
        base.mkdir(parents=True)
        heads = [key for key in graph.rows if key.startswith(prefix)]
        entities = pd.DataFrame({"name": heads, "entity": [graph.ids[key] for key in heads], "kind": "item"})
        entities.to_parquet(base / "entities.parquet")
        rows = []
        for key in heads:
            own = [triple for triple in graph.triples if triple[0] == key][:3]
            rows += [(graph.ids[h], r, graph.ids[t], place) for place, (h, r, t) in enumerate(own)]
        pd.DataFrame(rows, columns=["head", "relation", "tail", "position"]).to_parquet(
            base / "triples.parquet"
        )
        keys = list(graph.ids)
        parts = [
            frame.assign(split=split, item_id=[keys[e] for e in frame["entity"]])
            for split, frame in task.splits.items()
        ]
        # Another split of the same rows: the published one must win.
        swapped = pd.concat(parts).replace({"split": {"test": "valid", "valid": "test"}})
        swapped.to_parquet(base / "examples.parquet")
    for name, pairs, min_user, graph in (
        ("amazon_music", music_pairs(raw), 3, twin_amazon()),
        ("douban_book", douban_pairs(raw, "book"), 5, twin_douban(raw)),
        ("douban_movie", douban_pairs(raw, "movie"), 5, twin_douban(raw)),
    ):
        base = folder / "mudok-parquet" / name
        base.mkdir()
        items, splits, _ = twin_ranking(pairs, min_user, None if name == "amazon_music" else graph.ids)
        frame = pd.DataFrame(
            [(*pair, split) for split, found in splits.items() for pair in found],
            columns=["user", "item", "split"],
        )
        (frame if name != "douban_movie" else frame[frame["split"] != "train"]).to_parquet(
            base / "interactions.parquet"
        )
        rows_of = {"item": range(len(items)), "kg_row": [graph.rows[item] for item in items]}
        pd.DataFrame(rows_of).to_parquet(base / "item_entity.parquet")
    return folder


def test_published_files_are_compared_and_give_the_split(
    published: Path, known: Fingerprints, frames: SuiteFrames
) -> None:
    built = kpi.build_checked(published, known)
    table = built.card_notes[-1]
    for line in (
        "known (item, entity id) pairs",
        "known (head, relation, tail, position) rows",
        "known (head, tail, position) rows",
    ):
        assert line in table
    assert "FAILED" not in table
    assert "differs" not in table
    for number in (3, 5):
        file = pd.read_parquet(
            published / f"mudok-parquet/{'amazon_qa' if number == 3 else 'douban_review'}/examples.parquet"
        )
        assert (
            built.tasks[number].splits["test"]["text"].tolist()
            == file.loc[file["split"] == "test", "text"].tolist()
        )
        assert "published file" in built.tasks[number].spec.notes[0]


@pytest.mark.parametrize("wrong", ["entity", "triple", "kg_row", "interaction"])
def test_a_published_file_that_differs_stops_the_build(
    published: Path, known: Fingerprints, wrong: str
) -> None:
    base = published / "mudok-parquet"
    path, column = {
        "entity": (base / "douban_review/entities.parquet", "entity"),
        "triple": (base / "amazon_qa/triples.parquet", "tail"),
        "kg_row": (base / "douban_movie/item_entity.parquet", "kg_row"),
        "interaction": (base / "amazon_music/interactions.parquet", "item"),
    }[wrong]
    table = pd.read_parquet(path)
    table.loc[0, column] += 1000
    table.to_parquet(path)
    with pytest.raises(RecipeError, match="FAILED"):
        kpi.build_checked(published, known)


@pytest.mark.parametrize(
    "name", ["meta_Digital_Music.json.gz", "ratings_Digital_Music.csv", "moviereviews_cleaned.txt"]
)
def test_a_missing_file_is_named(raw: Path, known: Fingerprints, tmp_path: Path, name: str) -> None:
    for path in raw.iterdir():
        if path.name != name:
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(RecipeError, match=name):
        kpi.build_checked(tmp_path, known)


def test_no_raw_folder() -> None:
    with pytest.raises(RecipeError, match="--raw"):
        kpi.build(None)


def test_literals_and_json_are_read_and_nothing_is_evaluated(tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    path.write_text("{'asin': 'B1', 'x': None}\n" + '{"asin": "B2", "x": null}\n')
    assert [record["asin"] for record in records(path)] == ["B1", "B2"]
    path.write_text("{'asin': 'B1'}\n__import__('os').abort()\n")
    with pytest.raises(RecipeError, match="line 2: neither JSON nor a Python literal"):
        list(records(path))
    path.write_text("[1]\n")
    with pytest.raises(RecipeError, match="expected an object"):
        list(records(path))


def test_a_cut_off_download_is_named(tmp_path: Path) -> None:
    path = tmp_path / "meta.json.gz"
    content = "".join(f"{{'asin': '{random.random()}'}}\n" for _ in range(2000)).encode()
    path.write_bytes(gzip.compress(content)[:-2000])
    with pytest.raises(RecipeError, match="cut off"):
        list(lines(path))
    path.write_bytes(b"<html>")
    with pytest.raises(RecipeError, match="damaged"):
        list(lines(path))


def test_locate_prefers_the_packed_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").touch()
    assert locate(tmp_path, "a.json.gz").name == "a.json"
    (tmp_path / "a.json.gz").touch()
    assert locate(tmp_path, "a.json.gz").name == "a.json.gz"


def test_malformed_ratings_and_headers(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("u,i,5.0,1\nbroken\n")
    with pytest.raises(RecipeError, match="line 2"):
        list(ratings(path))
    path.write_text("id\tother\n")
    with pytest.raises(RecipeError, match="expected user_id, book_id"):
        list(douban_reviews(path, "book"))
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(RecipeError, match="not UTF-8"):
        list(lines(path))


def test_filters_run_in_one_pass() -> None:
    """An item is counted before users are dropped; a user is judged before unknown items are dropped; repeats count."""
    pairs = [(f"u{n}", "popular") for n in range(5)] + [
        ("u0", "popular"),
        ("u0", "popular"),
        ("u1", "rare"),
        ("u1", "rare"),
    ]
    histories = build_histories(pairs, min_item=5, min_user=3, known=lambda item: True)
    assert (histories.items, histories.keys) == ([[0, 0, 0]], ["popular"])
    dropped = build_histories(pairs, min_item=5, min_user=3, known=lambda item: False)
    assert (dropped.items, dropped.keys) == ([[]], [])
    assert all(len(rows) == 0 for rows in split_histories(dropped.items).values())


def test_without_repeats_keeps_the_earliest_split() -> None:
    splits = {
        "train": np.array([[0, 1]]),
        "valid": np.array([[0, 1], [0, 2]]),
        "test": np.array([[0, 1], [0, 2], [0, 3]]),
    }
    cleaned = without_repeats(splits)
    assert {split: rows.tolist() for split, rows in cleaned.items()} == {
        "train": [[0, 1]],
        "valid": [[0, 2]],
        "test": [[0, 3]],
    }


def test_the_reservoir_is_uniform() -> None:
    counts = np.zeros(20)
    for seed in range(400):
        sample = Reservoir(1, 5)
        sample._random[0].seed(seed)
        for number in range(20):
            sample.add(TextRow("i", str(number), 0))
        counts[[int(row.text) for row in sample.rows[0]]] += 1
    assert counts.sum() == 2000
    assert ((counts - 100) ** 2 / 100).sum() < 45  # chi-squared, 19 degrees of freedom, p = 0.0007


@pytest.mark.parametrize(
    ("name", "bringing_new", "wholly_new"), [("amazon_music", 8402, 54), ("douban_book", 649, 4)]
)
def test_seed_42_gives_the_published_matrices(
    raw_data: Path, name: str, bringing_new: int, wholly_new: int
) -> None:
    """The raw ratings are not at hand, but ids follow first appearance: a user's new items are in file order.

    So the shuffle of places 0..n-1 must send new items, in order, to places of their published split; exactly so where all are new.
    """
    table = pd.read_parquet(raw_data / "mudok-parquet" / name / "interactions.parquet").sort_values(
        ["user", "item"]
    )
    bounds = np.cumsum(np.bincount(table["user"]))[:-1]
    items, published = (
        np.split(table["item"].to_numpy(), bounds),
        np.split(table["split"].to_numpy(dtype=object), bounds),
    )
    split_at = [np.empty(len(own), dtype=object) for own in items]
    for split, rows in split_histories([list(range(len(own))) for own in items]).items():
        for user, place in rows.tolist():
            split_at[user][place] = split
    newest, brought, whole = -1, 0, 0
    for own, known, shuffled in zip(items, published, split_at, strict=True):
        fresh = known[own > newest].tolist()
        newest = max(newest, int(own[-1]))
        remaining = iter(shuffled)
        assert all(any(split == place for place in remaining) for split in fresh)
        brought += bool(fresh)
        if len(fresh) == len(own):
            whole += 1
            assert fresh == shuffled.tolist()
    assert (brought, whole) == (bringing_new, wholly_new)


@pytest.mark.parametrize("name", ["amazon_music", "douban_book"])
def test_the_pinned_hashes_are_those_of_the_published_files(raw_data: Path, name: str) -> None:
    folder = raw_data / "mudok-parquet" / name
    table = pd.read_parquet(folder / "interactions.parquet")
    splits = {
        split: frame[["user", "item"]].sort_values(["user", "item"]).to_numpy()
        for split, frame in table.groupby("split")
    }
    rows = pd.read_parquet(folder / "item_entity.parquet")["kg_row"].to_numpy()
    checks = check_ranking(name, KPI.rankings[name], table["user"].nunique(), rows, splits)
    assert [check.fingerprint for check in checks if not check.ok] == []
