"""Real submission folders for the harness's tests."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kpi_bench.harness.config import SubmissionConfig, read_config

# Answers every kind of task with seeded noise; the tests override what is to go wrong.
BASE = """
import ctypes, json, os, shutil, signal, subprocess, sys, time
from pathlib import Path

import numpy as np

from kpi_bench import ClassificationTask, RecommendationTask, Submission, TopK, top_k_from_scores


class Noise(Submission):
    def adapt(self, task, ctx):
        pass

    def predict(self, task, queries, ctx):
        rng = np.random.default_rng(ctx.seed)
        if isinstance(task, RecommendationTask):
            scores = rng.random((len(queries), task.n_items), dtype=np.float32)
            best = top_k_from_scores(scores, queries.exclude, queries.k, queries.tie_order)
            return TopK(best.items, best.scores)
        if isinstance(task, ClassificationTask):
            return rng.random((len(queries), task.n_classes))
        return (rng.random((1, task.n_entities), dtype=np.float32) for _ in range(len(queries)))


class Method(Noise):
"""
# Methods of a submission that pre-trains; each call leaves a line in the file named by the parameter ``calls``.
PRETRAINING = """
def called(self, what):
    if self.params["calls"]:
        with open(self.params["calls"], "a") as stream:
            print(what, file=stream)

def pretrain(self, graphs, ctx):
    self.called(f"pretrain {ctx.seed}")
    self.state = {name: graph.n_triples for name, graph in graphs.items()}

def save_pretrained(self, folder):
    (folder / "state.json").write_text(json.dumps(self.state))

def load_pretrained(self, folder):
    self.state = json.loads((folder / "state.json").read_text())

def adapt(self, task, ctx):
    self.called(f"adapt {task.spec.name} {ctx.seed}")
"""


def write_submission(
    folder: Path,
    methods: str = "pass",
    *,
    params: Mapping[str, Any] | None = None,
    tasks: tuple[str, ...] = ("recommendation", "classification", "link_prediction"),
) -> SubmissionConfig:
    """Write a submission named as its folder whose class has ``methods`` (Python, not indented) on top of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    module = folder.name.replace("-", "_") + "_module"
    (folder / f"{module}.py").write_text(
        BASE + textwrap.indent(textwrap.dedent(methods).strip(), "    ") + "\n"
    )
    (folder / "submission.toml").write_text(toml(folder.name, f"{module}:Method", params or {}, tasks))
    return read_config(folder)


def toml(
    name: str,
    entry: str,
    params: Mapping[str, Any],
    tasks: tuple[str, ...] = ("recommendation", "classification", "link_prediction"),
) -> str:
    """A ``submission.toml``; JSON's texts, numbers, booleans and lists are TOML's."""
    lines = [
        "[submission]",
        f'name = "{name}"',
        'version = "1"',
        'description = "A submission of the tests."',
        'kind = "code"',
        f'entry = "{entry}"',
        f"tasks = {json.dumps(list(tasks))}",
        "[params]",
        *(f"{key} = {json.dumps(value)}" for key, value in params.items()),
    ]
    return "\n".join(lines) + "\n"
