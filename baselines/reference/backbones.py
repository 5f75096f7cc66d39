"""The no-KG backbones: the shared heads with nothing plugged in."""

from __future__ import annotations

from baselines.common.submission import TaskSubmission


class Backbone(TaskSubmission):
    """The recommender that the parameter ``backbone`` names, the text head for classification."""
