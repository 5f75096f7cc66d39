"""Recommendation backbones, each with a plug for item vectors."""
