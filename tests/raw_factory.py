"""Small raw files in the formats of the real ones, for the recipes' logic."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pandas as pd


def write_raw(root: Path) -> Path:
    """Every folder that a recipe reads, with a few rows each."""
    _hin_amazon(root / "hin-amazon")
    _s3rec(root / "s3rec-amazon")
    _mudok(root / "mudok-parquet")
    _movielens(root / "ml1m-kgglm")
    _fb15k(root / "fb15k-237")
    _wn18rr(root / "wn18rr")
    _db15k(root / "mkg" / "DB15K")
    _multisource(root / "multisource")
    _codex(root / "codex-s")
    _ml_100k(root / "ml-100k")
    return root


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _hin_amazon(base: Path) -> None:
    """User 0: five ratings, the pair (0, 1) twice; user 1: three of one day; user 2: two, too few."""
    rows = [(0, 2, 5, 30), (0, 1, 5, 20), (0, 1, 1, 60), (0, 0, 3, 10), (0, 3, 1, 40), (0, 4, 2, 50)]
    rows += [(1, 3, 4, 7), (1, 0, 4, 7), (1, 2, 4, 7), (2, 0, 5, 1), (2, 1, 5, 2)]
    _write(base / "user_item.dat", "".join("\t".join(map(str, row)) + "\n" for row in rows))
    _write(base / "item_brand.dat", "".join(f"{item},{item % 2}\n" for item in range(5)))
    _write(base / "item_category.dat", "0,0\n0,1\n1,1\n")
    _write(base / "item_view.dat", "0,0\n0,1\n2,1\n")


def _s3rec(base: Path) -> None:
    _write(base / "Beauty.txt", "1 1 2 3 4 5\n2 3 1 6\n")
    _write(
        base / "Beauty_item2attributes.json",
        json.dumps({"2": [1, 2], "1": [3, 3], "6": [1], "3": [2], "4": [1], "5": [1]}),
    )
    _write(base / "Sports_and_Outdoors.txt", "1 1 2 3\n2 3 2 1\n")
    _write(base / "Sports_and_Outdoors_item2attributes.json", json.dumps({"1": [1], "2": [1], "3": [2]}))


def _mudok(base: Path) -> None:
    _fragment(base / "amazon_qa", items=[(900, "B01"), (700, "B02")], relation=2, labels=(0, 1))
    _fragment(base / "douban_review", items=[(50, 'music"8"'), (60, 'music"9"')], relation=11, labels=(4, 0))
    for name in ("amazon_music", "douban_book"):
        frame = pd.DataFrame(
            [
                (0, 0, "train"),
                (0, 2, "valid"),
                (0, 1, "test"),
                (1, 2, "train"),
                (1, 0, "valid"),
                (1, 3, "test"),
            ],
            columns=["user", "item", "split"],
        )
        (base / name).mkdir(parents=True)
        frame.to_parquet(base / name / "interactions.parquet")
        pd.DataFrame({"item": range(4), "kg_row": range(5, 9)}).to_parquet(
            base / name / "item_entity.parquet"
        )


def _fragment(folder: Path, items: list[tuple[int, str]], relation: int, labels: tuple[int, int]) -> None:
    folder.mkdir(parents=True)
    rows = [(entity, name, "item", "given") for entity, name in items]
    rows += [
        (3, "pop", "attribute", "exact"),
        (4, None, "attribute", "unknown"),
        (711, "", "attribute", "empty_label"),
    ]
    entities = pd.DataFrame(rows, columns=["entity", "name", "kind", "name_evidence"])
    entities.to_parquet(folder / "entities.parquet")
    first, second = items[0][0], items[1][0]
    triples = [(first, relation, 3), (first, 0, 4), (first, relation, 3), (second, relation, 711)]
    frame = pd.DataFrame(triples, columns=["head", "relation", "tail"])
    frame.to_parquet(folder / "triples.parquet")
    texts = [
        (first, "a", labels[0], "train"),
        (second, "b", labels[1], "train"),
        (second, "c", labels[0], "valid"),
    ]
    texts += [(first, "a", labels[1], "test")]
    pd.DataFrame(texts, columns=["entity", "text", "label", "split"]).to_parquet(folder / "examples.parquet")


def _movielens(base: Path) -> None:
    """Films 0..2, of which film 1 has no triple; relation 1 is user behaviour; one KG row is repeated."""
    names = ["Alpha_(film)", "Beta", "Gamma", "Nina", "Category:Films"]
    lines = "".join(f"{eid}\t{name}\thttp://dbpedia.org/resource/{name}\n" for eid, name in enumerate(names))
    _write(base / "e_map.txt", f"eid\tname\tentity\n{lines}")
    _write(
        base / "r_map.txt",
        "id\tkb_relation\tname\n0\thttp://x/director\tdirected_by\n1\twatched\twatched\n2\tx\tin_category\n",
    )
    rows = "0\t0\t3\n0\t0\t3\n2\t2\t4\n0\t1\t1\n"
    _write(base / "kg_final.txt", f"entity_head\trelation\tentity_tail\n{rows}")
    _write(base / "i2kg_map.txt", "eid\tpid\tname\tentity\n0\t71\tA\tx\n1\t70\tB\tx\n2\t72\tG\tx\n")
    products = (
        '71\tAlpha (1990)\t1\tDrama\t0\t0\n70\tBeta (1991)\t1\tWar\t0\t0\n72\t"Gamma" (1992)\t1\tWar\t0\t0\n'
    )
    _write(base / "products.txt", f"pid\tname\tprovider_id\tgenre\tpop_item\tpop_provider\n{products}")
    splits = {
        "train": "0\t0\t1\t5\n0\t0\t1\t6\n1\t2\t1\t5\n",
        "valid": "0\t1\t1\t6\n0\t0\t1\t7\n1\t0\t1\t9\n",
    }
    splits["test"] = "0\t2\t1\t8\n1\t1\t1\t9\n"
    (base / "mapping").mkdir(parents=True)
    for name, text in {**splits, "product": "new_id\tpid\n0\t71\n1\t70\n2\t72\n"}.items():
        (base / "mapping" / f"{name}.txt.gz").write_bytes(gzip.compress(text.encode()))


def _fb15k(base: Path) -> None:
    _write(base / "entities.dict", "0\t/m/b\n1\t/m/a\n2\t/m/c\n")
    _write(base / "relations.dict", "0\t/film/film/genre\n1\t/people/person_a\n")
    _write(base / "entity2wikidata.json", json.dumps({"/m/a": {"label": "Anna", "description": "a person"}}))
    splits = {"train": "/m/a\t/people/person_a\t/m/b\n", "valid": "/m/b\t/film/film/genre\t/m/c\n"}
    splits["test"] = "/m/c\t/film/film/genre\t/m/a\n/m/a\t/people/person_a\t/m/b\n"
    with tarfile.open(base / "FB15k-237.tar.gz", "w:gz") as archive:
        for name, text in splits.items():
            info = tarfile.TarInfo(f"{name}.txt")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))


def _wn18rr(base: Path) -> None:
    _write(base / "original/train.txt", "02\t_hypernym\t01\n03\t_verb_group\t02\n")
    _write(base / "original/valid.txt", "01\t_hypernym\t04\n")
    _write(base / "original/test.txt", "04\t_verb_group\t01\n")
    glosses = (
        '01\tdry_run.n.01\toffset\t"say ""x"""\n02\tgo.v.02\toffset\tmove\n03\tfast.s.01\toffset\tquick\n'
    )
    _write(base / "definitions.tsv", f"offset\tsynset\tmatched_by\tgloss\n{glosses}")


