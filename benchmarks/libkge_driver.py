"""Runs in the Python of LibKGE: trains ComplEx by its 1vsAll job on a folder of data and prints what it cost, as one line of JSON.

    PYTHON libkge_driver.py DATA OUT BATCH_SIZE ROUNDS

DATA is a dataset folder in LibKGE's format; its train split is one round. OUT gets LibKGE's own files and ``tables.npz``, the initial
tables. Only public parts are used: configuration, dataset, training job, hooks.
"""

import json
import sys
import time

import numpy as np
import torch
from kge import Config, Dataset
from kge.job import TrainingJob

CHECKED = 100


def main(data: str, out: str, batch_size: int, rounds: int) -> dict[str, object]:
    config = Config(folder=out)
    config.set("console.quiet", True)
    config.load_options(
        {
            "model": "complex",
            "job.device": "cpu",
            "dataset.name": "benchmark",
            "dataset.pickle": False,
            "train.type": "1vsAll",
            "train.loss": "kl",
            "train.batch_size": batch_size,
            "train.max_epochs": 1 + rounds,
            "train.optimizer.default.type": "Adagrad",
            "valid.every": 0,
            "valid.last": False,
            "random_seed.default": 0,
            "lookup_embedder.dim": 200,
            # Its own N(0, 1) gives denormal gradients on which the products crawl.
            "lookup_embedder.initialize": "normal_",
            "lookup_embedder.initialize_args.std": 1e-3,
            "lookup_embedder.regularize": "",
            "train.optimizer.default.args.lr": 0.1,
        },
        create=True,
    )
    torch.manual_seed(0)
    config.init_folder()
    dataset = Dataset.create(config, folder=data)
    job = TrainingJob.create(config, dataset)
    result: dict[str, object] = {"check_loss": first_loss(job, dataset, out), "checked": CHECKED}
    seconds: list[float] = []
    losses: list[float] = []
    peaks: list[float] = []

    def start(job: TrainingJob) -> None:
        seconds.append(-time.process_time())

    def stop(job: TrainingJob) -> None:
        seconds[-1] += time.process_time()
        losses.append(job.current_trace["epoch"]["avg_loss"])
        if not peaks:  # before checkpoints are written
            peaks.append(peak_mb())

    job.pre_epoch_hooks.append(start)
    job.post_epoch_hooks.append(stop)
    job.run()
    return {
        **result,
        "seconds": seconds,
        "losses": losses,
        "peak_rss_mb": peaks[0],
        "torch": torch.__version__,
    }


def first_loss(job: TrainingJob, dataset: Dataset, out: str) -> float:
    """Loss of the first triples, mean over triples of the sum of both directions, and the tables that it is of."""
    s, p, o = dataset.split("train")[:CHECKED].long().unbind(1)
    with torch.no_grad():
        both = job.loss(job.model.score_sp(s, p), o) + job.loss(job.model.score_po(p, o), s)
        np.savez(
            f"{out}/tables.npz",
            entities=job.model.get_s_embedder().embed_all().numpy(),
            relations=job.model.get_p_embedder().embed_all().numpy(),
        )
    return both.item() / CHECKED


def peak_mb() -> float:
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return round(int(line.split()[1]) * 1024 / 1e6, 1)


if __name__ == "__main__":
    folder, output, size, n_rounds = sys.argv[1:]
    print(json.dumps(main(folder, output, int(size), int(n_rounds))))
