from __future__ import annotations

import dataclasses
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from suite_factory import N_MUSIC, N_USERS, tiny_suite_frames

from kpi_bench.suites.suite import Suite, open_suite
from kpi_bench.suites.task import ClassificationTask, LinkPredictionTask, RecommendationTask
from kpi_bench.suites.writer import SPLITS, write_suite


def test_every_table_comes_back_as_it_was_written(tiny_suite: Suite) -> None:
    frames = tiny_suite_frames()
    for kg in frames.kgs:
        graph = tiny_suite.graph(kg.spec.name)
        assert np.array_equal(graph.triples(), kg.triples.to_numpy())
        entities = kg.entities.astype(object).where(kg.entities.notna(), None)
        assert graph.entities.to_pylist() == entities.to_dict("records")
        assert graph.relation_table.to_pylist() == kg.relations.to_dict("records")
    for task in frames.tasks:
        for split in SPLITS:
            table = pq.read_table(tiny_suite.folder / "tasks" / task.spec.name / f"{split}.parquet")
            assert table.to_pylist() == task.splits[split].to_dict("records")


def test_tasks_are_read_by_kind(tiny_suite: Suite) -> None:
    music, games, links = (tiny_suite.task(name) for name in ("shop_music", "shop_games_qa", "library_links"))
    assert isinstance(music, RecommendationTask)
    assert isinstance(games, ClassificationTask)
    assert isinstance(links, LinkPredictionTask)
    assert (music.n_users, music.n_items, music.item_entity[-1]) == (N_USERS, N_MUSIC, -1)
    assert music.train.times is not None
    assert music.matrix("train", "valid").nnz == len(music.train) + len(music.valid)
    assert games.n_classes == 2
    assert links.n_relations == 3
    assert np.array_equal(links.train.array(), tiny_suite.graph("library").triples())


def test_writing_twice_gives_the_same_bytes(tiny_suite: Suite, tmp_path: Path) -> None:
    again = write_suite(tmp_path / "again", tiny_suite_frames())
    assert again == tiny_suite.manifest
    other = write_suite(tmp_path / "other", tiny_suite_frames(seed=1))
    assert other.digest != again.digest


def test_interrupted_write_leaves_no_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kpi_bench.suites.writer.dataset_card", stop)
    with pytest.raises(KeyboardInterrupt):
        write_suite(tmp_path, tiny_suite_frames())
    assert not (tmp_path / "suite.json").exists()
    assert not list(tmp_path.rglob(".*"))


def test_card_is_valid_hub_metadata(tiny_suite: Suite) -> None:
    card = (tiny_suite.folder / "README.md").read_text(encoding="utf-8")
    _, header, body = card.split("---\n", 2)
    configs = {config["config_name"]: config["data_files"] for config in yaml.safe_load(header)["configs"]}
    assert set(tiny_suite.task_names()) < set(configs)
    assert {"kg_shop_triples", "kg_library_entities"} < set(configs)
    assert "| shop_music | recommendation | shop | 194 | 40 | 80 |" in body
    assert "Synthetic: scores on it mean nothing." in body


def test_load_dataset_works_offline(
    tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    cache = str(tmp_path)
    examples = datasets.load_dataset(str(tiny_suite.folder), "shop_games_qa", cache_dir=cache)
    task = tiny_suite.task("shop_games_qa")
    assert isinstance(task, ClassificationTask)
    assert task.test is not None
    assert list(examples) == ["train", "validation", "test"]
    assert examples["test"]["text"][:] == task.test.texts
    entities = datasets.load_dataset(str(tiny_suite.folder), "kg_shop_entities", cache_dir=cache)
    assert entities["train"].num_rows == tiny_suite.graph("shop").n_entities


def test_alignment_links_are_written_and_read(tmp_path: Path) -> None:
    frames = tiny_suite_frames()
    links = pd.DataFrame(
        {"entity": [0, 1], "other_kg": ["library"] * 2, "other_entity": [2, 3], "rule": ["same"] * 2}
    )
    shop = dataclasses.replace(frames.kgs[0], links=links)
    write_suite(tmp_path, dataclasses.replace(frames, kgs=(shop, frames.kgs[1])))
    suite = open_suite(tmp_path)
    assert suite.graph("shop").links.to_pylist() == links.to_dict("records")
    assert suite.graph("library").links is None
