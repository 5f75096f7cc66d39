"""Knowledge graph embeddings: models, training, scoring of all entities."""
