"""Walks over knowledge graphs and interactions, as integer arrays."""