def _db15k(base: Path) -> None:
    _write(
        base / "entity2id.txt",
        "3\n<http://dbpedia.org/resource/New_York> 0\n<http://dbpedia.org/resource/Caf%C3%A9> 1\n<x> 2\n",
    )
    _write(
        base / "relation2id.txt",
        "2\n<http://www.w3.org/2000/01/rdf-schema#seeAlso> 0\n<http://dbpedia.org/ontology/country> 1\n",
    )
    _write(base / "train2id.txt", "2\n0 1 1\n1 2 0\n")
    _write(base / "valid2id.txt", "3\n2 0 0\n2 0 0\n0 1 1\n")
    _write(base / "test2id.txt", "1\n2 0 0\n")


def _multisource(base: Path) -> None:
    """Links FB15k-237 to DB15K: x is /m/a and /m/c alike, Café has none; the last row is of another source."""
    rows = [
        ("fb15k-237", "/m/b", "db15k", "<http://dbpedia.org/resource/New_York>", "sameAs"),
        ("fb15k-237", "/m/c", "db15k", "<x>", "sameAs"),
        ("fb15k-237", "/m/a", "db15k", "<x>", "sameAs"),
        ("fb15k-237", "/m/a", "codex-s", "Q9", "id"),
    ]
    base.mkdir(parents=True)
    frame = pd.DataFrame(rows, columns=["source_a", "entity_a", "source_b", "entity_b", "evidence"])
    frame.to_parquet(base / "links.parquet")


def _codex(base: Path) -> None:
    """Q9 has a type that another precedes, Q30 occurs in valid alone, Q100 has no type."""
    _write(base / "train.txt", "Q9\tP27\tQ100\nQ100\tP106\tQ9\n")
    _write(base / "valid.txt", "Q30\tP27\tQ100\n")
    _write(base / "test.txt", "Q9\tP106\tQ30\n")
    _write(base / "entity2types.json", json.dumps({"Q9": ["Q5", "Q6"], "Q30": ["Q6"], "Q8": ["Q5"]}))
    _write(base / "types.json", json.dumps({"Q5": {"label": "human"}, "Q6": {"label": "country"}}))
    relations = {"P27": "country of citizenship", "P106": "occupation", "P1": "unused"}
    _write(base / "relations.json", json.dumps({key: {"label": name} for key, name in relations.items()}))


def _ml_100k(base: Path) -> None:
    """Film 1 has no entity; films 2, 9 and 10 tell numeric order from the order of text; film 10 lacks a year."""
    _write(
        base / "ml-100k.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "2\t9\t5\t7\n1\t2\t1\t5\n1\t1\t5\t4\n1\t9\t2\t6\n1\t10\t3\t5\n2\t2\t4\t8\n2\t10\t1\t9\n",
    )
    _write(base / "ml-100k.link", "item_id:token\tentity_id:token\n10\tm.a\n9\tm.b\n2\tm.z\n")
    _write(
        base / "ml-100k.item",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        '1\tNA\t1989\tWar\n2\tAlpha\t1991\tDrama\n9\tSay "x"\t1990\tDrama War\n10\tKids\tV\tWar\n',
    )
    triples = "m.z\tfilm.film.actor\tg.1\nm.b\tfilm.film.genre\tg.1\nm.z\tfilm.film.actor\tg.1\nm.a\tfilm.film.actor\tg.1\n"
    _write(base / "ml-100k.kg", f"head_id:token\trelation_id:token\ttail_id:token\n{triples}")
