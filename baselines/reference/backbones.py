"""The no-KG backbones: the shared heads with nothing plugged in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from baselines.common.submission import TaskSubmission


class CF(TaskSubmission):
    """BPR matrix factorisation for recommendation, the text head for classification."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__({"backbone": "cf", **params})


class LightGCN(TaskSubmission):
    """LightGCN for recommendation, the text head for classification."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__({"backbone": "lightgcn", **params})


class TextOnly(TaskSubmission):
    """The text head alone; it answers classification tasks only."""
