"""Plain KG embeddings in the shared heads: what any KG pre-training method has to beat."""

from __future__ import annotations

from baselines.common.kge.sharded_submission import PretrainedLinks, ShardableKge


class KgEmbedding(ShardableKge):
    """One model of :mod:`baselines.common.kge` a KG, as it comes."""


class ShardedKgEmbedding(PretrainedLinks):
    """The same for KGs whose tables fit no one device."""
