"""Runs in the Python of hopwise 0.9.1.post1: its KGGLM on a suite's split, with CPU seconds and peak memory, as one line of JSON.

    PYTHON hopwise_driver.py export SUITE WORK            # hopwise's files of the suite's only task
    PYTHON hopwise_driver.py walks WORK                   # rates of its samplers
    PYTHON hopwise_driver.py speed WORK                   # training and decoding at 128-d/2L/4H
    PYTHON hopwise_driver.py corpus WORK STAGE            # STAGE is pretrain or finetune; WORK/STAGE.txt
    PYTHON hopwise_driver.py train WORK STAGE NAME [FROM] # 64-d/2L/2H on a corpus, from weights FROM; WORK/NAME.safetensors
    PYTHON hopwise_driver.py decode WORK NAME             # lists of all users; WORK/NAME.parquet (user, rank, item, score)

Users, items and entities keep the suite's ids. Its own parts run: dataset, samplers, tokenizer, model, Hugging Face trainer, constrained
beam search, filters of seen items. What had to be changed so that it runs offline, on a CPU and with a result:

- torch 2.13, transformers 4.51.1, igraph 0.11.8, joblib 1.4.2: newer transformers fail.
- ``distilgpt2/config.json`` in the working folder stands in for a download.
- ``sequence_postprocessor: BeamSearch``: with its default all scores are 0. ``eval_batch_size: 20``: with its 4096 memory runs out.
- Pre-training walks are consumed: its parallel run drops the generator that holds them, so its corpus is empty.
- ``parallel_max_workers: 1`` (one process), fine-tuning by weighted-rw with the last item in train (``restrict_by_phase``) instead of
  simple-ui, whose corpus for these data has some 19 million paths, and of constrained-rw, which then ends most paths where they were.
- Splits are built without sampling, no evaluation between epochs, weights pass between stages as safetensors.
- No warm-up: its 250 steps are more than a run here has. Ratings are not loaded: it normalises them, and all are positives.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SPLITS = ("train", "valid", "test")
# Strategy, paths per user, whether the last item must be one of the user's.
SAMPLERS = (
    ("weighted-rw", 2, True),
    ("constrained-rw", 5, True),
    ("constrained-rw", 5, False),
    ("simple", 50, True),
)
FINETUNE_PATHS = 20
TOKENS = 9  # [BOS], four nodes, three relations, [EOS]
SMALL = {"embedding_size": 64, "num_layers": 2, "num_heads": 2}
MIDDLE = {"embedding_size": 128, "num_layers": 2, "num_heads": 4}


def export(suite: str, work: Path) -> dict[str, Any]:
    """Pre-split atomic files of the suite's only task; tokens are the suite's ids."""
    manifest = json.loads((Path(suite) / "suite.json").read_text(encoding="utf-8"))
    (task,) = manifest["tasks"]
    source, graph = Path(suite) / "tasks" / task["name"], Path(suite) / "kgs" / task["kg"]
    target = work / "ml-100k"
    target.mkdir(parents=True, exist_ok=True)
    rows = {}
    for split in SPLITS:
        table = pq.read_table(source / f"{split}.parquet").to_pandas()
        table.columns = ["user_id:token", "item_id:token", "timestamp:float"]
        table.to_csv(target / f"ml-100k.{split}.inter", sep="\t", index=False)
        rows[split] = len(table)
    triples = pq.read_table(graph / "triples.parquet").to_pandas()[["head", "relation", "tail"]]
    triples.columns = ["head_id:token", "relation_id:token", "tail_id:token"]
    triples.to_csv(target / "ml-100k.kg", sep="\t", index=False)
    items = pq.read_table(source / "items.parquet").to_pandas()
    items.columns = ["item_id:token", "entity_id:token"]
    items.to_csv(target / "ml-100k.link", sep="\t", index=False)
    shape = {"model_type": "gpt2", "n_layer": 6, "n_head": 12, "n_embd": 768}
    (work / "distilgpt2").mkdir(exist_ok=True)
    (work / "distilgpt2" / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    return {"rows": rows, "triples": len(triples)}


class Peer:
    """hopwise's dataset, model and trainer of one configuration."""

    def __init__(self, work: Path, size: dict[str, int]) -> None:
        os.chdir(work)
        del sys.argv[1:]  # its configuration reads the command line
        from hopwise.config import Config
        from hopwise.data import create_dataset
        from hopwise.data.dataset import KnowledgeBasedDataset
        from hopwise.utils import init_seed

        self.config = Config(model="KGGLM", dataset="ml-100k", config_dict={**options(), **size})
        init_seed(self.config["seed"], True)
        self.dataset = create_dataset(self.config)
        splits = KnowledgeBasedDataset.build(self.dataset)
        self.dataset.build = lambda: splits
        self.train = splits[0]

    def corpus(self, stage: str) -> str:
        """Paths of one stage as hopwise's text, a path a line."""
        from hopwise.data.dataset import customized_dataset

        joblib = customized_dataset.joblib

        class Consumed(joblib.Parallel):  # type: ignore[misc, name-defined]
            def __call__(self, iterable: Any) -> list[Any]:
                return list(super().__call__(iterable))

        customized_dataset.joblib = types.SimpleNamespace(Parallel=Consumed, delayed=joblib.delayed)
        self.train.train_stage, self.train._path_dataset = stage, None
        self.train.generate_user_path_dataset()
        return str(self.train.path_dataset)

    def prepare(self, corpus: str, name: str | None = None) -> None:
        """Tokenize a corpus and make the model, from saved weights if named."""
        from hopwise.data import data_preparation
        from hopwise.trainer import KGGLMTrainer
        from hopwise.utils import get_model
        from safetensors.torch import load_file

        self.train._path_dataset, self.train._tokenized_dataset = corpus, None
        self.train.tokenize_path_dataset()
        self.train_data, _, self.test_data = data_preparation(self.config, self.dataset)
        self.model = get_model("KGGLM")(self.config, self.train).to(dtype=self.config["weight_precision"])
        if name:
            self.model.load_state_dict(load_file(f"{name}.safetensors"))
        self.trainer = KGGLMTrainer(self.config, self.model)

    def fit(self, epochs: int, max_steps: int = -1, name: str | None = None) -> dict[str, Any]:
        """Train by hopwise's Hugging Face trainer; rates are after the first three steps, weights are saved after each epoch if named."""
        from safetensors.torch import save_file
        from transformers import TrainerCallback

        seconds: list[float] = []
        model = self.model

        class Clock(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                seconds.append(time.process_time())

            def on_epoch_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
                if name:
                    tensors = {key: value.clone().contiguous() for key, value in model.state_dict().items()}
                    save_file(tensors, f"{name}.safetensors")
                    print(
                        f"epoch {state.epoch}: {time.process_time():.0f} CPU-s", file=sys.stderr, flush=True
                    )

        arguments: dict[str, Any] = {
            "num_train_epochs": epochs,
            "max_steps": max_steps,
            "load_best_model_at_end": False,
        }
        arguments |= {"eval_strategy": "no", "save_strategy": "no", "disable_tqdm": True}
        self.trainer.init_hf_trainer(
            self.train_data, saved=False, verbose=False, hf_callbacks=[Clock()], training_args=arguments
        )
        self.trainer.hf_trainer.train()
        logged = [
            entry["loss"] for entry in self.trainer.hf_trainer.state.log_history if entry.get("loss", 0) > 0
        ]
        batch = self.config["train_batch_size"]
        rate = (len(seconds) - 3) * batch / (seconds[-1] - seconds[2])
        return {
            "paths": len(self.train.tokenized_dataset),
            "steps": len(seconds),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "paths_per_cpu_s": rate,
            "tokens_per_cpu_s": rate * TOKENS,
            "first_loss": logged[0],
            "last_loss": logged[-1],
        }

    def lists(self, n_users: int | None = None) -> tuple[pa.Table, dict[str, Any]]:
        """Top-10 lists of the first users: hopwise's scores, with its filter of train and valid items."""
        self.model.eval()
        ids = {
            field: self.train.field2id_token[field] for field in (self.train.uid_field, self.train.iid_field)
        }
        users = self.test_data.user_df[self.train.uid_field].numpy()[:n_users]
        rows: list[tuple[int, int, int, float]] = []
        clock, wall, done = time.process_time(), time.perf_counter(), 0
        for batch in self.test_data:
            if done >= len(users):
                break
            _, (scores, _), *_ = self.trainer._full_sort_batch_eval(batch, self.train.item_num, None)
            for row in scores.numpy():
                order = np.argsort(-row, kind="stable")[:10]
                found = order[np.isfinite(row[order])]
                user = int(ids[self.train.uid_field][users[done]])
                rows += [
                    (user, rank, int(ids[self.train.iid_field][item]), float(row[item]))
                    for rank, item in enumerate(found, 1)
                ]
                done += 1
        spent = time.process_time() - clock
        table = pa.table(
            dict(zip(("user", "rank", "item", "score"), zip(*rows, strict=True), strict=True)),
            schema=pa.schema(
                [("user", pa.int64()), ("rank", pa.int64()), ("item", pa.int64()), ("score", pa.float64())]
            ),
        )
        found = {"users": done, "cpu_s": spent, "wall_s": time.perf_counter() - wall}
        return table, {**found, "users_per_cpu_s": done / spent, "items_per_user": len(rows) / done}


def options() -> dict[str, Any]:
    """What differs from hopwise's own configuration for KGGLM."""
    return {
        "data_path": str(Path.cwd()),
        "benchmark_filename": list(SPLITS),
        "load_col": {
            "inter": ["user_id", "item_id", "timestamp"],
            "kg": ["head_id", "relation_id", "tail_id"],
            "link": ["item_id", "entity_id"],
        },
        "train_stage": "pretrain",
        "sequence_postprocessor": "BeamSearch",
        "eval_batch_size": 20,
        "train_batch_size": 256,
        "learning_rate": 3e-3,
        "warmup_steps": 0,
        "MAX_PATHS_PER_USER": FINETUNE_PATHS,
        "path_sample_args": {
            "strategy": "weighted-rw",
            "restrict_by_phase": True,
            "temporal_causality": False,
            "collaborative_path": True,
            "path_token_separator": " ",
            "MAX_CONSECUTIVE_INVALID": 10,
            "MAX_RW_TRIES_PER_IID": 1,
            "MAX_RW_PATHS_PER_HOP": 1,
            "parallel_max_workers": 1,
        },
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
        "seed": 0,
    }


def walks(work: Path) -> dict[str, Any]:
    """Paths per CPU second of the samplers alone: neither relations nor text are added."""
    peer = Peer(work, SMALL)
    from hopwise.data.dataset.customized_dataset import _generate_paths_random_walks

    train = peer.train
    graph = train._create_ckg_igraph(show_relation=True, directed=False)
    graph.es["weight"] = [0.0] * train.inter_num + [1.0] * len(train.relations)
    first = train.user_num + 2
    starts = np.random.default_rng(0).choice(np.arange(first, graph.vcount()), 1000, replace=False)
    paths: set[tuple[int, ...]] = set()
    clock = time.process_time()
    for start in starts.tolist():
        _generate_paths_random_walks(
            start, graph=graph, min_hop=3, max_hop=3, pretrain_paths=1, max_tries_per_entity=1, paths=paths
        )
    result = {"pretrain": rate(len(starts), clock)}
    train._add_paths_relations = lambda _, paths: paths
    for strategy, cap, restricted in SAMPLERS:
        train.strategy, train.max_paths_per_user, train.restrict_by_phase = strategy, cap, restricted
        clock = time.process_time()
        found = train.generate_user_paths()
        entry = {**rate(len(found), clock), "cap_per_user": cap}
        entry["share_in_graph"] = sum(all(map(graph.are_adjacent, path, path[1:])) for path in found) / len(
            found
        )
        result[f"{strategy}{'' if restricted else ', any last item'}"] = entry
    return result


def rate(paths: int, clock: float) -> dict[str, float]:
    spent = time.process_time() - clock
    return {"paths": paths, "cpu_s": spent, "paths_per_cpu_s": paths / spent}


def speed(work: Path) -> dict[str, Any]:
    """Twenty steps on the fine-tuning corpus, then sixty users with cold caches."""
    peer = Peer(work, MIDDLE)
    peer.prepare((work / "finetune.txt").read_text(encoding="utf-8"))
    training = peer.fit(1, max_steps=20)
    training["peak_rss_mb"] = peak_mb()
    _, decoding = peer.lists(60)
    return {"training": training, "decoding": decoding}


def corpus(work: Path, stage: str) -> dict[str, Any]:
    peer = Peer(work, SMALL)
    clock = time.process_time()
    text = peer.corpus(stage)
    (work / f"{stage}.txt").write_text(text, encoding="utf-8")
    return rate(text.count("\n"), clock)


def train(work: Path, stage: str, name: str, start: str | None = None) -> dict[str, Any]:
    peer = Peer(work, SMALL)
    peer.prepare((work / f"{stage}.txt").read_text(encoding="utf-8"), start)
    clock = time.process_time()
    result = peer.fit(1 if stage == "pretrain" else 3, name=name)
    return {**result, "cpu_s": time.process_time() - clock}


def decode(work: Path, name: str) -> dict[str, Any]:
    peer = Peer(work, SMALL)
    peer.prepare((work / "finetune.txt").read_text(encoding="utf-8"), name)
    table, result = peer.lists()
    pq.write_table(table, f"{name}.parquet")
    return result


def peak_mb() -> float:
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return round(int(line.split()[1]) * 1024 / 1e6, 1)


def main(command: str, *arguments: str) -> dict[str, Any]:
    if command == "export":
        return export(arguments[0], Path(arguments[1]))
    work, *rest = Path(arguments[0]).resolve(), *arguments[1:]
    commands: dict[str, Any] = {
        "walks": walks,
        "speed": speed,
        "corpus": corpus,
        "train": train,
        "decode": decode,
    }
    return {**commands[command](work, *rest), "process_cpu_s": time.process_time(), "peak_rss_mb": peak_mb()}


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # its progress bars
        outcome = main(*sys.argv[1:])
    print(json.dumps(outcome))
