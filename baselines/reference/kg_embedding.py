"""Plain KG embeddings in the shared heads: what any KG pre-training method has to beat."""

from __future__ import annotations

from typing import ClassVar

from baselines.common.kge.submission import KgeSubmission


class KgEmbedding(KgeSubmission):
    """One model of :mod:`baselines.common.kge` a KG, as it comes."""

    data_parallel: ClassVar[bool] = True
